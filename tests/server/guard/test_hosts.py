"""By which names requests may call the server (DNS rebinding)."""

from __future__ import annotations

import socket

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from support.servers import get, page_app, running, send_raw

from voxtral_onnx.errors import UsageError
from voxtral_onnx.server.guard.hosts import AllowedHosts, OwnOrigins, checked_host, own_names


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LocalHost.",
        "127.0.0.1:1",
        "[::1]",
        "[0:0:0:0:0:0:0:1]:8000",
        "[::ffff:127.0.0.1]",
        socket.gethostname(),
        *own_names(),
    ],
)
def test_own_names(port, host):
    assert get(port, "/", Host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "stranger.example",
        "stranger.example:8000",
        "localhost.stranger.example",
        "127.0.0.1.stranger.example",
        "10.9.8.7",
        "[2001:db8::1]:8000",
        "name@localhost",
        "localhost:8000:9",
        "[::1",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/", "/artifact/voxtral_onnx.json", "/nothing"])
def test_other_names(port, host, path):
    status, headers, content = get(port, path, Host=host)
    assert (status, headers["content-type"]) == (421, "text/plain; charset=utf-8")
    assert b"expected a name of this computer" in content and content.count(b"\n") == 1


def test_a_request_without_a_name(port):
    assert send_raw(port, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 421 ")


def test_names_that_are_allowed(page, tiny_artifact):
    names = ["Box.example.org", "2001:DB8::1", "10.9.8.7"]
    with running(page_app(tiny_artifact, allowed_hosts=names)) as port:
        for host in ("box.example.org:8000", "[2001:db8::1]", "10.9.8.7"):
            assert get(port, "/", Host=host)[0] == 200
        status, _, content = get(port, "/", Host="stranger.example")
        assert status == 421
        assert b"start serve with --allowed-host stranger.example" in content


@pytest.mark.parametrize(
    "host", ["https://box", "box:8000", "*", "*.example.org", "a b", "", "a/b"]
)
def test_what_is_no_host(host):
    with pytest.raises(UsageError, match="expected the name or the address of a computer"):
        checked_host(host)


def api(*origins: str):
    """Return an application behind both checks."""

    async def answer(request):
        return PlainTextResponse("done")

    async def talk(socket):
        await socket.accept()
        await socket.send_text("done")
        await socket.close()

    app = Starlette(
        routes=[Route("/api", answer, methods=["GET", "POST"]), WebSocketRoute("/live", talk)]
    )
    return AllowedHosts(OwnOrigins(app, origins))


@pytest.fixture(scope="module")
def api_port():
    with running(api("https://App.example", "chrome-extension://abc")) as port:
        yield port


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8000", None),
        ("localhost:8000", "http://localhost:8000"),
        ("LOCALHOST:8000", "http://localhost:8000"),
        ("localhost", "http://localhost"),
        ("localhost", "https://localhost"),  # a proxy speaks https
        ("localhost:443", "https://localhost"),
        ("[::1]:8000", "http://[0:0::1]:8000"),
        ("localhost:8000", "https://app.example"),
        ("localhost:8000", "https://app.example:443"),
        ("localhost:8000", "chrome-extension://abc"),
    ],
)
def test_own_origins(api_port, method, host, origin):
    headers = {"Host": host, **({"Origin": origin} if origin else {})}
    assert get(api_port, "/api", method, **headers)[0] == 200


OTHERS = [
    "https://stranger.example",
    "http://stranger.example:8000",
    "null",
    "",
    "http://localhost:8001",  # another program of this computer
    "http://localhost",
    "http://localhost:8000.stranger.example",
    "http://localhost:8000@stranger.example",
    "http://stranger.example/localhost:8000",
    "http://127.0.0.1:8000",
    "file://localhost:8000",
    "https://app.example.stranger.example",
    "http://app.example",
    "localhost:8000",
    "http://localhost:8000 http://stranger.example",
]


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("origin", OTHERS)
def test_other_origins(api_port, method, origin):
    status, headers, content = get(api_port, "/api", method, Host="localhost:8000", Origin=origin)
    assert status == 403 and b"other_origin" in content
    assert "access-control-allow-origin" not in headers


def test_two_origins_of_a_request(api_port):
    request = "GET /api HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    origins = "Origin: http://localhost\r\nOrigin: http://stranger.example\r\n\r\n"
    assert send_raw(api_port, (request + origins).encode()).startswith(b"HTTP/1.1 403 ")


def test_rebound_names_are_refused_whatever_their_origin(api_port):
    """To the browser the page is of the origin that it asks; so the host must be checked."""
    rebound = {"Host": "stranger.example", "Origin": "http://stranger.example"}
    assert get(api_port, "/api", "POST", **rebound)[0] == 421


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        *(({"Host": "localhost:8000", "Origin": origin}, 403) for origin in OTHERS),
        ({"Host": "stranger.example", "Origin": "http://stranger.example"}, 421),
        ({"Host": "stranger.example"}, 421),
    ],
)
def test_web_sockets_of_other_pages(headers, status):
    """Browsers let any page open one to anywhere, and say only whose page it is."""
    client = TestClient(api())
    with (
        pytest.raises(WebSocketDenialResponse) as denied,
        client.websocket_connect("/live", headers=headers),
    ):
        pass
    assert denied.value.status_code == status


def test_own_web_sockets():
    client = TestClient(api())
    for origin in ({}, {"Origin": "http://localhost:8000"}):
        with client.websocket_connect("/live", headers={"Host": "localhost:8000", **origin}) as it:
            assert it.receive_text() == "done"


@pytest.mark.parametrize("origin", ["*", "https://*.example", "example.org", "https://a/b", ""])
def test_what_is_no_origin(origin):
    with pytest.raises(UsageError, match="expected an origin"):
        api(origin)
