"""The choice between OpenAI's and vLLM's dialects at /v1/realtime, before and by messages."""

from __future__ import annotations

import base64
import json
from contextlib import contextmanager
from typing import Any

import pytest
from support.commands import CLIP, TEXT
from support.realtime import sound
from support.servers import get, running
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from voxtral_onnx.server.app import build_app
from voxtral_onnx.server.guard.access import ApiKeys
from voxtral_onnx.server.realtime.mistral import PATH

KEY = "k" * 20
APPEND, COMMIT, UPDATE = (
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "session.update",
)
SESSION = {"type": "transcription"}


@pytest.fixture(scope="module", params=["auto"])
def port(request, engines):
    with running(build_app(engines, model_name="tiny", dialect=request.param)) as found:
        yield found


@contextmanager
def asking(port, query="", **options):
    with connect(f"ws://127.0.0.1:{port}/v1/realtime{query}", **options) as socket:
        yield lambda: json.loads(socket.recv(20)), socket


def speak(socket, rate: int) -> None:
    content = sound(CLIP, "PCM_16", rate)
    for at in range(0, len(content), 9600):
        audio = base64.b64encode(content[at : at + 9600]).decode()
        socket.send(json.dumps({"type": APPEND, "audio": audio}))


def text_of(receive, socket, rate: int, **final) -> str:
    """Speak a clip in whichever dialect is spoken, and return its text."""
    speak(socket, rate)
    socket.send(json.dumps({"type": COMMIT, **final}))
    while True:
        event = receive()
        assert event["type"] != "error", event
        if event["type"].endswith((".done", ".completed")) and "item" not in event:
            return event.get("text", event.get("transcript")).strip()


def test_the_greeting_is_both(port):
    with asking(port) as (receive, _):
        created = receive()
    assert created["type"] == "session.created" and created["id"] and created["created"]
    assert created["event_id"] and created["session"]["type"] == "transcription"


@pytest.mark.parametrize(
    ("first", "rate", "final"),
    [
        ({"type": UPDATE, "session": SESSION}, 24_000, {}),
        (None, 24_000, {}),  # sound first
        ({"type": UPDATE, "model": "tiny"}, 16_000, {"final": True}),
    ],
)
def test_the_first_message_tells(port, first, rate, final):
    with asking(port) as (receive, socket):
        receive()
        if first:
            socket.send(json.dumps(first))
        assert text_of(receive, socket, rate, **final) == TEXT


@pytest.mark.parametrize("first", [{"type": COMMIT}, {"type": APPEND, "final": False}])
def test_what_only_vllm_s_clients_send(port, first):
    with asking(port) as (receive, socket):
        receive()
        socket.send(json.dumps(first))
        assert isinstance(receive()["error"], str)


def test_a_dialect_holds_for_the_connection(port):
    """A message of the other one is refused, and names it."""
    with asking(port) as (receive, socket):
        receive()
        socket.send(json.dumps({"type": UPDATE, "session": SESSION}))
        assert receive()["type"] == "session.updated"
        socket.send(json.dumps({"type": UPDATE, "model": "tiny"}))
        assert "vLLM" in receive()["error"]["message"]
    with asking(port) as (receive, socket):
        receive()
        socket.send(json.dumps({"type": UPDATE, "model": "tiny"}))
        socket.send(json.dumps({"type": UPDATE, "session": SESSION}))
        assert "OpenAI" in receive()["error"]


def test_what_tells_nothing_is_refused_and_leaves_the_choice(port):
    with asking(port) as (receive, socket):
        receive()
        for content in ("{", "[]", '{"type": "response.create"}', '{"type": "session.update"}'):
            socket.send(content)
            error = receive()
            assert error["type"] == "error" and error["code"] and error["error"]["message"]
        socket.send(json.dumps({"type": UPDATE, "model": "tiny"}))
        assert text_of(receive, socket, 16_000, final=True) == TEXT


@pytest.mark.parametrize(
    "options",
    [
        {"additional_headers": {"OpenAI-Beta": "realtime=v1"}},
        {"subprotocols": ["realtime", "openai-beta.realtime-v1"]},
    ],
)
def test_the_beta_is_refused_and_names_what_to_send(port, options):
    with asking(port, **options) as (receive, _):
        error = receive()
        assert error["code"] == "beta_api_gone" and "session.update" in error["error"]["message"]
        with pytest.raises(ConnectionClosed, match="1008"):
            receive()


def test_the_address_may_tell(port):
    with asking(port, "?intent=transcription") as (receive, socket):
        assert "created" not in receive()
        assert text_of(receive, socket, 24_000) == TEXT


@pytest.mark.parametrize(
    ("name", "first", "says"),
    [
        ("openai", {"type": COMMIT, "final": True}, "vLLM"),
        ("vllm", {"type": UPDATE, "session": {}}, "OpenAI"),
    ],
)
def test_the_server_may_tell(engines, name, first, says):
    with (
        running(build_app(engines, model_name="tiny", dialect=name)) as port,
        asking(port) as (receive, socket),
    ):
        receive()
        socket.send(json.dumps(first))
        assert says in json.dumps(receive()["error"])


def test_a_browser_s_key_is_taken_and_never_echoed(engines):
    app = build_app(engines, model_name="tiny", keys=ApiKeys([KEY]))
    offered = ["realtime", f"openai-insecure-api-key.{KEY}"]
    with running(app) as port:
        with asking(port, subprotocols=offered) as (receive, socket):
            assert socket.subprotocol == "realtime"
            assert receive()["type"] == "session.created"
        with pytest.raises(Exception, match="401"), asking(port, subprotocols=["realtime"]):
            pass


SAID = "the API key is not one of this server's"


@pytest.mark.parametrize("path", ["/v1/realtime?intent=transcription", "/v1/realtime", PATH])
def test_browsers_are_told_of_a_wrong_key(engines, path):
    """Their scripts see no status of HTTP; others get that."""
    app = build_app(engines, model_name="tiny", keys=ApiKeys([KEY]))
    wrong = "openai-insecure-api-key.not-the-key-of-this-server"
    with running(app) as port:
        own = {"Origin": f"http://127.0.0.1:{port}"}
        cases: list[tuple[dict[str, Any], str]] = [
            ({"subprotocols": ["realtime", wrong]}, SAID),
            ({"subprotocols": ["realtime"], "additional_headers": own}, "an API key is needed"),
            ({"additional_headers": own}, "an API key is needed"),
        ]
        for options, says in cases:
            with connect(f"ws://127.0.0.1:{port}{path}", **options) as socket:
                event = json.loads(socket.recv(20))
                assert event["type"] == "error" and says in event["error"]["message"]
                with pytest.raises(ConnectionClosed):
                    socket.recv(20)
                assert (socket.close_code, socket.close_reason) == (3000, "invalid_api_key")
                assert socket.subprotocol == ("realtime" if "subprotocols" in options else None)
        for address in (path, "/v1/models"):
            with (
                pytest.raises(InvalidStatus, match="401"),
                connect(
                    f"ws://127.0.0.1:{port}{address}",
                    additional_headers={"Authorization": "Bearer wrong"},
                ),
            ):
                pass
        with (
            pytest.raises(InvalidStatus, match="401"),
            connect(
                f"ws://127.0.0.1:{port}/v1/models",
                subprotocols=[Subprotocol("realtime"), Subprotocol(wrong)],
            ),
        ):
            pass
    assert not engines.live


def test_a_vllm_server_tells_them_in_its_words(engines):
    app = build_app(engines, model_name="tiny", keys=ApiKeys([KEY]), dialect="vllm")
    with (
        running(app) as port,
        asking(port, subprotocols=["realtime", "openai-insecure-api-key.no"]) as (receive, _),
    ):
        assert receive() == {"type": "error", "error": SAID, "code": "invalid_api_key"}


@pytest.mark.parametrize("path", ["/v1/realtime", PATH])
def test_what_asks_for_no_web_socket(port, path):
    status, headers, content = get(port, path)
    assert (status, headers["Upgrade"], headers["Connection"]) == (426, "websocket", "Upgrade")
    assert "expected a WebSocket" in json.loads(content)["error"]["message"]
    status, headers, _ = get(port, path, "DELETE")
    assert (status, headers["Allow"]) == (405, "GET")


def test_another_model_in_the_address_is_refused(port):
    with asking(port, "?model=whisper-9") as (receive, _):
        assert receive()["code"] == "model_not_found"
        with pytest.raises(ConnectionClosed, match="1008"):
            receive()
    with asking(port, "?model=whisper-1") as (receive, _):
        assert receive()["type"] == "session.created"
