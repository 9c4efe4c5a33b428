from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from commands import CLIP, Result, clean_environment

from voxtral_onnx.errors import DeviceError
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime import memory

GB = 10**9


@pytest.fixture
def manifest(tiny_artifact):
    return Manifest.read(tiny_artifact)


@pytest.fixture
def system(tmp_path):
    """A made-up /proc and /sys/fs/cgroup: write files, then ask what is available."""

    class System:
        proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"

        def write(self, path: str, text: str) -> None:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)

        def available(self) -> int | None:
            return memory.available_memory(self.proc, self.cgroups)

    return System()


@pytest.fixture
def has(monkeypatch):
    """Pretend that so many bytes are available."""
    return lambda number: monkeypatch.setattr(memory, "available_memory", lambda: number)


def test_nothing_known_elsewhere(system):
    assert system.available() is None


def test_system(system):
    system.write("proc/meminfo", "MemTotal: 100 kB\nMemAvailable:   60 kB\nSwapFree: 7 kB\nHugePages_Total:       0\n")
    assert system.available() == 67 << 10


def test_control_group_2(system):
    system.write("proc/self/cgroup", "0::/a/b\n")
    system.write("cgroup/a/b/memory.max", "max\n")
    system.write("cgroup/a/b/memory.current", "10\n")
    assert system.available() is None
    system.write("cgroup/a/memory.max", "5000\n")
    system.write("cgroup/a/memory.current", "3000\n")
    assert system.available() == 2000
    system.write("cgroup/a/memory.stat", "anon 2000\nfile 1000\ninactive_file 700\n")
    assert system.available() == 2700


def test_control_group_2_in_a_container(system):
    """The path is the host's; only the mount is there."""
    system.write("proc/self/cgroup", "0::/system.slice/docker-1234.scope\n")
    system.write("cgroup/memory.max", "5000\n")
    system.write("cgroup/memory.current", "4000\n")
    assert system.available() == 1000


def test_control_group_1(system):
    system.write("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/job:7\n")
    system.write("cgroup/memory/job:7/memory.limit_in_bytes", "9000\n")
    system.write("cgroup/memory/job:7/memory.usage_in_bytes", "8000\n")
    system.write("cgroup/memory/job:7/memory.stat", "total_inactive_file 500\n")
    system.write("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    system.write("cgroup/memory/memory.usage_in_bytes", "8000\n")
    assert system.available() == 1500


def test_the_least_counts(system):
    system.write("proc/meminfo", "MemAvailable: 60 kB\n")
    system.write("proc/self/cgroup", "0::/\n")
    system.write("cgroup/memory.max", "100\n")
    system.write("cgroup/memory.current", "300\n")
    assert system.available() == 0


def test_caches_are_those_that_are_allocated(tiny_artifact, manifest):
    from voxtral_onnx import Transcriber

    with Transcriber(tiny_artifact, precision="q4", context=256) as transcriber:
        stream = transcriber.stream()
    buffers = [*stream.encoder_cache.buffers, *stream.decoder_cache.buffers]
    assert memory.cache_bytes(manifest, "q4", 256) == sum(buffer.nbytes for buffer in buffers)
    assert memory.cache_bytes(manifest, "q4f16", 256) == memory.cache_bytes(manifest, "q4", 256) // 2


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
    with pytest.raises(DeviceError, match=r"fp32 with context 128 needs about .* GB, .* GB; what would fit: ") as error:
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
    with pytest.raises(DeviceError, match=r"may still take 0\.00 GB; no precision of this artifact would fit"):
        memory.require_memory(manifest, "q4", 8192)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the size of the address space is Linux's")
@pytest.mark.parametrize(("left", "code"), [(100 << 20, 7), (64 << 30, 0)])
def test_limited_address_space(left, code, tiny_artifact, tmp_path):
    """As with `ulimit -v`, but counted from what the process has before it looks for memory."""
    program = (
        "import resource, sys; from voxtral_onnx import cli; from voxtral_onnx.runtime import memory, transcribe\n"
        f"limit = memory._fields(memory.Path('/proc/self/status'))['VmSize'] + {left}\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit)); cli.main()"
    )
    command = [sys.executable, "-c", program, "transcribe", "-m", str(tiny_artifact), str(CLIP)]
    done = subprocess.run(
        command, capture_output=True, check=False, text=True, timeout=60, env=clean_environment(tmp_path)
    )
    result = Result(done.returncode, done.stdout, done.stderr)
    if code:
        result.assert_refused(
            code, "memory: q4f16 with context 128 needs about", "no precision of this artifact would fit"
        )
    else:
        assert result.code == 0


def test_peak_is_this_process_alone(tmp_path):
    """A child does not inherit the largest size of the process that started it."""
    ballast = bytearray(300 << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    code = (
        "from voxtral_onnx.runtime.memory import peak_memory, resident_memory; print(peak_memory(), resident_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    peak, resident = map(int, done.stdout.split())
    assert 0 <= resident <= peak * 1.01
    if sys.platform == "linux":
        assert peak < 200 << 20
