"""The page and an artifact over HTTP, with what browsers ask of pages that compute.

Isolation, ranges, right types.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DeviceError, UsageError
from ..manifest import CERTIFICATE, FILE_NAME
from .page import ARTIFACT, manifest_bytes, page_files, site_certificate, site_manifest

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".wav": "audio/wav",
}
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",  # with the next: threads, and exact timers
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # kept, but asked for again: a new version shows at once
}
CERTIFICATE_DAYS = 397  # browsers refuse more
LOCAL = ("127.0.0.1", "::1", "localhost")


def create_app(artifact: Path, precisions: Sequence[str] | None = None) -> Starlette:
    """An ASGI application that serves the page at / and the artifact's files below artifact/.

    Only files that the manifest or the page names are served; of the artifact those of
    `precisions`, as `site_manifest` takes them.

    Raises:
        ArtifactError: not a whole artifact, or no onnxruntime-web.
        DeviceError: starlette is not installed.
        UsageError: a precision that the artifact does not have.
    """
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.responses import FileResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise DeviceError(
            f"serve needs {error.name}; run: pip install 'voxtral-onnx[serve]'"
        ) from error
    manifest = site_manifest(artifact, precisions)
    made = {f"{ARTIFACT}/{FILE_NAME}": manifest_bytes(manifest)}
    if certificate := site_certificate(artifact, manifest):
        made[f"{ARTIFACT}/{CERTIFICATE[0]}"] = certificate
    files = page_files() | {f"{ARTIFACT}/{name}": artifact / name for name in manifest.files}

    async def send(request: Request) -> Response:
        name = request.path_params["name"] or "index.html"
        if name in made:
            return Response(made[name], headers=HEADERS, media_type=TYPES[".json"])
        if name not in files:
            raise HTTPException(404, f"{name}: no such file")
        path = files[name]
        return FileResponse(
            path, headers=HEADERS, media_type=TYPES.get(path.suffix, "application/octet-stream")
        )

    return Starlette(routes=[Route("/{name:path}", send)])


def serve(
    artifact: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    precisions: Sequence[str] | None = None,
    https: bool = False,
    on_ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until interrupted.

    Args:
        artifact: its folder.
        host: address to listen on; 0.0.0.0 for all.
        port: 0 takes a free one.
        precisions: of the artifact; None for what browsers run.
        https: with a certificate of this machine's own, which browsers warn of; other devices'
            browsers give microphones and WebGPU to secure pages only.
        on_ready: called with the page's address when it listens.

    Raises:
        ArtifactError, DeviceError: as `create_app`; or uvicorn or cryptography is not installed.
        UsageError: as `create_app`; or the address cannot be listened on.
    """
    app = create_app(artifact, precisions)
    try:
        import uvicorn

        options = (
            dict(zip(("ssl_certfile", "ssl_keyfile"), map(str, certificate()), strict=True))
            if https
            else {}
        )
    except ImportError as error:
        raise DeviceError(
            f"serve needs {error.name}; run: pip install 'voxtral-onnx[serve]'"
        ) from error
    try:
        listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"{host}:{port}: cannot be listened on ({reason}); choose another --port, or 0"
        ) from error
    with listener:
        shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
        place = f"[{shown}]" if ":" in shown else shown
        on_ready(f"http{'s' * https}://{place}:{listener.getsockname()[1]}/")
        uvicorn.Server(uvicorn.Config(app, log_level="warning", **options)).run(sockets=[listener])


def certificate() -> tuple[Path, Path]:
    """A self-signed certificate for this machine's names and addresses, and its key.

    Kept and renewed.

    Raises:
        ImportError: cryptography is not installed.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID
    from platformdirs import user_data_path

    folder = user_data_path("voxtral-onnx") / "https"
    paths = folder / "certificate.pem", folder / "key.pem"
    now, names = datetime.datetime.now(datetime.UTC), _own_names()
    if all(path.is_file() for path in paths):
        kept = x509.load_pem_x509_certificate(paths[0].read_bytes())
        alternatives = kept.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if (
            kept.not_valid_after_utc > now + datetime.timedelta(days=7)
            and list(alternatives) == names
        ):
            return paths
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "voxtral-onnx on this computer")])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=CERTIFICATE_DAYS - 1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(paths[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        file.write(key.private_bytes(encoding, form, serialization.NoEncryption()))
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return paths


def _own_names() -> list:
    """What other devices may call this machine."""
    from cryptography import x509

    host = socket.gethostname()
    try:
        found = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        found = set()
    addresses = sorted(found | {"127.0.0.1", "::1"})
    names = dict.fromkeys(("localhost", host))
    return [
        *map(x509.DNSName, names),
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses),
    ]
