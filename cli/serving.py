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
from .progress import StatusSpinner
from .streams import claim_stdout, is_taken_by_stdout
from .terminal import draw, info, stderr, write_line

if TYPE_CHECKING:
    from ..server.engines import Engines
    from ..server.site import Site

AUTO = "auto"
LOCAL = ("127.0.0.1", "::1", "localhost")
ANYWHERE = ("0.0.0.0", "::")
# An address that no computer has: RFC 5737. Nothing is sent there
ELSEWHERE = ("192.0.2.1", 9)


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of who may ask for what."""

    hosts: Sequence[str]
    origins: Sequence[str]
    artifacts: Sequence[str]  # origins that the page may load artifacts from
    limits: Mapping[str, float]  # on requests, as `values.REQUEST_LIMITS` has them


@dataclass(frozen=True, slots=True)
class Serving:
    """The choice of what is served, and how."""

    has_api: bool
    has_page: bool
    https: bool
    opens: bool  # the page in a browser
    drain_seconds: float


def run(
    artifact: str | None,
    host: str,
    port: int,
    serving: Serving,
    access: Access,
    keys: tuple[Sequence[str], Path | None, bool] | None,
    names: Sequence[str] | None,
    devices: Sequence[str],
    model_name: str | None,
    offline: bool,
    engine: dict[str, Any],
) -> None:
    """Serve until interrupted.

    Args:
        artifact: as `--model` names it.
        host: address to listen on.
        port: the same.
        serving: what is served.
        access: who may ask for what.
        keys: of the command line, their file, and whether none are needed; None without an API.
        names: of precisions; None for those that the artifact has.
        devices: of the API.
        model_name: what clients call the model; None for the artifact's name.
        offline: whether the hub is not asked.
        engine: options of `Engine`.

    Raises:
        VoxtralOnnxError: of any kind that finding, checking, loading and listening raise.
    """
    with require_packages():
        from ..server.access import read_keys, require_guarded
        from ..server.app import build_app
        from ..server.guard import NO_KEYS
        from ..server.page import PRECISIONS
        from ..server.request_limits import RequestLimits
        from ..server.serving import listen, serve

    # Find the artifact and the keys, and take the port: checking a large artifact takes a while
    claim_stdout(is_only_place=False)
    known = NO_KEYS
    if keys is not None:
        known = read_keys(keys[0], keys[1], os.environ)
        require_guarded(host, known, insecure=keys[2])
    folder = find_model(artifact, list(names or PRECISIONS[:1]), offline)
    most = access.limits
    limits = RequestLimits(
        round(most["body"] * MB), int(most["requests"]), most["idle"], 3600 * most["total"]
    )
    with ExitStack() as stack:
        listening = stack.enter_context(listen(host, port))
        site = find_site(folder, names, access.artifacts) if serving.has_page else None

        # Load the model, and serve until Ctrl-C
        engines = lack = None
        if serving.has_api:
            opened = open_engines(
                folder,
                devices,
                names,
                is_needed=not serving.has_page,
                most_seconds=3600 * most["audio"],
                **engine,
            )
            engines, lack = stack.enter_context(opened)
        name = model_name or name_of(folder)
        app = build_app(
            engines,
            site,
            model_name=name,
            keys=known,
            allowed_hosts=access.hosts,
            allowed_origins=access.origins,
            limits=limits,
            lack=lack,
        )
        shown = {
            "https": serving.https,
            "model": name if engines else None,
            "page": serving.has_page,
        }
        serve(
            app,
            listening,
            engines=engines,
            https=serving.https,
            drain_seconds=serving.drain_seconds,
            header_seconds=most["header"],
            on_ready=partial(announce, host, **shown, opens=serving.opens),
        )


@contextmanager
def require_packages() -> Iterator[None]:
    """Refuse to go on where a package is missing, and name what to install.

    Raises:
        DeviceError: one is.
    """
    try:
        yield
    except ImportError as error:
        raise DeviceError(
            f"serve needs {error.name}; run: pip install 'voxtral-onnx[serve]'"
        ) from error


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
    from ..server.page import PRECISIONS, absent_precisions
    from ..server.site import Site

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
    **options: Any,
) -> Iterator[tuple[Engines | None, str | None]]:
    """Load an artifact on each device, and give the engines, or why there are none.

    Args:
        folder: the artifact.
        devices: names, as `--device` has them.
        precisions: of which the first runs; None for the artifact's first.
        is_needed: whether a lack of them is an error; it is too if a device was named.
        most_seconds: of a recording.
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
    loading["context"] = options["context"]

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
    with require_packages():
        import segno

    drawn = io.StringIO()
    segno.make(text, micro=False).terminal(drawn, compact=True, border=2)
    return drawn.getvalue()
