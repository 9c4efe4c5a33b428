"""What only a CUDA device can show: `make test-gpu`."""

from __future__ import annotations

import ctypes
from threading import Thread

import numpy as np
import pytest
from support.commands import CLIP, SAMPLES, TEXT, TEXTS

from voxtral_onnx import Transcriber, export
from voxtral_onnx.errors import DeviceError
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.device.base import run_errors_are_said
from voxtral_onnx.runtime.device.cuda import Cuda
from voxtral_onnx.runtime.device.cuda_binding import CudaBuffer
from voxtral_onnx.runtime.transcriber import NUM_DRAFT_TOKENS

# With 64 positions of context the decoder's caches shift 19 times, the encoder's many more
SECONDS = 30.0


@pytest.fixture(scope="module")
def device():
    try:
        return Cuda()
    except DeviceError as error:
        pytest.skip(str(error))


pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("device")]


@pytest.fixture(scope="module")
def transcriber(tiny_artifact, device):
    with Transcriber(tiny_artifact, "cuda", context=64) as transcriber:
        yield transcriber


def tokens_of(transcriber, samples, size=1280):
    stream = transcriber.stream()
    tokens = [
        token
        for start in range(0, len(samples), size)
        for token in stream.feed(samples[start : start + size])
    ]
    return tokens + stream.finish(), stream


def speech(seconds=SECONDS):
    from voxtral_onnx.runtime.bench import sample_clip

    return sample_clip(16000, seconds)


@pytest.mark.parametrize("precision", ["q4f16", "fp16"])
def test_texts(tiny_artifact, precision):
    with Transcriber(tiny_artifact, "cuda:0", precision=precision) as transcriber:
        # Voices that leave it close decisions
        names = [name for name in TEXTS if not name.startswith("unheard")]
        found = {name: transcriber.transcribe(SAMPLES / name).text.strip() for name in names}
    assert found == {name: TEXTS[name] for name in names}


# Which has no zero points: there are kernels for that
@pytest.mark.parametrize("recipe", ["default", "gguf-q4_0"])
def test_tokens_are_the_cpus_where_the_choice_is_clear(tiny_artifact, tmp_path, recipe):
    artifact = (
        tiny_artifact
        if recipe == "default"
        else export("tiny", tmp_path / "artifact", recipe=recipe)
    )
    samples, chosen = speech(10.0), {}
    for device in ("cpu", "cuda"):
        with Transcriber(artifact, device, precision="q4f16") as transcriber:
            chosen[device] = tokens_of(transcriber, samples)[0]
    pairs = list(zip(chosen["cpu"], chosen["cuda"], strict=True))
    first = next((i for i, (a, b) in enumerate(pairs) if a.token_id != b.token_id), len(pairs))
    # From there on contexts differ
    assert first == len(pairs) or abs(pairs[first][0].blank_margin) < 0.5
    drift = max(abs(a.blank_margin - b.blank_margin) for a, b in pairs[:first])
    assert drift < 0.5  # int8 activations on the CPU, float16 on CUDA; margins are up to 20


@pytest.mark.parametrize("drafts", [3, 7])
def test_draft_tokens_change_no_clear_decision(tiny_artifact, monkeypatch, stream_of, drafts):
    """Speech and silence in turn, the window rolling.

    Kernels for several positions are others than for one.
    """
    samples = np.concatenate([speech(10.0), np.zeros(10 * 16000, np.float32), speech(5.0)])
    monkeypatch.setitem(NUM_DRAFT_TOKENS, "cuda", drafts)
    with Transcriber(tiny_artifact, "cuda", precision="q4f16", context=64) as transcriber:
        plain, _ = tokens_of(transcriber, samples)
        transcript = transcriber.transcribe(samples)
        first = next(
            (
                i
                for i, (a, b) in enumerate(zip(plain, transcript.token_ids, strict=True))
                if a.token_id != b
            ),
            -1,
        )
        assert first < 0 or abs(plain[first].blank_margin) < 0.5
        stream = stream_of(transcript)
        assert stream.decoder_cache.position == len(plain) + stream.prompt_length - 1


def test_replay_is_running_anew_across_shifts_of_the_window(transcriber):
    samples, results = speech(), []
    for captures in (False, True):
        transcriber.device.captures_calls = captures
        tokens, stream = tokens_of(transcriber, samples)
        results.append((tokens, stream.decoder_cache.save()))
        cache = stream.decoder_cache
        assert cache.position > cache.spec.capacity + 10 * (cache.spec.capacity - cache.spec.keep)
        if captures:
            for each in (cache, stream.encoder_cache):
                assert any(True in call._options for call in each.binding._calls.values()), (
                    "nothing was captured"
                )
        del stream, cache
    (anew, anew_rows), (replayed, replayed_rows) = results
    assert anew == replayed  # ids, logprobs and margins to the last bit
    assert all(np.array_equal(a, b) for a, b in zip(anew_rows, replayed_rows, strict=True))
    assert len({token.token_id for token in anew}) > 20


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("capacity", "keep"), [(10, 3), (100, 99), (1008, 752)])
def test_rows_shift_in_place(device, dtype, capacity, keep):
    values = np.random.default_rng(0).standard_normal((1, 3, capacity, 64)).astype(dtype)
    buffer = CudaBuffer(device, values.shape, np.dtype(dtype))
    assert not buffer.read().any()
    buffer.write(values)
    buffer.shift(keep)
    values[:, :, :keep] = values[:, :, capacity - keep :].copy()
    assert np.array_equal(buffer.read(), values)
    buffer.write(values[:, :, :2])
    assert np.array_equal(buffer.read(2), values[:, :, :2])


def test_slots_of_a_buffer(device):
    """Each slot is read, written, copied and shifted without touching the others."""
    values = np.random.default_rng(0).standard_normal((3, 2, 100, 64)).astype(np.float16)
    whole = CudaBuffer(device, values.shape, values.dtype)
    for slot in range(3):
        whole.slice_batch(slot, slot + 1).write(values[slot : slot + 1])
    assert np.array_equal(whole.read(), values)
    whole.slice_batch(1, 2).shift(30)
    values[1, :, :30] = values[1, :, 70:].copy()
    whole.slice_batch(2, 3).copy_from(whole.slice_batch(0, 1), 100)
    values[2] = values[0]
    assert np.array_equal(whole.read(), values)
    assert np.array_equal(whole.slice_batch(1, 3).read(5), values[1:, :, :5])


BATCH_CLIPS = ("command-hibari", "date-hibari", "long-mixed", "number-flite", "digits-espeak")


def test_files_together_are_files_alone_where_decisions_are_clear(tiny_artifact):
    """Files that join, end and fill gaps, over a rolling window.

    Other kernels serve a batch.
    """
    with Transcriber(tiny_artifact, "cuda", context=64, batch_size=3) as transcriber:
        paths = [SAMPLES / f"{name}.wav" for name in BATCH_CLIPS]
        found = {t.source.name: t.token_ids for t in transcriber.transcribe_many(paths)}
        for path in paths:
            source = open_audio(path, 16000)
            tokens, _ = tokens_of(transcriber, np.concatenate(list(source.blocks())))
            pairs = list(zip(tokens, found[source.name], strict=True))
            first = next((token for token, mine in pairs if token.token_id != mine), None)
            assert first is None or abs(first.blank_margin) < 0.5  # from there on contexts differ


def test_a_batch_is_replayed_as_it_runs_anew(tiny_artifact):
    results = []
    with Transcriber(tiny_artifact, "cuda", context=64, batch_size=3) as transcriber:
        samples = [speech(seconds) for seconds in (5.0, 12.0, 3.0, 8.0)]
        assert isinstance(transcriber.device, Cuda)
        for captures in (False, True, True):
            transcriber.device.captures_calls = captures
            results.append({t.duration: t.token_ids for t in transcriber.transcribe_many(samples)})
        assert next(transcriber.device.capture_ids) > 1, "nothing was captured"
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("resume_on", ["cuda", "cpu"])
def test_a_saved_stream_goes_on(tiny_artifact, transcriber, tmp_path, resume_on):
    samples = speech(12.0)
    whole, _ = tokens_of(transcriber, samples)
    stream = transcriber.stream()
    tokens = stream.feed(samples[:100_007])
    stream.save(tmp_path / "stream.npz")
    with Transcriber(tiny_artifact, resume_on, context=64) as other:
        resumed = other.load_stream(tmp_path / "stream.npz")
        tokens += resumed.feed(samples[100_007:]) + resumed.finish()
    if resume_on == "cuda":
        assert [token.token_id for token in tokens] == [token.token_id for token in whole]
    assert len(tokens) == len(whole)


def test_a_second_stream_takes_the_buffers_of_the_first(transcriber):
    samples = speech(6.0)
    first, stream = tokens_of(transcriber, samples)
    taken = transcriber.device.taken_memory()
    binding = stream.decoder_cache.binding
    del stream
    second, stream = tokens_of(transcriber, samples)
    assert stream.decoder_cache.binding is binding
    assert second == first
    assert transcriber.device.taken_memory() == taken


def test_steps_allocate_nothing(transcriber):
    samples, stream, taken = speech(), transcriber.stream(), 0
    for start in range(0, len(samples), 1280):
        stream.feed(samples[start : start + 1280])
        if start == 160_000:  # by then all shapes were seen twice, and rows have moved
            taken = transcriber.device.taken_memory()
    assert transcriber.device.taken_memory() == taken


def test_streams_in_threads_do_not_disturb_each_other(transcriber):
    samples, found = [speech(8.0), speech(8.0)[::-1]], [None, None]
    expected = [tokens_of(transcriber, part)[0] for part in samples]

    def run(i):
        found[i] = tokens_of(transcriber, samples[i])[0]

    threads = [Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_float32_is_refused_or_said(tiny_artifact, run):
    arguments = ("transcribe", "-m", tiny_artifact, "--device", "cuda", "--precision", "q4", CLIP)
    run(*arguments).assert_refused(7, "CUDA has attention in float16 only", "--precision q4f16")
    for extra in (("--allow-fallback",), ("--device", "auto")):
        result = run(*arguments, *extra)
        assert (result.code, result.out.strip()) == (0, TEXT)
        assert "q4 on cpu" in result.err
        assert "note: running on the CPU: CUDA has attention in float16 only" in result.err


def test_auto(tiny_artifact, run):
    assert "q4f16 on cuda:0" in run("transcribe", "-m", tiny_artifact, CLIP).err


def test_nodes_without_a_kernel_are_listed(tiny_artifact, device):
    import onnxruntime

    graph = Manifest.read(tiny_artifact).precisions["fp32"].encoder
    with pytest.raises(
        DeviceError,
        match=r"encoder\.onnx: \d+ nodes have no CUDA kernel: .*\d+ "
        r"GroupQueryAttention",
    ):
        device.open(str(tiny_artifact / graph.path), onnxruntime.SessionOptions(), captures=False)


def test_no_such_device(tiny_artifact, run):
    run("transcribe", "-m", tiny_artifact, "--device", "cuda:99", CLIP).assert_refused(
        7, "this machine has 1 CUDA device"
    )


def test_bench(tiny_artifact, run):
    result = run("bench", tiny_artifact, CLIP, "--device", "cuda", "--repeat", 1, "--verbose")
    assert result.code == 0, result.err
    assert "| q4f16 cuda:0" in result.out


def test_full_memory(tiny_artifact, device):
    """Refused before loading, with what would fit; and said where it is found later."""
    import onnxruntime

    with pytest.raises(DeviceError, match="cuda:0: out of memory"), run_errors_are_said("cuda:0"):
        onnxruntime.OrtValue.ortvalue_from_shape_and_type([1 << 42], np.uint8, "cuda", 0)
    driver, address = ctypes.CDLL("libcuda.so.1"), ctypes.c_uint64()
    held = ctypes.c_size_t(device.free_memory() - (600 << 20))
    assert driver.cuMemAlloc_v2(ctypes.byref(address), held) == 0
    try:
        with pytest.raises(
            DeviceError,
            match=r"with context 128 needs about .* GB, free on cuda:0 "
            r"are 0\.\d\d GB",
        ):
            Transcriber(tiny_artifact, "cuda")
    finally:
        driver.cuMemFree_v2(address)
