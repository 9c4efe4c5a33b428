"""What an int8 or float16 key-value cache would bring on the CPU: one attention node, and what rounding does to text.

    python bench/cache_dtypes.py        # no artifact: the node has the 4B decoder's shape

The node reads and writes one shared buffer, with a window, as in the decoder; its output is compared with attention in
float64 over the same values, for one position, for several, and for a batch. A call is timed behind 700 and 8,192
positions, the kinds in turn. Then the embedded model transcribes its samples in float32 while each row is rounded as an
int8 cache would, with a scale for each channel taken from another clip. Writes results/cache_dtypes.json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Annotated

import numpy as np
import onnx
import onnxruntime
import soundfile
import typer
from onnx import TensorProto, helper

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime.bench import SAMPLES, describe_machine
from voxtral_onnx.runtime.cache import KVCache

RESULTS = Path(__file__).parent / "results" / "cache_dtypes.json"
HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128  # of the 4B model's decoder
WINDOW, CAPACITY = 8192, 10240
FILLED = (700, 8192)
TYPES = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16, np.int8: TensorProto.INT8}
CALIBRATION = "long-mixed.wav"


@dataclass(frozen=True)
class Kind:
    """What a node computes in and what its cache holds."""

    name: str
    activations: type
    cache: type
    scale: str = "NONE"  # of an int8 cache


KINDS = (
    Kind("float32", np.float32, np.float32),
    Kind("float16", np.float16, np.float16),
    Kind("float32, int8 by tensor", np.float32, np.int8, "PER_TENSOR"),
    Kind("float32, int8 by channel", np.float32, np.int8, "PER_CHANNEL"),
    Kind("float16, int8 by channel", np.float16, np.int8, "PER_CHANNEL"),
)


CHANNELS = np.exp(np.random.default_rng(2).normal(0, 0.5, (2, 1, KV_HEADS, 1, HEAD_DIM)))  # they differ in size


class Attention:
    """One GroupQueryAttention node over shared buffers."""

    def __init__(self, kind: Kind, window: int, capacity: int, batch: int = 1):
        self.kind, self.window = kind, window
        rng = np.random.default_rng(0)
        shape = (batch, KV_HEADS, capacity, HEAD_DIM)
        self.values = (rng.standard_normal((2, *shape)) * CHANNELS).astype(
            np.float32
        )  # [2, batch, kv_heads, rows, dim]
        axes = (1, 3) if kind.scale == "PER_CHANNEL" else None
        scales = np.abs(self.values).max(axes, keepdims=True) / 127
        self.scales = scales.reshape(2, -1) if kind.scale == "PER_CHANNEL" else np.repeat(scales.reshape(1, 1), 2, 0)
        spread = self.scales.reshape(2, 1, KV_HEADS, 1, HEAD_DIM) if kind.scale == "PER_CHANNEL" else scales
        if kind.cache is np.int8:
            codes = np.clip(np.round(self.values / spread), -128, 127)
            self.buffers, self.values = codes.astype(np.int8), (codes * spread).astype(np.float32)
        else:
            self.buffers = self.values.astype(kind.cache)
        self.session = onnxruntime.InferenceSession(
            self._model(batch, capacity).SerializeToString(), _options(), providers=["CPUExecutionProvider"]
        )
        self.io = self.session.io_binding()
        for name, array in zip(("key", "value"), self.buffers, strict=True):
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            self.io.bind_ortvalue_input(f"past_{name}", value)
            self.io.bind_ortvalue_output(f"present_{name}", value)

    def _model(self, batch: int, capacity: int) -> onnx.ModelProto:
        kind = self.kind
        activations, cache = TYPES[kind.activations], TYPES[kind.cache]
        shape, quantised = [batch, KV_HEADS, capacity, HEAD_DIM], kind.scale != "NONE"
        extra = ["", "", "", "", "", "k_scale", "v_scale"] if quantised else []
        attributes = {"kv_cache_bit_width": 8, "k_quant_type": kind.scale, "v_quant_type": kind.scale}
        node = helper.make_node(
            "GroupQueryAttention",
            ["query", "key", "value", "past_key", "past_value", "seqlens_k", "total", *extra],
            ["output", "present_key", "present_value"],
            domain="com.microsoft",
            num_heads=HEADS,
            kv_num_heads=KV_HEADS,
            local_window_size=self.window,
            **(attributes if quantised else {}),
        )
        sizes = {"query": HEADS * HEAD_DIM, "key": KV_HEADS * HEAD_DIM, "value": KV_HEADS * HEAD_DIM}
        inputs = [
            helper.make_tensor_value_info(name, activations, [batch, "seq", size]) for name, size in sizes.items()
        ]
        inputs += [helper.make_tensor_value_info(f"past_{name}", cache, shape) for name in ("key", "value")]
        inputs += [helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, [batch])]
        inputs += [helper.make_tensor_value_info("total", TensorProto.INT32, [])]
        outputs = [helper.make_tensor_value_info("output", activations, [batch, "seq", HEADS * HEAD_DIM])]
        outputs += [helper.make_tensor_value_info(f"present_{name}", cache, shape) for name in ("key", "value")]
        scales = [
            helper.make_tensor(name, TensorProto.FLOAT, [values.size], values.astype(np.float32))
            for name, values in zip(("k_scale", "v_scale"), self.scales, strict=True)
        ]
        graph = helper.make_graph([node], "attention", inputs, outputs, scales if quantised else [])
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def run(self, query: np.ndarray, key: np.ndarray, value: np.ndarray, positions: list[int]) -> np.ndarray:
        """The output [batch, seq, heads * head_dim]; `positions` of the last new row of each stream."""
        feeds = {"query": query, "key": key, "value": value}
        for name, array in feeds.items():
            self.io.bind_cpu_input(name, array.astype(self.kind.activations))
        self.io.bind_cpu_input("seqlens_k", np.array(positions, np.int32))
        self.io.bind_cpu_input("total", np.array(self.buffers.shape[3], np.int32))
        self.io.bind_output("output", "cpu")
        self.session.run_with_iobinding(self.io)
        return self.io.get_outputs()[-1].numpy()

    def expected(self, query: np.ndarray, key: np.ndarray, value: np.ndarray, positions: list[int]) -> np.ndarray:
        """The same in float64, new rows as they are."""
        batch, seq, _ = query.shape
        past = self.values.astype(np.float64)
        out = np.zeros((batch, seq, HEADS, HEAD_DIM))
        for b, last in enumerate(positions):
            first = last + 1 - seq
            for which, new in enumerate((key, value)):
                past[which, b, :, first : last + 1] = new[b].reshape(seq, KV_HEADS, HEAD_DIM).transpose(1, 0, 2)
            for s in range(seq):
                rows = slice(max(0, first + s + 1 - self.window), first + s + 1)
                keys, values = (np.repeat(past[which, b, :, rows], HEADS // KV_HEADS, 0) for which in (0, 1))
                scores = np.einsum("hd,hrd->hr", query[b, s].reshape(HEADS, HEAD_DIM), keys) * HEAD_DIM**-0.5
                weights = np.exp(scores - scores.max(-1, keepdims=True))
                out[b, s] = np.einsum("hr,hrd->hd", weights / weights.sum(-1, keepdims=True), values)
        return out.reshape(batch, seq, -1)


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _new_rows(batch: int, seq: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Query, key and value."""
    rng = np.random.default_rng(1)
    keys, values = CHANNELS.reshape(2, -1)
    query, key, value = (
        (rng.standard_normal((batch, seq, len(size))) * size).astype(np.float32)
        for size in (np.ones(HEADS * HEAD_DIM), keys, values)
    )
    return query, key, value


def errors(kind: Kind) -> dict[str, float | str]:
    """Relative error of the output, in the cases that the decoder meets; the message where the node refuses one."""
    cases = {
        "one position": (700, 1, [650]),
        "window crossed": (500, 1, [690]),
        "eight positions": (500, 8, [690]),
        "four streams": (500, 1, [690, 20, 650, 400]),
    }
    found: dict[str, float | str] = {}
    for name, (window, seq, positions) in cases.items():
        try:
            node = Attention(kind, window, 704, len(positions))
            new = _new_rows(len(positions), seq)
            expected = node.expected(*new, positions)
            output = node.run(*new, positions)
            found[name] = float(f"{np.linalg.norm(output - expected) / np.linalg.norm(expected):.2g}")
        except Exception as error:  # onnxruntime's own exceptions share no narrower base
            found[name] = str(error).splitlines()[0][:200]
    return found


def milliseconds(rounds: int) -> dict[str, dict[int, dict[str, float]]]:
    """Of one call, elapsed and of all threads."""
    results: dict[str, dict[int, dict[str, float]]] = {kind.name: {} for kind in KINDS}
    new = _new_rows(1, 1)
    nodes = {kind.name: Attention(kind, WINDOW, CAPACITY) for kind in KINDS}
    for filled in FILLED:
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in nodes}
        for _ in range(rounds + 1):
            for name, node in nodes.items():
                began, busy = perf_counter(), process_time()
                node.run(*new, [filled])
                times[name].append((1000 * (perf_counter() - began), 1000 * (process_time() - busy)))
        for name, pairs in times.items():
            elapsed, busy = zip(*pairs[1:], strict=True)
            results[name][filled] = {
                "min": round(min(elapsed), 3),
                "median": round(median(elapsed), 3),
                "processor": round(median(busy), 3),
            }
    return results


class RoundedCache(KVCache):
    """A cache whose rows are rounded as soon as they are written."""

    scales: list[np.ndarray]  # [1, kv_heads, 1, head_dim] of each buffer

    def advance(self, rows: int) -> None:
        """See `KVCache`."""
        first = self.spec.row(self.position)
        for buffer, scale in zip(self.buffers, self.scales, strict=True):
            new = buffer.read()[:, :, first : first + rows]
            new[...] = np.clip(np.round(new / scale), -128, 127) * scale
        super().advance(rows)


def texts() -> dict[str, float | int]:
    """What rounding the decoder's cache to int8 does to the samples' tokens and margins."""
    clips = {path.name: soundfile.read(path, dtype="float32")[0] for path in sorted(SAMPLES.glob("*.wav"))}
    with TemporaryDirectory() as folder:
        from voxtral_onnx import export

        artifact = export("tiny", Path(folder) / "tiny", precisions=("fp32",))
        with Transcriber(artifact, "cpu", precision="fp32") as transcriber:

            def tokens(clip: np.ndarray, cache: KVCache | None = None):
                stream = transcriber.stream()
                if cache is not None:
                    cache.restore(stream.decoder_cache.position, stream.decoder_cache.save())
                    stream.decoder_cache = cache
                return stream.feed(clip) + stream.finish(), stream

            _, calibration = tokens(clips.pop(CALIBRATION))
            RoundedCache.scales = [
                np.abs(buffer.read()).max((0, 2), keepdims=True) / 127 + 1e-12
                for buffer in calibration.decoder_cache.buffers
            ]
            total = different = 0
            drift = 0.0
            for clip in clips.values():
                plain, _ = tokens(clip)
                rounded, _ = tokens(clip, RoundedCache(transcriber.decoder.session, transcriber.decoder.spec))
                total += len(plain)
                different += sum(a.token_id != b.token_id for a, b in zip(plain, rounded, strict=True))
                drift += sum((a.blank_margin - b.blank_margin) ** 2 for a, b in zip(plain, rounded, strict=True))
    return {"tokens": total, "different": different, "margin_drift_rms": round((drift / total) ** 0.5, 4)}


def measure(rounds: Annotated[int, typer.Option(help="Of timed calls.")] = 20) -> None:
    """Measure and print."""
    results = {
        "machine": describe_machine(),
        "relative_error": {kind.name: errors(kind) for kind in KINDS},
        "call_ms": milliseconds(rounds),
        "tiny": texts(),
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    typer.run(measure)
