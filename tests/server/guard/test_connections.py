"""A flood of connections, those that ask for nothing or slowly, and requests that are in work."""

from __future__ import annotations

import asyncio
import http.client
import select
import socket
import ssl
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from support.servers import TIMEOUT, get, serving

from voxtral_onnx.server.guard.access import ApiKeys, KeyCheck
from voxtral_onnx.server.guard.connections import LimitedListener, connection_limit
from voxtral_onnx.server.realtime.keepalive import PatientProtocol
from voxtral_onnx.server.realtime.refusals import BrowserRefusal

LARGE = 16 << 20  # bytes of an answer, more than the system takes at once
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


def test_two_thousand_connections(page, tiny_artifact, tmp_path):
    """And a hundred more, none of which says a word: whoever asks is answered."""
    if connection_limit(2200 * 2) < 2200:
        pytest.skip("needs 6,600 descriptors")
    with serving(page, tiny_artifact, tmp_path) as server, ExitStack() as strangers:
        for _ in range(2100):
            stranger = socket.create_connection(("127.0.0.1", server.port), TIMEOUT)
            strangers.enter_context(stranger)
        assert [get(server.port, "/")[0] for _ in range(3)] == [200, 200, 200]
        assert "2000 connections are open, as many as can be" in server.said.read_text()


def lasts(connection: socket.socket, piece: bytes) -> bytes:
    """Send a byte now and then until the server closes; return what it says."""
    connection.settimeout(0.1)
    said = b""
    with suppress(ConnectionError):
        for _ in range(10 * TIMEOUT):
            try:
                if not (part := connection.recv(1 << 16)):
                    return said
                said += part
            except TimeoutError:
                connection.sendall(piece)
        raise AssertionError("it is still open")
    return said


@pytest.mark.parametrize("limited", [1.0], indirect=True)
@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (b"", b""),  # nothing at all
        (HALF, b""),
        (HALF, b"x"),  # headers that trickle
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: 1\r\n"),
        (b"\x16\x03\x01", b""),  # TLS where there is none
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + HALF, b"x"),  # the second request's headers
    ],
)
def test_headers_have_their_time(limited, first, piece):
    with socket.create_connection(("127.0.0.1", limited[0]), TIMEOUT) as connection:
        connection.sendall(first)
        said = lasts(connection, piece)
    assert (b"200 OK" in said) == (b"\r\n\r\n" in first)
    assert get(limited[0], "/")[0] == 200


@pytest.mark.parametrize("limited", [0.3], indirect=True)
def test_a_request_in_work_is_not_idle(limited):
    port, gate, started = limited
    with closing(ask_slowly(port, started)) as slow:
        assert lasts_at_least(slow.sock, 1.0)
        gate.set()
        assert slow.getresponse().read() == b"done"


@pytest.mark.parametrize("limited", [0.3], indirect=True)
def test_the_end_of_an_answer_is_not_cut_off(limited):
    """The application has given it away, and a slow client is still to take most of it."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", limited[0]))
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert select.select([connection], [], [], TIMEOUT)[0]
        connection.settimeout(TIMEOUT)
        time.sleep(1)  # longer than a connection may be without a request
        said = b""
        while part := connection.recv(1 << 16):
            said += part
    assert said.count(b"x") == LARGE


def lasts_at_least(connection: socket.socket, seconds: float) -> bool:
    """Return whether the server neither says anything nor closes for some time."""
    return select.select([connection], [], [], seconds)[0] == []


def test_peers_that_vanish_are_noticed():
    """By the system, which asks a silent peer whether it is there."""

    async def accepted() -> int:
        with (
            LimitedListener(socket.create_server(("127.0.0.1", 0)), 2) as listener,
            socket.create_connection(listener.getsockname(), TIMEOUT),
        ):
            connection, _ = listener.accept()
            with connection:
                return connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    assert asyncio.run(accepted())


@pytest.fixture
def limited(request):
    """A server of two connections whose answers wait for `gate`; gives its port and the gate."""
    seconds = getattr(request, "param", 10.0)
    gate, started = threading.Event(), threading.Semaphore(0)

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        if scope["path"] == "/slow":
            started.release()
            while not gate.is_set():
                await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        body = b"x" * LARGE if scope["path"] == "/large" else b"done"
        await send({"type": "http.response.body", "body": body})

    with limited_server(app, seconds) as port:
        yield port, gate, started
        gate.set()


@contextmanager
def limited_server(app, seconds: float = 10.0):
    """Run an application behind two connections; gives its port."""
    with LimitedListener(socket.create_server(("127.0.0.1", 0)), 2, seconds) as listener:
        config = uvicorn.Config(
            listener.watch(app),
            loop="asyncio",
            http="h11",
            ws=PatientProtocol,
            lifespan="off",
            log_config=None,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        port = listener.getsockname()[1]
        thread.start()
        yield port
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


WRONG_KEY = (
    b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.wrong\r\n\r\n"
)


def test_browsers_that_were_refused_lock_nobody_out():
    """Their connections are made, but have no request in work, though they do not close them."""
    health = PlainTextResponse("well")
    app = KeyCheck(health, ApiKeys(["k" * 20]), refuse_browser=BrowserRefusal("auto"))
    with limited_server(app) as port, ExitStack() as strangers:
        for _ in range(10):
            stranger = socket.create_connection(("127.0.0.1", port), TIMEOUT)
            strangers.enter_context(stranger).sendall(WRONG_KEY)
            said = b""
            while b"\x0b\xb8invalid_api_key" not in said:  # the frame that closes, with 3000
                part = stranger.recv(1 << 16)
                assert part
                said += part
            assert b" 101 " in said and b"the API key is not one" in said
        assert [get(port, "/health")[0] for _ in range(3)] == [200, 200, 200]
