"""Times MatMulNBits on a CUDA device by shape, block size and zero points: what packing products would bring."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from voxtral_onnx.runtime.cuda import Cuda

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
BYTES = 300 << 20  # of weights a run reads: no cache holds them
RUNS = 50


def measure_products(device: Cuda) -> dict[str, Any]:
    """Microseconds of one product of one row, the median of recorded runs over many weights."""
    results = {}
    for name, (outputs, inputs) in SHAPES.items():
        for block_size in (32, 128):
            for has_zero_points in (False, True):
                copies = min(64, max(2, BYTES // (outputs * inputs // 2)))
                model = _model(outputs, inputs, block_size, has_zero_points, copies)
                microseconds = _time(device, model, inputs, outputs, copies)
                results[f"{name}, blocks of {block_size}{', zero points' * has_zero_points}"] = round(microseconds, 2)
    return results


def _model(outputs: int, inputs: int, block_size: int, has_zero_points: bool, copies: int) -> bytes:
    rng, blocks = np.random.default_rng(0), inputs // block_size
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
                rng.integers(0, 256, outputs * inputs // 2, np.uint8),
            ),
            constant(f"s{i}", TensorProto.FLOAT16, [outputs, blocks], np.full(outputs * blocks, 3e-3, np.float16)),
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
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, 1, inputs])],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT16, [1, 1, outputs]) for i in range(copies)],
        initializers,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def _time(device: Cuda, model: bytes, inputs: int, outputs: int, copies: int) -> float:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = device.open(model, options, captures=True)
    io = session.io_binding()
    values = [device.put(np.random.default_rng(1).standard_normal((1, 1, inputs)).astype(np.float16))]
    io.bind_ortvalue_input("x", values[0])
    for i in range(copies):
        values.append(device.put(np.zeros((1, 1, outputs), np.float16)))
        io.bind_ortvalue_output(f"y{i}", values[-1])
    seconds = []
    for _ in range(RUNS + 3):
        began = perf_counter()
        session.run_with_iobinding(io)
        seconds.append(perf_counter() - began)
    return 1e6 * float(np.median(seconds[3:])) / copies
