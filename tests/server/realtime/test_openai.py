"""OpenAI's Realtime API, as its SDK and plain WebSockets speak it."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct

import numpy as np
import openai
import pytest
import soundfile
from support.commands import CLIP, LONG_CLIP, SAMPLES, TEXT, TEXTS
from support.openai_client import TRANSCRIPTION, check_event, connected
from support.realtime import encoded, pieces, sound
from support.servers import until
from websockets.exceptions import ConnectionClosed

from voxtral_onnx import Transcriber
from voxtral_onnx.server.realtime import connection

OTHER = SAMPLES / "time-flite.wav"
SECOND = 48_000  # bytes, of 24 kHz


@pytest.fixture
def port(api):
    return api.port


@pytest.fixture
def client(port):
    with connected(port) as client:
        yield client


@pytest.fixture
def engine(api):
    return api.engines.engines[0]


def text_of(events) -> str:
    return "".join(each["delta"] for each in events if each["type"] == f"{TRANSCRIPTION}.delta")


@pytest.mark.parametrize("milliseconds", [20, 100])
def test_the_sdk(port, milliseconds):
    """Words of a clip, in pieces as microphones give them."""

    async def speak() -> list[str]:
        own = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        query = {"intent": "transcription"}
        async with own, own.realtime.connect(extra_query=query) as connection:
            await connection.session.update(
                session={
                    "type": "transcription",
                    "audio": {"input": {"transcription": {"model": "whisper-1"}}},
                }
            )
            for piece in pieces(sound(CLIP), SECOND * milliseconds // 1000):
                await connection.input_audio_buffer.append(audio=piece)
            await connection.input_audio_buffer.commit()
            texts = []
            while True:
                content = await connection.recv_bytes()
                check_event(json.loads(content))
                event = connection.parse_event(content)
                match event.type:
                    case "conversation.item.input_audio_transcription.delta":
                        texts.append(event.delta)
                    case "conversation.item.input_audio_transcription.completed":
                        texts.append(event.transcript)
                    case "conversation.item.done":
                        return texts

    *deltas, transcript = asyncio.run(speak())
    assert transcript == "".join(deltas) == TEXT
    assert len(deltas) > 3


def test_events_of_an_item(client):
    """Their order, and that all of them name one item."""
    client.append(sound(CLIP))
    events = client.commit()
    kinds = [each["type"] for each in events]
    at = kinds.index("input_audio_buffer.committed")
    assert kinds[at + 1] == "conversation.item.added"
    assert set(kinds[:at] + kinds[at + 2 : -2]) == {f"{TRANSCRIPTION}.delta"}
    assert kinds[-2:] == [f"{TRANSCRIPTION}.completed", "conversation.item.done"]
    ids = {each.get("item_id") or each["item"]["id"] for each in events}
    assert len(ids) == 1
    assert text_of(events) == events[-2]["transcript"] == TEXT
    assert events[-2]["usage"] == {"type": "duration", "seconds": soundfile.info(CLIP).duration}
    assert events[-1]["item"]["content"] == [{"type": "input_audio", "transcript": TEXT}]
    assert events[at + 1]["item"]["content"] == [{"type": "input_audio", "transcript": None}]
    own = [each["event_id"] for each in client.events]
    assert len(set(own)) == len(own)


def test_words_come_before_a_commit(client):
    """As the model streams, a client that commits late waits for nothing."""
    client.append(sound(CLIP) + bytes(2 * SECOND))
    text, ids = "", set()
    while text != TEXT:
        event = client.until(f"{TRANSCRIPTION}.delta")
        text += event["delta"]
        ids.add(event["item_id"])
    events = client.commit()
    assert {each["item_id"] for each in events[:1]} == ids
    assert not text_of(events) and events[-2]["transcript"] == TEXT


def test_items_of_a_connection(client):
    """Each has its own words, its own sound and the one before it."""
    before = None
    for clip in (CLIP, OTHER, CLIP):
        client.append(sound(clip))
        events = client.commit()
        done, completed = events[-1], events[-2]
        assert completed["transcript"] == text_of(events) == TEXTS[clip.name]
        assert completed["usage"]["seconds"] == pytest.approx(
            soundfile.info(clip).duration, abs=1e-3
        )
        assert done["previous_item_id"] == before
        before = done["item"]["id"]


def test_items_that_wait_for_each_other(client):
    """A client that does not wait for the words of an item before it speaks on."""
    clips = [CLIP, OTHER, CLIP, OTHER]
    for clip in clips:
        client.append(sound(clip))
        client.send("input_audio_buffer.commit")
    found = [client.until(f"{TRANSCRIPTION}.completed")["transcript"] for _ in clips]
    assert found == [TEXTS[clip.name] for clip in clips]
    ids = [each["item_id"] for each in client.events if each["type"].endswith("committed")]
    deltas = [each["item_id"] for each in client.events if each["type"].endswith("delta")]
    assert list(dict.fromkeys(deltas)) == ids


@pytest.mark.parametrize(
    "form, encoding, rate",
    [
        ({"type": "audio/pcm", "rate": 16_000}, "PCM_16", 16_000),
        ({"type": "audio/pcmu"}, "ULAW", 8_000),
        ({"type": "audio/pcma"}, "ALAW", 8_000),
        ({"type": "audio/pcm"}, "PCM_16", 24_000),
    ],
)
def test_formats(client, form, encoding, rate):
    """The formats of telephones lack the treble, but this clip needs none."""
    session = client.update(format=form)["session"]
    default = {"rate": rate} if encoding == "PCM_16" else {}
    assert session["audio"]["input"]["format"] == form | default
    assert client.transcript(CLIP, encoding, rate) == TEXT
    assert client.events[-2]["usage"]["seconds"] == pytest.approx(2.175, abs=1e-3)


def test_keywords(client, tiny_artifact):
    """Of speech in noise, where they weigh more than what is heard."""
    samples, rate = soundfile.read(OTHER, dtype="float32")
    samples += 0.1 * np.random.default_rng(6).standard_normal(len(samples)).astype("float32")
    words, content = ["seven five", " "], encoded(samples)
    client.update(format={"type": "audio/pcm", "rate": rate}, transcription={"keywords": words})
    client.append(content)
    found = client.commit()[-2]["transcript"]
    quantised = np.frombuffer(content, "<i2") / np.float32(1 << 15)
    with (
        Transcriber(tiny_artifact, "cpu", precision="fp32") as own,
        Transcriber(tiny_artifact, "cpu", precision="fp32", hotwords=words) as keen,
    ):
        plain, expected = own.transcribe(quantised).text, keen.transcribe(quantised).text
    assert found == expected != plain

    # The next item, without
    client.update(transcription={"keywords": None})
    client.append(content)
    assert client.commit()[-2]["transcript"] == plain


@pytest.mark.parametrize("delay", ["minimal", "low", "medium", "high"])
def test_delays(client, delay):
    """An item waits for its words however long the delay is."""
    client.update(transcription={"delay": delay})
    assert client.transcript(CLIP) == TEXT


def test_logprobs(client):
    """Of every token, and as likely as REST has them."""
    session = {"include": ["item.input_audio_transcription.logprobs"]}
    client.asked("session.update", "session.updated", session=session)
    client.append(sound(CLIP))
    *deltas, completed, _ = client.commit()
    parts = [part for each in deltas for part in each.get("logprobs", [])]
    assert parts == completed["logprobs"]
    assert bytes(byte for each in parts for byte in each["bytes"]).decode().strip() == TEXT
    assert all(-1 < each["logprob"] <= 0 for each in parts)
    client.asked("session.update", "session.updated", session={"include": None})
    client.append(sound(CLIP))
    assert not any("logprobs" in each for each in client.commit())


def test_logprobs_asked_for_within_an_item(client):
    """The whole item has those of all its words."""
    client.append(sound(CLIP))
    client.until(f"{TRANSCRIPTION}.delta")
    session = {"include": ["item.input_audio_transcription.logprobs"]}
    client.asked("session.update", "session.updated", session=session)
    completed = client.commit()[-2]
    parts = completed["logprobs"]
    assert completed["transcript"] == TEXT
    assert bytes(byte for each in parts for byte in each["bytes"]).decode().strip() == TEXT


def test_what_stays_in_a_session(client):
    """What an update leaves out stays; null brings back what was at the beginning."""
    client.update(
        format={"type": "audio/pcma"},
        transcription={"keywords": ["Ada"], "delay": "low", "model": "gpt-live-transcribe"},
        turn_detection={"type": "server_vad", "silence_duration_ms": 300},
    )
    heard = client.update(transcription={"delay": "high"})["session"]["audio"]["input"]
    assert heard["format"] == {"type": "audio/pcma"}
    assert heard["transcription"]["keywords"] == ["Ada"]
    assert heard["transcription"]["delay"] == "high"
    assert heard["transcription"]["model"] == "gpt-live-transcribe"
    assert heard["turn_detection"]["silence_duration_ms"] == 300
    assert heard["turn_detection"]["prefix_padding_ms"] == 300
    nothing = {"keywords": None, "delay": None, "model": None}
    heard = client.update(transcription=nothing, format=None, turn_detection=None)
    first = client.events[0]["session"]
    assert heard["session"] == first and first["id"].startswith("sess_")


def test_what_is_taken_and_not_followed(client):
    """It is said, as REST says it."""
    event = client.update(
        transcription={"language": "en", "languages": ["en", "de"]},
        turn_detection={"type": "server_vad", "create_response": False},
    )
    assert [each.partition(": ")[0].rpartition(".")[2] for each in event["warnings"]] == [
        "language",
        "languages",
        "create_response",
    ]
    fields = {"delay": "xhigh", "language": None, "languages": None}
    (warning,) = client.update(transcription=fields, turn_detection=None)["warnings"]
    assert "not trained with a delay of 2400 ms" in warning
    assert "warnings" not in client.update(transcription={"delay": None})


@pytest.mark.parametrize(
    "audio, param, says",
    [
        ({"transcription": {"prompt": "Names: Ada"}}, "transcription.prompt", "keywords"),
        ({"transcription": {"model": "whisper-9"}}, "transcription.model", "'whisper-9'"),
        ({"transcription": {"delay": "long"}}, "transcription.delay", "'xhigh', got 'long'"),
        ({"transcription": {"keywords": ["x" * 101]}}, "transcription.keywords", "at most 100"),
        ({"transcription": {"keywords": "Ada"}}, "transcription.keywords", "list"),
        ({"transcription": None}, "transcription", "nothing to do"),
        ({"noise_reduction": {"type": "near_field"}}, "noise_reduction", "null"),
        ({"turn_detection": {"type": "semantic_vad"}}, "turn_detection.type", "server_vad"),
        ({"turn_detection": {}}, "turn_detection.type", "missing"),
        (
            {"turn_detection": {"type": "server_vad", "threshold": 1.5}},
            "turn_detection.threshold",
            "1.5",
        ),
        ({"format": {"rate": 8000}}, "format.rate", "24000 or 16000"),
        ({"format": {"type": "audio/pcmu", "rate": 16_000}}, "format.rate", "8000"),
        ({"format": {"type": "audio/opus"}}, "format.type", "'audio/pcma'"),
        ({"volume": 1}, "volume", "unknown; expected some of format"),
    ],
)
def test_what_a_session_cannot_be(client, audio, param, says):
    """The error names the field, and the session stays as it was."""
    client.update(transcription={"keywords": ["Ada"]})
    session = {"audio": {"input": {"turn_detection": {"type": "server_vad"}, **audio}}}
    error = client.refused("session.update", session=session)
    assert error["param"] == f"session.audio.input.{param}"
    assert error["type"] == "invalid_request_error"
    assert says in error["message"] and error["message"].startswith(error["param"])
    heard = client.asked("session.update", "session.updated", session={})["session"]["audio"]
    assert heard["input"]["transcription"]["keywords"] == ["Ada"]
    assert heard["input"]["turn_detection"] is None


@pytest.mark.parametrize(
    "message, param, says",
    [
        ({"type": "session.update", "session": {"type": "realtime"}}, "session.type", "transcrip"),
        ({"type": "session.update", "session": []}, "session", "an object"),
        ({"type": "session.update"}, "session", "missing"),
        ({"type": "session.update", "session": {"tools": [], "voice": "a"}}, None, "tools"),
        ({"type": "session.update", "model": "tiny"}, "model", "vLLM's"),
        ({"type": "input_audio_buffer.commit", "final": True}, "final", "vLLM's"),
        ({"type": "input_audio_buffer.commit"}, None, "empty"),
        ({"type": "input_audio_buffer.append"}, "audio", "missing"),
        ({"type": "input_audio_buffer.append", "audio": "?"}, "audio", "base64"),
        ({"type": "input_audio_buffer.append", "audio": 5}, "audio", "base64"),
        ({"type": "input_audio_buffer.append", "audio": "", "x": 1}, "x", "unknown"),
        ({"type": "transcription_session.update", "session": {}}, "type", "session.update"),
        ({"type": "response.create"}, "type", "expected one of session.update"),
        ({"type": ""}, "type", "expected one of"),
    ],
)
def test_messages_that_are_refused(client, message, param, says):
    error = client.refused(message.pop("type"), **message)
    assert says in error["message"] and (param is None or error["param"] == param)
    assert client.transcript(CLIP) == TEXT  # the connection goes on


@pytest.mark.parametrize(
    "frame", ["", "{", "[]", "null", '{"type": 5}', '{"no": "type"}', b"\0\1", "[" * 100_000]
)
def test_frames_that_are_no_messages(client, frame):
    client.socket.send(frame)
    event = client.read()
    assert event["type"] == "error" and event["error"]["event_id"] is None
    assert event["error"]["code"] in ("invalid_json", "invalid_event")
    client.update()


@pytest.mark.parametrize("event_id", [5, "x" * 513, {}])
def test_ids_that_are_none(client, event_id):
    client.send("input_audio_buffer.clear", event_id=event_id)
    error = client.read()["error"]
    assert error["param"] == "event_id" and error["event_id"] is None


@pytest.mark.parametrize(
    "audio",
    [
        {"format": {"type": "audio/pcmu"}},
        {"transcription": {"delay": "high"}},
        {"transcription": {"keywords": ["Ada"]}},
        {"turn_detection": {"type": "server_vad"}},
    ],
)
def test_what_may_change_between_items_alone(client, audio):
    """A stream begins with it, so it may not change while the buffer holds sound."""
    client.append(sound(CLIP))
    session = {"audio": {"input": audio}}
    error = client.refused("session.update", session=session)
    assert "commit or clear it first" in error["message"]
    assert error["param"].startswith(f"session.audio.input.{next(iter(audio))}")
    client.send("input_audio_buffer.commit")
    client.send("session.update", session=session)
    kinds = [client.read()["type"] for _ in range(3)]
    while kinds[-1] != "session.updated":  # behind the last words of the item
        kinds.append(client.read()["type"])
    assert kinds[-2] == "conversation.item.done"
    assert client.events[-3]["transcript"] == TEXT


def test_clear(client):
    """Words that have not come yet are dropped; the next item has its own alone."""
    client.append(sound(OTHER))
    client.asked("input_audio_buffer.clear", "input_audio_buffer.cleared")
    ids = {each["item_id"] for each in client.events if each["type"].endswith("delta")}
    client.append(sound(CLIP))
    events = client.commit()
    assert events[-2]["transcript"] == text_of(events) == TEXT
    assert events[-2]["usage"]["seconds"] == pytest.approx(2.175, abs=1e-3)
    assert events[-1]["item"]["id"] not in ids and events[-1]["previous_item_id"] is None
    client.asked("input_audio_buffer.clear", "input_audio_buffer.cleared")
    assert "empty" in client.refused("input_audio_buffer.commit")["message"]


def test_a_part_of_a_sample(client):
    """It is said, and the words before it come."""
    client.append(sound(CLIP) + b"\0")
    error = client.refused("input_audio_buffer.commit")
    assert error["code"] == "invalid_audio" and "inside a sample" in error["message"]
    assert client.until("conversation.item.done")["item"]["content"][0]["transcript"] == TEXT
    assert client.transcript(CLIP) == TEXT


def turns_of(client, content: bytes, count: int, **rules) -> list[list[dict]]:
    """The events of turns, of which each ends by itself."""
    client.update(turn_detection={"type": "server_vad", **rules})
    client.append(content)
    found = []
    for _ in range(count):
        first = len(client.events)
        client.until("conversation.item.done")
        found.append(client.events[first:])
    return found


def test_turns(client):
    """Speech and pauses: each turn is an item, with its own words and its place in the sound."""
    pause, clips = bytes(SECOND), (CLIP, OTHER, CLIP)
    content = pause + b"".join(sound(clip) + pause for clip in clips)
    turns = turns_of(client, content, len(clips), silence_duration_ms=400, prefix_padding_ms=200)
    begin, before, previous = SECOND, 0, None
    for clip, events in zip(clips, turns, strict=True):
        kinds = [each["type"] for each in events]
        at = kinds.index("input_audio_buffer.speech_stopped")
        assert kinds[0] == "input_audio_buffer.speech_started"
        assert set(kinds[1:at]) == {f"{TRANSCRIPTION}.delta"}
        assert kinds[at + 1 :] == [
            "input_audio_buffer.committed",
            "conversation.item.added",
            f"{TRANSCRIPTION}.completed",
            "conversation.item.done",
        ]
        assert len({each.get("item_id") or each["item"]["id"] for each in events}) == 1
        assert text_of(events) == events[-2]["transcript"] == TEXTS[clip.name]
        assert events[-1]["previous_item_id"] == previous
        previous = events[-1]["item"]["id"]

        # Times: none lies in another turn
        start, stop = events[0]["audio_start_ms"], events[at]["audio_end_ms"]
        end = begin + len(sound(clip))
        assert max(before, 1000 * begin / SECOND - 200) <= start < 1000 * begin / SECOND + 500
        assert 1000 * end / SECOND - 500 < stop <= 1000 * (end + SECOND) / SECOND
        assert events[-2]["usage"]["seconds"] == pytest.approx((stop - start) / 1000, abs=2e-3)
        begin, before = end + SECOND, stop


@pytest.mark.parametrize("padding, start", [(0, 760), (150, 610), (5000, 0)])
def test_padding_of_a_turn(client, padding, start):
    """It belongs to the turn, as far as there is sound before it."""
    content = bytes(SECOND // 2) + sound(CLIP) + bytes(SECOND)
    ((event, *_),) = turns_of(client, content, 1, prefix_padding_ms=padding)
    assert event["audio_start_ms"] == start  # the clip itself begins with silence


def check_speech(started, stopped):
    """See that they are the beginning and the end of the speech of one item."""
    assert started["type"] == "input_audio_buffer.speech_started"
    assert stopped["type"] == "input_audio_buffer.speech_stopped"
    assert started["item_id"] == stopped["item_id"]
    assert started["audio_start_ms"] < stopped["audio_end_ms"]


def test_a_turn_that_the_client_commits(client):
    """It has its words at once, and they do not come again when the turn ends."""
    client.update(turn_detection={"type": "server_vad"})
    client.append(sound(CLIP))
    client.until("input_audio_buffer.speech_started")
    events = client.commit()
    assert events[-2]["transcript"] == TEXT
    client.append(bytes(2 * SECOND) + sound(OTHER) + bytes(2 * SECOND))
    client.until("conversation.item.done")
    assert client.events[-2]["transcript"] == TEXTS[OTHER.name]
    started, stopped, *later = [each for each in client.events if "speech_st" in each["type"]]
    check_speech(started, stopped)
    check_speech(*later)
    assert stopped["audio_end_ms"] == round(1000 * len(sound(CLIP)) / SECOND)
    after = client.events[client.events.index(stopped) + 1]
    assert (after["type"], after["item_id"]) == ("input_audio_buffer.committed", stopped["item_id"])


def test_a_turn_that_the_client_clears(client):
    client.update(turn_detection={"type": "server_vad"})
    client.append(sound(OTHER))
    client.until("input_audio_buffer.speech_started")
    client.asked("input_audio_buffer.clear", "input_audio_buffer.cleared")
    client.append(bytes(2 * SECOND) + sound(CLIP) + bytes(2 * SECOND))
    client.until("conversation.item.done")
    assert client.events[-2]["transcript"] == TEXT
    kinds = [each["type"] for each in client.events]
    assert kinds.count("conversation.item.done") == 1
    started, stopped, *later = [each for each in client.events if "speech_st" in each["type"]]
    check_speech(started, stopped)
    check_speech(*later)
    assert client.events.index(stopped) < kinds.index("input_audio_buffer.cleared")


@pytest.mark.parametrize("threshold, is_heard", [(0.3, True), (1.0, False)])
def test_thresholds(client, threshold, is_heard):
    """A threshold says by how much speech is louder than the noise, once that is known."""
    noise = 0.001 * np.random.default_rng(3).standard_normal(24_000 * 11)
    noise[24_000 * 9 : 24_000 * 9 + 4800] *= 2.5  # 8 decibels
    client.update(turn_detection={"type": "server_vad", "threshold": threshold})
    content = encoded(noise)
    client.append(content[: 7 * SECOND])
    client.until("conversation.item.done")  # at first, whatever can be heard may be speech
    client.append(content[7 * SECOND :])
    if is_heard:
        start = client.until("input_audio_buffer.speech_started")["audio_start_ms"]
        assert 8000 < start < 10_000
    else:
        assert "input_audio_buffer.speech_started" not in {each["type"] for each in client.commit()}


def test_silence_is_an_item_without_words(client):
    client.append(bytes(SECOND))
    events = client.commit()
    assert events[-2]["transcript"] == "" and not text_of(events)


def test_a_client_that_only_waits_takes_no_slot(client, engine):
    client.update(transcription={"delay": "low"})
    assert not engine.metrics.streams
    client.append(sound(CLIP))
    client.commit()
    assert engine.metrics.streams == 1


def test_a_client_that_vanishes_frees_its_slot(port, engine):
    until(lambda: not engine.metrics.streams)
    with connected(port) as client:
        client.append(sound(CLIP))
        until(lambda: engine.metrics.streams)
        linger = struct.pack("ii", 1, 0)  # the connection is reset, as of a process that is killed
        client.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.socket.socket.close()
        until(lambda: not engine.metrics.streams)


def test_a_client_that_does_not_read_is_cut(api, engine, monkeypatch):
    """Its slot is free though it says nothing more; if it reads after all it finds the reason."""
    until(lambda: not api.engines.live)
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # small before it connects
    own.connect(("127.0.0.1", api.port))
    with connected(api.port, sock=own, compression=None) as client:
        (dialect,) = api.engines.live
        wrong = json.dumps({"type": "", "event_id": "x" * 500})

        def waits() -> bool:
            for _ in range(200):
                client.socket.send(wrong)
            return dialect.connection.num_unsent > 500_000

        until(waits)
        client.append(sound(CLIP))
        until(lambda: engine.metrics.streams)
        monkeypatch.setattr(connection, "MOST_UNSENT", 0)  # the next word is too much
        until(lambda: not api.engines.live and not engine.metrics.streams)
        with pytest.raises(ConnectionClosed) as error:
            while client.read():
                pass
        assert error.value.rcvd and error.value.rcvd.code == 1008
        assert error.value.rcvd.reason == "too many messages wait to be taken"


def test_all_streams_are_taken(port, engine):
    """One client more is told so, and that it may try again."""
    until(lambda: not engine.metrics.streams)
    held = [connected(port) for _ in range(4)]
    clients = [each.__enter__() for each in held]
    for each in clients:
        each.append(bytes(960))
    until(lambda: engine.metrics.streams == 4)
    with connected(port) as client:
        client.append(bytes(960))
        error = client.read()["error"]
        assert error["code"] == "at_capacity" and error["type"] == "server_error"
        with pytest.raises(Exception, match="1013"):
            client.read()
    for each, one in zip(held, clients, strict=True):
        assert one.transcript(CLIP) == TEXT
        each.__exit__(None, None, None)


def of_client(api, client):
    """The server's part of a connection, whose speech is open, and its event loop."""
    client.until(f"{TRANSCRIPTION}.delta")
    (dialect,) = api.engines.live
    return dialect, dialect.connection._writer.get_loop()


@pytest.mark.parametrize("turns", [None, {"type": "server_vad"}])
def test_a_client_that_is_to_move(api, turns):
    """Its words so far come, but not as an item that is whole; then what it is to do."""
    until(lambda: not api.engines.live)
    with connected(api.port) as client:
        client.update(turn_detection=turns)
        client.append(sound(CLIP) + bytes(SECOND // 5))
        dialect, loop = of_client(api, client)
        loop.call_soon_threadsafe(dialect.move)
        failed = client.until(f"{TRANSCRIPTION}.failed")
        assert failed["error"]["code"] == "server_restarting"
        assert text_of(client.events) == TEXT
        assert "conversation.item.done" not in {each["type"] for each in client.events}
        assert client.read()["error"]["code"] == "server_restarting"
        with pytest.raises(ConnectionClosed, match="1012"):
            client.read()


def test_an_item_that_fails(api):
    """Its client knows which it is, besides the error."""
    until(lambda: not api.engines.live)
    with connected(api.port) as client:
        client.append(sound(LONG_CLIP), SECOND)
        dialect, loop = of_client(api, client)
        begun = client.events[-1]["item_id"]
        loop.call_soon_threadsafe(dialect.stop)
        failed = client.until(f"{TRANSCRIPTION}.failed")
        error = client.read()["error"]
        assert failed["error"]["message"] == error["message"]
        assert failed["error"]["type"] == error["type"] == "server_error"
        assert failed["item_id"] == begun
        with pytest.raises(ConnectionClosed, match="1012"):
            client.read()


def test_a_message_that_is_too_long(client, port, engine):
    """It ends its own connection, and no other one."""
    client.append(sound(CLIP))
    with connected(port, compression=None) as other, pytest.raises(ConnectionClosed):
        other.socket.send("x" * (17 << 20))
        other.read()
    assert client.commit()[-2]["transcript"] == TEXT


def test_a_long_message(client):
    """Ten minutes in one: it waits for the engine, and others do not wait for it."""
    content = base64.b64encode(bytes(10 * SECOND)).decode()
    client.send("input_audio_buffer.append", audio=content)
    assert client.transcript(CLIP) == TEXT
