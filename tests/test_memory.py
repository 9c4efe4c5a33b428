"""The memory that is left, by the system and its control groups, and what commands need."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from support.commands import CLIP, Result, clean_environment
from support.needs import require

from voxtral_onnx import memory
from voxtral_onnx.exporter.binding.recipes import weight_recipes
from voxtral_onnx.exporter.checkpoint.open import Checkpoint
from voxtral_onnx.exporter.checkpoint.tensors import BF16, Span, Tensor, map_file
from voxtral_onnx.exporter.model.parameters import PartFactory
from voxtral_onnx.quant.recipe import Recipe, Rule


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


def test_nothing_known_elsewhere(system):
    assert system.available() is None


def test_system(system):
    system.write(
        "proc/meminfo",
        "MemTotal: 100 kB\nMemAvailable:   60 kB\nSwapFree: 7 kB\nHugePages_Total:       0\n",
    )
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


def test_peak_is_this_process_alone(tmp_path):
    """A child does not inherit the largest size of the process that started it."""
    ballast = bytearray(300 << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    code = (
        "from voxtral_onnx.memory import peak_memory, resident_memory; print(peak_memory(), "
        "resident_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    peak, resident = map(int, done.stdout.split())
    assert 0 <= resident <= peak * 1.01
    if sys.platform == "linux":
        assert peak < 200 << 20


def test_transposing_drops_what_it_has_read(tmp_path):
    """Columns lie in every page of a tensor; at no time do they all stay in memory."""
    shape = 1 << 16, 1 << 10  # 134 MB; the 4B model's table is 805
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(2 * shape[0] * shape[1])
    tensor = Tensor("linear.weight", shape, BF16, Span((map_file(tmp_path / "weights"),)))
    build = PartFactory(
        "float32", Recipe("4 bits", 0, (Rule("*", 4, 32, "rtn_asymmetric"),)), standard=True
    )
    part = build.linear("linear", shape[1], shape[0])
    sizes = []

    class Watch:
        def write(self, name, values, at) -> None:
            sizes.append(memory.resident_memory())

    checkpoint = cast(Checkpoint, SimpleNamespace(tensors={tensor.name: tensor}))
    (recipe,) = weight_recipes({part.name: part}, checkpoint)
    before = memory.resident_memory()
    with ThreadPoolExecutor(1) as pool:
        recipe.run(pool, [Watch()])
    assert max(sizes) - before < 80 << 20, "8 million values mapped, and what a slice takes"


@pytest.fixture
def control_group():
    """Run the command line in a control group with a limit."""
    root = Path("/sys/fs/cgroup")
    is_version_2 = (root / "cgroup.controllers").exists()
    group = (root if is_version_2 else root / "memory") / f"voxtral-onnx-{os.getpid()}"
    limit = group / ("memory.max" if is_version_2 else "memory.limit_in_bytes")

    def run(size: int, state: Path, *arguments) -> Result:
        try:
            group.mkdir()
            limit.write_text(str(size))
            is_permitted = True
        except OSError:
            is_permitted = False
        require("rights", {"permission to make a control group": is_permitted})
        enter = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        command = [
            "sh",
            "-c",
            enter,
            "sh",
            sys.executable,
            "-m",
            "voxtral_onnx",
            *map(str, arguments),
        ]
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            text=True,
            timeout=120,
            env=clean_environment(state),
            cwd=state,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    yield run
    if group.exists():
        group.rmdir()


def test_transcribing_in_a_control_group(control_group, tiny_artifact, tmp_path):
    result = control_group(
        200 << 20, tmp_path, "transcribe", "-m", tiny_artifact, "--precision", "fp32", CLIP
    )
    result.assert_refused(
        7, "memory: fp32 with context 128 needs about", "this process may still take 0."
    )


def test_exporting_in_a_control_group(control_group, tmp_path):
    result = control_group(150 << 20, tmp_path, "export", "tiny", "-o", tmp_path / "out")
    result.assert_refused(9, "memory: an export needs about 300 MB, this process may take 1")
    assert not (tmp_path / "out").exists()
