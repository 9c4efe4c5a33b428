"""Live streams encoded in one call: each gives what it gives alone, whatever the others do."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise
from math import inf

import numpy as np
import pytest
import soundfile
from conftest import copy_artifact
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import SAMPLES
from support.devices import Imitation
from support.live import Feeder, Streams, alone, errors, start_of, written
from support.recordings import babble, transcriber_on

from voxtral_onnx import Transcriber
from voxtral_onnx.errors import ArtifactError, DeviceError
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.device import base
from voxtral_onnx.runtime.device.cpu import Cpu
from voxtral_onnx.runtime.engine.calls import plan_calls
from voxtral_onnx.runtime.engine.encoders import live_encoder
from voxtral_onnx.runtime.engine.encoders.batched import BatchedEncoder
from voxtral_onnx.runtime.engine.encoders.live_encoder import open_batch_graph, open_live_encoder
from voxtral_onnx.runtime.engine.encoders.per_slot import EncoderPerSlot

# Of an embedding, relative to its length. float32 rounds each sum to 6e-8; 12 norms and products
# of up to 1024 terms that are added in another order make that 2e-7 to 1e-6.
EXACT = 2e-6
SLOTS = 16


@pytest.fixture(scope="module", params=[Cpu, Imitation])
def model(request, tiny_artifact):
    """*tiny* in float32, whose encoder shifts its cache every few tokens."""
    device = request.param()
    with (
        pytest.MonkeyPatch.context() as patch,
        transcriber_on(device, patch, tiny_artifact, precision="fp32") as transcriber,
    ):
        start_of(transcriber.model)
        encoder = transcriber.model.encoder
        encoder.spec = replace(encoder.spec, capacity=encoder.spec.keep + 24)
        yield transcriber.model


def batched(model, slots, start):
    return BatchedEncoder(model, open_batch_graph(model), slots, start)


@pytest.fixture(params=[batched, EncoderPerSlot])
def live(request, model):
    found = request.param(model, 4, start_of(model))
    yield found
    found.close()


@given(data=st.data(), slots=st.integers(4, SLOTS))
@settings(max_examples=4, deadline=None, derandomize=True)
def test_streams_come_and_go_and_each_gives_what_it_gives_alone(model, data, slots):
    encoder = batched(model, slots, start_of(model))
    streams, every = Streams(model, encoder, EXACT), range(slots)
    for _ in range(data.draw(st.integers(8, 20))):
        for slot in data.draw(st.sets(st.sampled_from(every), max_size=3)):
            if slot in streams.feeders and data.draw(st.booleans()):
                streams.close(slot)
            else:
                streams.open(slot)
        counts = st.integers(0, encoder.max_tokens)
        drawn = {slot: data.draw(counts) for slot in sorted(streams.feeders)}
        streams.push({slot: count for slot, count in drawn.items() if count})
    streams.close_all()
    encoder.close()


def test_windows_roll_many_times(model):
    """Every slot is shifted again and again, at other rows than a stream alone."""
    encoder = batched(model, 3, start_of(model))
    streams, rng = Streams(model, encoder, EXACT), np.random.default_rng(0)
    for slot in range(3):
        streams.open(slot)
    for _ in range(60):
        counts = rng.integers(0, 5, 3)
        streams.push({slot: int(count) for slot, count in enumerate(counts) if count})
    assert encoder._position.min() > 3 * encoder._spec.capacity
    streams.close_all()


def test_the_state_of_an_idle_slot_stays_bit_for_bit(model):
    encoder = batched(model, 4, start_of(model))
    streams = Streams(model, encoder, EXACT)
    for slot in range(3):  # the last is never used
        streams.open(slot)
    streams.push({0: 2, 1: 3, 2: 1})
    for idle, busy in ((1, {0: 4, 2: 1}), (3, {0: 1, 1: 4, 2: 4}), (0, {1: 1, 2: 3})):
        cache, rows = encoder._batch.cache(idle), int(encoder._rows[idle])
        before = [state.read().copy() for state in cache.states]
        before += [buffer.read().copy() for buffer in cache.buffers]
        first, last = 0, 4  # in one call, whatever that costs on this device
        samples = {slot: streams.feeders[slot].take(count) for slot, count in busy.items()}
        encoder._encode(first, last, busy, samples)
        after = [state.read() for state in cache.states]
        after += [buffer.read() for buffer in cache.buffers]
        for was, now in zip(before, after, strict=True):
            np.testing.assert_array_equal(was, now)
        assert encoder._rows[idle] == rows


def test_both_encoders_give_the_same(model, live):
    streams = Streams(model, live, EXACT)
    for slot in (3, 1):
        streams.open(slot)
    streams.push({1: 1, 3: 4})
    streams.open(0)
    streams.push({0: 2, 3: 4})
    streams.open(3)  # in the place of the one before
    for _ in range(8):
        streams.push({1: 1, 3: 4})
    streams.push({})
    streams.close_all()
    live.free(0)


def test_samples_that_are_no_tokens_are_refused(model, live):
    live.start(1)
    feeder = Feeder(model, babble(40_000))
    for samples in (feeder.take(5), feeder.take(1)[1:], feeder.samples[: feeder.around]):
        with pytest.raises(AssertionError, match=r"slot 1: [0-9]+ samples are not 1 to 4 tokens"):
            live.encode({1: samples})
    with pytest.raises(AssertionError, match="slot 2 has no stream"):
        live.encode({2: feeder.take(1)})


def test_not_a_number_stays_in_its_stream(model):
    encoder = batched(model, 3, start_of(model))
    streams = Streams(model, encoder, EXACT)
    for slot in range(3):
        streams.open(slot)
    streams.push({0: 1, 1: 1, 2: 1})
    bad = streams.feeders[1].samples.copy()
    bad[:] = np.nan
    taken = {slot: streams.feeders[slot].take(2) for slot in (0, 2)}
    found = encoder.encode({**taken, 1: bad[: len(taken[0])]})
    assert np.isnan(found[1]).all()
    for slot in (0, 2):
        streams.found[slot].append(found[slot])
    streams.open(1)  # another stream in its slot has nothing of it
    for _ in range(6):
        streams.push({0: 1, 1: 2, 2: 1})
    streams.close_all()


def test_streams_that_begin_together_are_not_shifted_together(model, monkeypatch):
    encoder, shifts, shift = batched(model, 12, start_of(model)), [], BatchedEncoder._shift
    streams = Streams(model, encoder, EXACT)

    def noted(self, slot):
        shifts.append(slot)
        shift(self, slot)

    monkeypatch.setattr(BatchedEncoder, "_shift", noted)
    for slot in range(12):
        streams.open(slot)
    turns = (encoder._spec.capacity - encoder._spec.keep) // encoder._spec.rows_per_token
    for call in range(24):
        shifts.clear()
        streams.push(dict.fromkeys(range(12), 1))
        if call > 12:
            assert len(shifts) == 12 // turns
    streams.close_all()


def cost(tokens, calls, call_tokens):
    return sum(
        call_tokens
        + (last - first) * max(count for slot, count in tokens.items() if first <= slot < last)
        for first, last in calls
    )


@given(
    st.dictionaries(st.integers(0, 9), st.integers(1, 4), min_size=1, max_size=7),
    st.sampled_from([0.0, 1.0, 2.5, 100.0]),
)
@settings(max_examples=150, deadline=None)
def test_no_other_calls_cost_less(tokens, call_tokens):
    calls, slots = plan_calls(tokens, call_tokens), sorted(tokens)
    covered = [slot for first, last in calls for slot in range(first, last) if slot in tokens]
    assert covered == slots
    costs = []
    for cuts in range(len(slots)):
        for places in combinations(range(1, len(slots)), cuts):
            bounds = [0, *places, len(slots)]
            ways = [(slots[begin], slots[end - 1] + 1) for begin, end in pairwise(bounds)]
            costs.append(cost(tokens, ways, call_tokens))
    assert cost(tokens, calls, call_tokens) == pytest.approx(min(costs))


def test_calls_that_are_to_have_few_shapes_begin_with_the_first_slot():
    assert plan_calls({3: 1, 7: 4}, inf) == [(0, 8)]
    assert plan_calls({}, inf) == plan_calls({}, 1.0) == []


@pytest.mark.parametrize("precision", ["q4", "q4f16"])
def test_shipped_precisions_write_no_other_tokens_than_between_sizes_of_calls(
    tiny_artifact, precision
):
    """Products in 4 bits round otherwise where a call has more rows, also those of one stream.

    So the text of a stream among others may differ from the same stream's alone as often as it
    differs alone with the largest calls, or in 1 % of its tokens, a word that comes a
    position later.
    """
    clips = [soundfile.read(clip, dtype="float32")[0] for clip in sorted(SAMPLES.glob("*.wav"))]
    clips = [clip for clip in clips if len(clip) < 80_000]
    with Transcriber(tiny_artifact, "cpu", precision=precision) as transcriber:
        model, rng = transcriber.model, np.random.default_rng(0)
        encoder = batched(model, len(clips), start_of(model))
        silence = np.zeros(16_000, np.float32)
        feeders = [Feeder(model, np.concatenate((clip, silence))) for clip in clips]
        found = [list[np.ndarray]() for _ in feeders]
        for slot in range(len(clips)):
            encoder.start(slot)
        while any(feeder.tokens_left for feeder in feeders):
            samples = {}
            for slot, feeder in enumerate(feeders):
                if feeder.tokens_left and rng.random() < 0.9:
                    samples[slot] = feeder.take(min(feeder.tokens_left, int(rng.integers(1, 5))))
            for slot, embeds in encoder.encode(samples).items():
                found[slot].append(embeds)
        differing, in_large_calls, total = 0, 0, 0
        for feeder, embeds in zip(feeders, found, strict=True):
            ids = written(model, alone(model, feeder.taken))
            whole = alone(model, [feeder.samples[: feeder.at + feeder.around]])
            differing += int((written(model, np.concatenate(embeds)) != ids).sum())
            in_large_calls += int((written(model, whole) != ids).sum())
            total += len(ids)
    assert total > 300
    assert differing <= max(in_large_calls, 0.01 * total)


def test_the_best_encoder_is_chosen(model):
    notes = list[str]()
    assert isinstance(open_live_encoder(model, 2, start_of(model), notes), BatchedEncoder)
    assert notes == []


def test_an_artifact_of_an_earlier_version_encodes_one_stream_after_the_other(
    tiny_artifact, tmp_path
):
    folder = copy_artifact(tiny_artifact, tmp_path / "earlier", "q4")
    manifest = Manifest.read(folder)
    kind = replace(manifest.precisions["q4"], encoder_batch=None)
    replace(manifest, precisions={"q4": kind}).write(folder)
    with Transcriber(folder, "cpu") as transcriber:
        notes = list[str]()
        found = open_live_encoder(transcriber.model, 2, start_of(transcriber.model), notes)
    assert isinstance(found, EncoderPerSlot)
    assert len(notes) == 1 and "reads all weights: an earlier version made" in notes[0]


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("old", "onnxruntime 1.32.0: needed is 1.99 or newer"),
        ("full", "GB more, and 0.00 GB are free"),
        ("ignored", "ignores query_seqlens of onnx/encoder_batch.onnx"),
        ("no slices", "webgpu:0 advances one stream a call"),
    ],
)
def test_where_streams_cannot_be_encoded_together_it_is_said(model, monkeypatch, what, reason):
    if what == "old":
        monkeypatch.setattr(base, "MIN_FOR_LENGTHS", (1, 99))
        reason = reason.replace("1.32.0", base.import_onnxruntime().__version__)
    elif what == "full":
        if not isinstance(model.device, Cpu):
            pytest.skip("its memory is the device's own")
        monkeypatch.setattr(live_encoder, "available_memory", lambda: 1)
    elif what == "ignored":  # as by a provider that does not know this input
        run = live_encoder.run_batch

        def run_all(batch, features, positions, rows, new):
            return run(batch, features, positions, rows, new + 4)

        monkeypatch.setattr(live_encoder, "run_batch", run_all)
    else:
        monkeypatch.setattr(model.device, "supports_batching", False, raising=False)
        monkeypatch.setattr(model.device, "name", "webgpu:0")
    notes = list[str]()
    found = open_live_encoder(model, 2, start_of(model), notes)
    assert isinstance(found, EncoderPerSlot) and len(notes) == 1
    assert notes[0].startswith("encoder: live streams are encoded one after the other")
    assert reason in notes[0]
    if what == "no slices":
        found.start(0)
        feeder = Feeder(model, babble(40_000))
        embeds = found.encode({0: feeder.take(2)})[0]
        assert errors(embeds, alone(model, feeder.taken)).max() < EXACT


def test_a_damaged_graph_is_an_error(tiny_artifact, tmp_path):
    folder = copy_artifact(tiny_artifact, tmp_path / "damaged", "q4")
    with Transcriber(folder, "cpu") as transcriber:
        model, start = transcriber.model, start_of(transcriber.model)
        path = folder / "onnx/encoder_batch_q4.onnx"
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        with pytest.raises(ArtifactError, match=r"encoder_batch_q4\.onnx: expected sha256"):
            open_live_encoder(model, 2, start, [])


def test_an_error_names_the_device(model):
    """Rows beyond the buffer are refused by the CPU's kernel, as any fault of a device would be."""
    encoder = batched(model, 2, start_of(model))
    encoder.start(0)
    encoder._rows[0] = encoder._capacity
    with pytest.raises(DeviceError, match="cannot run the model"):
        encoder.encode({0: Feeder(model, babble(40_000)).take(1)})
