"""What comes over HTTP: as much as was announced, within time, from where it was asked for.

A server may answer anything: a body without end, packed, too slow to ever end, of another range, a
redirect to anywhere. What is taken of it is bounded here, before the content is judged.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Annotated, Any, cast

from huggingface_hub import constants, get_token
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import get_session
from msgspec import Meta

from . import limits
from ._version import __version__
from .decode import Count
from .errors import StorageError
from .files import fsync_dir, open_unfinished

# Seconds before further attempts, counted anew whenever enough bytes have come
WAITS = (1.0, 2.0, 4.0, 8.0)
BLOCK = 1 << 20  # bytes of a file that are read at once, and after which progress is reported
MOST_REDIRECTS = 5
# The base of all errors of the HTTP client: httpx's or httpx2's, as the version of huggingface_hub
# has it; an address that is none has an error beside it
HTTPError = cast(type[Exception], HfHubHTTPError.__mro__[1])
_InvalidURL = cast(type[Exception], importlib.import_module(HTTPError.__module__).InvalidURL)

_PASSING = {408, 429, 500, 502, 503, 504}  # HTTP statuses that the next attempt may not meet
_RANGE = re.compile(r"bytes ([0-9]+)-[0-9]+/([0-9]+|\*)")
_SHA1_OR_SHA256 = r"\A(?:[0-9a-f]{40}|[0-9a-f]{64})\Z"


class ConnectionLostError(Exception):
    """The connection: not made, broken, or too slow; another attempt may bring the rest."""


class StatusError(Exception):
    """An HTTP status that brings no content."""

    def __init__(self, status: int, code: str):
        super().__init__(f"HTTP {status}")
        self.status = status
        self.code = code  # the hub's own word for the reason, or empty

    @property
    def is_passing(self) -> bool:
        """Say whether another attempt may not meet it."""
        return self.status in _PASSING


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What a download must turn out to be."""

    size: Count  # bytes
    # sha256; or git's sha1, of a file that the repository does not keep in LFS
    digest: Annotated[str, Meta(pattern=_SHA1_OR_SHA256)]

    def hash(self) -> Any:
        """What the content is fed to."""
        if len(self.digest) == 64:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    def may_be(self, other: RemoteFile | None) -> bool:
        """Whether two descriptions do not rule each other out."""
        if other is None or other.size != self.size:
            return False
        return len(other.digest) != len(self.digest) or other.digest == self.digest


class _Patience:
    """How long to wait before the next attempt."""

    def __init__(self, waits: Sequence[float]):
        self.waits = iter(waits)

    def after(self, error: ConnectionLostError | StatusError) -> float:
        """Seconds.

        Or the error again, where another attempt would meet the same or enough were made.
        """
        wait = next(self.waits, None)
        if wait is None or (isinstance(error, StatusError) and not error.is_passing):
            raise error
        return wait


def fetch(url: str, limit: int) -> bytes:
    """Return a whole answer of at most `limit` bytes.

    Raises:
        ConnectionLostError, StatusError: after all attempts.
        StorageError: it is longer, or as `receive`.
    """
    patience = _Patience(WAITS[:2])  # nothing is lost yet
    while True:
        content = bytearray()
        try:
            with closing(receive(url)) as blocks:
                for block in blocks:
                    content += block
                    if len(content) > limit:
                        raise StorageError(
                            f"{url}: expected at most {limit:,} bytes, got more; check HF_ENDPOINT"
                        )
            return bytes(content)
        except (ConnectionLostError, StatusError) as error:
            time.sleep(patience.after(error))


def download(url: str, file: RemoteFile, path: Path, report: Callable[..., None]) -> None:
    """Bring one file, going on with what an earlier call left of it.

    Args:
        url: where it is.
        file: what it must turn out to be.
        path: its name here, which it gets when it is whole and right.
        report: called with the bytes that came, and with `wait=` seconds before a new attempt.

    Raises:
        ConnectionLostError, StatusError: after all attempts; what came is kept.
        StorageError: it is another one, which is removed; or as `receive`.
        OSError: it cannot be written.
    """
    unfinished, digest, size, patience = unfinished_of(path), file.hash(), 0, _Patience(WAITS)
    with open_unfinished(unfinished) as handle:
        while size <= file.size and (block := handle.read(BLOCK)):
            digest.update(block)
            size += len(block)
            report(len(block))
        while size < file.size:
            start = size
            try:
                with closing(receive(url, start, file.size)) as blocks:
                    for block in blocks:
                        size += len(block)
                        if size > file.size:
                            break
                        handle.write(block)
                        digest.update(block)
                        report(len(block))
                if size < file.size:
                    raise ConnectionLostError(f"it ended after {size:,} of {file.size:,} bytes")
            except (ConnectionLostError, StatusError) as error:
                if isinstance(error, StatusError) and error.status == 416:  # no more than is here
                    break
                if size - start >= limits.SLOWEST_BYTES:
                    patience = _Patience(WAITS)
                if size < file.size:
                    wait = patience.after(error)
                    report(wait=wait)
                    time.sleep(wait)
        handle.flush()
        os.fsync(handle.fileno())
    if size != file.size or digest.hexdigest() != file.digest:
        unfinished.unlink()
        more = "more" if size > file.size else f"{size:,} with {digest.hexdigest()[:16]}…"
        raise StorageError(
            f"{path.name}: expected {file.size:,} bytes with hash {file.digest[:16]}…, got {more}; "
            "they were removed, download it again"
        )
    unfinished.replace(path)
    fsync_dir(path.parent)


def unfinished_of(path: Path) -> Path:
    """Return where a file stands while it comes; the same for every attempt, and short enough."""
    name = path.name
    if len(os.fsencode(name)) > 240:  # of 255 that file systems allow
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return path.with_name(f"{name}.partial")


def receive(url: str, start: int = 0, size: int | None = None) -> Generator[bytes, None, None]:
    """Yield the content from byte `start` on, as it comes, and no slower than limits.py says.

    Another thread receives it: the HTTP client bounds the time of a read, not of an answer, and a
    read may bring one byte of a header.

    Args:
        url: of the endpoint, which gets the token.
        start: bytes that are here already.
        size: bytes of the whole, as announced; an answer of another whole is not taken.

    Raises:
        ConnectionLostError, StatusError: no content, or no more of it.
        StorageError: what no server of such content answers, or the client cannot be made.
    """
    came: Queue[tuple[int, bytes] | BaseException | None] = Queue(maxsize=16)
    is_left = threading.Event()

    def read() -> None:
        end = None
        try:
            with closing(_read(url, start, size)) as blocks:
                for each in blocks:
                    if is_left.is_set():
                        return
                    came.put(each)
        except BaseException as error:  # it ends the one who listens, not this thread alone
            end = error
        if not is_left.is_set():
            came.put(end)

    threading.Thread(target=read, name="download", daemon=True).start()
    num_bytes, since = 0, time.monotonic()
    try:
        while True:
            left = since + limits.SLOWEST_SECONDS - time.monotonic()
            if left <= 0:
                if num_bytes < limits.SLOWEST_BYTES:
                    raise ConnectionLostError(
                        f"fewer than {limits.SLOWEST_BYTES:,} bytes in {limits.SLOWEST_SECONDS} s"
                    )
                num_bytes, since = 0, time.monotonic()
                continue
            try:
                found = came.get(timeout=left)
            except Empty:
                continue
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            size_sent, block = found
            num_bytes += size_sent
            if block:
                yield block
    finally:
        is_left.set()
        with suppress(Empty):
            came.get_nowait()  # for which the thread may be waiting


def _read(url: str, start: int, size: int | None) -> Generator[tuple[int, bytes], None, None]:
    """Yield how many bytes were sent, and those of them that were asked for, however slow.

    A server that knows no ranges sends all, of which the beginning is left out.
    """
    try:
        with _open(url, start) as response:
            _check(response, url, start, size)
            skip = start if response.status_code == 200 else 0
            for block in response.iter_raw():
                yield len(block), block[skip:]
                skip = max(0, skip - len(block))
    except HTTPError as error:
        raise ConnectionLostError(str(error)) from error


@contextmanager
def _open(url: str, start: int) -> Iterator[Any]:
    """Ask, and follow redirects to the one answer.

    The client would read their bodies, and follow from https to http. It leaves the token out where
    one leads to another host.
    """
    headers = _headers() | {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        session = get_session()
        request = session.build_request(
            "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        )
    except (_InvalidURL, ImportError, ValueError, OSError) as error:
        raise StorageError(
            f"{url}: cannot be asked for ({error}); check HF_ENDPOINT, the proxy's variables and "
            "SSL_CERT_FILE"
        ) from error
    for _ in range(MOST_REDIRECTS + 1):
        response = session.send(request, stream=True, follow_redirects=False)
        try:
            if response.next_request is None:
                yield response
                return
        finally:
            response.close()
        before, request = request, response.next_request
        if request.url.scheme not in ("https", before.url.scheme):
            raise StorageError(
                f"{url}: redirected from {before.url.scheme} to {request.url.scheme}; check "
                "HF_ENDPOINT"
            )
    raise StorageError(f"{url}: redirected more than {MOST_REDIRECTS} times; check HF_ENDPOINT")


def _check(response: Any, url: str, start: int, size: int | None) -> None:
    """Compare what an answer says of itself with what was asked for.

    Raises:
        StatusError: it brings no content.
        StorageError: it brings another one.
    """
    status, headers = response.status_code, response.headers
    if status != 200 and not (status == 206 and start):
        # Who does not say who asks is not told either whether there is such a repository
        unknown = "RepoNotFound" if "Authorization" not in response.request.headers else ""
        raise StatusError(status, headers.get("X-Error-Code", unknown if status == 401 else ""))
    expected, got = "identity", headers.get("Content-Encoding", "identity").lower()
    if expected == got and status == 206:
        expected, got = f"bytes {start}-…/{size}", headers.get("Content-Range", "no Content-Range")
        found = _RANGE.fullmatch(got)
        if found and found[1] == str(start) and found[2] in ("*", str(size)):
            return
    elif expected == got and size is not None:
        expected, got = f"{size} bytes", f"{headers.get('Content-Length', size)} bytes"
    if expected != got:
        raise StorageError(
            f"{url}: expected {expected}, the server sends {got[:80]!r}; check HF_ENDPOINT "
            "and the proxy, then run it again; what has come is kept"
        )


def _headers() -> dict[str, str]:
    """Who asks; huggingface_hub's own headers would also tell what is installed here."""
    headers = {"User-Agent": f"voxtral-onnx/{__version__}"}
    if not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN and (token := get_token()):
        if not re.fullmatch("[!-~]+", token):  # a client's error would show it
            raise StorageError(
                "the token has characters that no token has; log in (hf auth login) or set HF_TOKEN"
            )
        headers["Authorization"] = f"Bearer {token}"
    return headers
