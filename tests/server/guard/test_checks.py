"""All checks together, before an application behind the listener as `serve` runs it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from contextlib import closing, contextmanager

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from support.servers import TIMEOUT, guarded

from voxtral_onnx.server.guard.access import OPEN_PATHS, ApiKeys
from voxtral_onnx.server.guard.connections import BACKLOG, KEEP_ALIVE_SECONDS, LimitedListener
from voxtral_onnx.server.guard.request_limits import RequestLimits
from voxtral_onnx.server.log import logging_to_stderr

KEY = "a-key-of-the-tests"


async def count(request):
    return PlainTextResponse(str(len(await request.body())))


@contextmanager
def served(**options):
    """Run an application behind all checks; gives its address."""
    app = Starlette(
        routes=[Route("/{name:path}", count, methods=["GET", "POST"])],
    )
    options = {"keys": ApiKeys([KEY]), "limits": RequestLimits(body_bytes=1 << 20), **options}
    listening = socket.create_server(("127.0.0.1", 0))
    with LimitedListener(listening, 100) as listener:
        config = uvicorn.Config(
            listener.watch(guarded(app, **options)),
            loop="asyncio",
            http="h11",
            log_config=None,
            log_level="warning",
            backlog=BACKLOG,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.start()
        yield address
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def client():
    with (
        served(open_paths=OPEN_PATHS | {"/"}, allowed_origins=["https://app.example"]) as address,
        httpx.Client(base_url=address, timeout=TIMEOUT, trust_env=False) as client,
    ):
        yield client


AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


def test_a_client_with_a_key(client):
    assert client.post("/v1/x", content=b"abc", headers=AUTHORIZED).text == "3"
    assert client.post("/v1/x", content=b"x" * (1 << 20), headers=AUTHORIZED).text == "1048576"


def test_what_is_open(client):
    assert [client.get(path).status_code for path in ("/", "/health", "/ready")] == [200] * 3
    assert [client.get(path).status_code for path in ("/metrics", "/v1/models")] == [401] * 2


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({**AUTHORIZED, "Host": "stranger.example"}, 421),
        ({**AUTHORIZED, "Origin": "https://stranger.example"}, 403),
        ({}, 401),
    ],
)
def test_the_cheapest_check_is_the_first(client, headers, status):
    """Nothing of a large body is awaited, whatever is wrong."""
    large = (b"x" * (1 << 16) for _ in range(40))
    assert client.post("/v1/x", content=large, headers=headers).status_code == status


def test_a_large_body(client):
    for content in (b"x" * ((1 << 20) + 1), (b"x" * (1 << 16) for _ in range(40))):
        answer = client.post("/v1/x", content=content, headers=AUTHORIZED)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert client.post("/v1/x", content=b"abc", headers=AUTHORIZED).text == "3"


def test_an_allowed_page_of_another_origin(client):
    """Its browser asks first, without the key."""
    origin = {"Origin": "https://app.example"}
    asked = client.options(
        "/v1/x",
        headers={
            **origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        },
    )
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (
        200,
        "https://app.example",
    )
    answer = client.post("/v1/x", content=b"abc", headers={**origin, **AUTHORIZED})
    assert (answer.text, answer.headers["access-control-allow-origin"]) == (
        "3",
        "https://app.example",
    )
    assert client.post("/v1/x", headers=origin).status_code == 401
    other = {"Origin": "https://other.example", "Access-Control-Request-Method": "POST"}
    assert client.options("/v1/x", headers=other).status_code == 403


def test_no_key_and_no_content_is_logged(capsys):
    """Of requests that pass, and of those that are refused for every reason."""
    secrets = [KEY, "another-key-of-the-tests", "words of a recording"]
    with logging_to_stderr(), served() as address:
        host, port = address.removeprefix("http://").split(":")
        for path, headers in (
            ("/v1/x", AUTHORIZED),
            ("/v1/x", {"Authorization": f"Bearer {secrets[1]}"}),
            (f"/v1/x?api_key={KEY}", AUTHORIZED),
            ("/v1/x", {**AUTHORIZED, "Origin": f"https://{KEY}.example"}),
            ("/v1/x", {**AUTHORIZED, "Content-Length": "99999999999"}),
        ):
            with closing(http.client.HTTPConnection(host, int(port), timeout=TIMEOUT)) as to:
                to.request("POST", path, secrets[2].encode(), headers)
                content = to.getresponse().read()
                assert not any(secret.encode() in content for secret in secrets)
    said = capsys.readouterr()
    assert "without a valid API key" in said.err
    assert not any(secret in said.err + said.out for secret in secrets)


def test_errors_have_the_shape_of_openai(client):
    content = json.loads(client.get("/v1/models").content)
    assert content["error"]["type"] == "invalid_request_error"
