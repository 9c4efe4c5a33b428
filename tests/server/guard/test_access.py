"""Who may use the API, and what becomes of keys."""

from __future__ import annotations

import hmac
import json
import logging

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from support.servers import get, running, send_raw

from voxtral_onnx.errors import UsageError
from voxtral_onnx.server.guard import access
from voxtral_onnx.server.guard.access import CLIENT, ApiKeys, KeyCheck, read_keys, require_guarded

ONE, TWO = "one-key-of-the-tests", "two-key-of-the-tests-äö".encode().hex()


async def show(request):
    """Answer with all that an application sees of a request."""
    scope = request.scope
    headers = [(name.decode(), value.decode()) for name, value in scope["headers"]]
    return JSONResponse({"client": scope.get(CLIENT), "headers": headers, "path": scope["path"]})


async def talk(socket):
    await socket.accept(subprotocol=(socket.scope["subprotocols"] or [None])[0])
    headers = [(name.decode(), value.decode()) for name, value in socket.scope["headers"]]
    await socket.send_json({"client": socket.scope.get(CLIENT), "headers": headers})
    await socket.close()


def guarded(*keys: str):
    app = Starlette(
        routes=[
            WebSocketRoute("/live", talk),
            Route("/{name:path}", show, methods=["GET", "POST", "HEAD"]),
        ]
    )
    return KeyCheck(app, ApiKeys(keys))


@pytest.fixture(scope="module")
def port():
    with running(guarded(ONE, TWO)) as port:
        yield port


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_with_a_key(port):
    for key, client in ((ONE, "key 1"), (TWO, "key 2")):
        for scheme in ("Bearer", "bearer", "BEARER "):
            status, _, content = get(port, "/v1/models", Authorization=f"{scheme} {key}")
            assert status == 200 and json.loads(content)["client"] == client
            assert key.encode() not in content  # the application does not see it


WRONG = [
    {},
    {"Authorization": ""},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer "},
    {"Authorization": ONE},
    {"Authorization": f"Basic {ONE}"},
    {"Authorization": f"Token {ONE}"},
    bearer(ONE[:-1]),
    bearer(ONE + "x"),
    bearer(ONE.upper()),
    bearer(f"{ONE},{TWO}"),
    bearer("ä" * 20),
    bearer("x" * 10_000),
    {"X-Api-Key": ONE},
]


@pytest.mark.parametrize("headers", WRONG, ids=range(len(WRONG)))
@pytest.mark.parametrize(
    "path", ["/v1/models", "/", "/metrics", "/health/", "//health", "/%68ealth/x"]
)
def test_without_a_key(port, path, headers):
    status, answered, content = get(port, path, **headers)
    assert (status, answered["www-authenticate"]) == (401, "Bearer")
    assert json.loads(content)["error"]["code"] == "invalid_api_key"
    assert json.loads(content)["error"].keys() == {"message", "type", "param", "code"}


def test_two_keys_in_a_request(port):
    request = f"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {ONE}\r\n"
    answer = send_raw(port, f"{request}Authorization: Bearer wrong\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_open_paths_need_none(port):
    for path in ("/health", "/ready"):
        assert get(port, path)[0] == 200
        assert json.loads(get(port, path, **bearer("wrong"))[2])["client"] is None
        assert get(port, path, "POST")[0] == 401


@pytest.mark.parametrize(
    "query", ["api_key=KEY", "a=b&API-Key=KEY", "key=KEY", "%61pi_key=KEY", "token=KEY", "key"]
)
def test_a_key_in_the_address_is_refused(port, caplog, query):
    """Even beside a right one, and without saying it again."""
    caplog.set_level(logging.DEBUG)
    address = f"/v1/models?{query.replace('KEY', ONE)}"
    for headers in ({}, bearer(ONE)):
        status, _, content = get(port, address, **headers)
        assert (status, json.loads(content)["error"]["code"]) == (400, "key_in_address")
        assert ONE.encode() not in content
    assert get(port, "/v1/models?model=key", **bearer(ONE))[0] == 200


def test_keys_are_in_no_log_and_no_answer(port, caplog):
    caplog.set_level(logging.DEBUG)
    wrong = "a-wrong-key-of-the-tests"
    answers = [get(port, "/v1/models", **bearer(key))[2] for key in (ONE, wrong)]
    assert all(key.encode() not in b"".join(answers) for key in (ONE, wrong))
    messages = [record.getMessage() for record in caplog.records if record.name != "httpx"]
    assert any("without a valid API key was refused: 127.0.0.1" in each for each in messages)
    assert not any(key in each for key in (ONE, wrong) for each in messages)
    assert ONE not in repr(ApiKeys([ONE])) and ONE not in repr(vars(ApiKeys([ONE])))


def test_every_key_is_compared_in_constant_time(monkeypatch):
    compared = []

    def compare(one, other):
        compared.append((one, other))
        return compare_digest(one, other)

    compare_digest = hmac.compare_digest
    monkeypatch.setattr(access.hmac, "compare_digest", compare)
    keys = ApiKeys([ONE, TWO])
    assert [keys.identify(key) for key in (ONE, TWO, "", ONE[:-1], "ä")] == [
        "key 1",
        "key 2",
        *[None] * 3,
    ]
    assert len(compared) == 2 * 5
    assert {len(each) for pair in compared for each in pair} == {32}


def test_without_keys_clients_are_addresses():
    with running(guarded()) as port:
        status, _, content = get(port, "/v1/models", **bearer("anything"))
        assert (status, json.loads(content)["client"]) == (200, "127.0.0.1")
        assert b"anything" not in content


def test_web_sockets():
    client = TestClient(guarded(ONE))
    for headers, protocols in (
        (bearer(ONE), None),
        ({}, ["realtime", f"openai-insecure-api-key.{ONE}"]),
    ):
        with client.websocket_connect("/live", protocols, headers=headers) as socket:
            said = socket.receive_json()
            assert said["client"] == "key 1" and ONE not in json.dumps(said)
            assert socket.accepted_subprotocol == (protocols and "realtime")
    for headers, protocols, address in (
        ({}, None, "/live"),
        (bearer(TWO), None, "/live"),
        ({}, [f"openai-insecure-api-key.{TWO}"], "/live"),
        (bearer(ONE), None, f"/live?api_key={ONE}"),
        ({}, None, "/health"),
    ):
        with (
            pytest.raises(WebSocketDenialResponse) as denied,
            client.websocket_connect(address, protocols, headers=headers),
        ):
            pass
        assert denied.value.status_code == (400 if "?" in address else 401)


@pytest.mark.parametrize(
    "key", ["short", "a key with blanks in it", "ä" * 20, "x" * 513, "a,b" * 9]
)
def test_what_is_no_key(key):
    with pytest.raises(UsageError, match="expected 16 to 512 visible characters") as refused:
        ApiKeys([ONE, key])
    assert key not in str(refused.value) and "API key 2" in str(refused.value)


def test_keys_from_everywhere(tmp_path):
    file = tmp_path / "keys.txt"
    file.write_text(f"# of a colleague\n\n{TWO}\r\n")
    environment = {access.VARIABLE: f"{ONE}-3, {ONE}-4\n", "HOME": "/"}
    keys = read_keys([ONE], file, environment)
    assert [keys.identify(key) for key in (ONE, f"{ONE}-3", f"{ONE}-4", TWO)] == [
        "key 1",
        "key 2",
        "key 3",
        "key 4",
    ]
    assert environment == {"HOME": "/"}  # of which processes that are started inherit nothing
    assert not read_keys([], None, {access.VARIABLE: " ,"})


@pytest.mark.parametrize("content", [None, "", "# nothing\n"])
def test_a_file_without_keys(tmp_path, content):
    file = tmp_path / "keys.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError, match="an API key a line"):
        read_keys([], file, {})


def test_a_server_for_others_needs_a_key():
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "LocalHost."):
        require_guarded(host, ApiKeys())
    for host in ("0.0.0.0", "::", "192.168.1.5", "fe80::1%eth0", "box", "localhost.example", ""):
        with pytest.raises(UsageError, match=r"everybody in the network.*--api-key.*--insecure"):
            require_guarded(host, ApiKeys())
        require_guarded(host, ApiKeys([ONE]))
        require_guarded(host, ApiKeys(), insecure=True)
