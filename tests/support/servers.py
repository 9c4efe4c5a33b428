"""The page over HTTP: an application in a thread, the command as a process, and plain requests."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from voxtral_onnx.server.app import build_app
from voxtral_onnx.server.guard.checks import guards
from voxtral_onnx.server.page.site import Site
from voxtral_onnx.server.realtime.keepalive import PatientProtocol

# Instead of onnxruntime-web, which only browsers run
FROM_VENDOR = {
    "VERSION": b"onnxruntime-web 0\n",
    "ort.webgpu.min.mjs": b"export {}\n",
    "ort.wasm": b"\0asm",
}
# Started as a user starts it, with another folder for the page's own files
COMMAND = """
import sys
from pathlib import Path
from voxtral_onnx.server.page import files
files.PAGE = Path(sys.argv.pop(1))
from voxtral_onnx.cli import main
main()
"""
TIMEOUT = 30  # seconds; an answer takes milliseconds


def page_app(artifact: Path, *, allowed_hosts=(), **options):
    """Return an application that sends the page alone."""
    return build_app(site=Site(artifact, **options), allowed_hosts=allowed_hosts)


def until(holds: Callable[[], object], seconds: float = TIMEOUT) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def running(app) -> Iterator[int]:
    """Run an application in a thread; gives its port."""
    config = uvicorn.Config(app, port=0, log_level="error", ws=PatientProtocol)
    process = uvicorn.Server(config)
    thread = threading.Thread(target=process.run)
    thread.start()
    try:
        while not process.started:
            assert thread.is_alive()
        yield process.servers[0].sockets[0].getsockname()[1]
    finally:
        process.should_exit = True
        thread.join()


def get(port, path, method="GET", **headers):
    """Send a request, and return its answer's status, headers and content."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def send_raw(port: int, request: bytes) -> bytes:
    """Send bytes, and return all that comes until the server closes."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
        connection.sendall(request)
        parts = []
        while part := connection.recv(1 << 16):
            parts.append(part)
        return b"".join(parts)


@dataclass
class Serving:
    """`serve` as a process."""

    scheme: str
    port: int
    said: Path  # what it wrote to stderr
    process: subprocess.Popen[str]


@contextmanager
def serving(
    page: Path, artifact: Path, folder: Path, *options: str, prefix=(), api=False, ends=True
) -> Iterator[Serving]:
    """Run `serve`, interrupt it in the end, and see that it ends as it should.

    Args:
        page: the page's own files.
        artifact: what it serves.
        folder: for its kept files, and for what it says.
        options: of the command.
        prefix: a command that starts it, as a shell with limits.
        api: whether it has the API too.
        ends: whether to interrupt it; otherwise the test does.
    """
    command = [*prefix, sys.executable, "-c", COMMAND, page, "serve", artifact]
    command += ["--port", "0", "--no-open", *([] if api else ["--page-only"]), *options]
    environment = {**os.environ, "XDG_DATA_HOME": str(folder / "data")}
    said = folder / "said.txt"
    with (
        said.open("w") as stderr,
        subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment,
        ) as process,
    ):
        try:
            assert process.stdout
            address = process.stdout.readline()
            found = re.fullmatch(r"(https?)://127\.0\.0\.1:(\d+)/\n", address)
            assert found, address + said.read_text()
            yield Serving(found[1], int(found[2]), said, process)
            if ends:
                process.send_signal(signal.SIGINT)
                assert process.wait(TIMEOUT) in (0, 130)
            assert "Traceback" not in said.read_text()
        finally:
            process.kill()


def guarded(app, **options):
    """Return an application behind the checks of `guards`, whose options these are."""
    for guard in reversed(guards(**options)):
        app = guard.cls(app, *guard.args, **guard.kwargs)
    return app
