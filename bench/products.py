"""Times MatMulNBits on a CUDA device by shape, block size, zero points and rows: what packing products would bring.

    python bench/products.py

By itself it compares onnxruntime's two kernels, and how exact they are; writes results/products.json.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import onnxruntime
import typer
from onnx import TensorProto, helper

from voxtral_onnx.runtime import bench
from voxtral_onnx.runtime.cuda import Cuda

RESULTS = Path(__file__).parent / "results" / "products.json"
SHAPES = {  # outputs, inputs
    "q": (4096, 3072),
    "k or v": (1024, 3072),
    "qkv": (6144, 3072),
    "o": (3072, 4096),
    "gate or up": (9216, 3072),
    "gate and up": (18432, 3072),
    "down": (3072, 9216),
    "head": (131072, 3072),
}
BYTES = 200 << 20  # of weights a run reads: no cache holds them
POOL = np.random.default_rng(0).integers(0, 256, 1 << 28, np.uint8)
RUNS = 50
ROWS = (1, 2, 4, 16, 64, 256)
KERNELS = {"default": {}, "fpA_intB": {"ep.cuda.fpa_intb_gemm": "1"}}
SCALE, MIDDLE = 3e-3, 8


def measure_products(device: Cuda) -> dict[str, Any]:
    """Microseconds of one product of one row, the median of recorded runs over many weights."""
    results = {}
    for name, (outputs, inputs) in SHAPES.items():
        for block_size in (32, 128):
            for has_zero_points in (False, True):
                copies = min(64, max(2, BYTES // (outputs * inputs // 2)))
                model = _model(outputs, inputs, block_size, has_zero_points, copies)
                session = _session(device, model)
                microseconds, _ = _time(device, session, 1, inputs, outputs, copies)
                results[f"{name}, blocks of {block_size}{', zero points' * has_zero_points}"] = round(microseconds, 2)
    return results


def measure_kernels(device: Cuda) -> dict[str, Any]:
    """Microseconds of one product in blocks of 32 without zero points, by rows, and the error to a sum in float64."""
    results: dict[str, Any] = {}
    for name, (outputs, inputs) in SHAPES.items():
        copies = min(64, max(2, BYTES // (outputs * inputs // 2)))
        for kernel, settings in KERNELS.items():
            began = perf_counter()
            session = _session(device, _model(outputs, inputs, 32, False, copies), settings)
            found: dict[str, Any] = {"load_seconds": round(perf_counter() - began, 2)}
            for rows in ROWS:
                microseconds, (x, y) = _time(device, session, rows, inputs, outputs, copies)
                codes = POOL[: outputs * inputs // 2].reshape(outputs, -1)[:256]
                weight = np.stack((codes & 15, codes >> 4), -1).reshape(len(codes), -1) - float(MIDDLE)
                wanted = x[0].astype(np.float64) @ weight.T * float(np.float16(SCALE))
                error = np.linalg.norm(y[0, :, : len(codes)] - wanted) / np.linalg.norm(wanted)
                found[f"{rows} rows"] = {"microseconds": round(microseconds, 2), "error": float(f"{error:.2e}")}
            results[f"{name}, {kernel}"] = found
            print(name, kernel, found, flush=True)
    return results


def _session(device: Cuda, model: bytes, settings: dict[str, str] | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for key, value in (settings or {}).items():
        options.add_session_config_entry(key, value)
    return device.open(model, options, captures=True)


def _model(outputs: int, inputs: int, block_size: int, has_zero_points: bool, copies: int) -> bytes:
    size, blocks = outputs * inputs // 2, inputs // block_size
    nodes, initializers = [], []

    def constant(name: str, dtype: int, shape: list[int], values: np.ndarray) -> str:
        initializers.append(helper.make_tensor(name, dtype, shape, values.tobytes(), raw=True))
        return name

    for i in range(copies):
        operands = [
            "x",
            constant(
                f"w{i}",
                TensorProto.UINT8,
                [outputs, blocks, block_size // 2],
                POOL[i * size % (len(POOL) - size) :][:size],
            ),
            constant(f"s{i}", TensorProto.FLOAT16, [outputs, blocks], np.full(outputs * blocks, SCALE, np.float16)),
        ]
        if has_zero_points:
            codes = np.full(outputs * (-(-blocks // 2)), 0x88, np.uint8)
            operands.append(constant(f"z{i}", TensorProto.UINT8, [outputs, -(-blocks // 2)], codes))
        attributes: dict[str, Any] = {
            "K": inputs,
            "N": outputs,
            "bits": 4,
            "block_size": block_size,
            "accuracy_level": 4,
        }
        nodes.append(helper.make_node("MatMulNBits", operands, [f"y{i}"], domain="com.microsoft", **attributes))
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, "rows", inputs])],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT16, [1, "rows", outputs]) for i in range(copies)],
        initializers,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def _time(
    device: Cuda, session: onnxruntime.InferenceSession, rows: int, inputs: int, outputs: int, copies: int
) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
    """Of the products of a session, replayed; with what went into the first and came out."""
    io, options = session.io_binding(), onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(next(device.recording_ids)))
    x = np.random.default_rng(1).standard_normal((1, rows, inputs)).astype(np.float16)
    values = [device.put(x)]
    io.bind_ortvalue_input("x", values[0])
    for i in range(copies):
        values.append(device.put(np.zeros((1, rows, outputs), np.float16)))
        io.bind_ortvalue_output(f"y{i}", values[-1])
    seconds = []
    for _ in range(RUNS + 3):
        began = perf_counter()
        session.run_with_iobinding(io, options)
        seconds.append(perf_counter() - began)
    return 1e6 * float(np.median(seconds[3:])) / copies, (x, values[1].numpy().copy())


def main(out: Annotated[Path, typer.Option()] = RESULTS) -> None:
    """Measure both kernels."""
    results = {"date": time.strftime("%Y-%m-%d", time.gmtime()), "machine": bench.describe_machine()}
    out.write_text(json.dumps({**results, "products": measure_kernels(Cuda())}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
