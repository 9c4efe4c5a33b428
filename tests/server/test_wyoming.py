"""The Wyoming protocol, as its own package speaks it, to a server of *tiny*."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import socket
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from messages.wyoming import torment
from support.commands import CLIP, SAMPLES, TEXT, TEXTS
from support.servers import TIMEOUT, serving, until
from typer import BadParameter
from wyoming.asr import Transcribe
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping

from voxtral_onnx import Transcriber
from voxtral_onnx.cli.values import address
from voxtral_onnx.server import wyoming
from voxtral_onnx.server.names import names_of
from voxtral_onnx.server.realtime import connection
from voxtral_onnx.server.serving import listen
from voxtral_onnx.server.wyoming import WyomingServer

OTHER = SAMPLES / "date-hibari.wav"
SUBTYPES = {1: "PCM_U8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}
RATE = 16_000


@contextmanager
def listening(engines):
    """Run a server in a thread; gives its port."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    accepting = listen("127.0.0.1", 0)
    server = WyomingServer(engines, names_of("tiny"), accepting)

    def run() -> None:
        loop.run_until_complete(server.start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(server.close())
        left = asyncio.all_tasks(loop)  # as `asyncio.run` ends them
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(TIMEOUT)
    try:
        yield accepting.getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@pytest.fixture(scope="module")
def server(api):
    with listening(api.engines) as port:
        yield port


@pytest.fixture
def port(api, server):
    """The server's port; all slots are free again afterwards."""
    yield server
    until(lambda: not api.engines.live)
    assert not api.engines.engines[0].metrics.streams


def spoken(clip: Path = CLIP, *, rate: int = RATE, width: int = 2, channels: int = 1):
    """Yield the events of an utterance."""
    samples, own = soundfile.read(clip, dtype="float32")
    samples = soxr.resample(samples, own, rate)
    if channels > 1:  # loudest in the last one, and as before in the mean
        shares = np.arange(1, channels + 1) * 2 / (channels + 1) / 1.5
        samples = samples[:, None] * shares
    return said(samples, rate, width, channels)


def said(samples: np.ndarray, rate: int = RATE, width: int = 2, channels: int = 1):
    """Yield the events of an utterance, in pieces that end inside samples."""
    with io.BytesIO() as file:
        soundfile.write(file, samples, rate, format="RAW", subtype=SUBTYPES[width])
        content = file.getvalue()
    yield AudioStart(rate, width, channels).event()
    for first in range(0, len(content), 2047):
        yield AudioChunk(rate, width, channels, content[first : first + 2047]).event()
    yield AudioStop().event()


def exchanged(port: int, *events: Event, until: str | None = None) -> list[Event]:
    """Send events, and return what comes until one of a type, or until the server closes."""

    async def run() -> list[Event]:
        found = list[Event]()
        async with AsyncTcpClient("127.0.0.1", port) as client:
            for event in events:
                await client.write_event(event)
            while (event := await client.read_event()) is not None:
                found.append(event)
                if event.type == until:
                    break
        return found

    return asyncio.run(asyncio.wait_for(run(), TIMEOUT))


def text_of(events: list[Event]) -> str:
    """Return the text of one utterance, all of whose events are there and in order."""
    start, *chunks, transcript, stop = events
    assert (start.type, transcript.type, stop.type) == (
        "transcript-start",
        "transcript",
        "transcript-stop",
    )
    assert {chunk.type for chunk in chunks} <= {"transcript-chunk"}
    assert "".join(chunk.data["text"] for chunk in chunks) == transcript.data["text"]
    return transcript.data["text"]


def test_what_it_is(port):
    found, pong = exchanged(port, Describe().event(), Ping("x").event(), until="pong")
    (program,) = Info.from_event(found).asr
    (model,) = program.models
    assert program.supports_transcript_streaming and program.requires_external_vad
    assert model.name == "tiny" and model.languages == ["en"]  # it knows no other
    assert pong.data == {"text": "x"}


def test_home_assistant(port):
    """A connection for each command, whose language is said, and a transcript."""
    asked = Transcribe(language="en").event()
    events = exchanged(port, asked, *spoken(), until="transcript-stop")
    assert text_of(events) == TEXT


def test_utterances(port):
    """One after the other, sent before the first is answered; one is silent, one has no sound."""
    silent = said(np.zeros(RATE, np.float32))
    nothing = AudioStart(RATE, 2, 1).event(), AudioStop().event()
    last = Event("ping", {"text": "end"})
    events = exchanged(port, *spoken(), *silent, *nothing, *spoken(OTHER), last, until="pong")
    ends = [i + 1 for i, event in enumerate(events) if event.type == "transcript-stop"]
    texts = [text_of(events[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    assert texts == [TEXT, "", "", TEXTS[OTHER.name]] and ends[-1] == len(events) - 1


def test_a_stop_without_an_utterance(port):
    """It has no transcript, neither before the first utterance nor behind one."""
    stop, last = AudioStop().event(), Event("ping", {"text": "end"})
    events = exchanged(port, stop, *spoken(), stop, stop, *spoken(OTHER), last, until="pong")
    ends = [i + 1 for i, event in enumerate(events) if event.type == "transcript-stop"]
    texts = [text_of(events[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    assert texts == [TEXT, TEXTS[OTHER.name]] and ends[-1] == len(events) - 1


@pytest.mark.parametrize(
    "form",
    [
        {"width": 1, "rate": 22_050},
        {"width": 3},
        {"width": 4, "rate": 48_000},
        {"channels": 2, "rate": 44_100},
        {"channels": 3, "width": 4},
    ],
)
def test_formats(port, form):
    assert text_of(exchanged(port, *spoken(**form), until="transcript-stop")) == TEXT


def test_names_and_terms(port, tiny_artifact):
    """They are made likelier."""
    samples, _ = soundfile.read(SAMPLES / "time-flite.wav", dtype="float32")
    samples += 0.1 * np.random.default_rng(6).standard_normal(len(samples)).astype("float32")
    with Transcriber(tiny_artifact, "cpu", precision="fp32", hotwords=["seven five"]) as own:
        expected = own.transcribe(samples).text
    with Transcriber(tiny_artifact, "cpu", precision="fp32") as own:
        assert own.transcribe(samples).text != expected
    for field in ("transcript_names", "transcript_terms"):
        asked = Event("transcribe", {"name": "tiny", field: ["seven five"]})
        events = exchanged(port, asked, *said(samples, width=4), until="transcript-stop")
        assert text_of(events) == expected


def test_what_is_not_known_is_left_out(port):
    """As the protocol has it."""
    events = exchanged(
        port, Event("select-program", {"name": "x"}), *spoken(), until="transcript-stop"
    )
    assert text_of(events) == TEXT


START = AudioStart(RATE, 2, 1).event()
HEARD = b'{"type": "audio-chunk", "data": {"rate": 16000, "width": 2, "channels": 1}, '
HEARD += b'"payload_length": 3200}\n' + bytes(3200)


@pytest.mark.parametrize(
    "events, code, says",
    [
        ([Transcribe(name="whisper").event()], "model_not_found", "expected one of tiny"),
        ([Event("transcribe", {"transcript_terms": [1]})], "400", "expected a list of texts"),
        ([Transcribe(transcript_terms=["x" * 101]).event(), *spoken()], "400", "at most 100 char"),
        ([Event("audio-start", {})], "400", "audio-start: lacks 'rate'"),
        ([AudioStart(4_000, 2, 1).event()], "400", "rate: expected 8000 to 96000, got 4000"),
        ([AudioStart(RATE, 8, 1).event()], "400", "width: expected 1 to 4, got 8"),
        ([AudioStart(RATE, 2, 99).event()], "400", "channels: expected 1 to 8, got 99"),
        ([START, START], "400", "expected audio-stop"),
        ([START, Transcribe().event()], "400", "expected before audio-start"),
        ([START, AudioChunk(RATE, 4, 1, b"1234").event()], "400", "audio-chunk: expected rate"),
        ([START, AudioChunk(RATE, 2, 1, b"123").event(), AudioStop().event()], "invalid_audio", ""),
    ],
)
def test_what_cannot_be(port, events, code, says):
    """It is an error, and the connection ends: clients wait for a transcript until it does."""
    found = exchanged(port, *events)
    assert found[-1].type == "error" and found[-1].data["code"] == code
    assert says in found[-1].data["text"]


@pytest.mark.parametrize(
    "content, says",
    [
        (b"GET / HTTP/1.1\r\n\r\n", "expected an event"),
        (b"[]\n", "expected an event"),
        (b'{"type": 1}\n', "expected an event"),
        (b'{"data": {}}\n', "expected an event"),
        (b'{"type": "ping", "data": []}\n', "expected an event"),
        (b'{"type": "ping", "data": 1, "data_length": 2}\n{}', "expected an event"),
        (b'{"type": "ping", "data_length": "x"}\n', "expected an event"),
        (b"[" * 50_000 + b"\n", "expected an event"),
        (b'{"type": "ping", "data": {"text": "\\ud800"}}\n', "ping: expected a text"),
        (b'{"type": "transcribe", "data": {"transcript_terms": ["\\ud800"]}}\n', "list of texts"),
        (b'{"type": "ping", "data_length": 1e400}\n', "more than"),
        (b'{"type": "audio-chunk", "payload_length": 1000000000000}\n', "more than"),
        (b"x" * 70_000, "longer than"),
    ],
)
def test_what_is_no_event(port, content, says):
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as client:
        client.sendall(content)
        error = b""
        while part := client.recv(1 << 16):
            error += part
    assert b'"error"' in error.partition(b"\n")[0]
    assert says in json.loads(error.partition(b"\n")[2])["text"]


@pytest.mark.parametrize("ends", [b"", b'{"type": "audio-chunk", "payload_length": 99}\nabc'])
def test_a_client_that_vanishes(api, port, ends):
    """Its slot is free at once, wherever it left."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as client:
        client.sendall(HEARD + ends)
        until(lambda: api.engines.engines[0].metrics.streams == 1)
    until(lambda: not api.engines.engines[0].metrics.streams)


def test_a_client_that_says_nothing(port, monkeypatch):
    monkeypatch.setattr(wyoming, "SPEECH_SECONDS", 0.1)
    (error,) = exchanged(port, START)
    assert error.data == {"text": "no event has come for 0.1 s", "code": "timeout"}


def test_a_client_that_takes_nothing(api, port, monkeypatch):
    """It is cut off, and its slot is free, though it says nothing more."""
    monkeypatch.setattr(connection, "LAST_SECONDS", 0.1)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        client.connect(("127.0.0.1", port))
        client.settimeout(1.0)
        client.sendall(HEARD)
        ping = json.dumps({"type": "ping", "data": {"text": "x" * 60_000}}).encode() + b"\n"
        with suppress(OSError):
            for _ in range(200):
                client.sendall(ping)
        until(lambda: not api.engines.live)
        assert not api.engines.engines[0].metrics.streams


def test_too_many(api, port, monkeypatch):
    """Of connections, and of streams: each is told so."""
    monkeypatch.setattr(wyoming, "MOST_CLIENTS", 0)
    (error,) = exchanged(port)
    assert error.data["code"] == "503"
    monkeypatch.undo()
    with ExitStack() as stack:
        for count in range(1, 5):
            client = socket.create_connection(("127.0.0.1", port), TIMEOUT)
            stack.enter_context(client).sendall(HEARD)
            until(lambda count=count: api.engines.engines[0].metrics.streams == count)
        *_, error = exchanged(port, *spoken())
        assert error.data["code"] == "at_capacity"


def test_refused_clients_that_stay(api, monkeypatch):
    """Only so many are told so at a time; further ones are closed at once, without a word."""
    monkeypatch.setattr(wyoming, "MOST_CLIENTS", 0)
    monkeypatch.setattr(wyoming, "MOST_REFUSED", 2)
    monkeypatch.setattr(wyoming, "LEAVE_SECONDS", float(TIMEOUT))
    with listening(api.engines) as port, ExitStack() as stack:
        for expected in (b'"error"', b'"error"', b""):
            client = socket.create_connection(("127.0.0.1", port), TIMEOUT)
            stack.enter_context(client)
            said = b""
            with suppress(ConnectionResetError):
                said = client.recv(1 << 16)
            assert expected in said and bool(expected) == bool(said)


@pytest.mark.parametrize("seed", range(5))
def test_random_events(api, port, caplog, seed):
    """Each is answered or refused; none is a fault of the server's, and no slot stays taken."""
    asyncio.run(torment(port, seed, 1_000))
    until(lambda: not api.engines.live)
    assert text_of(exchanged(port, *spoken(), until="transcript-stop")) == TEXT
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


API = ("--api-only", "--precision", "fp32", "--device", "cpu", "--slots", "4")


def test_the_server_ends(tiny_artifact, tmp_path):
    """A client that speaks gets its words, and an error instead of the whole transcript."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ("--model-name", "mine", "--wyoming", str(port))
    with serving(tmp_path, tiny_artifact, tmp_path, *API, *options, api=True, ends=False) as server:
        found = exchanged(port, Describe().event(), until="info")
        assert Info.from_event(found[0]).asr[0].models[0].name == "mine"

        async def speak() -> list[Event]:
            async with AsyncTcpClient("127.0.0.1", port) as client:
                for event in list(spoken())[:-1]:
                    await client.write_event(event)
                events = [await client.read_event()]
                server.process.send_signal(signal.SIGTERM)
                while event := await client.read_event():
                    events.append(event)
                return [event for event in events if event]

        start, *chunks, error = asyncio.run(asyncio.wait_for(speak(), TIMEOUT))
        assert start.type == "transcript-start" and error.data["code"] == "server_restarting"
        assert "".join(chunk.data["text"] for chunk in chunks) == TEXT
        assert server.process.wait(TIMEOUT) == 143
        assert f"Wyoming, for Home Assistant: 127.0.0.1, port {port}" in server.said.read_text()


@pytest.mark.parametrize(
    "options, says",
    [
        (("--wyoming", "0.0.0.0:10300"), "--wyoming 0.0.0.0: its protocol has no keys"),
        (("--wyoming", "10300", "--page-only"), "--wyoming needs the model"),
    ],
)
def test_options_that_cannot_be(run, tiny_artifact, options, says):
    run("serve", tiny_artifact, *options).assert_refused(2, says)


def test_a_port_that_is_taken(run, tiny_artifact):
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        found = run("serve", tiny_artifact, "--api-only", "--port", "0", "--wyoming", port)
    found.assert_refused(2, f"127.0.0.1:{port}: cannot be", "choose another --wyoming, or 0")


@pytest.mark.parametrize(
    "text, found",
    [
        ("10300", ("127.0.0.1", 10300)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:2", ("::1", 2)),
        ("name:3", ("name", 3)),
    ],
)
def test_addresses(text, found):
    assert address(text) == found


@pytest.mark.parametrize("text", ["", "x", "1:x", "::1:2", "a:b:3", "-1", "65536"])
def test_what_is_no_address(text):
    with pytest.raises(BadParameter, match="expected a port such as 10300"):
        address(text)
