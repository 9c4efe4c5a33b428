"""Compare two artifacts, from the manifest down to single tensors.

Precisions of one name are compared with each other. Where the artifacts have none in common, the
first of each are. What two of them store alike is compared value by value, what they store in
another way (other bits, blocks or float types) as floats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..manifest import TOKENIZER, Manifest
from ..quant.packing import unpack
from ..runtime.locate import choose_precisions, find_artifact
from .graph_diff import NONE, graph_differences
from .stored_weights import StoredWeight, stored_weights
from .subgraphs import StagedGraph

SLICE = 1 << 22  # values compared at a time
SHOWN = 12  # printed lines of one kind


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """An initializer that differs between two artifacts, or that only one of them has."""

    graph: str  # precisions and role
    name: str
    # "codes", "values"; "weights" where they are stored in other ways; "only in a", "only in b",
    # or "shape" after both types and shapes
    kind: str
    num_different: int
    size: int
    max_relative: float | None  # largest |a - b| / max(|a|, |b|) of floats
    # Of weights stored in other ways: both ways in words, and the root mean square of a - b over
    # that of the larger weight
    forms: str = ""
    rms_relative: float | None = None

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
    pairs: tuple[tuple[str, str], ...]  # the precisions compared, of a and of b
    facts: Mapping[str, tuple[Any, Any]]  # both values, by key of the manifest
    graphs: Mapping[str, tuple[str, ...]]  # differing nodes, inputs, outputs by precision and role
    tensors: tuple[TensorDifference, ...]
    num_equal: int  # tensors that are the same in both

    @property
    def is_equal(self) -> bool:
        """Return whether both artifacts are the same but for their location."""
        is_same = all(first == second for first, second in self.pairs)
        return is_same and not (self.facts or self.graphs or self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Return all differences as plain values, for JSON."""
        return {"equal": self.is_equal, **asdict(self)}

    def render(self) -> str:
        """Return lines of text for people."""
        pairs = ", ".join(dict.fromkeys(" with ".join(dict.fromkeys(pair)) for pair in self.pairs))
        lines = [f"compared: {pairs}"] if any(a != b for a, b in self.pairs) else []
        lines += [f"{key}: {_shown(a)} | {_shown(b)}" for key, (a, b) in self.facts.items()]
        for graph, differences in self.graphs.items():
            lines += _head([f"{graph}: {line}" for line in differences])
        lines += _head([str(tensor) for tensor in self.tensors if tensor.rms_relative is None])
        lines += self._stored_otherwise()
        lines.append(f"{self.num_equal} tensors equal, {len(self.tensors)} differ")
        return "\n".join(["equal", lines[-1]] if self.is_equal else lines) + "\n"

    def _stored_otherwise(self) -> list[str]:
        """Return a line for the weights of a graph that are stored in the same two ways."""
        groups: dict[tuple[str, str], list[tuple[float, str]]] = {}
        for tensor in self.tensors:
            if tensor.rms_relative is not None:
                group = groups.setdefault((tensor.graph, tensor.forms), [])
                group.append((tensor.rms_relative, tensor.name))
        lines = []
        for (graph, forms), found in groups.items():
            found.sort()
            (median, _), (most, name) = found[len(found) // 2], found[-1]
            rms = f"{_percent(median)} root mean square"
            if len(found) == 1:
                lines.append(f"{graph}: {name}, {forms}: {rms} apart")
            else:
                lines.append(
                    f"{graph}: {len(found)} weights, {forms}: {rms} apart (median), at most "
                    f"{_percent(most)}: {name}"
                )
        return lines


def diff(a: str | Path, b: str | Path, *, precisions: Sequence[str] | None = None) -> Difference:
    """Compare two artifacts; hashes are not checked, so that a damaged one can be compared too.

    Args:
        a: folder or name of an artifact, as for `Transcriber`.
        b: likewise.
        precisions: one of both, or one of `a` and one of `b`; by default those that both have, or
            else the first of each.

    Raises:
        ArtifactError: one is not an artifact, or a file is missing or does not parse.
        UsageError: an artifact lacks a precision that is asked for, or more than two are.
    """
    # Choose what is compared
    folders = find_artifact(a), find_artifact(b)
    first, second = (Manifest.read(folder) for folder in folders)
    held = first.held(folders[0]), second.held(folders[1])
    pairs = _pairs(first, second, held, precisions)
    first.check_files(folders[0], [name for name, _ in pairs])
    second.check_files(folders[1], [name for _, name in pairs])

    # Compare graphs and tensors
    graphs, tensors, num_equal = {}, [], 0
    for names in pairs:
        kinds = first.precisions[names[0]], second.precisions[names[1]]
        natives = kinds[0].native, kinds[1].native
        for role in (role for role in natives[0] if role in natives[1]):
            specs = natives[0][role], natives[1][role]
            x = StagedGraph(folders[0], specs[0], first.config)
            y = StagedGraph(folders[1], specs[1], second.config)
            label = f"{' | '.join(dict.fromkeys(names))} {role}"
            if found := tuple(graph_differences(*specs, x, y)):
                graphs[label] = found
            if role in kinds[0].several:  # has the encoder's weights
                continue
            for compared in _tensor_differences(label, x, y):
                if isinstance(compared, TensorDifference):
                    tensors.append(compared)
                else:
                    num_equal += 1
    facts = _fact_differences(first, second, pairs)
    return Difference(
        str(folders[0]), str(folders[1]), tuple(pairs), facts, graphs, tuple(tensors), num_equal
    )


def _pairs(
    a: Manifest,
    b: Manifest,
    held: tuple[Sequence[str], Sequence[str]],
    asked: Sequence[str] | None,
) -> list[tuple[str, str]]:
    """Return the precisions to compare with each other.

    Raises:
        UsageError: as `diff`.
    """
    if asked:
        if len(asked) > 2:
            raise UsageError(
                f"precision: expected one, or one of each artifact, got {', '.join(asked)}"
            )
        return [(choose_precisions(a, asked[:1])[0], choose_precisions(b, asked[-1:])[0])]
    if common := [name for name in held[0] if name in held[1]]:
        return [(name, name) for name in common]
    return [(choose_precisions(a)[0], choose_precisions(b)[0])]


def _fact_differences(
    a: Manifest, b: Manifest, pairs: Iterable[tuple[str, str]]
) -> dict[str, tuple[Any, Any]]:
    """Return both values of the manifest's keys that differ.

    Facts about graphs and data files are left out, because their contents are compared; those
    of graphs for other programs are in as hashes.
    """
    first, second = (dict(_flatten(_facts(manifest))) for manifest in (a, b))
    for x, y in pairs:
        first |= _flatten(_precision_facts(a, x), f"precisions.{_pair(x, y)}.")
        second |= _flatten(_precision_facts(b, y), f"precisions.{_pair(x, y)}.")
    keys = dict.fromkeys([*first, *second])
    return {
        key: (first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)
    }


def _pair(x: str, y: str) -> str:
    return x if x == y else f"{x} | {y}"


def _facts(manifest: Manifest) -> dict[str, Any]:
    values = asdict(manifest)
    others = {
        graph.path
        for kind in manifest.precisions.values()
        for graphs in kind.families.values()
        for graph in graphs
    }
    values["files"] = {
        name: manifest.files[name].sha256
        for name in sorted({manifest.mel.path, TOKENIZER, *others} & manifest.files.keys())
    }
    del values["mel"]
    values["precisions"] = tuple(manifest.precisions)
    return values


def _precision_facts(manifest: Manifest, name: str) -> dict[str, Any]:
    """Return the facts of a precision; rules by the pattern of the weights that they are for."""
    kind = manifest.precisions[name]
    recipe = asdict(kind.recipe)
    recipe["rules"] = {
        rule.tensors: f"{rule.bits} bits in blocks of {rule.block_size} by {rule.method}"
        for rule in kind.recipe.rules
    }
    graphs = ", ".join(kind.native)
    return {"activation_dtype": kind.activation_dtype, "recipe": recipe, "graphs": graphs}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _tensor_differences(
    label: str, a: StagedGraph, b: StagedGraph
) -> Iterator[TensorDifference | None]:
    """Yield an item for each tensor, or each weight of several: None where both are equal."""
    # Compare the weights that are stored in other ways
    ways = stored_weights(a), stored_weights(b)
    done: set[str] = set()
    for name in dict.fromkeys(chain(*ways)):
        ours, theirs = ways[0].get(name, ()), ways[1].get(name, ())
        if ours and theirs and [weight.form for weight in ours] != [w.form for w in theirs]:
            yield from _weight_differences(label, a, b, ours, theirs)
            done |= {part for weight in (*ours, *theirs) for part in weight.parts}

    # Compare the other initializers
    bits = _bits_of_weights(a)
    ours, theirs = a.graph.initializers, b.graph.initializers
    is_same_graph = [node.op_type for node in a.graph] == [node.op_type for node in b.graph]
    for name in dict.fromkeys([*ours, *theirs]):
        if name in done or ("." not in name and not is_same_graph):
            continue  # constants are numbered, so that another graph's have other names
        if name not in ours or name not in theirs:
            yield TensorDifference(
                label, name, f"only in {'a' if name in ours else 'b'}", 0, 0, None
            )
            continue
        x, y = a.stored(name), b.stored(name)
        if x.shape == y.shape and x.dtype == y.dtype:
            yield _compare(label, name, x.reshape(-1), y.reshape(-1), bits.get(name))
        else:
            types = f"{x.dtype.name} {list(x.shape)} | {y.dtype.name} {list(y.shape)}"
            yield TensorDifference(label, f"{name}: {types}", "shape", 0, 0, None)
        del x, y
        a.release()
        b.release()


def _weight_differences(
    label: str,
    a: StagedGraph,
    b: StagedGraph,
    ours: Sequence[StoredWeight],
    theirs: Sequence[StoredWeight],
) -> Iterator[TensorDifference | None]:
    """Compare a weight that two graphs store in other ways, by its floats."""
    for index in range(max(len(ours), len(theirs))):
        x, y = ours[min(index, len(ours) - 1)], theirs[min(index, len(theirs) - 1)]
        name = x.name if index == 0 else f"{x.name} of {x.scales or y.scales}"
        forms = " | ".join(dict.fromkeys((x.form, y.form)))
        if x.shape != y.shape:
            shapes = f"{name}: {list(x.shape)} | {list(y.shape)}"
            yield TensorDifference(label, shapes, "shape", 0, 0, None)
            continue
        rows = max(1, SLICE * x.shape[0] // max(1, int(np.prod(x.shape))))
        different, apart, sizes = 0, 0.0, np.zeros(2)
        for start in range(0, x.shape[0], rows):
            p, q = x.rows(a, start, start + rows), y.rows(b, start, start + rows)
            different += int((p != q).sum())
            p, q = p.astype(np.float64), q.astype(np.float64)
            apart += float(np.square(p - q).sum())
            sizes += [np.square(p).sum(), np.square(q).sum()]
        a.release()
        b.release()
        if different:
            rms = float(np.sqrt(apart / sizes.max()))
            size = int(np.prod(x.shape))
            yield TensorDifference(label, name, "weights", different, size, None, forms, rms)
        else:
            yield None


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


def _percent(share: float) -> str:
    """Return a share in percent, with two digits that say something."""
    return f"{100 * share:.2g} %"


def _shown(value: Any) -> str:
    """Return a fact in words; a hash by its beginning."""
    if value is None or value == ():
        return NONE
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    text = str(value)
    is_hash = len(text) == 64 and not text.strip("0123456789abcdef")
    return f"sha256 {text[:12]}…" if is_hash else text


def _head(lines: Any) -> list[str]:
    return (
        [*lines[:SHOWN], f"… and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else list(lines)
    )
