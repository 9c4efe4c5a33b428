"""Load what `serve` needs, and print its addresses, with a QR code for phones."""

from __future__ import annotations

import io
import ipaddress
import os
import socket
import threading
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DeviceError, UsageError
from ..limits import MB
from .models import find_model, open_transcriber
from .packages import require_extra
from .progress import StatusSpinner
from .streams import is_taken_by_stdout
from .terminal import draw, info, stderr, write_line

if TYPE_CHECKING:
    from ..server.engines import Engines
    from ..server.guard.access import ApiKeys
    from ..server.guard.request_limits import RequestLimits
    from ..server.page.site import Site
    from ..server.wyoming import WyomingServer

INSTALL = "'voxtral-onnx[serve]'"
AUTO = "auto"
LOCAL = ("127.0.0.1", "::1", "localhost")
ANYWHERE = ("0.0.0.0", "::")
# An address that no computer has: RFC 5737. Nothing is sent there
ELSEWHERE = ("192.0.2.1", 9)


@dataclass(frozen=True, kw_only=True)
class Served:
    """All that `serve` is asked for, besides keys."""

    artifact: str | None
    precisions: list[str] | None
    model_name: str | None
    offline: bool
    devices: list[str]
    threads: int | None
    engine: dict[str, Any]  # options of `Engine`
    has_page: bool
    has_api: bool
    host: str
    port: int
    https: bool
    opens: bool  # the page, in a browser
    wyoming: tuple[str, int] | None
    allowed_artifacts: Sequence[str]
    allowed_hosts: Sequence[str]
    allowed_origins: Sequence[str]
    dialect: str
    limits: Mapping[str, float]  # as `values.REQUEST_LIMITS`
    drain: float

    @property
    def most_seconds(self) -> float:
        """Return how long a recording may be."""
        return 3600 * self.limits["audio"]

    def check(self, *, insecure: bool) -> None:
        """Refuse parts that exclude each other, or that others could use without a key.

        Args:
            insecure: whether the user has said that no keys are needed.

        Raises:
            DeviceError: a package is missing.
            UsageError: there are some.
        """
        with require_extra("serve", INSTALL):
            from ..server.guard.access import require_local

        if not (self.has_page or self.has_api):
            raise UsageError(
                "--page-only and --api-only exclude each other; without, both are served"
            )
        if self.wyoming and not self.has_api:
            raise UsageError("--wyoming needs the model, which --page-only does not load")
        if self.wyoming:
            require_local(self.wyoming[0], "--wyoming", insecure=insecure)


def serve_here(asked: Served, keys: ApiKeys) -> None:
    """Serve in this process, until Ctrl-C.

    Args:
        asked: what is served.
        keys: of the API.

    Raises:
        VoxtralOnnxError: it cannot be served, or an engine has failed.
    """
    with require_extra("serve", INSTALL):
        from ..server.app import build_app
        from ..server.page.files import PRECISIONS
        from ..server.serving import listen, serve

    # Find the artifact, and take the port: checking a large artifact takes a while
    names = asked.precisions
    folder = find_model(asked.artifact, names or list(PRECISIONS[:1]), asked.offline)
    with ExitStack() as stack:
        listening = stack.enter_context(listen(asked.host, asked.port))
        beside = None
        if asked.wyoming:
            beside = stack.enter_context(listen(*asked.wyoming, option="--wyoming"))
        site = find_site(folder, names, asked.allowed_artifacts) if asked.has_page else None

        # Load the model
        engines = lack = None
        if asked.has_api:
            is_needed = not asked.has_page or bool(asked.wyoming)
            more = {"is_needed": is_needed, "most_seconds": asked.most_seconds}
            more |= {"threads": asked.threads, **asked.engine}
            opened = open_engines(folder, asked.devices, names, **more)
            engines, lack = stack.enter_context(opened)

        # Serve it
        name = asked.model_name or name_of(folder)
        app = build_app(
            engines,
            site,
            model_name=name,
            keys=keys,
            allowed_hosts=asked.allowed_hosts,
            allowed_origins=asked.allowed_origins,
            limits=request_limits(asked.limits),
            dialect=asked.dialect,
            lack=lack,
        )
        shown = {"https": asked.https, "model": name if engines else None, "page": asked.has_page}
        serve(
            app,
            listening,
            engines=engines,
            wyoming=wyoming_server(engines, name, beside),
            https=asked.https,
            drain_seconds=asked.drain,
            header_seconds=asked.limits["header"],
            on_ready=partial(announce, asked.host, **shown, opens=asked.opens),
        )


def wyoming_server(
    engines: Engines | None, name: str, listening: socket.socket | None
) -> WyomingServer | None:
    """Return the server of Home Assistant's protocol, and say where it is; None without a socket.

    Args:
        engines: for the speech of clients.
        name: of the model.
        listening: socket of the server.
    """
    if not (engines and listening):
        return None

    from ..server.names import names_of
    from ..server.wyoming import WyomingServer

    host, port = listening.getsockname()[:2]
    info(f"Wyoming, for Home Assistant: {host}, port {port}")
    return WyomingServer(engines, names_of(name), listening)


def find_keys(
    page_only: bool, host: str, given: Sequence[str] | None, file: Path | None, *, insecure: bool
) -> ApiKeys:
    """Return the keys of the API, without which it is not offered to others; the page needs none.

    Args:
        page_only: whether there is no API.
        host: address to listen on.
        given: keys of the command line.
        file: that has more of them.
        insecure: whether the user has said that none are needed.

    Raises:
        UsageError: others can reach the address and there is no key, or keys are not valid.
    """
    from ..server.guard.access import read_keys, require_guarded
    from ..server.guard.checks import NO_KEYS

    if page_only:
        return NO_KEYS
    keys = read_keys(given or (), file, os.environ)
    require_guarded(host, keys, insecure=insecure)
    return keys


def request_limits(most: Mapping[str, float]) -> RequestLimits:
    """Return limits on requests, from those of `values.REQUEST_LIMITS`."""
    from ..server.guard.request_limits import RequestLimits

    body, requests = round(most["body"] * MB), int(most["requests"])
    return RequestLimits(body, requests, most["idle"], 3600 * most["total"])


def find_site(folder: Path, names: Sequence[str] | None, allowed: Sequence[str]) -> Site:
    """Return the page with an artifact, whose files are compared with their hashes.

    Args:
        folder: the artifact.
        names: precisions for browsers; None for those it has.
        allowed: origins, besides its own, that the page may load artifacts from.

    Raises:
        ArtifactError: the artifact is incomplete, or onnxruntime-web is missing.
        UsageError: the artifact lacks a precision, or an origin is not valid.
    """
    from ..server.page.files import PRECISIONS, absent_precisions
    from ..server.page.site import Site

    if names is None and (absent := absent_precisions(folder)):
        info(
            f"{', '.join(absent)} is not here; browsers without float16 on the GPU need it: "
            f"--precision {','.join(PRECISIONS)}"
        )
    with StatusSpinner() as steps:
        steps.show("comparing the files with their hashes")
        return Site(folder, names, allowed_artifacts=allowed)


@contextmanager
def open_engines(
    folder: Path,
    devices: Sequence[str],
    precisions: Sequence[str] | None,
    *,
    is_needed: bool,
    most_seconds: float,
    threads: int | None,
    **options: Any,
) -> Iterator[tuple[Engines | None, str | None]]:
    """Load an artifact on each device, and give the engines, or why there are none.

    Args:
        folder: the artifact.
        devices: names, as `--device` has them.
        precisions: of which the first runs; None for the artifact's first.
        is_needed: whether a lack of them is an error; it is too if a device was named.
        most_seconds: of a recording.
        threads: of the CPU; None for one on each core.
        options: of `Engine`.

    Raises:
        ArtifactError, StorageError, UsageError: as `Transcriber`.
        DeviceError: the same, or a device is none for an engine.
    """
    from ..runtime.many import Engine
    from ..server.engines import Engines

    # Check the names
    if twice := {each for each in devices if list(devices).count(each) > 1}:
        raise UsageError(f"--device: {', '.join(sorted(twice))} is named twice; name each once")
    loading = {"precision": precisions and precisions[0], "offline": True}
    loading |= {"context": options["context"], "threads": threads}

    # Load
    with ExitStack() as stack:
        engines, lack = None, None
        try:
            made = list[Engine]()
            for device in devices:
                loading["device"] = device
                transcriber = stack.enter_context(open_transcriber(str(folder), loading))
                made.append(engine := Engine(transcriber, **options))
                stack.callback(engine.close, 0.0)
                for note in engine.notes:
                    info(f"note: {note}")
            engines = Engines(made, most_seconds=most_seconds)
            stack.callback(engines.close)
        except DeviceError as error:
            if is_needed or list(devices) != [AUTO]:
                raise
            lack = str(error)
            info(f"note: the page alone is served, there is no API: {error}")
        yield engines, lack


def name_of(artifact: Path) -> str:
    """Return what clients call an artifact's model: its folder's name, or its repository's."""
    parents = [each.name for each in artifact.resolve().parents]
    if parents[:1] == ["snapshots"] and parents[1].startswith("models--"):  # the hub's cache
        return parents[1].rpartition("--")[2].removesuffix("-onnx")
    return artifact.resolve().name.removesuffix("-onnx")


def addresses(host: str, port: int, https: bool) -> list[str]:
    """Return addresses of the server: one for this computer, then those for other devices."""
    hosts = [host]
    if host in ANYWHERE:
        hosts = [socket.gethostname(), *_network_addresses(host)]
    places = [f"[{each}]" if ":" in each else each for each in hosts]
    return [f"http{'s' * https}://{place}:{port}/" for place in places]


def _network_addresses(host: str) -> list[str]:
    """Return the addresses of this computer in its networks, the one it calls out from first."""
    found = list[str]()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(ELSEWHERE)  # chooses an interface
            found.append(asking.getsockname()[0])
        except OSError:  # there is no network
            pass
    try:
        family = socket.AF_INET if host == "0.0.0.0" else socket.AF_UNSPEC
        found += [str(each[4][0]) for each in socket.getaddrinfo(socket.gethostname(), 0, family)]
    except OSError:  # its own name is not known
        pass
    known = [ipaddress.ip_address(each) for each in dict.fromkeys(found) if "%" not in each]
    return [str(each) for each in known if not (each.is_loopback or each.is_unspecified)]


def announce(
    host: str, port: int, *, https: bool, model: str | None, page: bool, opens: bool
) -> None:
    """Print where the server is, with a QR code for phones on a terminal.

    Args:
        host: that it listens on.
        port: the same.
        https: whether it serves over https.
        model: what clients of the API call the model; None without an API.
        page: whether there is a page.
        opens: whether to open it in a browser.
    """
    first, *others = addresses(host, port, https)
    write_line(first)
    if not is_taken_by_stdout():
        info(first)
    if model:
        info(f"API: {first}v1 with model {model}; see /openapi.json")
    if page and host not in LOCAL and not https:
        info("on other devices a page without https gets no microphone and no GPU: add --https")
    for each in others:
        info(f"other devices: {each}")
    if page and others and stderr.is_terminal:
        draw(qr_code(others[0]))
    if page and opens:
        threading.Thread(target=webbrowser.open, args=(first,), daemon=True).start()


def qr_code(text: str) -> str:
    """Return a QR code as lines of half blocks, with the colours of a terminal."""
    with require_extra("serve", INSTALL):
        import segno

    drawn = io.StringIO()
    segno.make(text, micro=False).terminal(drawn, compact=True, border=2)
    return drawn.getvalue()
