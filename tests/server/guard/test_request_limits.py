"""Bodies, answers and sessions that are too large, too slow, too long or too many."""

from __future__ import annotations

import asyncio
import http.client
import json
import select
import socket
import threading
from contextlib import ExitStack, closing

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from support.servers import TIMEOUT, get, running, send_raw

from voxtral_onnx.server.guard.access import CLIENT
from voxtral_onnx.server.guard.request_limits import LEAST_BYTES, LimitedRequests, RequestLimits

LIMITS = RequestLimits(body_bytes=100_000, most_at_once=2, idle_seconds=0.5, total_seconds=1.5)


class App:
    """An application that reads a body, waits or talks, as the path says."""

    def __init__(self):
        self.entered, self.gate = threading.Semaphore(0), threading.Event()
        self.ended: list[tuple[str, str]] = []  # the path, and how

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return
        self.entered.release()
        try:
            await self._answer(scope, receive, send)
        except asyncio.CancelledError:
            self.ended.append((scope["path"], "cancelled"))
            raise
        self.ended.append((scope["path"], "answered"))

    def how(self, path: str) -> list[str]:
        """Return how the requests for a path have ended."""
        return [how for asked, how in self.ended if asked == path]

    async def _answer(self, scope, receive, send):
        size, has_more = 0, scope["method"] == "POST"
        while has_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size, has_more = size + len(message["body"]), message["more_body"]
            if scope["path"] == "/slow-reader":
                await asyncio.sleep(1)
        while scope["path"] == "/wait" and not self.gate.is_set():
            await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while scope["path"] == "/endless":
            await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
        await send({"type": "http.response.body", "body": str(size).encode()})


def counted(app):
    """Return an application whose requests all belong to the client that a header names."""

    async def with_client(scope, receive, send):
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            scope[CLIENT] = headers.get(b"x-client", b"").decode() or None
        await app(scope, receive, send)

    return with_client


@pytest.fixture(scope="module")
def served():
    app = App()
    with running(counted(LimitedRequests(app, LIMITS))) as port:
        yield port, app
        app.gate.set()


def post(port: int, path: str, body, **headers) -> tuple[int, dict]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as connection:
        connection.request("POST", path, body, headers, encode_chunked=not isinstance(body, bytes))
        answer = connection.getresponse()
        content = json.loads(answer.read())
        return answer.status, content if isinstance(content, dict) else {"size": content}


def code(content: dict) -> str:
    return content["error"]["code"]


def test_bodies_within_the_limit(served):
    port, _ = served
    assert post(port, "/", b"x" * 100_000) == (200, {"size": 100_000})
    pieces = (b"x" * 10_000 for _ in range(10))
    assert post(port, "/", pieces, **{"Transfer-Encoding": "chunked"}) == (200, {"size": 100_000})


def test_a_large_body_is_refused_before_it_comes(served):
    port, app = served
    for declared in ("100001", "9" * 19, "9" * 400):
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
            request = f"POST /large HTTP/1.1\r\nHost: a\r\nContent-Length: {declared}\r\n"
            connection.sendall(f"{request}Expect: 100-continue\r\n\r\n".encode())
            answer = b""
            while not answer.endswith((b"}}", b"received.")):
                answer += connection.recv(1 << 16)
        assert answer.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 ")), answer  # 400 by h11
        assert b"larger than 0.0953674 MB" in answer or b" 400 " in answer
    assert not app.how("/large")  # it saw none of them


def test_a_large_body_without_a_length(served):
    """The application ends, and a client that sends on gets its answer too."""
    port, app = served
    pieces = (b"x" * 10_000 for _ in range(50))
    status, content = post(port, "/more", pieces, **{"Transfer-Encoding": "chunked"})
    assert (status, code(content)) == (413, "body_too_large")
    assert app.how("/more") == ["cancelled"]


@pytest.mark.parametrize("first", ["", "x"])
def test_a_body_that_does_not_come(served, first):
    port, app = served
    request = f"POST /none{first} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    answer = send_raw(port, f"{request}Content-Length: 1000\r\n\r\n{first}".encode())
    assert answer.startswith(b"HTTP/1.1 408 ") and b"body_timeout" in answer
    assert app.how(f"/none{first}") == ["cancelled"]


def trickle(port: int, size: int, seconds: float) -> tuple[int, bytes]:
    """Send a body in pieces of `size`, one every `seconds`, until it is answered."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 90000\r\n\r\n")
        for _ in range(90_000 // size):
            connection.sendall(b"x" * size)
            if select.select([connection], [], [], seconds)[0]:
                break
        with closing(http.client.HTTPResponse(connection)) as answer:
            answer.begin()
            return answer.status, answer.read()


def test_a_body_that_trickles(served):
    """A byte now and then is not progress."""
    status, content = trickle(served[0], 1, 0.1)
    assert (status, code(json.loads(content))) == (408, "body_timeout")


def test_a_body_that_is_slow_but_comes(served):
    """It takes longer than the idle time, and each idle time brings enough."""
    assert LEAST_BYTES < 18_000
    assert trickle(served[0], 18_000, 0.25) == (200, b"90000")


def test_a_slow_application_is_not_its_client(served):
    port, _ = served
    assert post(port, "/slow-reader", b"x") == (200, {"size": 1})


def test_an_answer_that_nobody_takes(served):
    port, app = served
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_for(lambda: app.how("/endless") == ["cancelled"])


def wait_for(is_so) -> None:
    event = threading.Event()
    for _ in range(TIMEOUT * 50):
        if is_so():
            return
        event.wait(0.02)
    raise AssertionError("it has not come to be")


def test_the_total_time(served):
    port, app = served
    app.gate.clear()
    status, _, content = get(port, "/wait")
    assert (status, code(json.loads(content))) == (503, "request_timeout")
    assert app.how("/wait") == ["cancelled"]


def test_requests_at_once(served):
    """Two of a client, and others are not held up; a place is free again when one has ended."""
    port, app = served
    app.gate.clear()
    while app.entered.acquire(blocking=False):
        pass
    with ExitStack() as opened:
        waiting = []
        for _ in range(2):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
            opened.enter_context(closing(connection))
            connection.request("GET", "/wait", headers={"X-Client": "key 1"})
            assert app.entered.acquire(timeout=TIMEOUT)
            waiting.append(connection)
        status, headers, content = get(port, "/", **{"X-Client": "key 1"})
        assert (status, headers["retry-after"]) == (429, "1")
        assert code(json.loads(content)) == "rate_limit_exceeded"
        assert get(port, "/", **{"X-Client": "key 2"})[0] == 200
        assert get(port, "/")[0] == 200  # an open path
        app.gate.set()
        assert [each.getresponse().status for each in waiting] == [200, 200]
    wait_for(lambda: get(port, "/", **{"X-Client": "key 1"})[0] == 200)


def test_an_error_of_the_application_is_its_own():
    async def app(scope, receive, send):
        raise TimeoutError("of the engine")

    client = TestClient(counted(LimitedRequests(app, LIMITS)))
    for _ in range(LIMITS.most_at_once + 1):  # its place is free again
        with pytest.raises(TimeoutError, match="of the engine"):
            client.get("/", headers={"X-Client": "key 1"})


def test_the_total_time_of_a_web_socket():
    async def app(scope, receive, send):
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        while True:
            await socket.receive_text()

    client = TestClient(LimitedRequests(app, RequestLimits(total_seconds=0.3)))
    with client.websocket_connect("/") as talk:
        talk.send_text("anybody?")
        with pytest.raises(WebSocketDisconnect) as ended:
            talk.receive_text()
    assert (ended.value.code, "longest time" in ended.value.reason) == (1008, True)
