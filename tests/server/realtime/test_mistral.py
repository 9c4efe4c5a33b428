"""Mistral's protocol, as its own package speaks it, unmodified, to a server of *tiny*."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import socket
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from mistralai.client import Mistral
from mistralai.client.models import AudioFormat
from mistralai.extra.exceptions import RealtimeTranscriptionWSError
from mistralai.extra.realtime import UnknownRealtimeEvent
from mistralai.extra.realtime.connection import parse_realtime_event
from support.commands import CLIP, SAMPLES, TEXT, TEXTS
from support.recordings import with_silences
from support.servers import TIMEOUT, until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from voxtral_onnx import Transcriber
from voxtral_onnx.server.realtime import connection, mistral
from voxtral_onnx.server.realtime.mistral import PATH

AGENTS = Path(__file__).parents[2] / "golden" / "agents.json"
OTHER = SAMPLES / "date-hibari.wav"
SUBTYPES = {
    "pcm_s16le": "PCM_16",
    "pcm_s32le": "PCM_32",
    "pcm_f32le": "FLOAT",
    "pcm_mulaw": "ULAW",
    "pcm_alaw": "ALAW",
}


def samples_of(clip: Path, rate: int = 16_000) -> np.ndarray:
    samples, own = soundfile.read(clip, dtype="float32")
    return soxr.resample(samples, own, rate)


def encoded(samples: np.ndarray, encoding: str = "pcm_s16le") -> bytes:
    if encoding == "pcm_f16le":
        return samples.astype("<f2").tobytes()
    with io.BytesIO() as file:
        soundfile.write(
            file, samples, 16_000, format="RAW", subtype=SUBTYPES[encoding], endian="LITTLE"
        )
        return file.getvalue()


SOUND = encoded(samples_of(CLIP))


def known(event: Any) -> Any:
    """Return an event that the package understands; all that a server sends must be one."""
    assert not isinstance(event, UnknownRealtimeEvent), event
    return event


async def said(sound: bytes, size: int = 3201):
    """Yield sound in pieces that end inside samples."""
    for first in range(0, len(sound), size):
        yield sound[first : first + size]


def transcribed(api, sound: bytes, model: str = "tiny", **options):
    """Return the events of `transcribe_stream`."""

    async def listen():
        client = Mistral(api_key="none", server_url=api.address).audio.realtime
        return [known(e) async for e in client.transcribe_stream(said(sound), model, **options)]

    return asyncio.run(asyncio.wait_for(listen(), TIMEOUT))


class Wire:
    """A connection without the package: what is sent is up to the test."""

    def __init__(self, socket: Connection):
        self.socket = socket

    def send(self, kind: str, **fields) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def append(self, sound: bytes) -> None:
        self.send("input_audio.append", audio=base64.b64encode(sound).decode())

    def next(self, *kinds: str) -> Any:
        """Return the next event of some kinds, or of any."""
        while True:
            event = known(parse_realtime_event(json.loads(self.socket.recv(TIMEOUT))))
            if not kinds or event.type in kinds:
                return event

    def rest(self) -> list[Any]:
        """Return all events until the connection is closed, and the server's code if it says so."""
        events = []
        try:
            while True:
                events.append(self.next())
        except ConnectionClosed as closed:
            return [*events, closed.rcvd and closed.rcvd.code]


@contextmanager
def wire(api, query: str = "model=tiny"):
    with connect(f"ws://127.0.0.1:{api.port}{PATH}?{query}", max_size=None) as socket:
        yield Wire(socket)


@pytest.fixture
def line(api):
    """A connection whose session has begun; its slot is free again afterwards."""
    with wire(api) as made:
        assert made.next().type == "session.created"
        yield made
    until(lambda: not api.engines.live)
    assert not api.engines.engines[0].metrics.streams


def texts_of(events, kind: str) -> str:
    return "".join(event.text for event in events if event.type == kind)


def until_done(line: Wire) -> list[Any]:
    events = [line.next()]
    while events[-1].type != "transcription.done":
        events.append(line.next())
    return events


@pytest.mark.parametrize("model", ["tiny", "voxtral-mini-transcribe-realtime-2602"])
def test_a_clip(api, model):
    """The words come one by one, and all together in the end."""
    created, *events, done = transcribed(api, SOUND, model)
    assert created.type == "session.created" and created.session.model == model
    assert re.fullmatch("[0-9a-f]{32}", created.session.request_id)
    assert created.session.audio_format == AudioFormat(encoding="pcm_s16le", sample_rate=16_000)
    assert done.text == TEXT and done.model == model and done.language is None
    assert texts_of(events, "transcription.text.delta") == TEXT
    assert texts_of(events, "transcription.segment") == "".join(s.text for s in done.segments)
    assert "".join(segment.text for segment in done.segments) == TEXT
    times = [time for segment in done.segments for time in (segment.start, segment.end)]
    assert times == sorted(times) and times[-1] < 2.2
    assert done.usage.prompt_audio_seconds == 3  # of 2.175, begun ones


@pytest.mark.parametrize(
    "encoding, rate",
    [
        ("pcm_f32le", 48_000),
        ("pcm_s32le", 44_100),
        ("pcm_f16le", 24_000),
        ("pcm_mulaw", 16_000),
        ("pcm_alaw", 16_000),
        ("pcm_s16le", 96_000),
    ],
)
def test_encodings_and_rates(api, encoding, rate):
    form = AudioFormat(encoding=encoding, sample_rate=rate)
    _, updated, *_, done = transcribed(
        api, encoded(samples_of(CLIP, rate), encoding), audio_format=form
    )
    assert updated.type == "session.updated" and updated.session.audio_format == form
    assert done.text == TEXT


def test_settings(api, tiny_artifact):
    """A delay, and words that are made likelier; a language is ignored, and that is said."""
    samples = samples_of(SAMPLES / "time-flite.wav")
    samples += 0.1 * np.random.default_rng(6).standard_normal(len(samples)).astype("float32")
    options: dict[str, Any] = {"precision": "fp32", "device": "cpu", "delay_ms": 960}
    with Transcriber(tiny_artifact, **options) as own:
        plain = own.transcribe(samples).text
    with Transcriber(tiny_artifact, hotwords=["seven five"], **options) as own:
        expected = own.transcribe(samples).text
    _, updated, *_, done = transcribed(
        api,
        encoded(samples, "pcm_f32le"),
        audio_format=AudioFormat(encoding="pcm_f32le", sample_rate=16_000),
        target_streaming_delay_ms=960,
        context_bias=["seven five"],
        language="en",
        diarize=False,
    )
    assert done.text == expected != plain
    assert updated.session.target_streaming_delay_ms == 960
    assert updated.session.context_bias == ["seven five"] and updated.session.language is None
    assert done.additional_properties["warnings"] == [
        "language: ignored, the model detects the language itself"
    ]


def test_flushes(line):
    """Each gets the words since the last one at once, while the sound may go on."""
    line.append(SOUND)
    line.send("input_audio.flush")
    first = line.next("transcription.done")
    line.send("input_audio.flush")
    nothing = line.next()
    line.append(encoded(samples_of(OTHER)))
    line.send("input_audio.flush")
    *events, second = until_done(line)
    line.send("input_audio.end")
    assert (first.text, second.text) == (TEXT, TEXTS[OTHER.name])
    assert nothing.type == "transcription.done" and not nothing.text and not nothing.segments
    assert texts_of(events, "transcription.text.delta") == second.text
    assert texts_of(events, "transcription.segment") == second.text
    last, code = line.rest()
    assert last.type == "transcription.done" and not last.text and code == 1000
    dones = (first, nothing, second, last)
    assert sum(done.usage.prompt_audio_seconds for done in dones) == 7  # of 6.375


def test_a_flush_and_the_end(line):
    """Sent together, as the package does; each word comes once."""
    line.append(SOUND)
    line.send("input_audio.flush")
    line.send("input_audio.end")
    *events, code = line.rest()
    dones = [event.text for event in events if event.type == "transcription.done"]
    assert "".join(dones) == TEXT == texts_of(events, "transcription.text.delta")
    assert dones[0] == TEXT and code == 1000


def test_without_sound(api):
    _, done = transcribed(api, b"")
    assert not done.text and done.usage.prompt_audio_seconds == 0


def test_agents(api):
    """What LiveKit's and Pipecat's plugins have sent gets each utterance as its own text."""
    agents = json.loads(AGENTS.read_text())
    pause = bytes(agents["pause_bytes"])
    sound = b"".join(encoded(samples_of(SAMPLES / clip)) + pause for clip in agents["clips"])
    for name in ("livekit", "pipecat"):
        first, *messages = agents[name]["messages"]
        left, num_flushes = sound, 0
        with wire(api, first["path"].partition("?")[2]) as line:
            for message in messages:
                if message["type"] == "input_audio.append":
                    for _ in range(message["times"]):
                        line.append(left[: message["bytes"]])
                        left = left[message["bytes"] :]
                else:
                    line.send(**{"kind": message.pop("type"), **message})
                    num_flushes += "session" not in message
            line.send("input_audio.flush")
            line.send("input_audio.end")
            dones = [e.text for e in line.rest()[:-1] if e.type == "transcription.done"]
        assert [text for text in dones if text] == agents["texts"], name


@pytest.mark.parametrize(
    "session, says",
    [
        ({"audio_format": {"encoding": "mp3", "sample_rate": 16_000}}, "audio_format.encoding"),
        ({"audio_format": {"encoding": "pcm_s16le", "sample_rate": 4_000}}, "8000, got 4000"),
        ({"audio_format": {"encoding": "pcm_s16le", "sample_rate": "x"}}, "got 'x'"),
        ({"target_streaming_delay_ms": 100}, "a multiple of 80 ms from 80 to 2400, got 100"),
        ({"diarize": True}, "diarize: the model does not tell speakers apart"),
        ({"speaker_references": {"Ada": "AAAA"}}, "does not tell speakers apart"),
        ({"context_bias": ["x" * 101]}, "at most 100 characters"),
        ({"context_bias": "Ada"}, "session.context_bias: expected a valid list, got 'Ada'"),
        ({"turn_detection": {"end_threshold": 0.5}}, "set min_silence_ms and end_timeout_ms"),
        ({"turn_detection": {"min_silence_ms": 0}}, "min_silence_ms"),
        ({"prompt": "Ada"}, "session.prompt: unknown"),
        (None, "expected a session, got None"),
    ],
)
def test_settings_that_cannot_be(line, session, says):
    """Each is refused in words; the session stays as it was."""
    line.send("session.update", session={"target_streaming_delay_ms": 240, "language": None})
    line.next("session.updated")
    line.send("session.update", session=session)
    error = line.next()
    assert error.type == "error" and says in error.error.message and error.error.code == 400
    line.send("session.update", session={})
    assert line.next("session.updated").session.target_streaming_delay_ms == 240


def test_settings_are_for_a_session(line):
    line.append(SOUND)
    line.send("session.update", session={"language": "de"})
    assert "before the first sound" in line.next("error").error.message
    line.send("input_audio.end")
    line.send("input_audio.end")
    events = line.rest()[:-1]
    (error,) = (event for event in events if event.type == "error")
    assert "input_audio.end: the sound of this session has ended" in error.error.message
    assert events[-1].text == TEXT


def test_another_model(api):
    with pytest.raises(RealtimeTranscriptionWSError, match=r"whisper-9.*expected one of tiny"):
        transcribed(api, SOUND, "whisper-9")


def test_all_streams_are_taken(api):
    """The next client is told so, and may try again later."""
    lines = []
    try:
        for _ in range(5):
            lines.append(connect(f"ws://127.0.0.1:{api.port}{PATH}"))
            Wire(lines[-1]).append(SOUND[:3200])
            until(lambda: api.engines.engines[0].metrics.streams == min(4, len(lines)))
        *_, error, code = Wire(lines[-1]).rest()
        assert error.type == "error" and error.error.code == 503 and code == 1013
    finally:
        for each in lines:
            with suppress(OSError):  # the server has ended the last one
                each.socket.shutdown(socket.SHUT_RDWR)  # without a word, as a client that vanishes
    until(lambda: not api.engines.engines[0].metrics.streams)
    until(lambda: not api.engines.live)


@pytest.mark.parametrize(
    "sent, says",
    [
        ("{", "expected JSON, got"),
        ("[" * 100_000, "expected JSON, got"),
        ("[]", "expected a JSON object with a type"),
        (b"\0\1", "got a binary one"),
        ('{"type": "input_audio_buffer.append", "audio": ""}', "expected session.update"),
        ('{"type": "input_audio.append"}', "expected audio in base64, got None"),
        ('{"type": "input_audio.append", "audio": "ab!="}', "audio is no base64"),
    ],
)
def test_what_is_no_message(line, sent, says):
    """It is refused, and the session goes on."""
    line.socket.send(sent)
    assert says in line.next("error").error.message
    line.append(SOUND)
    line.send("input_audio.end")
    assert line.rest()[-2].text == TEXT


def test_a_message_that_is_too_long(line):
    line.append(SOUND)
    line.socket.send("x" * (17 << 20))
    assert line.rest()[-1] == 1009


def test_sound_that_is_no_number(line):
    """That piece is left out, and the client is told."""
    form = {"encoding": "pcm_f32le", "sample_rate": 16_000}
    line.send("session.update", session={"audio_format": form})
    line.append(encoded(samples_of(CLIP), "pcm_f32le"))
    line.append(np.full(100, np.nan, "<f4").tobytes())
    assert "not a finite number" in line.next("error").error.message
    line.send("input_audio.end")
    assert line.rest()[-2].text == TEXT


def test_one_long_message(api, monkeypatch):
    """A client is cut off for what it does not take, not for the length of one message."""
    monkeypatch.setattr(connection, "MOST_UNSENT", 50)
    with wire(api) as line:
        assert line.next().type == "session.created"


def test_many_segments(line, monkeypatch):
    """A message is never longer than clients take: they had them before."""
    monkeypatch.setattr(mistral, "MOST_SEGMENTS", 3)
    line.append(SOUND)
    line.send("input_audio.end")
    *events, done, _ = line.rest()
    assert texts_of(events, "transcription.segment") == TEXT == done.text and not done.segments
    assert "segments: too many" in done.additional_properties["warnings"][-1]


PAUSED = with_silences([samples_of(CLIP), samples_of(OTHER)])  # for 1.2 s each time


def test_turns(api):
    """A client without a detector hears when somebody has begun, and has finished."""
    rules = {"min_silence_ms": 600, "end_timeout_ms": 9_000}
    _, updated, *events, done = transcribed(api, encoded(PAUSED), turn_detection=rules)
    told = updated.session.turn_detection
    assert (told.min_silence_ms, told.end_timeout_ms, told.end_threshold) == (600, 9_000, 0.33)

    turns = [event for event in events if event.type.startswith("turn.")]
    assert [event.type for event in turns] == ["turn.start", "turn.eager_end", "turn.end"] * 2
    times = [event.time_s for event in turns]
    assert times == sorted(times) and 0.9 < times[0] < 2.0

    # Each turn's words are inside it
    texts = [""]
    for event in events:
        if event.type == "turn.end":
            assert event.end_reason == "threshold"
            texts.append("")
        elif event.type == "transcription.text.delta":
            texts[-1] += event.text
    assert [text.strip() for text in texts] == [TEXT, TEXTS[OTHER.name], ""]
    assert done.text == "".join(texts)


def test_a_pause_in_a_turn(line):
    """It may be the end; if the speech goes on, that is told."""
    line.send("session.update", session={"turn_detection": {"min_silence_ms": 2_000}})
    half = int(2.3 * 16_000) + len(samples_of(CLIP))
    line.append(encoded(PAUSED[:half]))
    line.next("turn.start")
    line.next("turn.eager_end")
    line.append(encoded(PAUSED[half:]))
    line.next("turn.resume")
    line.send("input_audio.end")
    *events, done, _ = line.rest()
    assert events[-1].type == "turn.end" and done.text == f"{TEXT} {TEXTS[OTHER.name]}"


def test_a_noise_is_no_turn(api):
    """Where nobody speaks, nobody has begun."""
    noise = np.random.default_rng(0).standard_normal(2 * 16_000)
    sound = encoded(np.concatenate((1e-4 * noise, 0.05 * noise, 1e-4 * noise)))
    *_, updated, done = transcribed(api, sound, turn_detection={})
    assert updated.type == "session.updated" and not done.text
