"""The ends of live connections in all dialects: clients that leave, and servers that end."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct

import pytest
from support.commands import CLIP, LONG_CLIP, TEXT
from support.realtime import sound
from support.servers import TIMEOUT, until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from voxtral_onnx.server.realtime import dialect
from voxtral_onnx.server.realtime.mistral import PATH

APPEND, COMMIT, UPDATE = (
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "session.update",
)
# By protocol: its path, what begins an utterance, what holds sound, and what ends it
PROTOCOLS = {
    "openai": ("/v1/realtime?intent=transcription", [], APPEND, {"type": COMMIT}),
    "vllm": (
        "/v1/realtime",
        [{"type": UPDATE, "model": "tiny"}],
        APPEND,
        {"type": COMMIT, "final": True},
    ),
    "mistral": (PATH, [], "input_audio.append", {"type": "input_audio.end"}),
}
WHOLE = {
    "openai": "conversation.item.done",
    "vllm": "transcription.done",
    "mistral": "transcription.done",
}
RATES = {"openai": 24_000, "vllm": 16_000, "mistral": 16_000}


def opened(api, name, **options):
    return connect(f"ws://127.0.0.1:{api.port}{PROTOCOLS[name][0]}", max_size=None, **options)


def append(socket_, name, content: bytes) -> None:
    _, begins, kind, _ = PROTOCOLS[name]
    for message in (*begins, {"type": kind, "audio": base64.b64encode(content).decode()}):
        socket_.send(json.dumps(message))


def events_of(client) -> list[dict]:
    """Return all events until the connection is closed."""
    found = []
    with pytest.raises(ConnectionClosed):
        while True:
            found.append(json.loads(client.recv(TIMEOUT)))
    return found


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("ends", [False, True])
def test_a_client_that_vanishes_with_much_to_hear_frees_its_slot(api, name, ends):
    """It is not waited for, although minutes of its sound were taken."""
    engine = api.engines.engines[0]
    with opened(api, name) as client:
        append(client, name, bytes(2 * RATES[name] * 120))
        if ends:
            client.send(json.dumps(PROTOCOLS[name][3]))
        until(lambda: engine.metrics.streams == 1)
        # Reset: closed without a word
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.shutdown(socket.SHUT_RD)  # wakes the thread that reads, and keeps it open
        client.socket.close()
        until(lambda: engine.metrics.streams == 0)
        (stream,) = [engine.open()]
        stream.close()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_what_came_before_the_end_is_heard_and_nothing_else_looks_whole(new_api, name):
    api = new_api()
    content = sound(LONG_CLIP, "PCM_16", RATES[name])
    with opened(api, name) as speaking, opened(api, name) as done:
        append(speaking, name, content)  # and has not ended
        append(done, name, sound(CLIP, "PCM_16", RATES[name]))
        done.send(json.dumps(PROTOCOLS[name][3]))
        until(lambda: api.engines.engines[0].metrics.streams == 2)
        (loop,) = {each.connection._writer.get_loop() for each in api.engines.live}
        for each in list(api.engines.live):
            loop.call_soon_threadsafe(each.move)
        cut, whole = events_of(speaking), events_of(done)
    kinds = [each["type"] for each in cut]
    assert (
        WHOLE[name] not in kinds and kinds[-1] == "error" and "connect anew" in json.dumps(cut[-1])
    )
    finished = json.dumps([each for each in whole if each["type"] == WHOLE[name]])
    assert TEXT in finished
    assert (speaking.close_code, done.close_code) in ((1012, 1012), (1012, 1000))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_who_comes_while_the_server_ends_is_told_so(new_api, name):
    api = new_api()
    api.engines.is_draining = True
    with opened(api, name) as client:
        for message in PROTOCOLS[name][1]:
            client.send(json.dumps(message))
        (*_, error) = events_of(client)
        assert "connect anew" in json.dumps(error) and client.close_code == 1012


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_stream_that_gets_no_sound_for_long_ends(api, name, monkeypatch):
    """Its words come, then an error; a client that has not spoken, and has no stream, stays."""
    monkeypatch.setattr(dialect, "MOST_SILENCE", 1.0)
    with opened(api, name) as quiet, opened(api, name) as client:
        append(client, name, sound(CLIP, "PCM_16", RATES[name]))
        *words, error = events_of(client)
        assert error["type"] == "error" and "no sound has come for 1 s" in json.dumps(error)
        assert client.close_code == 1008
        text = "".join(each.get("delta", each.get("text", "")) for each in deltas_of(words))
        assert text.strip() == TEXT
        until(lambda: not api.engines.engines[0].metrics.streams)
        assert json.loads(quiet.recv(TIMEOUT))["type"] == "session.created"
        append(quiet, name, bytes(3200))
        until(lambda: api.engines.engines[0].metrics.streams)


def deltas_of(events: list[dict]) -> list[dict]:
    return [each for each in events if each["type"].endswith(".delta")]


def test_sound_lets_a_stream_go_on(api):
    with opened(api, "openai") as client:
        append(client, "openai", bytes(4800))
        until(lambda: any(each.speech for each in api.engines.live))
        (speech,) = (each.speech for each in api.engines.live)
        first = speech._heard_at
        client.send(json.dumps({"type": COMMIT}))  # which is none
        while json.loads(client.recv(TIMEOUT))["type"] != "conversation.item.done":
            pass
        assert speech._heard_at == first
        append(client, "openai", bytes(4800))
        until(lambda: speech._heard_at > first)


def test_who_has_said_nothing_is_told_so(new_api):
    api = new_api()
    with opened(api, "vllm") as client:
        client.recv(TIMEOUT)
        until(lambda: api.engines.live)
        (undecided,) = api.engines.live
        undecided.connection._writer.get_loop().call_soon_threadsafe(undecided.move)
        (error,) = events_of(client)
        assert error["code"] == "server_restarting" and client.close_code == 1012


def test_the_end_is_told_before_the_connection_is_closed(new_api):
    """Even where there is no time for the words."""
    api = new_api()
    with opened(api, "vllm") as client:
        append(client, "vllm", bytes(2 * 16_000 * 60))
        until(lambda: api.engines.engines[0].metrics.streams == 1)
        (speaking,) = api.engines.live
        loop = speaking.connection._writer.get_loop()

        async def end() -> None:
            api.engines.stop()
            await speaking.stopped()

        asyncio.run_coroutine_threadsafe(end(), loop).result(TIMEOUT)
        assert events_of(client)[-1]["code"] == "server_restarting"


@pytest.mark.parametrize("name", PROTOCOLS)
def test_browsers_are_told_a_subprotocol(api, name):
    with opened(api, name, subprotocols=["realtime"]) as client:
        assert client.subprotocol == "realtime"
