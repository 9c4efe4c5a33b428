"""A model that does not fit into memory is refused with what would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import CLIP, Result, clean_environment

from voxtral_onnx.errors import DeviceError
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime import memory


@pytest.fixture
def manifest(tiny_artifact):
    return Manifest.read(tiny_artifact)


@pytest.fixture
def has(monkeypatch):
    """Pretend that so many bytes are available."""
    return lambda number: monkeypatch.setattr(memory, "available_memory", lambda: number)


def test_caches_are_those_that_are_allocated(tiny_artifact, manifest):
    from voxtral_onnx import Transcriber

    with Transcriber(tiny_artifact, precision="q4", context=256) as transcriber:
        stream = transcriber.stream()
    buffers = [*stream.encoder_cache.buffers, *stream.decoder_cache.buffers]
    assert memory.cache_bytes(manifest, "q4", 256) == sum(buffer.nbytes for buffer in buffers)
    assert (
        memory.cache_bytes(manifest, "q4f16", 256) == memory.cache_bytes(manifest, "q4", 256) // 2
    )


def test_every_precision_has_a_factor(manifest):
    assert memory.MEMORY_PER_WEIGHT_BYTE.keys() == manifest.precisions.keys()


def test_enough(manifest, has):
    has(memory.needed_memory(manifest, "q4", 8192))
    memory.require_memory(manifest, "q4", 8192)


def test_unknown_is_not_refused(manifest, has):
    has(None)
    memory.require_memory(manifest, "fp32", 8192)


def test_refusal_names_what_fits(manifest, has):
    has(memory.needed_memory(manifest, "q4f16", 8192))
    with pytest.raises(
        DeviceError,
        match=r"fp32 with context 128 needs about .* GB, .* GB; what "
        r"would fit: ",
    ) as error:
        memory.require_memory(manifest, "fp32", 8192)
    assert "--precision q4f16" in str(error.value)
    assert "--precision fp32" not in str(error.value)


def test_refusal_names_a_smaller_context(manifest, has):
    assert manifest.config.decoder.sliding_window == 128
    has(memory.needed_memory(manifest, "q4", 64))
    with pytest.raises(DeviceError, match=r"q4 with context 128 .*; what would fit: --context 64"):
        memory.require_memory(manifest, "q4", 8192)


def test_refusal_where_nothing_fits(manifest, has):
    has(0)
    with pytest.raises(
        DeviceError,
        match=r"may still take 0\.00 GB; no precision of this artifact "
        r"would fit",
    ):
        memory.require_memory(manifest, "q4", 8192)


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the size of the address space is Linux's"
)
@pytest.mark.parametrize(("left", "code"), [(100 << 20, 7), (64 << 30, 0)])
def test_limited_address_space(left, code, tiny_artifact, tmp_path):
    """As with `ulimit -v`, but counted from what the process has before it looks for memory."""
    program = (
        "import resource, sys; from voxtral_onnx.cli import app\n"
        "from voxtral_onnx.memory import mapped_memory\n"
        f"from voxtral_onnx.runtime import transcriber; limit = mapped_memory() + {left}\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit)); app.main()"
    )
    command = [sys.executable, "-c", program, "transcribe", "-m", str(tiny_artifact), str(CLIP)]
    done = subprocess.run(
        command,
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
        env=clean_environment(tmp_path),
    )
    result = Result(done.returncode, done.stdout, done.stderr)
    if code:
        result.assert_refused(
            code,
            "memory: q4f16 with context 128 needs about",
            "no precision of this artifact would fit",
        )
    else:
        assert result.code == 0
