"""The engine: live streams that join and leave, files beside them, and what can go wrong."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import CLIP, SAMPLES, TEXT
from support.recordings import alone, babble, by_length, within_time

from voxtral_onnx import Engine, Transcriber
from voxtral_onnx.errors import AudioError, DeviceError, UsageError
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.decoder import Decoder
from voxtral_onnx.runtime.engine import live
from voxtral_onnx.runtime.engine import stream as streaming
from voxtral_onnx.runtime.engine.slots import Slots
from voxtral_onnx.runtime.live.session import LiveSession

SLOTS = 16
# Samples; in the longest the caches of encoder and decoder shift
LENGTHS = (0, 1, 1280, 16_000, 50_000, 144_000)


@pytest.fixture(scope="module")
def engine(toy):
    with Engine(toy, slots=SLOTS, context=8192, most_streams=SLOTS) as found:
        yield found
        assert found.metrics.streams == 0


@pytest.fixture
def new_engine(toy):
    """Make an engine that fails, and is closed all the same."""
    made = list[Engine]()

    def make(**options) -> Engine:
        made.append(Engine(toy, **{"slots": 3, "context": 8192, "most_streams": 3} | options))
        return made[-1]

    yield make
    for each in made:
        within_time(lambda each=each: each.close(0.0))


@pytest.fixture(scope="module")
def expected(toy):
    """Tokens of babble of each length, in a stream of its own."""
    return {length: alone(toy, babble(length)) for length in LENGTHS}


def feed_all(stream, samples: np.ndarray, size: int = 3000) -> None:
    for begin in range(0, len(samples), size):
        stream.feed(samples[begin : begin + size])
    stream.finish()


def ids_of(stream) -> tuple[int, ...]:
    return within_time(lambda: tuple(token.token_id for token in stream.events))


def until(condition, seconds: float = 20.0) -> None:
    """Wait until something is so, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not become so in time"
        time.sleep(0.01)


# A stream: index of its length, sizes of its pieces, turns that it waits before each piece, whether
# it is closed before its end
PLANS = st.tuples(
    st.sampled_from(LENGTHS),
    st.sampled_from((160, 1280, 1999, 16_000, 200_000)),
    st.integers(0, 3),
    st.booleans() | st.just(False),
)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(PLANS, max_size=24), st.randoms(use_true_random=False))
def test_streams_that_join_and_leave_have_the_tokens_they_have_alone(
    engine, expected, plans, random
):
    waiting, fed, done = list(plans), [], []
    while waiting or fed:
        if waiting and len(fed) + len(done) < SLOTS and random.random() < 0.5:
            length, size, rest, closes = waiting.pop()
            sound = babble(length)
            pieces = [sound[at : at + size] for at in range(0, length, size)]
            fed.append([engine.open(), pieces, rest, closes, length])
        elif fed:
            each = fed[random.randrange(len(fed))]
            stream, pieces, rest, closes, length = each
            if pieces and random.random() < 1 / (1 + rest):
                stream.feed(pieces.pop(0))
            elif closes and random.random() < 0.2:
                stream.close()
                fed.remove(each)
            elif not pieces:
                stream.finish()
                fed.remove(each)
                done.append((stream, length))
        if done and (len(fed) + len(done) >= SLOTS or not (waiting or fed)):
            while done:
                stream, length = done.pop()
                assert ids_of(stream) == expected[length]
            until(lambda: engine.metrics.streams == len(fed))
    for stream, length in done:
        assert ids_of(stream) == expected[length]


def test_every_stream_has_its_delay(engine, toy):
    delays = (80, 480, 960, 2400)
    streams = [engine.open(delay_ms=delay) for delay in delays]
    for stream in streams:
        feed_all(stream, babble(16_000))
    for stream, delay in zip(streams, delays, strict=True):
        assert ids_of(stream) == alone(toy, babble(16_000), delay)


def test_every_stream_has_its_hotwords(engine, toy):
    """Sampled in Python beside those that the graph samples."""
    words = [a + b for a in "abcdefghijklmnopqrstuvwxyz" for b in "aeiourstln"]
    single = Transcriber(toy.folder, "cpu", precision="fp32", hotwords=words, hotword_bias=20)
    with single:
        biased = alone(single, babble(50_000))
    plain = alone(toy, babble(50_000))
    assert biased != plain
    streams = [engine.open(hotwords=each, hotword_bias=20) for each in (None, words, [], words)]
    for stream in streams:
        feed_all(stream, babble(50_000))
    assert [ids_of(stream) for stream in streams] == [plain, biased, plain, biased]
    found = by_length(engine.transcribe_many([babble(50_000)], hotwords=words, hotword_bias=20))
    assert found == [(50_000, biased)]


@pytest.mark.parametrize("precision", ["q4", "q4f16"])
def test_shipped_precisions_are_no_worse(tiny_artifact, precision):
    """Rows of a call round otherwise than one, which may turn a choice between equals.

    One in a hundred tokens is allowed: a single stream in calls of other sizes differs from itself
    in one of two hundred (tests/runtime/engine/test_live_encoder.py). Of bench/batches.py's clips
    none has differed.
    """
    sounds = [
        np.concatenate(list(open_audio(path, 16_000).blocks()))
        for path in sorted(SAMPLES.glob("*.wav"))
    ]
    with Transcriber(tiny_artifact, "cpu", precision=precision) as tiny:
        found, other = 0, 0
        with Engine(tiny, slots=16, most_streams=16) as engine:
            streams = [engine.open() for _ in sounds]
            for stream, sound in zip(streams, sounds, strict=True):
                feed_all(stream, sound, 1280)
            for stream, sound in zip(streams, sounds, strict=True):
                single = tiny.stream()
                pieces = [sound[at : at + 1280] for at in range(0, len(sound), 1280)]
                tokens = [token for piece in pieces for token in single.feed(piece)]
                ids = [token.token_id for token in tokens + single.finish()]
                found += len(ids)
                other += sum(a != b for a, b in zip(ids, ids_of(stream), strict=True))
    assert found > 300 and other <= found / 100


def test_files_fill_the_time_that_streams_leave(engine, toy, expected):
    """Their pieces are parked when a stream needs the slot, and go on from where they were."""
    begun, found = threading.Event(), list[tuple]()
    sounds = [babble(144_000 + n) for n in range(SLOTS + 2)]

    def transcribe():
        found.extend(
            by_length(engine.transcribe_many(sounds, on_token=lambda source, token: begun.set()))
        )

    files = threading.Thread(target=transcribe)
    files.start()
    assert begun.wait(30)
    streams = [engine.open() for _ in range(SLOTS)]
    for stream in streams:
        feed_all(stream, babble(50_000))
    assert all(ids_of(stream) == expected[50_000] for stream in streams)
    files.join(60)
    assert found == [(len(sound), alone(toy, sound)) for sound in sounds]


def test_parked_pieces(new_engine, toy, monkeypatch, expected):
    parked, make_room = list[int](), Slots.make_room

    def noted(slots, size):
        runs = make_room(slots, size)
        parked.append(len(runs))
        return runs

    monkeypatch.setattr(Slots, "make_room", noted)
    engine, streams = new_engine(), []
    sounds = [babble(400_000 + n) for n in range(5)]
    decoded = 0

    def on_token(source, token):
        nonlocal decoded
        decoded += 1
        if decoded % 100 == 0 and engine.metrics.streams < 3:
            streams.append(engine.open())
            feed_all(streams[-1], babble(16_000))

    found = by_length(engine.transcribe_many(sounds, on_token=on_token))
    assert sum(parked) > 0
    assert found == [(len(sound), alone(toy, sound)) for sound in sounds]
    assert streams and all(ids_of(stream) == expected[16_000] for stream in streams)


def test_a_stream_that_is_not_fed_costs_nothing(new_engine, toy, expected, monkeypatch):
    """On the CPU, where each row of a call costs time; a GPU computes the first slots."""
    engine = new_engine(slots=6, most_streams=6)
    streams = [engine.open() for _ in range(6)]
    for stream in streams:
        stream.feed(babble(16_000))
    count = len(toy.stream().feed(babble(16_000)))
    for stream in streams:
        until(lambda stream=stream: len(stream.events) == count)
    rows, step = list[int](), Decoder.step_batch

    def step_noted(decoder, batch, positions, *rest):
        rows.append(len(positions))
        return step(decoder, batch, positions, *rest)

    monkeypatch.setattr(Decoder, "step_batch", step_noted)
    streams[4].finish()
    assert ids_of(streams[4]) == expected[16_000]
    assert rows and (toy.device_name != "cpu" or set(rows) == {1})
    for stream in streams[:4] + streams[5:]:
        stream.finish()
        assert ids_of(stream) == expected[16_000]


def test_sessions_stand_on_its_streams():
    """`LiveSession` makes segments of them as it does of a single stream's."""
    events = []
    source = open_audio(CLIP, 16_000)
    with tiny_engine() as tiny, tiny.open() as stream:
        session = LiveSession(stream, events.append)
        reader = threading.Thread(
            target=lambda: [session.accept_token(token) for token in stream.events]
        )
        reader.start()
        for block in source.blocks():
            stream.feed(session.take(block))
        stream.feed(session.end_audio())
        stream.finish()
        reader.join(60)
        session.end()
    segments = [event.text for event in events if type(event).__name__ == "Segment"]
    assert "".join(segments).strip() == TEXT


def tiny_engine() -> Engine:
    return Engine("tiny", slots=2, most_streams=2)


def test_asyncio(engine, expected):
    """One task feeds and another reads, beside those of other streams."""

    async def one(length: int) -> tuple[int, ...]:
        stream = engine.open()

        async def feed():
            sound = babble(length)
            for begin in range(0, length, 1280):
                await stream.feed_async(sound[begin : begin + 1280])
                await asyncio.sleep(0)
            stream.finish()

        feeder = asyncio.create_task(feed())
        found = [token.token_id async for token in stream.events]
        await feeder
        return tuple(found)

    async def main():
        return await asyncio.gather(*map(one, LENGTHS))

    found = within_time(lambda: asyncio.run(main()))
    assert found == [expected[length] for length in LENGTHS]


def test_feeders_wait_while_too_much_waits(engine, expected, monkeypatch):
    """A client that sends an hour at once does not fill the memory."""
    monkeypatch.setattr(streaming, "MOST_WAITING", 1.0)
    most, stream, sound = 0, engine.open(), babble(144_000)
    for begin in range(0, 144_000, 4_000):
        stream.feed(sound[begin : begin + 4_000])
        most = max(most, stream._recording.num_waiting)
    stream.finish()
    assert ids_of(stream) == expected[144_000]
    assert 16_000 <= most < 2 * 16_000 + 20_000


def test_a_stream_beyond_the_capacity_is_refused(new_engine, expected):
    engine = new_engine(most_streams=2)
    first, second = engine.open(), engine.open()
    with pytest.raises(DeviceError, match=r"2 live streams are open, and .* carries 2"):
        engine.open()
    feed_all(first, babble(16_000))
    assert ids_of(first) == expected[16_000]
    until(lambda: engine.metrics.streams == 1)
    with engine.open() as third:
        feed_all(third, babble(1280))
        assert ids_of(third) == expected[1280]
    second.close()


def test_ticks_that_are_late_refuse_streams(toy):
    """As long as there are streams that make them late."""
    with Engine(toy, slots=3) as engine:
        engine.capacity = 3
        stream = engine.open()
        engine.ticker._recent.extend([0.2] * live.RECENT)
        with pytest.raises(DeviceError, match="the last ticks of 1 live streams took 200 ms"):
            engine.open()
        stream.close()
        until(lambda: not engine.metrics.streams)
        engine.open().close()


def test_the_capacity_is_measured(toy):
    with Engine(toy, slots=4) as engine:
        assert list(engine.curve) == [1, 2, 4]
        assert 0 <= engine.capacity <= 4
        assert all(seconds > 0 for seconds in engine.curve.values())
        engine.capacity = 4
        with engine.open() as stream:  # what was computed to measure leaves no trace
            feed_all(stream, babble(16_000))
            assert ids_of(stream) == alone(toy, babble(16_000))


def test_wrong_samples_change_nothing(engine, expected):
    stream = engine.open()
    for wrong in ([np.nan], [[0.0, 0.0]], ["a"]):
        with pytest.raises(AudioError):
            stream.feed(wrong)
    feed_all(stream, babble(16_000))
    assert ids_of(stream) == expected[16_000]
    with pytest.raises(AudioError, match="finished"):
        stream.feed(babble(100))
    with pytest.raises(AudioError, match="finished"):
        stream.finish()


def test_samples_belong_to_the_stream(engine, expected):
    """A caller may use its array again."""
    buffer, stream = np.zeros(1600, np.float32), engine.open()
    for begin in range(0, 16_000, 1600):
        buffer[:] = babble(16_000)[begin : begin + 1600]
        stream.feed(buffer)
    stream.finish()
    assert ids_of(stream) == expected[16_000]


def test_a_stream_that_nobody_reads_ends_alone(engine, expected, monkeypatch):
    monkeypatch.setattr(streaming, "MOST_UNREAD", 50)
    unread, other = engine.open(), engine.open()
    feed_all(unread, babble(144_000))
    feed_all(other, babble(50_000))
    assert ids_of(other) == expected[50_000]
    until(lambda: engine.metrics.streams == 0)
    found = 0
    with pytest.raises(UsageError, match="tokens that nobody reads"):
        for _ in unread.events:
            found += 1
    assert found >= 50


def test_a_stream_that_is_forgotten_frees_its_slot(engine):
    stream = engine.open()
    stream.feed(babble(5_000))
    until(lambda: engine.metrics.streams == 1)
    del stream
    gc.collect()
    until(lambda: engine.metrics.streams == 0)


def test_numbers_that_are_not_finite_end_their_stream_alone(engine, expected, monkeypatch):
    step = Decoder.step_batch

    def with_nan(decoder, batch, positions, feeds, *rest):
        is_spoilt = (feeds["num_delay_tokens"] == 12) & (positions == 60)
        sampled = step(decoder, batch, positions, feeds, *rest)
        return np.where(is_spoilt[:, None] & [False, True, True], np.float32(np.nan), sampled)

    monkeypatch.setattr(Decoder, "step_batch", with_nan)
    streams = [engine.open(), engine.open(delay_ms=960), engine.open()]
    for stream in streams:
        feed_all(stream, babble(50_000))
    assert ids_of(streams[0]) == ids_of(streams[2]) == expected[50_000]
    with pytest.raises(DeviceError, match="not finite"):
        ids_of(streams[1])


@pytest.mark.parametrize("call", ["encoder", "decoder"])
def test_a_call_that_fails_ends_the_streams_that_shared_it(new_engine, expected, monkeypatch, call):
    """They end with the device's error; later ones are as ever."""
    engine = new_engine()
    streams = [engine.open() for _ in range(3)]

    def failing(*arguments):
        raise DeviceError("CUDA error 700: an illegal memory access")

    home = type(engine.ticker.encoder) if call == "encoder" else Decoder
    with monkeypatch.context() as patch:
        patch.setattr(home, "encode" if call == "encoder" else "step_batch", failing)
        for stream in streams:
            feed_all(stream, babble(16_000))
        for stream in streams:
            with pytest.raises(DeviceError, match="error 700"):
                ids_of(stream)
        until(lambda: engine.metrics.streams == 0)
    stream = engine.open()
    feed_all(stream, babble(16_000))
    assert ids_of(stream) == expected[16_000]


def test_a_stream_for_which_there_is_no_memory_ends_alone(new_engine, expected, monkeypatch):
    engine = new_engine()
    encoder = engine.ticker.encoder
    streams, start = [engine.open()], encoder.start
    streams[0].feed(babble(50_000)[:20_000])
    until(lambda: len(streams[0].events))

    is_fed = threading.Event()

    def full(slot):
        assert is_fed.wait(20)
        raise DeviceError("the memory is full")

    monkeypatch.setattr(encoder, "start", full)
    refused = engine.open()
    refused.feed(babble(3_000))
    is_fed.set()
    with pytest.raises(DeviceError, match="the memory is full"):
        ids_of(refused)
    monkeypatch.setattr(encoder, "start", start)
    streams.append(engine.open())
    feed_all(streams[0], babble(50_000)[20_000:])
    feed_all(streams[1], babble(16_000))
    assert [ids_of(stream) for stream in streams] == [expected[50_000], expected[16_000]]


def test_a_stream_that_is_refused_is_not_encoded(new_engine, expected, monkeypatch):
    """Not even by ticks that come while the decoder's thread is busy."""
    engine = new_engine()
    encoder, step = engine.ticker.encoder, engine._loop._step
    start, is_fed = encoder.start, threading.Event()

    def full(slot):
        assert is_fed.wait(20)
        monkeypatch.setattr(encoder, "start", start)
        raise DeviceError("the memory is full")

    def slow():
        time.sleep(0.05)
        return step()

    monkeypatch.setattr(encoder, "start", full)
    monkeypatch.setattr(engine._loop, "_step", slow)
    refused = engine.open()
    refused.feed(babble(144_000))
    stream = engine.open()
    feed_all(stream, babble(50_000))
    is_fed.set()
    with pytest.raises(DeviceError, match="the memory is full"):
        ids_of(refused)
    assert ids_of(stream) == expected[50_000]


def test_another_stream_may_take_the_place_of_a_closed_one_at_once(new_engine, expected):
    engine = new_engine()
    streams = [engine.open() for _ in range(3)]
    for turn in range(60):
        stream = streams.pop(turn % 3)
        if turn % 2:
            stream.feed(babble(16_000))
        stream.close()
        assert engine.metrics.streams == 2
        streams.append(engine.open())
    for stream in streams:
        feed_all(stream, babble(16_000))
    assert [ids_of(stream) for stream in streams] == [expected[16_000]] * 3


def test_a_thread_that_dies_hangs_nobody(new_engine, monkeypatch):
    engine = new_engine()
    streams = [engine.open() for _ in range(3)]

    def dying():
        raise MemoryError("no memory")

    monkeypatch.setattr(engine._loop, "_settle", dying)  # not that of the other engine
    for stream in streams:
        with pytest.raises(MemoryError):
            ids_of(stream)
        with pytest.raises(MemoryError):
            stream.feed(babble(100))
    with pytest.raises(DeviceError, match="the engine has failed: no memory"):
        engine.open()
    assert isinstance(engine.failure, MemoryError)


def test_who_hears_of_progress_may_end_a_recording(engine):
    """An error that it raises is the caller's, and frees the slots; before any token too."""
    heard = list[float]()

    def stop(source, seconds):
        heard.append(seconds)
        raise InterruptedError("nobody waits for it")

    with pytest.raises(InterruptedError, match="nobody waits"):
        list(engine.transcribe_many([babble(144_000)], on_progress=stop))
    assert len(heard) == 1 and engine.failure is None
    (transcript,) = engine.transcribe_many([CLIP])
    assert len(transcript.token_ids) > 20


def test_memory_that_is_full_is_said(new_engine, monkeypatch):
    make = Decoder.new_batch

    def full(decoder, spec, count):
        if count > 1:
            raise DeviceError("the memory is full")
        return make(decoder, spec, count)

    monkeypatch.setattr(Decoder, "new_batch", full)
    engine = new_engine()
    assert engine.capacity == 1
    assert any("1 instead of 3" in note for note in engine.notes)


def test_an_engine_that_cannot_start_leaves_no_threads(toy, monkeypatch):
    def full(decoder, spec, count):
        raise DeviceError("the memory is full")

    monkeypatch.setattr(Decoder, "new_batch", full)
    before = threading.active_count()
    with pytest.raises(DeviceError, match="memory is full"):
        Engine(toy, slots=2)
    until(lambda: threading.active_count() <= before)


def test_opens_and_closes_leave_nothing(new_engine, expected):
    engine = new_engine()

    def open_and_close():
        with engine.open() as stream:
            stream.feed(babble(500))

    for _ in range(300):
        open_and_close()
        until(lambda: engine.metrics.streams < 3)
    until(lambda: not engine._streams and not engine._loop._pool.waiting)
    with engine.open() as stream:
        feed_all(stream, babble(16_000))
        assert ids_of(stream) == expected[16_000]


def test_close_waits_for_streams_that_are_finished(toy, expected):
    engine = Engine(toy, slots=2, most_streams=2)
    stream = engine.open()
    feed_all(stream, babble(144_000))
    engine.close()
    assert ids_of(stream) == expected[144_000]
    with pytest.raises(UsageError, match="closed"):
        engine.open()


def test_close_ends_streams_that_are_not(toy):
    engine = Engine(toy, slots=2, most_streams=2)
    stream = engine.open()
    stream.feed(babble(3_000))
    engine.close(0.1)
    with pytest.raises(UsageError, match="the engine was closed"):
        ids_of(stream)


def test_close_ends_files_too(toy):
    """Whoever waits for their transcripts, or comes later, is told."""
    engine, begun = Engine(toy, slots=2, most_streams=2), threading.Event()
    found = list[BaseException]()

    def transcribe():
        try:
            sounds = (babble(144_000) for _ in range(10_000))
            for _ in engine.transcribe_many(sounds, on_token=lambda source, token: begun.set()):
                pass
        except UsageError as error:
            found.append(error)

    files = threading.Thread(target=transcribe, daemon=True)
    files.start()
    assert begun.wait(30)
    engine.close(0.0)
    files.join(30)
    assert not files.is_alive() and "the engine was closed" in str(found[0])
    with pytest.raises(UsageError, match="the engine was closed"):
        within_time(lambda: list(engine.transcribe_many([babble(1280)])))


SUSPENDED = """
    import sys, time
    import numpy as np
    from voxtral_onnx import Engine, Transcriber
    from voxtral_onnx.runtime.audio.files import open_audio

    with Transcriber("tiny", "cpu") as tiny, Engine(tiny, slots=2, most_streams=2) as engine:
        samples = np.concatenate(list(open_audio(sys.argv[1], 16000).blocks()))
        with engine.open() as stream:
            print("begun", flush=True)
            for begin in range(0, len(samples), 1280):
                stream.feed(samples[begin : begin + 1280])
                time.sleep(0.01)
            stream.finish()
            print("".join(token.text for token in stream.events).strip())
"""


def test_a_process_that_was_suspended_goes_on():
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SUSPENDED), str(CLIP)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "begun\n"
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.7)
    os.kill(process.pid, signal.SIGCONT)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, TEXT + "\n")


def test_wrong_options(toy):
    for options, message in (
        ({"tick_ms": 100}, "tick: expected 80 or 160 ms, got 100"),
        ({"slots": 0}, "slots: expected 1 to"),
        ({"context": 10}, "context: expected at least 64"),
    ):
        with pytest.raises(UsageError, match=message):
            Engine(toy, **options)


def test_ticks_of_two_tokens(new_engine, expected):
    engine = new_engine(tick_ms=160)
    stream = engine.open()
    feed_all(stream, babble(50_000))
    assert ids_of(stream) == expected[50_000]
    assert engine.ticker.seconds == 0.16
