"""Time one token of many streams in a batched encoder, with three kinds of batched attention.

    python bench/encoder_rows.py ARTIFACT [--precision q4f16] [--device cuda]
        [--rows 1,16,64,128,256]

GroupQueryAttention batches calls of several frames only without a cache, so a batched encoder needs
another operator. Each kind replaces the attention nodes of the artifact's own encoder, in memory; a
tick is one token of every stream, with all windows full. Outputs are compared with the shipped
graph's, stream by stream. Writes results/encoder_rows.json after each measurement. The artifact is
an export of twin.py's checkpoint, or skeleton.py's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import harness
import numpy as np
import onnx_ir as ir
import typer
from encoder_kinds import KINDS, Kind, Values, replace_all

from voxtral_onnx.manifest import CacheSpec, Manifest
from voxtral_onnx.runtime.device.base import import_onnxruntime

COMPARED = 3  # streams whose outputs are compared
TICKS = 20  # timed calls


class Ticks:
    """A session whose caches stay on the device."""

    def __init__(self, content: bytes, folder: Path, device: str):
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder)
        )
        providers = (
            [("CUDAExecutionProvider", {"use_tf32": "0"})]
            if device == "cuda"
            else ["CPUExecutionProvider"]
        )
        self.device = device
        self.session = ort.InferenceSession(content, options, providers=providers)
        self.io, self.held = self.session.io_binding(), []

    def hold(self, past: str, present: str, array: np.ndarray) -> None:
        """Bind one buffer as an input and an output."""
        value = import_onnxruntime().OrtValue.ortvalue_from_numpy(array, self.device, 0)
        self.held.append((array, value))
        self.io.bind_ortvalue_input(past, value)
        self.io.bind_ortvalue_output(present, value)

    def call(self, feeds: Values) -> np.ndarray:
        """Run one tick and return its audio embeddings."""
        for name, array in feeds.items():
            self.io.bind_cpu_input(name, np.ascontiguousarray(array))
        self.io.bind_output("audio_embeds", self.device, 0)
        self.session.run_with_iobinding(self.io)
        return self.io.get_outputs()[-1].numpy()


def feeds_of(manifest: Manifest, precision: str, rows: int) -> Values:
    """Return the inputs that all graphs share: positions, and random states and frames."""
    spec, dtype = manifest.caches["encoder"], manifest.precisions[precision].activation_dtype
    rng = np.random.default_rng(rows)
    positions = (
        10_000 + np.arange(rows)[:, None] * spec.rows_per_token + np.arange(spec.rows_per_token)
    )
    angles = positions[..., None] * spec.rope_theta ** (
        -np.arange(0, spec.head_dim, 2) / spec.head_dim
    )
    feeds = {"cos": np.cos(angles).astype(dtype), "sin": np.sin(angles).astype(dtype)}
    for tensor in manifest.precisions[precision].encoder.inputs:
        if tensor.name in ("input_features", "conv1_state", "conv2_state"):
            shape = [
                axis if isinstance(axis, int) else int(axis.split("*")[0]) for axis in tensor.shape
            ]
            feeds[tensor.name] = rng.standard_normal((rows, *shape[1:]), np.float32).astype(
                tensor.dtype
            )
    return feeds


def history_of(spec: CacheSpec, layer: int, rows: int, dtype: str) -> np.ndarray:
    """Return random keys or values before the tick, [rows, heads, keep, head_dim]."""
    shape = (rows, spec.num_key_value_heads, spec.keep, spec.head_dim)
    return np.random.default_rng(layer).standard_normal(shape, np.float32).astype(dtype)


def shipped(folder: Path, manifest: Manifest, precision: str, device: str) -> np.ndarray:
    """Return the shipped graph's audio embeddings of COMPARED streams, run one after the other."""
    spec, graph = manifest.caches["encoder"], manifest.precisions[precision].encoder
    dtype = manifest.precisions[precision].activation_dtype
    feeds = feeds_of(manifest, precision, COMPARED)
    content, found = (folder / graph.path).read_bytes(), []
    ticks = Ticks(content, (folder / graph.path).parent, device)
    for row in range(COMPARED):
        for number, (past, present) in enumerate(cache_names(spec)):
            cache = np.zeros((1, spec.num_key_value_heads, spec.capacity, spec.head_dim), dtype)
            cache[:, :, : spec.keep] = history_of(spec, number, COMPARED, dtype)[row]
            ticks.hold(past, present, cache)
        place = {
            "seqlens_k": np.array([spec.keep + spec.rows_per_token - 1], np.int32),
            "total_sequence_length": np.array(spec.capacity, np.int32),
        }
        found.append(
            ticks.call({name: array[row : row + 1] for name, array in feeds.items()} | place)
        )
        ticks.held.clear()
    return np.concatenate(found)


def cache_names(spec: CacheSpec) -> list[tuple[str, str]]:
    """Return the names of past and present for every layer's keys and values."""
    parts = [f"{layer}.{part}" for layer in range(spec.num_layers) for part in ("key", "value")]
    return [(f"past_key_values.{part}", f"present.{part}") for part in parts]


def measure(
    folder: Path,
    manifest: Manifest,
    precision: str,
    device: str,
    kind: Kind,
    rows: int,
    expected: np.ndarray,
) -> dict[str, Any]:
    """Time ticks in milliseconds; for COMPARED streams return the error instead."""
    spec, graph = manifest.caches["encoder"], manifest.precisions[precision].encoder
    dtype, path = manifest.precisions[precision].activation_dtype, folder / graph.path
    ticks = Ticks(replace_all(ir.load(path), kind, spec, rows), path.parent, device)
    for number, (past, present) in enumerate(cache_names(spec)):
        cache = np.zeros(kind.cache_shape(spec, rows), dtype)
        if rows == COMPARED:
            kind.fill(cache, history_of(spec, number, rows, dtype))
        ticks.hold(past, present, cache)
    feeds = {**feeds_of(manifest, precision, rows), **kind.inputs(spec, rows)}
    got = ticks.call(feeds).astype(np.float32)
    if rows == COMPARED:
        return {"error": float(np.linalg.norm(got - expected) / np.linalg.norm(expected))}
    return harness.statistics(harness.time_calls(lambda: ticks.call(feeds), TICKS, warm_up=0))


def main(
    artifact: Path,
    precision: Annotated[str, typer.Option()] = "q4f16",
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    rows: Annotated[
        str, typer.Option(help="Streams of a tick, comma-separated.")
    ] = "1,16,64,128,256",
    out: harness.Out = harness.RESULTS / "encoder_rows.json",
) -> None:
    """Measure a batched encoder with each kind of attention."""
    manifest = Manifest.read(artifact)
    expected = shipped(artifact, manifest, precision, device).astype(np.float32)
    results = harness.describe(
        "milliseconds of a token of so many streams in the encoder, windows full"
    )
    results |= {"precision": precision, "kinds": {}}
    for name, kind in KINDS.items():
        found = results["kinds"][name] = {}
        for number in [COMPARED, *map(int, rows.split(","))]:
            try:
                found[number] = measure(
                    artifact, manifest, precision, device, kind, number, expected
                )
            except Exception as error:  # no kernel, or no memory: that is a result
                found[number] = {"failed": str(error)[:300]}
            print(name, number, found[number], flush=True)
            harness.write(out, results)


if __name__ == "__main__":
    harness.run(main)
