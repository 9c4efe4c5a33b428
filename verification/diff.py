"""Compare two artifacts, from the manifest down to single tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ..manifest import GraphSpec, Manifest
from ..quant.packing import unpack
from ..runtime.locate import find_artifact
from .subgraphs import StagedGraph

SLICE = 1 << 22  # values compared at a time
SHOWN = 12  # printed lines of one kind


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """An initializer that differs between two artifacts, or that only one of them has."""

    graph: str  # precision and role
    name: str
    kind: str  # "codes", "values", "only in a", "only in b", or both types and shapes
    num_different: int
    size: int
    max_relative: float | None  # largest |a - b| / max(|a|, |b|) of floats

    def __str__(self) -> str:
        if self.kind not in ("codes", "values"):
            return f"{self.graph}: {self.name}: {self.kind}"
        how = f", by up to {self.max_relative:.2%}" if self.max_relative is not None else ""
        return (
            f"{self.graph}: {self.name}: {self.num_different:,} of {self.size:,} {self.kind} "
            f"differ{how}"
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """All differences between two artifacts; an empty part means that they are equal there."""

    a: str
    b: str
    facts: Mapping[str, tuple[Any, Any]]  # both values, by key of the manifest
    graphs: Mapping[str, tuple[str, ...]]  # differing nodes, inputs, outputs by precision and role
    tensors: tuple[TensorDifference, ...]
    num_equal: int  # tensors that are the same in both

    @property
    def is_equal(self) -> bool:
        """Return whether both artifacts are the same but for their location."""
        return not (self.facts or self.graphs or self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Return all differences as plain values, for JSON."""
        return {"equal": self.is_equal, **asdict(self)}

    def render(self) -> str:
        """Return lines of text for people."""
        lines = [f"{key}: {a} | {b}" for key, (a, b) in self.facts.items()]
        lines += [
            f"{graph}: {line}"
            for graph, differences in self.graphs.items()
            for line in _head(differences)
        ]
        lines += _head([str(tensor) for tensor in self.tensors])
        lines.append(f"{self.num_equal} tensors equal, {len(self.tensors)} differ")
        return "\n".join(["equal", lines[-1]] if self.is_equal else lines) + "\n"


def diff(a: str | Path, b: str | Path) -> Difference:
    """Compare two artifacts; hashes are not checked, so that a damaged one can be compared too.

    Args:
        a: folder or name of an artifact, as for `Transcriber`.
        b: likewise.

    Raises:
        ArtifactError: one is not an artifact, or a file is missing or does not parse.
    """
    folders = find_artifact(a), find_artifact(b)
    first, second = (Manifest.read(folder) for folder in folders)
    first.check_files(folders[0])
    second.check_files(folders[1])
    graphs, tensors, num_equal = {}, [], 0
    for name in first.precisions.keys() & second.precisions.keys():
        for role in ("encoder", "decoder"):
            specs = [getattr(manifest.precisions[name], role) for manifest in (first, second)]
            pair = [_load(folder, spec) for folder, spec in zip(folders, specs, strict=True)]
            label = f"{name} {role}"
            if found := tuple(_graph_differences(*specs, *pair)):
                graphs[label] = found
            for compared in _tensor_differences(label, *pair):
                if isinstance(compared, TensorDifference):
                    tensors.append(compared)
                else:
                    num_equal += 1
    facts = _fact_differences(first, second)
    return Difference(str(folders[0]), str(folders[1]), facts, graphs, tuple(tensors), num_equal)


def _load(folder: Path, spec: GraphSpec) -> StagedGraph:
    return StagedGraph(folder, spec, Manifest.read(folder).config)


def _fact_differences(a: Manifest, b: Manifest) -> dict[str, tuple[Any, Any]]:
    """Return both values of the manifest's keys that differ.

    Facts about graphs and data files are left out, because their contents are compared.
    """
    first, second = (dict(_flatten(_facts(manifest))) for manifest in (a, b))
    keys = dict.fromkeys([*first, *second])
    return {
        key: (first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)
    }


def _facts(manifest: Manifest) -> dict[str, Any]:
    values = asdict(manifest)
    shared = {manifest.mel.path, "tekken.json"}
    values["files"] = {
        name: manifest.files[name].sha256 for name in sorted(shared & manifest.files.keys())
    }
    del values["mel"]
    values["precisions"] = {
        name: {"activation_dtype": precision.activation_dtype, "recipe": asdict(precision.recipe)}
        for name, precision in manifest.precisions.items()
    }
    return values


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _graph_differences(
    a: GraphSpec, b: GraphSpec, first: StagedGraph, second: StagedGraph
) -> Iterator[str]:
    # Inputs and outputs
    for kind in ("inputs", "outputs"):
        ours, theirs = ({tensor.name: tensor for tensor in getattr(spec, kind)} for spec in (a, b))
        for name in dict.fromkeys([*ours, *theirs]):
            if ours.get(name) != theirs.get(name):
                yield f"{kind[:-1]} {name}: {ours.get(name)} | {theirs.get(name)}"

    # Counts of operators
    ours, theirs = list(first.graph), list(second.graph)
    if [node.op_type for node in ours] != [node.op_type for node in theirs]:
        counts = a.operators.keys() | b.operators.keys()
        differing = {
            name: (a.operators.get(name, 0), b.operators.get(name, 0)) for name in sorted(counts)
        }
        found = [f"{name} {n} | {m}" for name, (n, m) in differing.items() if n != m]
        yield f"operators: {', '.join(found) or 'the same in another order'}"
        return

    # Single nodes
    for x, y in zip(ours, theirs, strict=True):
        where = _place(x)
        if [value and value.name for value in x.inputs] != [
            value and value.name for value in y.inputs
        ]:
            yield f"{where}: other inputs"
        for name in dict.fromkeys([*x.attributes, *y.attributes]):
            values = [
                str(node.attributes[name].value) if name in node.attributes else None
                for node in (x, y)
            ]
            if values[0] != values[1]:
                yield f"{where}: {name} {values[0]} | {values[1]}"


def _place(node: ir.Node) -> str:
    """Return a node's place in words, by the module whose weights it or the next node has."""
    if module := _module(node):
        return f"{module} ({node.op_type})"
    following = [node]
    for later in following:  # which grows, breadth first
        if module := _module(later):
            return f"{node.op_type} before {module}"
        for consumer in (user for value in later.outputs for user, _ in value.uses()):
            if consumer not in following:
                following.append(consumer)
    return f"{node.op_type} -> {node.outputs[0].name}"


def _module(node: ir.Node) -> str | None:
    """Return the name of the module whose weight is an input of a node."""
    names = (str(value.name) for value in node.inputs if value and value.is_initializer())
    return next((name.rpartition(".")[0] for name in names if "." in name), None)


def _tensor_differences(
    label: str, a: StagedGraph, b: StagedGraph
) -> Iterator[TensorDifference | None]:
    """Yield an item for each tensor: None where both are equal."""
    bits = _bits_of_weights(a)
    ours, theirs = a.graph.initializers, b.graph.initializers
    for name in dict.fromkeys([*ours, *theirs]):
        if name not in ours or name not in theirs:
            yield TensorDifference(
                label, name, f"only in {'a' if name in ours else 'b'}", 0, 0, None
            )
            continue
        x, y = a.stored(name), b.stored(name)
        if x.shape != y.shape or x.dtype != y.dtype:
            yield TensorDifference(
                label,
                f"{name} {x.dtype}{list(x.shape)} | {y.dtype}{list(y.shape)}",
                "shape",
                0,
                0,
                None,
            )
        else:
            yield _compare(label, name, x.reshape(-1), y.reshape(-1), bits.get(name))
        del x, y
        a.release()
        b.release()


def _compare(
    label: str, name: str, x: np.ndarray, y: np.ndarray, bits: int | None
) -> TensorDifference | None:
    different, worst = 0, 0.0
    for start in range(0, x.size, SLICE):
        p, q = x[start : start + SLICE], y[start : start + SLICE]
        if bits is not None:
            p, q = (unpack(part, bits, part.size * 8 // bits) for part in (p, q))
        wrong = (p != q) & ~((p != p) & (q != q))  # two NaN count as equal
        different += int(wrong.sum())
        if bits is None and wrong.any():
            p, q = p[wrong].astype(np.float64), q[wrong].astype(np.float64)
            worst = max(worst, float(np.max(np.abs(p - q) / np.maximum(np.abs(p), np.abs(q)))))
    if not different:
        return None
    size = x.size * 8 // bits if bits else x.size
    return TensorDifference(
        label, name, "codes" if bits else "values", different, size, None if bits else worst
    )


def _bits_of_weights(graph: StagedGraph) -> dict[str, int]:
    """Return the bits of each initializer that has codes or zero points, by name."""
    places = {"MatMulNBits": (1, 3), "GatherBlockQuantized": (0,)}
    return {
        str(value.name): node.attributes["bits"].as_int()
        for node in graph.graph
        for index in places.get(node.op_type, ())
        if index < len(node.inputs) and (value := node.inputs[index]) is not None
    }


def _head(lines: Any) -> list[str]:
    return (
        [*lines[:SHOWN], f"… and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else list(lines)
    )
