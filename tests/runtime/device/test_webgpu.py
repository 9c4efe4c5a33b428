"""What runs through onnxruntime's WebGPU plug-in.

On an adapter where there is one, software ones included.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import soundfile
from support.agreement import SHORT_CLIPS, sound
from support.commands import CLIP, TEXT
from support.devices import open_or_skip

from voxtral_onnx import Transcriber
from voxtral_onnx.errors import DeviceError
from voxtral_onnx.runtime import machine
from voxtral_onnx.runtime.device import webgpu
from voxtral_onnx.runtime.device.base import WEBGPU
from voxtral_onnx.runtime.device.helper_graphs import helper_graph
from voxtral_onnx.runtime.device.webgpu import WebGpu, WebGpuBuffer

SECONDS = 1.2  # of speech: software adapters take a second a token
# Margin of a decision that may turn: activations in 8 bits are rounded otherwise; margins are up to
# 20
TURNS = 0.5
DRIFT = 0.5  # of the margins of tiny's words; 0.32 was seen


@pytest.fixture(scope="module")
def device():
    return open_or_skip("webgpu")


@pytest.fixture(scope="module", params=["q4", "q4f16"])
def transcribers(request, device, tiny_artifact):
    """On the adapter and on the CPU."""
    options = {"precision": request.param, "context": 300}
    with (
        Transcriber(tiny_artifact, "webgpu", **options) as there,
        Transcriber(tiny_artifact, "cpu", **options) as here,
    ):
        yield there, here


def test_tokens_are_the_cpus_where_the_choice_is_clear(transcribers):
    samples = soundfile.read(CLIP, dtype="float32")[0][: int(16000 * SECONDS)]
    chosen = []
    for transcriber in transcribers:
        stream = transcriber.stream(delay_ms=80)
        parts = np.split(samples, range(1280, len(samples), 1280))
        chosen.append([token for part in parts for token in stream.feed(part)])
    there, here = chosen
    assert len(there) == len(here) == len(samples) // 1280 - 2
    first = next(
        (i for i, (a, b) in enumerate(zip(there, here, strict=True)) if a.token_id != b.token_id),
        len(here),
    )
    # From there on contexts differ
    assert first == len(here) or abs(here[first].blank_margin) < TURNS
    assert (
        max(abs(a.blank_margin - b.blank_margin) for a, b in zip(there[:first], here, strict=False))
        < DRIFT
    )
    assert "".join(token.text for token in there).strip().startswith(TEXT.split()[0])


@pytest.mark.parametrize("clip", [*SHORT_CLIPS, "1 min"])
def test_whole_clips(device, tiny_artifact, clip):
    """In q4; both windows roll in the minute."""
    clip_sound = sound(tiny_artifact, "q4", clip)
    with Transcriber(tiny_artifact, "webgpu", precision="q4", blank_guard=False) as transcriber:
        print(clip_sound.judge(transcriber.transcribe(clip_sound.samples).token_ids))


def test_a_cache_is_the_cpus_across_a_shift(transcribers):
    """The decoder's, whose buffer of 374 rows is filled to two rows before its end."""
    rng, found = np.random.default_rng(0), []
    size = transcribers[0].manifest.config.decoder.hidden_size
    embeds = rng.standard_normal((6, size), np.float32)
    for transcriber in transcribers:
        decoder = transcriber.model.decoder
        cache = decoder.new_cache()
        written = np.random.default_rng(1).standard_normal
        filled = cache.spec.capacity - 2
        rows = [
            written((*buffer.shape[:2], filled, buffer.shape[3])).astype(buffer.dtype)
            for buffer in cache.buffers
        ]
        cache.restore(filled, rows)
        sampled = []
        for part in np.split(embeds.astype(cache.dtype), (2, 3)):
            sampled += decoder.step(cache, [32] * len(part), part, 6)
        assert (
            cache.position == filled + 6 and cache.spec.row(cache.position) == cache.spec.keep + 4
        )
        found.append((sampled, cache.save()))
    (there, there_rows), (here, here_rows) = found
    assert [token.blank_margin for token in there] == pytest.approx(
        [token.blank_margin for token in here], abs=DRIFT
    )
    for mine, other in zip(there_rows, here_rows, strict=True):
        error = np.linalg.norm(mine.astype(np.float64) - other) / np.linalg.norm(
            other.astype(np.float64)
        )
        # Rows of six positions are computed, in 8 bits
        assert mine.shape == other.shape and error < 0.02


@pytest.mark.parametrize(
    ("seqlens_k", "capacity", "rows"),
    [(0, 10240, 256), (254, 10240, 256), (255, 10240, 512), (63, 79, 79), (78, 79, 79)],
)
def test_visible_rows(seqlens_k, capacity, rows):
    """More than there are, and no more than the buffer has."""
    feeds = {
        "seqlens_k": np.array([seqlens_k], np.int32),
        "total_sequence_length": np.array(capacity, np.int32),
    }
    assert webgpu._visible_rows(feeds) == {"total_sequence_length": rows}


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("capacity", "keep"), [(10, 3), (1008, 752)])
def test_rows_shift(device, dtype, capacity, keep):
    values = np.random.default_rng(0).standard_normal((1, 3, capacity, 64)).astype(dtype)
    buffer = WebGpuBuffer(device, values.shape, np.dtype(dtype))
    assert not buffer.read().any()
    buffer.write(values)
    buffer.shift(keep)
    values[:, :, :keep] = values[:, :, capacity - keep :].copy()
    assert np.array_equal(buffer.read(keep), values[:, :, :keep])
    buffer.write(values[:, :, :2])
    assert np.array_equal(buffer.read(2), values[:, :, :2])


def test_nodes_without_a_kernel_are_listed_or_noted(device):
    """TensorScatter, which WebGPU lacks."""
    graph = helper_graph("shift", np.dtype(np.float32))
    with pytest.raises(
        DeviceError,
        match=r"shift_float32\.onnx: \d nodes have no WebGpu kernel: .*1 TensorScatter; use "
        r"--device cpu",
    ):
        device.open(graph, quiet_options(), captures=False)
    lenient = WebGpu(allow_fallback=True)
    lenient.open(graph, quiet_options(), captures=False)
    assert "without a WebGpu kernel run on the CPU" in lenient.notes[0]


def quiet_options():
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return options


@pytest.mark.usefixtures("device", "small_reads")
def test_doctor_names_it(run):
    assert "webgpu:0" in run("doctor").out


@pytest.fixture
def small_reads(monkeypatch):
    monkeypatch.setattr(machine, "READ_BYTES", 32 << 20)


@pytest.fixture
def without_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_webgpu", None)


@pytest.mark.usefixtures("without_package", "small_reads")
def test_without_the_package(tiny_artifact, run):
    arguments = ("transcribe", "-m", tiny_artifact, "--device", "webgpu", CLIP)
    run(*arguments).assert_refused(
        7, "webgpu:0: onnxruntime's plug-in for WebGPU is missing", "voxtral-onnx[webgpu]"
    )
    result = run(*arguments, "--allow-fallback")
    assert (result.code, result.out.strip()) == (0, TEXT)
    assert (
        "note: running on the CPU: webgpu:0: onnxruntime's plug-in for WebGPU is missing"
        in result.err
    )
    assert "plug-in for WebGPU is missing" in run("doctor").out.replace("\n", " ")


@pytest.fixture
def plugin(monkeypatch, tmp_path):
    """A package whose library is none."""
    package = {
        "get_library_path": lambda: str(tmp_path / "libnone.so"),
        "get_ep_name": lambda: WEBGPU,
    }
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_webgpu", SimpleNamespace(**package))
    monkeypatch.setattr(webgpu, "_LOADER", "libc.so.6")


@pytest.mark.usefixtures("plugin")
def test_what_else_may_be_missing(monkeypatch):
    with pytest.raises(DeviceError, match=r"does not take its plug-in \(.*libnone\.so"):
        WebGpu()
    monkeypatch.setattr(webgpu, "_register", lambda path: None)
    with pytest.raises(
        DeviceError, match="onnxruntime sees no GPU on this machine; use --device cpu"
    ):
        monkeypatch.setattr(onnxruntime, "get_ep_devices", list)
        WebGpu()
    if sys.platform == "linux":
        monkeypatch.setattr(webgpu, "_LOADER", "libnone.so.1")
        with pytest.raises(
            DeviceError,
            match=r"libnone\.so\.1 is missing, the loader of Vulkan "
            r".*libvulkan1",
        ):
            WebGpu()
    monkeypatch.delattr(
        onnxruntime.InferenceSession.__mro__[1], "create_ortvalue_from_shape_and_type"
    )
    with pytest.raises(DeviceError, match=r"keeps no caches there; needed is 1\.32"):
        WebGpu()


def test_the_adapter_is_not_to_choose():
    with pytest.raises(
        DeviceError, match="webgpu:1: the plug-in takes the adapter by itself; use --device webgpu"
    ):
        WebGpu(1)
