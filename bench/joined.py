"""Measure whether the decoder's step gets faster with fewer, larger products.

    python bench/joined.py ARTIFACT
    python bench/joined.py tiny --device cpu --precision q4f16 --batch-sizes 1,2 --context 256

Two graphs are derived from an artifact's decoder, compared with it and timed beside it:

joined: one product makes queries, keys and values, another the gate and the linear part of the MLP;
    a Split divides their outputs.
joined, delay folded: the same, and the scales of the time condition are multiplied into the weights
    of the norm before them. That fixes the delay; scales and weights are both float16.

Weights of other norms cannot be multiplied into 4-bit products without quantising those anew.
A joined tensor refers to the bytes of the artifact where its parts follow each other there, and to
a copy in another order where they do not; the results say how many could refer. Tensors of a
4-bit product could if the artifact's order were codes, scales, zero points of all parts. Products
in float16 keep their weights as [inputs, outputs], so that they could not in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Annotated, Any

import harness
import numpy as np
import onnx
import typer
from onnx import TensorProto, helper, numpy_helper

from voxtral_onnx.manifest import CacheSpec, Manifest
from voxtral_onnx.runtime.device.base import import_onnxruntime
from voxtral_onnx.runtime.device.cache import decoder_cache_spec
from voxtral_onnx.runtime.device.open import open_device

GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("mlp.gate_proj", "mlp.up_proj"),
)
KINDS = ("weight", "scales", "zero_points")  # tensors of a product, where it has them
STEPS = 40  # compared ones
CALLS, ROUNDS = 40, 3  # timed calls of each graph in each round
ALIGNMENT = 4096  # bytes, as in the artifact


@dataclass
class Derived:
    """A graph that is derived from an artifact's, and how its joined weights are stored."""

    graph: onnx.ModelProto
    data: Path  # of those in a new order
    referring: int = 0  # joined tensors that refer to bytes of the artifact
    copied: int = 0


def place_of(tensor: onnx.TensorProto) -> tuple[str, int, int]:
    """Return the file, the offset and the length of a tensor's external data."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    return place["location"], int(place["offset"]), int(place["length"])


def external(name: str, like: onnx.TensorProto, dims: Sequence[int], place: tuple) -> Any:
    """Return a tensor of a type whose data are in a file."""
    tensor = TensorProto(name=name, data_type=like.data_type, dims=dims)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in zip(("location", "offset", "length"), place, strict=True):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def join_tensors(derived: Derived, name: str, parts: list[onnx.TensorProto], axis: int) -> Any:
    """Return the tensor of all parts along an axis, by reference or written to the new file."""
    # Refer to the artifact's bytes where the parts follow each other
    dims = list(parts[0].dims)
    dims[axis] = sum(part.dims[axis] for part in parts)
    places = [place_of(part) for part in parts]
    file, start, _ = places[0]
    follow = all(
        before[0] == after[0] and before[1] + before[2] == after[1]
        for before, after in pairwise(places)
    )
    if follow and prod(dims[:axis]) == 1:
        derived.referring += 1
        return external(name, parts[0], dims, (file, start, sum(place[2] for place in places)))

    # Else write them anew
    dtype = helper.tensor_dtype_to_np_dtype(parts[0].data_type)
    values = np.concatenate(
        [
            np.memmap(derived.data.parent / file, dtype, "r", offset, tuple(part.dims))
            for part, (file, offset, _) in zip(parts, places, strict=True)
        ],
        axis,
    )
    with derived.data.open("ab") as out:
        out.write(bytes(-out.tell() % ALIGNMENT))
        offset = out.tell()
        values.tofile(out)
    derived.copied += 1
    return external(name, parts[0], dims, (derived.data.name, offset, values.nbytes))


def join(path: Path) -> Derived:
    """Derive a graph with joined products; new data are written beside the artifact's."""
    # Find the products
    derived = Derived(
        onnx.load(str(path), load_external_data=False), path.with_name(path.stem + "_joined.data")
    )
    derived.data.unlink(missing_ok=True)
    graph = derived.graph.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    products = {node.input[1]: node for node in graph.node if node.op_type.startswith("MatMul")}
    replaced: dict[str, list[onnx.NodeProto]] = {}  # by the first output of those replaced
    first_suffix = f"{GROUPS[0][0]}.weight"
    layers = [name.removesuffix(first_suffix) for name in products if name.endswith(first_suffix)]

    # Replace each group by a product and a Split
    for layer, group in ((layer, group) for layer in layers for group in GROUPS):
        nodes = [products[f"{layer}{part}.weight"] for part in group]
        is_quantised, joined = nodes[0].op_type == "MatMulNBits", f"{layer}{'+'.join(group)}"
        axis = 0 if is_quantised else 1
        sizes = [tensors[node.input[1]].dims[axis] for node in nodes]
        inputs = [nodes[0].input[0]]
        kinds = zip(*(node.input[1:] for node in nodes), strict=True)
        for kind, of_kind in zip(KINDS, kinds, strict=False):  # floats have no scales
            parts = [tensors.pop(name) for name in of_kind]
            tensors[f"{joined}.{kind}"] = join_tensors(derived, f"{joined}.{kind}", parts, axis)
            inputs.append(f"{joined}.{kind}")
        tensors[f"{joined}.sizes"] = numpy_helper.from_array(
            np.array(sizes, np.int64), f"{joined}.sizes"
        )
        product = onnx.NodeProto()
        product.CopyFrom(nodes[0])
        product.name, product.input[:], product.output[:] = joined, inputs, [f"{joined}.output"]
        for attribute in product.attribute:
            if attribute.name == "N":
                attribute.i = sum(sizes)
        split = helper.make_node(
            "Split",
            [f"{joined}.output", f"{joined}.sizes"],
            [node.output[0] for node in nodes],
            f"{joined}.split",
            axis=-1,
        )
        replaced |= {node.output[0]: [] for node in nodes}
        replaced[nodes[0].output[0]] = [product, split]
    put(
        graph, tensors, [new for node in graph.node for new in replaced.get(node.output[0], [node])]
    )
    return derived


def fold_delay(graph: onnx.GraphProto, folder: Path, delay: int) -> None:
    """Multiply the scales of a delay into the weights of the norms before them."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    gone, renamed = set[str](), {}
    for node in graph.node:
        if node.op_type != "Mul" or (gather := made_by.get(node.input[1])) is None:
            continue
        if gather.op_type != "Gather" or not gather.input[0].endswith("ada_rms_norm.table"):
            continue
        norm = made_by[node.input[0]]
        weight, scales = (
            np.array(np.memmap(folder / file, np.float16, "r", offset, tuple(tensor.dims)))
            for tensor in (tensors[norm.input[2]], tensors[gather.input[0]])
            for file, offset, _ in [place_of(tensor)]
        )
        folded = (weight.astype(np.float32) * scales[delay, 0]).astype(np.float16)
        del tensors[norm.input[2]], tensors[gather.input[0]]
        tensors[norm.input[2]] = numpy_helper.from_array(folded, norm.input[2])
        gone |= {node.output[0], gather.output[0]}
        renamed[node.output[0]] = norm.output[0]
    nodes = [node for node in graph.node if node.output[0] not in gone]
    for node in nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    put(graph, tensors, nodes)


def put(graph: onnx.GraphProto, tensors: dict[str, Any], nodes: list[onnx.NodeProto]) -> None:
    """Replace a graph's initializers and nodes."""
    kept, initializers = [], list(tensors.values())
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        kept.append(copy)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(initializers)


class Step:
    """A decoder's session with bound inputs and outputs for steps of so many streams."""

    def __init__(self, device: Any, session: Any, spec: CacheSpec, rows: int, caches: list):
        """Bind caches [past and present of each layer] that other sessions may use as well."""
        # Caches
        self._session, self._device = session, device
        self._io = session.io_binding()
        inputs = {each.name: each for each in session.get_inputs()}
        names = [name for name in inputs if name.startswith("past_key_values.")]
        for name, value in zip(names, caches, strict=True):
            self._io.bind_ortvalue_input(name, value)
            self._io.bind_ortvalue_output(name.replace("past_key_values", "present"), value)

        # Inputs
        hidden_size, half = inputs["audio_embeds"].shape[-1], spec.head_dim // 2
        float_type = np.float16 if "float16" in inputs["cos"].type else np.float32
        self.feeds = {
            "input_ids": np.zeros((rows, 1), np.int64),
            "audio_embeds": np.zeros((rows, 1, hidden_size), float_type),
            "num_delay_tokens": np.zeros(rows, np.int64),
            "cos": np.zeros((rows, 1, half), float_type),
            "sin": np.zeros((rows, 1, half), float_type),
            "seqlens_k": np.zeros(rows, np.int32),
            "blank_penalty": np.zeros((rows, 1), np.float32),
        }
        self._values = {name: put_on(device, array) for name, array in self.feeds.items()}
        for name, value in self._values.items():
            self._io.bind_ortvalue_input(name, value)
        self._total = put_on(None, np.array(spec.capacity, np.int32))
        self._io.bind_ortvalue_input("total_sequence_length", self._total)

        # Outputs
        vocab_size = next(o.shape[-1] for o in session.get_outputs() if o.name == "logits")
        self.step = put_on(device, np.zeros((rows, 1, 3), np.float32))
        self.logits = put_on(device, np.zeros((rows, 1, vocab_size), np.float32))
        self._io.bind_ortvalue_output("step", self.step)
        self._io.bind_ortvalue_output("logits", self.logits)
        self._options = import_onnxruntime().RunOptions()
        if device.name.startswith("cuda"):
            label = str(next(device.capture_ids))
            self._options.add_run_config_entry("gpu_graph_id", label)
        self._inverse = spec.rope_theta ** (-np.arange(0, spec.head_dim, 2) / spec.head_dim)

    def place(self, position: int, row: int, ids: np.ndarray, embeds: np.ndarray) -> None:
        """Set the inputs of the next step."""
        angles = position * self._inverse
        for name, values in {
            "cos": np.cos(angles),
            "sin": np.sin(angles),
            "seqlens_k": row,
            "input_ids": ids[:, None],
            "audio_embeds": embeds[:, None],
        }.items():
            self.feeds[name][...] = values
        for name, value in self._values.items():
            value.update_inplace(self.feeds[name])

    def set_delay(self, delay: int) -> None:
        """Set the delay of all streams, in tokens."""
        self.feeds["num_delay_tokens"][...] = delay

    def run(self) -> np.ndarray:
        """Run a step and return the output `step`, [rows, 3]."""
        self._session.run_with_iobinding(self._io, self._options)
        return self.step.numpy()[:, 0]


def put_on(device: Any, array: np.ndarray) -> Any:
    """Copy an array to a device's memory, or to the CPU's."""
    place = "cuda" if device is not None and device.name.startswith("cuda") else "cpu"
    return import_onnxruntime().OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), place, 0)


def new_caches(device: Any, session: Any, spec: CacheSpec, rows: int) -> list:
    """Return caches of noise for a session's past inputs."""
    rng, caches = np.random.default_rng(0), []
    shape = (rows, spec.num_key_value_heads, spec.capacity, spec.head_dim)
    noise = None
    for each in session.get_inputs():
        if each.name.startswith("past_key_values."):
            dtype = np.float16 if "float16" in each.type else np.float32
            if noise is None:
                noise = np.resize(rng.standard_normal((1, *shape[1:]), np.float32), shape)
                noise = noise.astype(dtype)
            caches.append(put_on(device, noise))
    return caches


def compare(device: Any, sessions: dict[str, Any], spec: CacheSpec, delay: int, bos: int) -> dict:
    """Run the same steps in each graph from an empty cache, and compare with the first graph."""
    # Run the steps
    rng, found = np.random.default_rng(1), {}
    rows = 2
    tokens: dict[str, list] = {}
    logits: dict[str, list] = {}
    embeds: np.ndarray | None = None
    for name, session in sessions.items():
        step = Step(device, session, spec, rows, new_caches(device, session, spec, rows))
        step.set_delay(delay)
        if embeds is None:
            shape = (STEPS, rows, step.feeds["audio_embeds"].shape[-1])
            embeds = rng.standard_normal(shape, np.float32)
        ids, tokens[name], logits[name] = np.full(rows, bos), [], []
        for position in range(STEPS):
            step.place(position, position, ids, embeds[position])
            # All graphs read the first one's tokens, so that a close decision changes one position
            ids = step.run()[:, 0].astype(np.int64)
            tokens[name].append(ids)
            logits[name].append(step.logits.numpy()[:, 0].copy())
            ids = next(iter(tokens.values()))[position]

    # Compare tokens and logits
    first = next(iter(sessions))
    scale = np.sqrt(np.mean(np.square(logits[first])))
    for name in [name for name in sessions if name != first]:
        error = np.sqrt(np.mean(np.square(np.subtract(logits[name], logits[first])))) / scale
        other = int(np.sum(np.array(tokens[name]) != np.array(tokens[first])))
        found[name] = {
            "other_tokens": other,
            "tokens": STEPS * rows,
            "relative_error_of_logits": float(f"{error:.3g}"),
            "finite": bool(np.isfinite(logits[name]).all()),
        }
    return found


def measure(
    device: Any, sessions: dict[str, Any], spec: CacheSpec, rows: int, delay: int
) -> dict[str, Any]:
    """Time a step of so many streams in each graph, in turns; milliseconds."""
    rng = np.random.default_rng(2)
    caches = new_caches(device, next(iter(sessions.values())), spec, rows)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    steps = {name: Step(device, session, spec, rows, caches) for name, session in sessions.items()}
    for step in steps.values():
        step.set_delay(delay)
        embeds = rng.standard_normal((rows, step.feeds["audio_embeds"].shape[-1]), np.float32)
        step.place(spec.keep, spec.keep, rng.integers(0, 400, rows), embeds)
    for _ in range(ROUNDS):
        for name, step in steps.items():
            times[name] += harness.time_calls(step.run, CALLS)
    found: dict[str, Any] = {name: harness.statistics(each, 4) for name, each in times.items()}
    plain = next(iter(sessions))
    for name in times:
        found[name]["plain_over_it"] = round(found[plain]["p50"] / found[name]["p50"], 3)
    return found


def main(
    artifact: harness.Model,
    device: Annotated[str, typer.Option(help="As of the transcriber.")] = "cuda",
    precision: Annotated[str, typer.Option(help="Precisions, comma-separated.")] = "fp16,q4f16",
    batch_sizes: Annotated[str, typer.Option(help="Batch sizes, comma-separated.")] = "1,16,64,256",
    context: Annotated[int, typer.Option(help="Decoder positions kept.")] = 1024,
    out: harness.Out = harness.RESULTS / "joined_gpu.json",
) -> None:
    """Measure derived graphs of each precision, and write the results after each one."""
    # Open the device
    precisions = precision.split(",")
    folder = harness.find_model(artifact, *precisions)
    manifest, runs_on = Manifest.read(folder), open_device(device, "float16")
    spec, delay = decoder_cache_spec(manifest, context), manifest.streaming.default_delay_tokens
    results = harness.describe("a decoder step, its products joined; milliseconds", "onnx")
    results |= {"context": context}
    options = import_onnxruntime().SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")

    # Derive, compare and time the graphs
    for name in precisions:
        path = folder / manifest.precisions[name].decoder.path
        row: dict[str, Any] = {}
        derived = join(path)
        files = [path.with_name(f"{path.stem}_{kind}.onnx") for kind in ("joined", "folded")]
        try:
            files[0].write_bytes(derived.graph.SerializeToString())
            if manifest.precisions[name].activation_dtype == "float16":
                fold_delay(derived.graph.graph, path.parent, delay)
                files[1].write_bytes(derived.graph.SerializeToString())
            graphs = {"plain": path, "joined": files[0], "joined, delay folded": files[1]}
            sessions = {
                each: runs_on.open(str(file), options, captures=True)
                for each, file in graphs.items()
                if file.exists()
            }
            row["joined_tensors"] = {"referring": derived.referring, "copied": derived.copied}
            row["compared"] = compare(runs_on, sessions, spec, delay, manifest.tokens.bos)
            print(name, row, flush=True)
            for rows in map(int, batch_sizes.split(",")):
                row[str(rows)] = harness.attempt(measure, runs_on, sessions, spec, rows, delay)
                print(name, rows, row[str(rows)], flush=True)
            del sessions
        finally:
            for file in (*files, derived.data):
                file.unlink(missing_ok=True)
            results[name] = row
            harness.write(out, results)


if __name__ == "__main__":
    harness.run(main)
