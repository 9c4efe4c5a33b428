"""vLLM's dialect of live speech, as its clients speak it, against a real server."""

from __future__ import annotations

import base64
import json
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
from support.commands import CLIP, TEXT
from support.servers import until
from websockets.sync.client import connect

from voxtral_onnx.server.realtime.vllm import APPEND, COMMIT, UPDATE

RATE = 16_000


def pcm(path=CLIP) -> bytes:
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE
    return samples.tobytes()


class Client:
    """A client of vLLM's, as its example is written."""

    def __init__(self, socket):
        self.socket = socket

    def send(self, kind, **fields):
        self.socket.send(json.dumps({"type": kind, **fields}))

    def receive(self):
        return json.loads(self.socket.recv(20))

    def speak(self, sound: bytes, size: int = 2560):
        for at in range(0, len(sound), size):
            self.send(APPEND, audio=base64.b64encode(sound[at : at + size]).decode())

    def until(self, kind: str) -> list[dict]:
        events = [self.receive()]
        while events[-1]["type"] != kind:
            assert events[-1]["type"] != "error", events[-1]
            events.append(self.receive())
        return events


@contextmanager
def client_of(api, **options):
    with connect(f"ws://127.0.0.1:{api.port}/v1/realtime", **options) as socket:
        client = Client(socket)
        created = client.receive()
        assert created["type"] == "session.created" and created["id"] and created["created"]
        yield client
    until(lambda: api.engines.engines[0].metrics.streams == 0)


@pytest.fixture
def client(api):
    with client_of(api) as found:
        yield found


def test_a_clip_as_the_example_client_sends_it(client):
    client.send(UPDATE, model="tiny")
    client.send(COMMIT)
    client.speak(pcm(), 4096)
    client.send(COMMIT, final=True)
    *deltas, done = client.until("transcription.done")
    assert {each["type"] for each in deltas} == {"transcription.delta"}
    assert "".join(each["delta"] for each in deltas) == done["text"]
    assert done["text"].strip() == TEXT
    assert [each["delta"].strip() for each in deltas] == TEXT.split()
    usage = done["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 20
    assert "segments" not in done and all(set(each) == {"type", "delta"} for each in deltas)


def test_utterances_follow_each_other(client):
    client.send(UPDATE, model="tiny")
    for size in (641, 100_000, 4096):  # a sample may be cut
        client.send(COMMIT, final=False)
        client.speak(pcm(), size)
        client.send(COMMIT, final=True)
    for _ in range(3):
        assert client.until("transcription.done")[-1]["text"].strip() == TEXT


def test_every_token(client):
    client.send(UPDATE, model="tiny", every_token=True)
    client.speak(pcm())
    client.send(COMMIT, final=True)
    *deltas, done = client.until("transcription.done")
    assert len(deltas) == done["usage"]["completion_tokens"]
    assert sum(each["delta"] == "" for each in deltas) > len(deltas) / 2
    assert "".join(each["delta"] for each in deltas) == done["text"]


def test_every_token_from_within_an_utterance(client):
    """The word that is held then comes before what follows."""
    client.send(UPDATE, model="tiny")
    sound = pcm() + pcm()
    client.speak(sound[: len(pcm())])
    first = client.receive()  # so that the next word is held
    client.send(UPDATE, model="tiny", every_token=True)
    client.speak(sound[len(pcm()) :])
    client.send(COMMIT, final=True)
    *deltas, done = client.until("transcription.done")
    assert done["text"].split() == 2 * TEXT.split()
    assert "".join(each["delta"] for each in [first, *deltas]) == done["text"]
    assert "" in [each["delta"] for each in deltas]


def test_segments(client):
    client.send(UPDATE, model="tiny", timestamp_granularities=["segment"])
    assert client.receive()["timestamp_granularities"] == ["segment"]
    client.speak(pcm())
    client.send(COMMIT, final=True)
    *deltas, done = client.until("transcription.done")
    ends = [each["end"] for each in done["segments"]]
    assert ends == sorted(ends) and 0 < ends[0] < ends[-1] <= len(pcm()) / 2 / RATE + 0.1
    assert "".join(each["text"] for each in done["segments"]) == done["text"]
    assert [one for each in deltas for one in each.get("segments", [])] == done["segments"]


def test_nothing_said(client):
    client.send(UPDATE, model="mistralai/Voxtral-Mini-4B-Realtime-2602")
    client.send(COMMIT, final=True)
    done = client.receive()
    assert done["text"] == "" and done["usage"]["total_tokens"] == 0


@pytest.mark.parametrize(
    ("message", "code", "says"),
    [
        ({"type": COMMIT}, "model_not_validated", "expected session.update"),
        ({"type": UPDATE, "model": "whisper-9"}, "model_not_found", "expected one of tiny"),
        ({"type": UPDATE, "model": 5}, "invalid_event", "model: expected a valid string, got 5"),
        ({"type": UPDATE}, "invalid_event", "session.update: model: missing"),
        (
            {"type": UPDATE, "model": "tiny", "temperature": 0.5},
            "invalid_event",
            "temperature: expected 0, got 0.5",
        ),
        (
            {"type": UPDATE, "model": "tiny", "timestamp_granularities": ["word"]},
            "invalid_event",
            "timestamp_granularities.0: expected 'segment', got 'word'",
        ),
        (
            {"type": UPDATE, "model": "tiny", "best_of": 2},
            "invalid_event",
            "best_of: unknown; expected some of type, event_id, model, temperature, language",
        ),
        ({"type": COMMIT, "final": "yes"}, "invalid_event", "final: expected a valid boolean"),
        ({"type": UPDATE, "session": {}}, "invalid_event", "OpenAI's dialect"),
        ({"type": APPEND}, "invalid_audio", "expected audio in base64"),
        ({"type": APPEND, "audio": "%%"}, "invalid_audio", "no base64"),
        ({"type": APPEND, "audio": ""}, "invalid_audio", "empty"),
        ({"type": "response.create"}, "unknown_event", "expected one of"),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(client, message, code, says):
    client.send(COMMIT, final=False)  # tells the dialect
    assert client.receive()["code"] == "model_not_validated"
    client.socket.send(json.dumps(message))
    error = client.receive()
    assert error["type"] == "error" and error["code"] == code and says in error["error"]
    client.send(UPDATE, model="tiny")
    client.speak(pcm())
    client.send(COMMIT, final=True)
    assert client.until("transcription.done")[-1]["text"].strip() == TEXT


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"type": 1}', "null", b"\0\1", "[" * 5000])
def test_what_is_no_message(client, content):
    client.send(UPDATE, model="tiny")
    client.socket.send(content)
    assert client.receive()["code"] in ("invalid_json", "invalid_event")
    client.speak(pcm())
    client.send(COMMIT, final=True)
    assert client.until("transcription.done")[-1]["text"].strip() == TEXT


def test_one_more_stream_than_there_are(api):
    with client_of(api) as last:
        last.send(UPDATE, model="tiny")
        engine = api.engines.engines[0]
        streams = [engine.open() for _ in range(engine.capacity)]
        last.speak(bytes(3200))
        error = last.receive()
        assert error["code"] == "at_capacity" and "4 live streams are open" in error["error"]
        for stream in streams:
            stream.close()
        with pytest.raises(Exception, match="1013"):
            last.receive()


def test_noise_is_no_text(client):
    noise = np.random.default_rng(0).normal(0, 10, RATE).astype("<i2").tobytes()
    client.send(UPDATE, model="tiny")
    client.speak(noise)
    client.send(COMMIT, final=True)
    client.until("transcription.done")
