"""Downloads over HTTP with bounds on size, time and redirects, which a later call can resume.

Servers and proxies are not trusted: a body may be endless, compressed, of another range or too slow
to ever end, and a redirect may lead to any address. Such answers are refused here, before the
content is compared with its hash.
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

# Seconds before each further attempt; they start over whenever an attempt brought enough bytes
WAITS = (1.0, 2.0, 4.0, 8.0)
BLOCK = 1 << 20  # bytes of a file that are read at once, and after which progress is reported
MOST_REDIRECTS = 5
# The base class of the HTTP client's errors. The client is httpx or httpx2, whichever the installed
# huggingface_hub uses, so both classes are looked up; InvalidURL does not derive from that base.
HTTPError = cast(type[Exception], HfHubHTTPError.__mro__[1])
_InvalidURL = cast(type[Exception], importlib.import_module(HTTPError.__module__).InvalidURL)

_PASSING = {408, 429, 500, 502, 503, 504}  # HTTP statuses that are worth another attempt
_RANGE = re.compile(r"bytes ([0-9]+)-[0-9]+/([0-9]+|\*)")
_SHA1_OR_SHA256 = r"\A(?:[0-9a-f]{40}|[0-9a-f]{64})\Z"


class ConnectionLostError(Exception):
    """A connection that was not made, broke or was too slow, so that a retry may succeed."""


class StatusError(Exception):
    """An HTTP status that brings no content."""

    def __init__(self, status: int, code: str):
        super().__init__(f"HTTP {status}")
        self.status = status
        self.code = code  # the reason in the hub's header X-Error-Code, or empty

    @property
    def is_passing(self) -> bool:
        """Return whether the same request may succeed later."""
        return self.status in _PASSING


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """The expected size and hash of a file to download."""

    size: Count  # bytes
    # sha256 of files in LFS; git's sha1 of all others
    digest: Annotated[str, Meta(pattern=_SHA1_OR_SHA256)]

    def hash(self) -> Any:
        """Return a new hash object, whose digest of the content must equal `digest`."""
        if len(self.digest) == 64:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    def may_be(self, other: RemoteFile | None) -> bool:
        """Return whether both may describe the same file: equal sizes, no differing hashes.

        Hashes of different kinds are not compared.
        """
        if other is None or other.size != self.size:
            return False
        return len(other.digest) != len(self.digest) or other.digest == self.digest


class _Patience:
    """The waiting times of a series of attempts."""

    def __init__(self, waits: Sequence[float]):
        self.waits = iter(waits)

    def after(self, error: ConnectionLostError | StatusError) -> float:
        """Return the seconds to wait after a failed attempt.

        Raises:
            ConnectionLostError, StatusError: the given one, if no attempts are left or another one
                would fail alike.
        """
        wait = next(self.waits, None)
        if wait is None or (isinstance(error, StatusError) and not error.is_passing):
            raise error
        return wait


def fetch(url: str, limit: int, *, is_cut: bool = False) -> bytes:
    """Return the content of a URL of at most `limit` bytes, or the beginning of a longer one.

    Args:
        url: address at the hub's endpoint, to which the user's token is sent.
        limit: the most bytes.
        is_cut: return the first `limit` bytes of a longer content instead of refusing it.

    Raises:
        ConnectionLostError, StatusError: all attempts failed.
        StorageError: the content is longer, or as for `receive`.
    """
    patience = _Patience(WAITS[:2])  # fewer than for files, because no progress is at stake
    while True:
        content = bytearray()
        try:
            with closing(receive(url)) as blocks:
                for block in blocks:
                    content += block
                    if len(content) > limit and is_cut:
                        return bytes(content[:limit])
                    if len(content) > limit:
                        raise StorageError(
                            f"{url}: expected at most {limit:,} bytes, got more; check HF_ENDPOINT"
                        )
            return bytes(content)
        except (ConnectionLostError, StatusError) as error:
            time.sleep(patience.after(error))


def download(url: str, file: RemoteFile, path: Path, report: Callable[..., None]) -> None:
    """Download one file, resuming from the partial file of an earlier call.

    Args:
        url: address of the file.
        file: expected size and hash.
        path: path to write; it appears when the file is complete and its hash is right.
        report: called with each number of bytes received or already there, and with `wait=`
            seconds before a new attempt.

    Raises:
        ConnectionLostError, StatusError: all attempts failed; the received bytes are kept.
        StorageError: size or hash differ, and the received bytes are removed; or as for `receive`.
        OSError: the file cannot be written.
    """
    unfinished, digest, size, patience = unfinished_of(path), file.hash(), 0, _Patience(WAITS)
    with open_unfinished(unfinished) as handle:
        # Hash the bytes that an earlier call has left
        while size <= file.size and (block := handle.read(BLOCK)):
            digest.update(block)
            size += len(block)
            report(len(block))

        # Receive the rest, in as many attempts as make progress
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
                if isinstance(error, StatusError) and error.status == 416:  # the server has no more
                    break
                if size - start >= limits.SLOWEST_BYTES:
                    patience = _Patience(WAITS)
                if size < file.size:
                    wait = patience.after(error)
                    report(wait=wait)
                    time.sleep(wait)
        handle.flush()
        os.fsync(handle.fileno())

    # Give the file its name, if it is the expected one
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
    """Return the path of a file while it is downloaded, which is the same for every attempt.

    A name that would become too long is replaced by its hash.
    """
    name = path.name
    if len(os.fsencode(name)) > 240:  # of 255 that file systems allow
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return path.with_name(f"{name}.partial")


def receive(url: str, start: int = 0, size: int | None = None) -> Generator[bytes, None, None]:
    """Yield the content of a URL from byte `start` on, in blocks as they arrive.

    A separate thread receives the content, because the HTTP client limits only the time of a single
    read: a server that sends a byte of a header now and then would never time out.

    Args:
        url: address at the hub's endpoint, to which the user's token is sent.
        start: first byte to request.
        size: bytes of the whole file, as announced; None if that is not known.

    Raises:
        ConnectionLostError: no connection, or fewer than SLOWEST_BYTES in SLOWEST_SECONDS.
        StatusError: an HTTP status without content.
        StorageError: the answer is of another size, range or encoding, redirects are not allowed,
            or no request can be made.
    """
    # Read in another thread, which ends by itself once nobody listens
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
        except BaseException as error:  # raised again by the generator
            end = error
        if not is_left.is_set():
            came.put(end)

    threading.Thread(target=read, name="download", daemon=True).start()

    # Pass its blocks on while enough of them arrive in time
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
            came.get_nowait()  # makes room, because the thread may wait to put a block


def _read(url: str, start: int, size: int | None) -> Generator[tuple[int, bytes], None, None]:
    """Yield the size of each received block, and its bytes from byte `start` of the file on.

    A server without range requests sends the whole file, whose beginning is dropped here. The speed
    is not checked; otherwise arguments and errors are those of `receive`.
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
    """Send a request, follow its redirects, and hold the response open in the context.

    Redirects are followed here because the HTTP client would read their bodies and would follow
    from https to http. It removes the token from requests that a redirect sends to another host.

    Raises:
        StorageError: no request can be made of the URL or the user's settings, or a redirect leads
            to another scheme than https, or there are too many.
        HTTPError: the client's errors of connections.
    """
    # Make a request
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

    # Send it, and follow redirects
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
    """Compare the status and headers of a response with the request.

    Raises:
        StatusError: the response has no content.
        StorageError: its content is encoded, of another range or of another size.
    """
    status, headers = response.status_code, response.headers
    if status != 200 and not (status == 206 and start):
        # To requests without a token the hub answers 401 where a repository does not exist
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
    """Return the headers of a request: this program's name, and the user's token if there is one.

    huggingface_hub's own headers are not used, because they list installed packages.

    Raises:
        StorageError: the token has characters that no header may have.
    """
    headers = {"User-Agent": f"voxtral-onnx/{__version__}"}
    if not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN and (token := get_token()):
        if not re.fullmatch("[!-~]+", token):  # the HTTP client's error would print the token
            raise StorageError(
                "the token has characters that no token has; log in (hf auth login) or set HF_TOKEN"
            )
        headers["Authorization"] = f"Bearer {token}"
    return headers
