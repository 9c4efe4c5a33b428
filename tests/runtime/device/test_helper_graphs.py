"""Helper graphs are what their script writes, and each computes what it says, for every size."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_onnx.runtime.device.helper_graphs import FOLDER, helper_graph
from voxtral_onnx.server.page.files import PAGE

ROOT = Path(__file__).parents[3]
MAKE = ROOT / "scripts" / "make_helper_graphs.py"
PLACES = {"runtime/device/graphs": FOLDER, "web/src/engine/graphs": PAGE / "src/engine/graphs"}
TYPES = st.sampled_from([np.dtype(np.float16), np.dtype(np.float32)])
SIZES = st.integers(1, 5)
sized = settings(max_examples=30, deadline=None, derandomize=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.onnx")}


def test_the_script_writes_every_byte(tmp_path):
    pytest.importorskip("onnx", reason="onnx writes them")
    subprocess.run([sys.executable, MAKE, tmp_path], check=True)
    for place, folder in PLACES.items():
        assert contents(tmp_path / place) == contents(folder) != {}


def numbers(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def run(path: str | Path, feeds: Mapping[str, np.ndarray], in_place: bool = False) -> np.ndarray:
    """Run a graph; `in_place` binds `present` to the memory of `past`, which the result is."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    values = {n: onnxruntime.OrtValue.ortvalue_from_numpy(array) for n, array in feeds.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    if in_place:
        binding.bind_ortvalue_output("present", values["past"])
    else:
        binding.bind_output(session.get_outputs()[0].name)
    session.run_with_iobinding(binding)
    return (values["past"] if in_place else binding.get_outputs()[0]).numpy()


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(found, expected)


@sized
@given(st.lists(SIZES, min_size=1, max_size=5), TYPES)
def test_zeros(shape, dtype):
    assert_same(
        run(helper_graph("zeros", dtype), {"shape": np.array(shape, np.int64)}),
        np.zeros(shape, dtype),
    )


@sized
@given(st.lists(SIZES, min_size=1, max_size=5).map(tuple), TYPES)
def test_copy(shape, dtype):
    values = numbers(shape, dtype)
    assert_same(run(helper_graph("copy", dtype), {"values": values}), values)
    page_graph = PLACES["web/src/engine/graphs"] / f"copy_{dtype}.onnx"
    assert_same(run(page_graph, {"values": np.abs(values)}), np.abs(values))


@st.composite
def buffers(draw) -> tuple[np.ndarray, int]:
    """Values of a buffer, [batch, heads, capacity, head_dim], and a number of its rows."""
    batch, heads, head_dim = (draw(SIZES) for _ in range(3))
    capacity = draw(st.integers(1, 200))
    values = numbers((batch, heads, capacity, head_dim), draw(TYPES))
    return values, draw(st.integers(1, capacity))


@sized
@given(buffers())
def test_shift(buffer):
    past, keep = buffer
    start = past.shape[2] - keep
    feeds = {"past": past.copy(), "start": np.array([start], np.int64)}
    expected = np.concatenate((past[:, :, start:], past[:, :, keep:]), 2)
    assert_same(run(helper_graph("shift", past.dtype), feeds, in_place=True), expected)


@sized
@given(buffers())
def test_rotate(buffer):
    past, keep = buffer
    start = past.shape[2] - keep
    feeds = {"past": past, "start": np.array([start], np.int64)}
    expected = np.roll(past, -start, 2)
    assert_same(run(helper_graph("rotate", past.dtype), feeds), expected)


@sized
@given(buffers())
def test_copy_rows(buffer):
    past, count = buffer
    rows = -past[:, :, :count] + 1
    expected = np.concatenate((rows, past[:, :, count:]), 2)
    feeds = {"past": past.copy(), "rows": rows}
    assert_same(run(helper_graph("copy_rows", past.dtype), feeds, in_place=True), expected)
