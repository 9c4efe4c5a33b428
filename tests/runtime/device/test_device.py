"""Names of devices, what falls back, and the buffers that caches live in."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import CLIP, TEXT
from support.devices import Imitation

from voxtral_onnx import Transcriber
from voxtral_onnx.errors import DeviceError, UsageError
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime import memory
from voxtral_onnx.runtime.device.base import run_errors_are_said
from voxtral_onnx.runtime.device.cache import KVCache
from voxtral_onnx.runtime.device.cpu import Cpu, HostBuffer, lazy_zeros
from voxtral_onnx.runtime.device.cuda_binding import CudaBuffer
from voxtral_onnx.runtime.device.open import open_device
from voxtral_onnx.runtime.device.session import Session

without_cuda = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
    reason="this onnxruntime has CUDA",
)


@pytest.mark.parametrize(
    "name",
    [
        "gpu",
        "cuda:",
        "cuda:x",
        "cuda:-1",
        "cuda:" + "9" * 5000,
        "cuda:1:2",
        "cuda1",
        "",
        "CPU",
        "cpu:0",
        "webgpu:",
        "webgpu:x",
    ],
)
def test_unknown_names(name):
    with pytest.raises(UsageError, match="device: expected auto, cpu, cuda, cuda:N or webgpu, got"):
        open_device(name)


@without_cuda
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_a_wheel_without_cuda(name, tiny_artifact, run):
    result = run("transcribe", "-m", tiny_artifact, "--device", name, CLIP)
    full = name if ":" in name else "cuda:0"
    result.assert_refused(
        7, f"{full}: this onnxruntime {onnxruntime.__version__} has no CUDA", "voxtral-onnx[gpu]"
    )


@without_cuda
def test_fallback_is_said(tiny_artifact, run):
    result = run("transcribe", "-m", tiny_artifact, "--device", "cuda", "--allow-fallback", CLIP)
    assert (result.code, result.out.strip()) == (0, TEXT)
    assert "q4f16 on cpu" in result.err
    assert "note: running on the CPU: cuda:0: this onnxruntime" in result.err


@without_cuda
def test_bench_says_a_fallback(tiny_artifact, run):
    arguments = ("bench", tiny_artifact, CLIP, "--device", "cuda", "--repeat", 1)
    run(*arguments).assert_refused(7, "has no CUDA")
    result = run(*arguments, "--allow-fallback")
    assert "| q4f16 cpu" in result.out
    assert "note: running on the CPU: cuda:0" in result.err


@without_cuda
def test_auto_is_the_cpu(tiny_artifact):
    with Transcriber(tiny_artifact, "auto") as transcriber:
        assert (transcriber.device_name, transcriber.notes) == ("cpu", ())


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(1, 200), st.data(), st.sampled_from([np.float16, np.float32]))
def test_rows_shift_in_one_buffer(capacity, data, dtype):
    """In the memory of the host and, by the graph, in that of a device."""
    keep = data.draw(st.integers(0, capacity - 1))
    device = Imitation()
    values = np.random.default_rng(keep).standard_normal((2, 2, capacity, 4)).astype(dtype)
    expected = values.copy()
    expected[:, :, :keep] = values[:, :, capacity - keep :]
    for buffer in (
        HostBuffer(lazy_zeros(values.shape, np.dtype(dtype))),
        CudaBuffer(device, values.shape, np.dtype(dtype)),
    ):
        assert not buffer.read().any()
        buffer.write(values)
        buffer.shift(keep)
        assert np.array_equal(buffer.read(), expected)


def test_one_graph_serves_every_size():
    device = Imitation()
    for capacity in (3, 8, 200):
        buffer = CudaBuffer(device, (1, 2, capacity, 4), np.dtype(np.float16))
        for keep in (1, 2):
            buffer.shift(keep)
    assert len(device._helpers) == 2  # zeros and shift


def test_saved_caches_are_restored(tiny_artifact):
    with Transcriber(tiny_artifact, "cpu", precision="fp32") as transcriber:
        cache = transcriber.model.encoder.new_cache()
        samples = np.random.default_rng(0).standard_normal(40_000).astype(np.float32)
        rules = transcriber.manifest.streaming
        size = rules.look_back_samples + 16 * 1280 + rules.look_ahead_samples
        transcriber.model.encoder.encode(cache, samples[:size])
        saved = [values.copy() for values in cache.save()]
        expected = transcriber.model.encoder.encode(cache, samples[-size:])
        other = transcriber.model.encoder.new_cache()
        other.restore(64, saved)
        assert np.array_equal(transcriber.model.encoder.encode(other, samples[-size:]), expected)


def test_buffers_of_the_host_are_not_kept(tiny_artifact):
    with Transcriber(tiny_artifact, "cpu") as transcriber:
        session = transcriber.model.decoder.session
        cache = transcriber.model.decoder.new_cache()
        binding, cache_rows = cache.binding, cache.spec.capacity
        del cache
        assert session.acquire(cache_rows) is not binding


class Reusing(Cpu):
    """A device whose bindings are used again, as CUDA's are."""

    def bind(self, session):
        binding = super().bind(session)
        binding.reusable = True
        return binding


def test_used_bindings_serve_the_next_stream_as_new_ones(tiny_artifact):
    manifest = Manifest.read(tiny_artifact)
    from voxtral_onnx.runtime.device.session import Session
    from voxtral_onnx.runtime.encoder import Encoder

    graph = manifest.precisions["fp32"].encoder
    encoder = Encoder(
        manifest,
        Session(tiny_artifact, manifest.mel, "cpu"),
        Session(tiny_artifact, graph, Reusing()),
    )
    rules = manifest.streaming
    samples = np.random.default_rng(0).standard_normal(
        rules.look_back_samples + 1280 + rules.look_ahead_samples
    )
    cache = encoder.new_cache()
    binding = cache.binding
    expected = encoder.encode(cache, samples.astype(np.float32))
    second = KVCache(encoder.session, encoder.spec)
    assert second.binding is not binding, "one is in use"
    del cache, second
    cache = encoder.new_cache()
    assert any(state.read().any() for state in cache.states) is False
    assert np.array_equal(encoder.encode(cache, samples.astype(np.float32)), expected)
    assert cache.binding.buffers.keys() == binding.buffers.keys()


class Gpu(Cpu):
    """A device with so much memory of its own."""

    name = "cuda:0"

    def __init__(self, free):
        super().__init__()
        self.free = free

    def free_memory(self):
        return self.free


def test_a_device_without_enough_memory(tiny_artifact):
    manifest = Manifest.read(tiny_artifact)
    enough = memory.needed_memory(manifest, "q4f16", 64, on_device=True)
    memory.require_memory(manifest, "q4f16", 64, Gpu(enough))
    with pytest.raises(
        DeviceError,
        match=r"free on cuda:0 are .* GB; what would fit: --context "
        r"64$",
    ):
        memory.require_memory(manifest, "q4f16", 128, Gpu(enough))
    with pytest.raises(
        DeviceError, match=r"what would fit: --precision q4f16$"
    ):  # what computes in float32 does not run
        memory.require_memory(manifest, "fp16", 64, Gpu(enough))


def test_what_is_out_of_memory():
    """Messages of onnxruntime's arena and of CUDA; other errors stay what they are."""
    for message in (
        "Failed to allocate memory for requested buffer of size 12",
        "CUDA failure 2: out of memory ; GPU=0",
    ):
        with (
            pytest.raises(DeviceError, match="cuda:0: out of memory; a smaller --context"),
            run_errors_are_said("cuda:0"),
        ):
            raise RuntimeError(message)
    with pytest.raises(RuntimeError, match="another"), run_errors_are_said("cuda:0"):
        raise RuntimeError("another")


def test_a_graph_that_cannot_be_run_is_said(tiny_artifact):
    """Whatever a stranger's graph does in a call is an error of ours, without a traceback."""
    manifest = Manifest.read(tiny_artifact)
    mel = Session(tiny_artifact, manifest.mel, Cpu(), 1)
    with pytest.raises(DeviceError, match="cpu: onnxruntime cannot run the model"):
        mel.run({"audio": np.zeros((1, 3), np.float32)})  # shorter than a window's half
