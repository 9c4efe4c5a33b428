"""Live streams whose caches are pages: each gives what it gives alone, whatever the others do."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import copy_artifact
from hypothesis import given, settings
from hypothesis import strategies as st
from support.devices import Imitation
from support.live import Feeder, Streams, alone, errors, start_of
from support.paged import PagingImitation, module_session
from support.recordings import babble, transcriber_on

from voxtral_onnx import Engine, Transcriber
from voxtral_onnx.errors import ArtifactError, DeviceError
from voxtral_onnx.runtime.device import base
from voxtral_onnx.runtime.device.cuda import Cuda
from voxtral_onnx.runtime.device.pages import PAGE_ROWS
from voxtral_onnx.runtime.engine.encoders.batched import BatchedEncoder
from voxtral_onnx.runtime.engine.encoders.live_encoder import open_live_encoder, open_paged_graph
from voxtral_onnx.runtime.engine.encoders.paged import PagedEncoder
from voxtral_onnx.runtime.engine.encoders.per_slot import EncoderPerSlot

# Of an embedding, relative to its length: sums of float32 in another order (test_live_encoder.py)
EXACT = 2e-6
# Of float16's: what calls of 1 and of 4 tokens differ by on the same device, times two
ROUNDED = 0.02


@pytest.fixture(scope="module")
def model(tiny_artifact):
    """*tiny* in float32, on a device whose attention of pages is the exporter's module."""
    device = PagingImitation()
    with (
        pytest.MonkeyPatch.context() as patch,
        transcriber_on(device, patch, tiny_artifact, precision="fp32") as transcriber,
    ):
        yield transcriber.model


@pytest.fixture
def paged(model, tiny_artifact):
    """A function that returns an encoder with some slots."""

    def make(slots):
        session = module_session(model.device, tiny_artifact)
        return PagedEncoder(model, session, model.device, slots, start_of(model))

    return make


def run_at_random(streams, draw, slots, steps):
    """Let streams come, go, pause and bring any number of tokens."""
    for _ in range(steps):
        for slot in draw(st.sets(st.sampled_from(range(slots)), max_size=2)):
            if slot in streams.feeders and draw(st.booleans()):
                streams.close(slot)
            else:
                streams.open(slot)
        drawn = {slot: draw(st.integers(0, 4)) for slot in sorted(streams.feeders)}
        streams.push({slot: count for slot, count in drawn.items() if count})
    streams.close_all()


@given(data=st.data())
@settings(max_examples=3, deadline=None, derandomize=True)
def test_streams_come_and_go_and_each_gives_what_it_gives_alone(model, tiny_artifact, data):
    session = module_session(model.device, tiny_artifact)
    encoder = PagedEncoder(model, session, model.device, 5, start_of(model))
    run_at_random(Streams(model, encoder, EXACT), data.draw, 5, data.draw(st.integers(6, 12)))
    encoder.close()


def test_pages_that_the_window_has_passed_are_written_again(model, paged):
    """The window moves over every page of a stream several times; nothing is shifted."""
    encoder, rng = paged(2), np.random.default_rng(0)
    streams = Streams(model, encoder, EXACT)
    for slot in range(2):
        streams.open(slot)
    while encoder._cache.position.min() < 3 * PAGE_ROWS:
        counts = rng.integers(0, 5, 2)
        streams.push({slot: int(count) for slot, count in enumerate(counts) if count})
    assert encoder._cache.rows.max() < 2 * PAGE_ROWS
    streams.close_all()


def test_idle_streams_stay_bit_for_bit_and_are_in_no_call(model, paged):
    encoder = paged(4)
    streams = Streams(model, encoder, EXACT)
    for slot in range(3):  # the last is never used
        streams.open(slot)
    streams.push({0: 2, 1: 3, 2: 1})
    for idle, busy in (((1, 3), {0: 4, 2: 1}), ((0, 3), {1: 1, 2: 3})):
        before = [(state[list(idle)]).copy() for state in encoder._cache.states.values()]
        before += [rows.read().copy() for slot in idle for rows in encoder._cache._rows[slot]]
        streams.push(busy)
        after = [(state[list(idle)]) for state in encoder._cache.states.values()]
        after += [rows.read() for slot in idle for rows in encoder._cache._rows[slot]]
        for was, now in zip(before, after, strict=True):
            np.testing.assert_array_equal(was, now)
    streams.push({})
    streams.close_all()


def test_not_a_number_stays_in_its_stream(model, paged):
    encoder = paged(3)
    streams = Streams(model, encoder, EXACT)
    for slot in range(3):
        streams.open(slot)
    streams.push({0: 1, 1: 1, 2: 1})
    taken = {slot: streams.feeders[slot].take(2) for slot in (0, 2)}
    found = encoder.encode({**taken, 1: np.full_like(taken[0], np.nan)})
    assert np.isnan(found[1]).all()
    for slot in (0, 2):
        streams.found[slot].append(found[slot])
    streams.open(1)  # another stream in its slot has nothing of it
    for _ in range(6):
        streams.push({0: 1, 1: 2, 2: 1})
    streams.close_all()


def test_samples_that_are_no_tokens_are_refused(model, paged):
    encoder = paged(4)
    encoder.start(1)
    feeder = Feeder(model, babble(40_000))
    for samples in (feeder.take(5), feeder.take(1)[1:], feeder.samples[: feeder.around]):
        with pytest.raises(AssertionError, match=r"slot 1: [0-9]+ samples are not 1 to 4 tokens"):
            encoder.encode({1: samples})
    with pytest.raises(AssertionError, match="slot 2 has no stream"):
        encoder.encode({2: feeder.take(1)})


def test_a_float32_model_has_no_such_graph_and_it_is_said(model):
    notes = list[str]()
    open_live_encoder(model, 2, start_of(model), notes)
    with pytest.raises(DeviceError, match="without the graph for several"):
        open_paged_graph(model)


@pytest.mark.parametrize("what", ["old", "no kernel"])
def test_why_there_are_no_pages_is_said(tiny_artifact, monkeypatch, what):
    with (
        pytest.MonkeyPatch.context() as patch,
        transcriber_on(Imitation(), patch, tiny_artifact, precision="fp16") as transcriber,
    ):
        if what == "old":
            monkeypatch.setattr(base, "MIN_FOR_PAGES", (1, 99))
            with pytest.raises(DeviceError, match=r"needed is 1\.99 or newer"):
                open_paged_graph(transcriber.model)
        else:
            notes = list[str]()
            found = open_live_encoder(
                transcriber.model, 2, start_of(transcriber.model), notes, tick_tokens=2
            )
            # The CPU has no kernel for them, as any device may, so the other graph is taken
            assert isinstance(found, BatchedEncoder) and not notes


@pytest.fixture(scope="module", params=["q4f16", "fp16"])
def on_cuda(request, tiny_artifact):
    """*tiny* on a real device."""
    try:
        Cuda()
    except DeviceError as error:
        pytest.skip(str(error))
    with Transcriber(tiny_artifact, "cuda", precision=request.param) as transcriber:
        yield transcriber


@pytest.mark.gpu
def test_cudas_pages_give_what_a_stream_gives_alone(on_cuda):
    """Streams come and go, catch up and pause; windows pass all pages; nothing is a stream's own.

    Products of other sizes round otherwise, so a stream's embeddings differ from those of the same
    stream alone as much as they differ between sizes of calls.
    """
    model, rng, slots = on_cuda.model, np.random.default_rng(0), 7
    encoder = open_live_encoder(model, slots, start_of(model), notes := [])
    assert isinstance(encoder, PagedEncoder) and not notes
    streams = Streams(model, encoder, ROUNDED)
    for _ in range(150):
        for slot in range(slots):
            if slot not in streams.feeders or rng.random() < 0.01:
                streams.open(slot)
        counts = rng.choice([0, 1, 1, 1, 2, 4], slots)
        streams.push({slot: int(count) for slot, count in enumerate(counts) if count})
    assert encoder._cache.position.max() > 2 * PAGE_ROWS
    feeders = list(streams.feeders.values())
    streams.close_all()
    sizes = [
        errors(alone(model, feeder.taken, most=4), alone(model, feeder.taken, most=1)).max()
        for feeder in feeders
    ]
    print(f"{on_cuda.precision}: {max(streams.errors):.4f}; between sizes {max(sizes):.4f}")
    encoder.close()


@pytest.mark.gpu
def test_calls_are_replayed_as_they_run_anew(on_cuda):
    results, model = [], on_cuda.model
    for captures in (False, True):
        model.device.captures_calls = captures
        encoder = open_live_encoder(model, 4, start_of(model), [])
        streams = Streams(model, encoder, ROUNDED)
        for slot in range(4):
            streams.open(slot)
        for step in range(12):
            streams.push({slot: 1 + (step + slot) % 2 for slot in range(4)})
        results.append([np.concatenate(streams.found[slot]) for slot in range(4)])
        encoder.close()
    for anew, replayed in zip(*results, strict=True):
        np.testing.assert_array_equal(anew, replayed)


@pytest.mark.gpu
def test_a_damaged_graph_is_an_error(on_cuda, tiny_artifact, tmp_path):
    precision = on_cuda.precision
    folder = copy_artifact(tiny_artifact, tmp_path / "damaged", precision)
    with Transcriber(folder, "cuda", precision=precision) as transcriber:
        start = start_of(transcriber.model)
        path = folder / f"onnx/encoder_paged_{precision}.onnx"
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        with pytest.raises(ArtifactError, match=r"encoder_paged_.+\.onnx: expected sha256"):
            open_live_encoder(transcriber.model, 2, start, [])


@pytest.mark.gpu
@pytest.mark.parametrize("streams", [1, 8, 64])
def test_texts_of_streams_together_are_those_of_one_where_decisions_are_clear(on_cuda, streams):
    from voxtral_onnx.runtime.bench import sample_clip

    samples = sample_clip(16000, 20.0)
    alone_tokens = on_cuda.stream()
    expected = alone_tokens.feed(samples) + alone_tokens.finish()
    engine = Engine(on_cuda, slots=64, context=256, most_streams=64)
    differing = total = 0
    with engine:
        opened = [engine.open() for _ in range(streams)]
        for start in range(0, len(samples), 1280):
            for stream in opened:
                stream.feed(samples[start : start + 1280])
        for stream in opened:
            stream.finish()
        for stream in opened:
            tokens = list(stream.events)
            pairs = zip(expected, tokens, strict=True)
            first = next((one for one, other in pairs if one.token_id != other.token_id), None)
            # From there on contexts differ
            assert first is None or abs(first.blank_margin) < 0.5
            differing += sum(
                one.token_id != other.token_id for one, other in zip(expected, tokens, strict=True)
            )
            total += len(tokens)
    print(f"{on_cuda.precision}, {streams} streams: {differing} of {total} tokens differ")
    assert differing <= 0.05 * total
    assert not isinstance(engine.ticker.encoder, EncoderPerSlot)
