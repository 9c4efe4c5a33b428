"""Files that advance together give the tokens that each gives alone."""

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import toy
from support.commands import CLIP, LONG_CLIP, SAMPLES, TEXT
from support.devices import Imitation

from voxtral_onnx import Transcriber
from voxtral_onnx.errors import AudioError, UsageError
from voxtral_onnx.runtime import transcriber as transcribing
from voxtral_onnx.runtime.audio.container import frames
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.batch import BatchSlot, advance_together
from voxtral_onnx.runtime.decoder import Decoder
from voxtral_onnx.runtime.device.cache import BatchedKVCache
from voxtral_onnx.runtime.device.cpu import Cpu
from voxtral_onnx.runtime.device.cuda import CudaBuffer
from voxtral_onnx.runtime.stream import Stream
from voxtral_onnx.runtime.tokens import CLOSE_MARGIN, SampledToken

# Samples; in the longest the decoder's caches shift three times
LENGTHS = (0, 1, 16_000, 50_000, 144_000)


@pytest.fixture(scope="module")
def toy_transcriber(toy_artifact):
    with Transcriber(toy_artifact, "cpu", precision="fp32") as transcriber:
        yield transcriber


@pytest.fixture(scope="module")
def alone(toy_transcriber):
    """Tokens of babble of each length."""
    return {length: alone_tokens(toy_transcriber, babble(length)) for length in LENGTHS}


def babble(length):
    return toy.babble(10.0, seed=length)[:length]


def alone_tokens(transcriber, samples, delay_ms=None):
    """Of a live stream, which runs one position a call."""
    stream = transcriber.stream(delay_ms)
    return tuple(token.token_id for token in stream.feed(samples) + stream.finish())


def tokens_by_length(transcripts):
    return [
        (round(16000 * transcript.duration), transcript.token_ids) for transcript in transcripts
    ]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(1, 5), st.lists(st.sampled_from(LENGTHS), max_size=8))
def test_together_as_alone(toy_artifact, toy_transcriber, alone, batch_size, lengths):
    """Files that join late, end in any order, and leave gaps which the last one fills."""
    toy_transcriber.batch_size = batch_size
    found = tokens_by_length(toy_transcriber.transcribe_many(map(babble, lengths)))
    assert sorted(found) == sorted((length, alone[length]) for length in lengths)


@pytest.mark.parametrize("batch_size", [2, 5])
def test_the_samples_together_with_a_rolling_window(tiny_artifact, batch_size):
    clips = [
        soundfile.read(path, dtype="float32")[0]
        for path in sorted(SAMPLES.glob("*.wav"))[:: 7 - batch_size]
    ]
    clips.insert(1, soundfile.read(LONG_CLIP, dtype="float32")[0])
    with Transcriber(
        tiny_artifact, "cpu", precision="fp32", context=64, batch_size=batch_size
    ) as transcriber:
        found = dict(tokens_by_length(transcriber.transcribe_many(clips)))
        assert found == {len(clip): alone_tokens(transcriber, clip) for clip in clips}
        spec = transcriber.model.decoder.spec
        assert max(map(len, found.values())) > spec.capacity + 10 * (spec.capacity - spec.keep)


def test_shipped_precisions_differ_where_decisions_were_close(tiny_artifact):
    clips = [
        soundfile.read(path, dtype="float32")[0] for path in sorted(SAMPLES.glob("[cdnt]*.wav"))
    ]
    with Transcriber(tiny_artifact, "cpu", precision="q4f16", batch_size=4) as transcriber:
        found = dict(tokens_by_length(transcriber.transcribe_many(clips)))
        for clip in clips:
            stream = transcriber.stream()
            tokens = stream.feed(clip) + stream.finish()
            for mine, token in zip(found[len(clip)], tokens, strict=True):
                if mine != token.token_id:
                    assert abs(token.blank_margin) < CLOSE_MARGIN
                    break  # from there on contexts differ


def test_close_decisions_are_made_alone(toy_artifact, toy_transcriber, alone, monkeypatch):
    """With every decision called close, the batch decides nothing.

    It leaves no trace either, across shifts of the caches.
    """
    monkeypatch.setattr(SampledToken, "is_close", lambda self: True)
    step_batch = Decoder.step_batch

    def spoilt(*arguments):
        return [SampledToken(token.token_id ^ 1, 0.0, 0.0) for token in step_batch(*arguments)]

    monkeypatch.setattr(Decoder, "step_batch", spoilt)
    toy_transcriber.batch_size = 2
    found = tokens_by_length(toy_transcriber.transcribe_many(map(babble, LENGTHS)))
    assert sorted(found) == sorted(alone.items())


def test_slots_may_have_different_delays(toy_transcriber):
    delays = [1, 6, 30]
    sources = {delay: babble(50_000 + delay) for delay in delays}
    waiting = iter(delays)

    def begin(cache):
        if (delay := next(waiting, None)) is None:
            return None
        stream = toy_transcriber._stream(delay, stop_at_eos=True, decoder_cache=cache)
        return BatchSlot(open_audio(sources[delay], 16000), stream)

    slots = list(advance_together(toy_transcriber.model.decoder, 3, begin))
    found = {
        slot.stream.num_delay_tokens: tuple(token.token_id for token in slot.result())
        for slot in slots
    }
    assert found == {
        delay: alone_tokens(toy_transcriber, sources[delay], 80 * delay) for delay in delays
    }


def test_a_file_ends_at_the_end_of_text(toy_transcriber, alone, monkeypatch):
    tokens = alone[144_000]
    at = next(i for i in range(5, len(tokens)) if tokens[i] not in tokens[:i])
    init = Stream.__init__

    def with_eos(self, *arguments, **options):
        from dataclasses import replace

        init(self, *arguments, **options)
        self.ids = replace(self.ids, eos=tokens[at])

    monkeypatch.setattr(Stream, "__init__", with_eos)
    toy_transcriber.batch_size = 2
    found = dict(tokens_by_length(toy_transcriber.transcribe_many([babble(144_000), babble(1)])))
    assert found[144_000] == tokens[: at + 1]


def test_files_come_as_they_end_and_are_taken_as_rows_become_free(toy_transcriber):
    taken = []

    def sources():
        for length in (144_000, 16_000, 1, 50_000):
            taken.append(length)
            yield babble(length)

    toy_transcriber.batch_size = 2
    order = [
        (round(16000 * transcript.duration), len(taken))
        for transcript in toy_transcriber.transcribe_many(sources())
    ]
    assert order == [(16_000, 2), (1, 3), (50_000, 4), (144_000, 4)]


def test_damage_ends_one_file(toy_transcriber, alone, tmp_path, monkeypatch):
    """A file that is changed behind the reader's back, and is too large to be kept in memory."""
    monkeypatch.setattr(frames, "KEPT_SAMPLES", 0)
    path = tmp_path / "damaged.wav"
    soundfile.write(path, babble(144_000), 16000, "FLOAT")
    source = open_audio(path, 16000)
    content = bytearray(path.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    toy_transcriber.batch_size = 2
    transcripts = {
        t.duration: t for t in toy_transcriber.transcribe_many([source, babble(50_000), babble(1)])
    }
    with pytest.raises(AudioError, match="changed while it was read"):
        _ = transcripts.pop(9.0).text
    others = {t.duration: t.token_ids for t in transcripts.values()}
    assert others == {50_000 / 16000: alone[50_000], 1 / 16000: alone[1]}


def test_a_file_that_cannot_be_opened_is_the_callers(toy_transcriber, tmp_path):
    toy_transcriber.batch_size = 2
    with pytest.raises(AudioError, match="no such file"):
        list(toy_transcriber.transcribe_many([babble(1), tmp_path / "none.wav"]))


def test_one_file_at_a_time_decodes_while_it_is_iterated(tiny_artifact):
    with Transcriber(tiny_artifact, "cpu") as transcriber:
        (transcript,) = transcriber.transcribe_many([CLIP])
        assert not transcript._token_ids
        assert transcript.text.strip() == TEXT
        assert next(transcriber.transcribe_many([CLIP], delay_ms=960)).info["delay_ms"] == 960


def test_info_shares_the_time_of_calls(tiny_artifact):
    with Transcriber(tiny_artifact, "cpu", batch_size=2) as transcriber:
        one, two = transcriber.transcribe_many([CLIP, CLIP])
        assert one.info.keys() == two.info.keys() == transcriber.transcribe(CLIP).info.keys()
    assert one.info["decode_ms"] > 0 and two.info["decode_ms"] > 0
    assert one.writer.timings.steps == two.writer.timings.steps > len(one.token_ids)


def test_a_row_moves_by_itself(toy_transcriber):
    decoder = toy_transcriber.model.decoder
    rows = BatchedKVCache(decoder.session, decoder.spec, 2)
    first, second = rows.cache(0), rows.cache(1)
    for buffer in (*first.buffers, *second.buffers):
        buffer.write(np.random.default_rng(0).standard_normal(buffer.shape).astype(buffer.dtype))
    before = [buffer.read().copy() for buffer in second.buffers]
    first.position = decoder.spec.capacity - 1
    first.advance(1)
    assert np.array_equal(
        first.buffers[0].read(decoder.spec.keep), before[0][:, :, -decoder.spec.keep :]
    )
    assert all(
        np.array_equal(buffer.read(), values)
        for buffer, values in zip(second.buffers, before, strict=True)
    )
    assert rows.cache(1).position == 0


@pytest.mark.parametrize("batch_size", [0, -1, 1025, 10**9])
def test_no_rows(tiny_artifact, batch_size):
    with pytest.raises(UsageError, match="batch size: expected 1 to 1024 files, got"):
        Transcriber(tiny_artifact, "cpu", batch_size=batch_size)


def test_a_device_is_not_replaced(tiny_artifact, monkeypatch):
    device = Cpu()
    device.name, device.supports_batching = "webgpu:0", False
    monkeypatch.setattr(transcribing, "open_device", lambda *arguments, **options: device)
    with pytest.raises(UsageError, match="together on CPU and CUDA, not on webgpu:0; leave it out"):
        Transcriber(tiny_artifact, "webgpu", batch_size=2)


@pytest.fixture
def imitated(toy_artifact, monkeypatch):
    monkeypatch.setattr(transcribing, "open_device", lambda *arguments, **options: Imitation())
    with Transcriber(toy_artifact, "cuda", precision="fp32", batch_size=3) as transcriber:
        yield transcriber


def test_a_batch_on_a_device_is_streams_alone(imitated, alone):
    """Twice: the second time in the first's buffers, which hold what it left."""
    lengths = [*LENGTHS, LENGTHS[0], LENGTHS[-1]]
    for _ in range(2):
        found = tokens_by_length(imitated.transcribe_many(map(babble, lengths)))
        assert sorted(found) == sorted((length, alone[length]) for length in lengths)
    assert len(imitated.model.decoder.session._idle[3]) == 1


def test_slots_of_a_device_buffer():
    device, rng = Imitation(), np.random.default_rng(0)
    whole = CudaBuffer(device, (3, 2, 8, 4), np.dtype(np.float16))
    assert not whole.read().any()
    values = rng.standard_normal(whole.shape).astype(np.float16)
    for row in range(3):
        whole.slice_batch(row, row + 1).write(values[row : row + 1])
    assert np.array_equal(whole.read(), values)
    whole.slice_batch(1, 2).shift(3)
    values[1, :, :3] = values[1, :, 5:].copy()
    whole.slice_batch(2, 3).copy_from(whole.slice_batch(0, 1), 8)
    values[2] = values[0]
    assert np.array_equal(whole.read(), values)
    assert np.array_equal(whole.slice_batch(0, 2).read(5), values[:2, :, :5])
    whole.shift(2)
    values[:, :, :2] = values[:, :, 6:].copy()
    assert np.array_equal(whole.read(), values)
