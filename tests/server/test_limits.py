"""A flood of connections that ask for nothing, and requests that are in work."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import threading
from contextlib import ExitStack, closing

import pytest
import uvicorn
from support.servers import TIMEOUT, get, serving

from voxtral_onnx.server.limits import LimitedListener

HALF = b"GET / HTTP/1.1\r\nHost: local"


@pytest.mark.parametrize("https", [False, True])
def test_half_requests_lock_nobody_out(page, tiny_artifact, tmp_path, https):
    """With 64 descriptors, 120 strangers who say half of what they want, or in TLS nothing."""
    shell = ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh"]
    options = ["--https"] if https else []
    with serving(page, tiny_artifact, tmp_path, *options, prefix=shell) as server:

        def ask() -> int:
            address = ("127.0.0.1", server.port)
            kind = http.client.HTTPConnection
            if https:
                context = ssl.create_default_context()
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                connection = http.client.HTTPSConnection(*address, timeout=TIMEOUT, context=context)
            else:
                connection = kind(*address, timeout=TIMEOUT)
            with closing(connection):
                connection.request("GET", "/")
                return connection.getresponse().status

        with ExitStack() as strangers:
            for _ in range(120):
                stranger = socket.create_connection(("127.0.0.1", server.port), TIMEOUT)
                strangers.enter_context(stranger)
                stranger.sendall(b"" if https else HALF)
            assert [ask() for _ in range(3)] == [200, 200, 200]  # while they wait
        assert [ask() for _ in range(3)] == [200, 200, 200]
        said = server.said.read_text()
    assert "connections are open, as many as can be" in said
    assert len(said) < 10_000


@pytest.fixture
def limited():
    """A server of two connections whose answers wait for `gate`; gives its port and the gate."""
    gate, started = threading.Event(), threading.Semaphore(0)

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        if scope["path"] == "/slow":
            started.release()
            while not gate.is_set():
                await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    with LimitedListener(socket.create_server(("127.0.0.1", 0)), 2) as listener:
        config = uvicorn.Config(
            listener.watch(app), loop="asyncio", http="h11", lifespan="off", log_config=None
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        port = listener.getsockname()[1]
        thread.start()
        yield port, gate, started
        gate.set()
        server.should_exit = True
        thread.join()


def ask_slowly(port: int, started: threading.Semaphore) -> http.client.HTTPConnection:
    """Send a request, and return when the server has it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    connection.request("GET", "/slow")
    assert started.acquire(timeout=TIMEOUT)
    return connection


def test_requests_in_work_keep_their_place(limited):
    port, gate, started = limited
    with closing(ask_slowly(port, started)) as slow, ExitStack() as strangers:
        for _ in range(10):
            stranger = socket.create_connection(("127.0.0.1", port), TIMEOUT)
            strangers.enter_context(stranger).sendall(HALF)
        assert get(port, "/")[0] == 200
        gate.set()
        assert slow.getresponse().read() == b"done"


def test_more_than_can_be_are_turned_away(limited, caplog):
    port, gate, started = limited
    with closing(ask_slowly(port, started)) as one, closing(ask_slowly(port, started)) as two:
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            get(port, "/")
        gate.set()
        assert [each.getresponse().read() for each in (one, two)] == [b"done", b"done"]
    assert "2 requests are in work, as many as can be" in caplog.text
    assert get(port, "/")[0] == 200
