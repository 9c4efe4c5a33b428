"""Compare the structure of two graphs: inputs and outputs, operators, attributes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import onnx_ir as ir

from ..manifest import GraphSpec, TensorSpec
from .subgraphs import StagedGraph

ALIKE = 3  # nodes with the same change that are named each
NONE = "none"  # stands for what one of the artifacts lacks
# Operators that only other number formats need, and attributes that describe those
FORMAT_OPERATORS = {"Cast", "Reshape", "Shape", "Squeeze", "Unsqueeze", "Concat"}
FORMAT_ATTRIBUTES = {"bits", "block_size", "accuracy_level", "K", "N", "gather_axis", "axis"}
FORMAT_ATTRIBUTES |= {"quantize_axis", "transB"}
SAME_OPERATORS = {"MatMulNBits": "MatMul", "Gemm": "MatMul", "GatherBlockQuantized": "Gather"}


def graph_differences(
    a: GraphSpec, b: GraphSpec, first: StagedGraph, second: StagedGraph
) -> Iterator[str]:
    """Yield a line for each difference of two graphs in inputs, outputs, operators, attributes.

    Graphs of other number formats have other operators for products and look-ups, and casts; the
    rest of them is compared.
    """
    # Inputs and outputs
    retyped = Counter[str]()
    for kind in ("inputs", "outputs"):
        ours, theirs = ({tensor.name: tensor for tensor in getattr(spec, kind)} for spec in (a, b))
        for name in dict.fromkeys([*ours, *theirs]):
            x, y = ours.get(name), theirs.get(name)
            if x and y and x.shape == y.shape and x.dtype != y.dtype:
                retyped[f"{x.dtype} | {y.dtype}"] += 1
            elif x != y:
                yield f"{kind[:-1]} {name}: {_typed(x)} | {_typed(y)}"
    for types, count in retyped.items():
        yield f"{count} inputs and outputs: {types}"

    # Counts of operators, exactly, or apart from those that the number formats need
    ours, theirs = list(first.graph), list(second.graph)
    if [node.op_type for node in ours] == [node.op_type for node in theirs]:
        yield from _node_differences(ours, theirs, ignored=set())
        return
    counts = a.operators.keys() | b.operators.keys()
    differing = {
        name: (a.operators.get(name, 0), b.operators.get(name, 0)) for name in sorted(counts)
    }
    found = [f"{name} {n} | {m}" for name, (n, m) in differing.items() if n != m]
    ours, theirs = _reduced(ours), _reduced(theirs)
    is_format = [_kind(node) for node in ours] == [_kind(node) for node in theirs]
    note = " (all of it by the number formats)" if is_format and found else ""
    yield f"operators: {', '.join(found) or 'the same in another order'}{note}"
    if is_format:
        yield from _node_differences(ours, theirs, ignored=FORMAT_ATTRIBUTES)


def _node_differences(
    ours: Sequence[ir.Node], theirs: Sequence[ir.Node], *, ignored: set[str]
) -> Iterator[str]:
    """Yield a line for each change, and one for a change that many nodes have in common."""
    changes: dict[tuple[str, str], list[str]] = {}  # places, by operator and change
    for x, y in zip(ours, theirs, strict=True):
        for change in _changes(x, y, ignored):
            changes.setdefault((x.op_type, change), []).append(_place(x))
    for (operator, change), places in changes.items():
        if len(places) > ALIKE:
            yield f"{len(places)} {operator}: {change}"
        else:
            yield from (f"{place}: {change}" for place in places)


def _changes(x: ir.Node, y: ir.Node, ignored: set[str]) -> Iterator[str]:
    if not ignored and _names(x) != _names(y):
        yield "other inputs"
    elif ignored and _module(x) != _module(y):
        yield f"has the weights of {_module(y) or NONE}"
    for name in dict.fromkeys([*x.attributes, *y.attributes]):
        values = [
            str(node.attributes[name].value) if name in node.attributes else NONE for node in (x, y)
        ]
        if values[0] != values[1] and name not in ignored:
            yield f"{name} {values[0]} | {values[1]}"


def _reduced(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    """Return the nodes of a graph that it has in every number format.

    Left out are changes of type and shape, and the additions of biases, which some operators make
    themselves, and what selects rows of no weight.
    """
    return [
        node
        for node in nodes
        if node.op_type not in FORMAT_OPERATORS
        and not (node.op_type == "Add" and any(name.endswith(".bias") for name in _names(node)))
        and not (node.op_type == "Gather" and _module(node) is None)
    ]


def _kind(node: ir.Node) -> str:
    return SAME_OPERATORS.get(node.op_type, node.op_type)


def _names(node: ir.Node) -> list[str]:
    return [str(value.name) if value is not None else "" for value in node.inputs]


def _typed(tensor: TensorSpec | None) -> str:
    """Return the type and shape of an input or output in words."""
    return f"{tensor.dtype} [{', '.join(map(str, tensor.shape))}]" if tensor else NONE


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
