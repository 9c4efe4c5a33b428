"""Times decoder steps of other graphs: products packed, rotation inside the attention, no zero points, no gains.

    python bench/packed.py ARTIFACT [--precision q4f16] [--device cuda] [--rows 1]
    python bench/packed.py ARTIFACT --device cuda --setting ep.cuda.fpa_intb_gemm=1 --only separate --profile

Every variant is the artifact's decoder with the same weights; how far its logits are from the decoder's stands beside
its time. Without zero points or gains they are another model's, but where skeleton.py wrote the weights: its zero
points are the 8 that is meant without them. Sessions of the same graph differ by a few per cent. The packed weights are
written beside the artifact's and removed. Writes results/packed.json, one entry for each device, precision and setting.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from gpu import kernel_times, timed
from onnx import helper, numpy_helper

from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime import bench
from voxtral_onnx.runtime.device import import_onnxruntime

RESULTS = Path(__file__).parent / "results" / "packed.json"
DATA = "packed.onnx_data"
CALLS, POSITION, CAPACITY = 60, 512, 1024
PARTS = ("weight", "scales", "zero_points")


@dataclass(frozen=True)
class Variant:
    """What is another in the graph."""

    qkv: bool = False  # one product
    gate_up: bool = False  # one product
    rotated_inside: bool = False  # by the attention
    without_zero_points: bool = False
    without_gains: bool = False  # of the delay: what it would bring to have them in the norms' weights


VARIANTS = {
    "separate": Variant(),
    "q, k, v packed": Variant(qkv=True),
    "gate, up packed": Variant(gate_up=True),
    "both packed": Variant(qkv=True, gate_up=True),
    "separate, rotated inside": Variant(rotated_inside=True),
    "q, k, v packed, rotated inside": Variant(qkv=True, rotated_inside=True),
    "both packed, rotated inside": Variant(qkv=True, gate_up=True, rotated_inside=True),
    "no gains": Variant(without_gains=True),
    "no zero points": Variant(without_zero_points=True),
    "no zero points, both packed": Variant(qkv=True, gate_up=True, without_zero_points=True),
    "no zero points, both packed, rotated inside": Variant(
        qkv=True, gate_up=True, rotated_inside=True, without_zero_points=True
    ),
    "no zero points, both packed, rotated inside, no gains": Variant(True, True, True, True, True),
}


class Decoder:
    """The decoder's graph, to be rewritten; its weights stay in their files."""

    def __init__(self, folder: Path, precision: str):
        self.manifest = Manifest.read(folder)
        self.spec = self.manifest.precisions[precision].decoder
        self.folder, self.path = folder / "onnx", folder / self.spec.path
        self.packed: dict[str, onnx.TensorProto] = {}

    def pack(self) -> None:
        """Write all rows that variants join, one behind the other."""
        model = onnx.load(str(self.path), load_external_data=False)
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        with (self.folder / DATA).open("wb") as file:
            for i in range(self.manifest.config.decoder.num_hidden_layers):
                layer = f"language_model.layers.{i}."
                for joined, names in (
                    ("self_attn.qkv_proj", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
                    ("mlp.gate_up_proj", ("mlp.gate_proj", "mlp.up_proj")),
                ):
                    for part in PARTS:
                        if f"{layer}{names[0]}.{part}" not in tensors:
                            continue
                        arrays = [self.read(tensors[f"{layer}{name}.{part}"]) for name in names]
                        values = np.concatenate(arrays)
                        file.write(bytes(-file.tell() % 4096))
                        tensor = onnx.TensorProto(name=f"{layer}{joined}.{part}", dims=values.shape)
                        tensor.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
                        tensor.data_location = onnx.TensorProto.EXTERNAL
                        for key, value in (("location", DATA), ("offset", file.tell()), ("length", values.nbytes)):
                            tensor.external_data.add(key=key, value=str(value))
                        file.write(values.tobytes())
                        self.packed[tensor.name] = tensor

    def read(self, tensor: onnx.TensorProto) -> np.ndarray:
        """Values of an initializer."""
        place = {entry.key: entry.value for entry in tensor.external_data}
        if not place:
            return numpy_helper.to_array(tensor)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        file = self.folder / place["location"]
        return np.memmap(file, dtype, "r", int(place["offset"]), tuple(tensor.dims))

    def variant(self, kind: Variant) -> onnx.ModelProto:
        """The graph with some nodes joined or left out."""
        model = onnx.load(str(self.path), load_external_data=False)
        graph, stack = model.graph, self.manifest.config.decoder
        made_by = {output: node for node in graph.node for output in node.output}
        drop: list[onnx.NodeProto] = []
        added: dict[str, list[onnx.NodeProto]] = {}  # behind what was dropped, by its first output

        def product(nodes: list[onnx.NodeProto], joined: str, output: str) -> onnx.NodeProto:
            prefix = nodes[0].input[1].removesuffix("weight")
            name = f"{prefix.rsplit('.', 3)[0]}.{joined}."
            weights = [name + part if name + part in self.packed else "" for part in PARTS]
            graph.initializer.extend(self.packed[weight] for weight in weights if weight)
            node = helper.make_node(
                "MatMulNBits", [nodes[0].input[0], *filter(None, weights)], [output], domain="com.microsoft"
            )
            for attribute in nodes[0].attribute:
                copy = node.attribute.add()
                copy.CopyFrom(attribute)
                if attribute.name == "N":
                    copy.i = self.packed[weights[0]].dims[0]
            return node

        def split(source: str, sizes: list[int], outputs: list[str]) -> onnx.NodeProto:
            name = "sizes." + "_".join(map(str, sizes))
            if all(tensor.name != name for tensor in graph.initializer):
                graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), name))
            return helper.make_node("Split", [source, name], outputs, axis=-1)

        for node in list(graph.node):
            if node.op_type == "GroupQueryAttention":
                rotations = [made_by[node.input[0]], made_by[node.input[1]]]
                products = [made_by[rotation.input[0]] for rotation in rotations] + [made_by[node.input[2]]]
                if kind.rotated_inside:
                    drop += rotations
                    node.attribute.append(helper.make_attribute("do_rotary", 1))
                    node.input.extend(["cos_rows", "sin_rows", "row_ids"])
                    node.input[0], node.input[1] = products[0].output[0], products[1].output[0]
                if kind.qkv:
                    drop += products
                    whole = products[0].output[0] + ".qkv"
                    added[products[0].output[0]] = [product(products, "self_attn.qkv_proj", whole)]
                    if kind.rotated_inside:
                        node.input[0], node.input[1], node.input[2] = whole, "", ""
                    else:
                        sizes = [stack.q_size, stack.kv_size, stack.kv_size]
                        outputs = [item.output[0] for item in products]
                        added[products[0].output[0]].append(split(whole, sizes, outputs))
            elif node.op_type == "QuickGelu" and kind.gate_up:
                gate = made_by[node.input[0]]
                [times] = [other for other in graph.node if node.output[0] in other.input]
                up = made_by[next(name for name in times.input if name != node.output[0])]
                drop += [gate, up]
                whole = gate.output[0] + ".gate_up"
                added[gate.output[0]] = [
                    product([gate, up], "mlp.gate_up_proj", whole),
                    split(whole, [stack.intermediate_size] * 2, [gate.output[0], up.output[0]]),
                ]
            elif node.op_type == "Mul" and kind.without_gains and "ada_rms_norm.table" in _table(node, made_by):
                drop += [node, made_by[node.input[1]]]
                for other in graph.node:
                    for i, name in enumerate(other.input):
                        if name == node.output[0]:
                            other.input[i] = node.input[0]
        if kind.rotated_inside:
            dtype = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
            half = stack.head_dim // 2
            for name in ("cos_rows", "sin_rows"):
                graph.input.append(helper.make_tensor_value_info(name, dtype, ["max_rows", half]))
            graph.input.append(helper.make_tensor_value_info("row_ids", onnx.TensorProto.INT64, ["batch", "seq"]))
        dropped = {node.output[0] for node in drop}
        nodes = [
            item
            for node in graph.node
            for item in [*added.get(node.output[0], []), *([] if node.output[0] in dropped else [node])]
        ]
        if kind.without_zero_points:
            for node in nodes:
                if node.op_type == "MatMulNBits" and len(node.input) == 4:
                    del node.input[3]
        del graph.node[:]
        graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        inputs = [value for value in graph.input if value.name in used]
        del graph.input[:]
        graph.input.extend(inputs)
        del graph.value_info[:]
        return model

    @property
    def dtype(self) -> str:
        """Of activations."""
        return next(tensor.dtype for tensor in self.spec.inputs if tensor.name == "cos")


def _table(node: onnx.NodeProto, made_by: dict[str, onnx.NodeProto]) -> str:
    """What a factor is gathered from."""
    factor = made_by.get(node.input[1])
    return factor.input[0] if factor is not None and factor.op_type == "Gather" else ""


@contextmanager
def opened(
    decoder: Decoder, name: str, device: str, rows: int, settings: dict[str, str]
) -> Iterator[Callable[..., np.ndarray]]:
    """A variant, bound to buffers; the call runs one step at the same position and returns an output."""
    ort = import_onnxruntime()
    model = decoder.variant(VARIANTS[name])
    path = decoder.folder / "packed_variant.onnx"
    onnx.save(model, str(path))
    where = "cuda" if device == "cuda" else "cpu"
    of_provider = {key: value for key, value in settings.items() if "." not in key and key.islower()}
    provider: Any = ("CUDAExecutionProvider", {"enable_cuda_graph": "1", "use_tf32": "0", **of_provider})
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in settings.items():
        if "." in key:
            options.add_session_config_entry(key, value)
    session = ort.InferenceSession(
        str(path), options, providers=[provider] if device == "cuda" else ["CPUExecutionProvider"]
    )
    io, stack, rng = session.io_binding(), decoder.manifest.config.decoder, np.random.default_rng(0)
    dtype = np.dtype(decoder.dtype)
    angles = POSITION * stack.rope_theta ** (-np.arange(0, stack.head_dim, 2) / stack.head_dim)
    table = np.zeros((2, CAPACITY, stack.head_dim // 2))
    table[:, :rows] = np.stack((np.cos(angles), np.sin(angles)))[:, None]
    feeds = {
        "input_ids": rng.integers(0, stack.vocab_size, (1, rows)),
        "audio_embeds": rng.standard_normal((1, rows, stack.hidden_size)).astype(dtype),
        "num_delay_tokens": np.full(1, 6, np.int64),
        "cos": np.tile(np.cos(angles), (1, rows, 1)).astype(dtype),
        "sin": np.tile(np.sin(angles), (1, rows, 1)).astype(dtype),
        "seqlens_k": np.full(1, POSITION + rows - 1, np.int32),
        "blank_penalty": np.zeros((1, rows), np.float32),
        "cos_rows": table[0].astype(dtype),
        "sin_rows": table[1].astype(dtype),
        "row_ids": np.arange(rows)[None],
    }
    wanted = {value.name for value in session.get_inputs()}
    keep = []
    for key, array in feeds.items():
        if key in wanted:
            keep.append(ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), where, 0))
            io.bind_ortvalue_input(key, keep[-1])
    total = ort.OrtValue.ortvalue_from_numpy(np.array(CAPACITY, np.int32))
    io.bind_ortvalue_input("total_sequence_length", total)
    noise = rng.standard_normal((1, stack.num_key_value_heads, CAPACITY, stack.head_dim)).astype(dtype)
    for i in range(stack.num_hidden_layers):
        for part in ("key", "value"):
            cache = ort.OrtValue.ortvalue_from_numpy(noise, where, 0)
            keep.append(cache)
            io.bind_ortvalue_input(f"past_key_values.{i}.{part}", cache)
            io.bind_ortvalue_output(f"present.{i}.{part}", cache)
    outputs = {"step": (1, rows, 3), "logits": (1, rows, stack.vocab_size)}
    values = {
        key: ort.OrtValue.ortvalue_from_numpy(np.zeros(size, np.float32), where, 0) for key, size in outputs.items()
    }
    for key, value in values.items():
        io.bind_ortvalue_output(key, value)

    def step(output: str = "step") -> np.ndarray:
        session.run_with_iobinding(io)
        return values[output].numpy().copy()

    try:
        yield step
    finally:
        path.unlink()


def main(
    artifact: Annotated[Path, typer.Argument(help="Of the 4B model's shape.")],
    precision: Annotated[str, typer.Option()] = "q4f16",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    rows: Annotated[str, typer.Option(help="Positions a call, comma-separated.")] = "1",
    calls: Annotated[int, typer.Option()] = CALLS,
    sessions: Annotated[int, typer.Option(help="Of each variant, in turn.")] = 1,
    setting: Annotated[list[str], typer.Option(help="KEY=VALUE of the session, the provider or the environment.")] = [],  # noqa: B006
    only: Annotated[list[str], typer.Option(help="A variant; all without.")] = [],  # noqa: B006
    profile: Annotated[bool, typer.Option(help="Also the kernels of a step, on CUDA.")] = False,
) -> None:
    """Measure all variants."""
    settings = dict(item.split("=") for item in setting)
    os.environ.update({key: value for key, value in settings.items() if key.isupper()})
    decoder = Decoder(artifact, precision)
    decoder.pack()
    found: dict[str, Any] = {}
    try:
        for count in map(int, rows.split(",")):
            reference = None
            for name in [*(only or VARIANTS)] * sessions:
                result = found.setdefault(f"{name}, {count} rows", {"sessions_ms": []})
                try:
                    with opened(decoder, name, device, count, settings) as step:
                        values = step("logits")
                        reference = values if reference is None else reference
                        result["largest_difference"] = float(np.abs(values - reference).max())
                        result["sessions_ms"].append(timed(step, calls)["p50"])
                        if profile:
                            result |= kernel_times(step)
                except Exception as problem:  # a host that has no such kernel is a result
                    result["error"] = str(problem)[:300]
                print(name, count, {key: value for key, value in result.items() if key != "kernels"}, flush=True)
    finally:
        (decoder.folder / DATA).unlink()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    entry = results.setdefault(" ".join([precision, "on", device, *setting]), {})
    entry |= {"machine": bench.describe_machine(), **found}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
