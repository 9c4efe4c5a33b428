"""Write the generated parts of docs/: artifact, checking, cli, hosts, performance, verification.

They are the inputs and outputs of the 4B model's graphs, the precisions, every command with its
options, the hosts that tests run, the limits that `verify` judges by, what files of bench/results
do not say, and the most bytes that are read of each kind of file. The table of fuzz tests in
docs/verification.md is written by `make fuzz`.

Usage: python scripts/make_docs.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

from voxtral_onnx import limits
from voxtral_onnx.cli.app import app
from voxtral_onnx.config import RELEASED, VoxtralConfig
from voxtral_onnx.exporter.export import caches
from voxtral_onnx.exporter.graph.families import native
from voxtral_onnx.exporter.model import mel
from voxtral_onnx.exporter.model.parameters import PartFactory
from voxtral_onnx.exporter.precisions import PRECISIONS
from voxtral_onnx.manifest import TensorSpec, Tokens
from voxtral_onnx.quant.recipe import FLOAT
from voxtral_onnx.verification import thresholds
from voxtral_onnx.verification.certificate_html import format_error
from voxtral_onnx.verification.hosts import read_hosts

DOCS = Path(__file__).parent.parent / "docs"
RESULTS = DOCS.parent / "bench" / "results"
# Any ids would do: no input or output of a graph depends on them
TOKENS = Tokens(bos=0, eos=0, streaming_pad=0, streaming_word=0, first_text=0)
# Inputs and outputs of each graph, by its role
Graphs = dict[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]]


def planned(config: VoxtralConfig, dtype: str) -> Graphs:
    """Return the inputs and outputs of a model's native graphs, as tracing plans them.

    Args:
        config: hyperparameters of the model.
        dtype: activation type, float16 or float32.
    """
    options = {"build": PartFactory(dtype, FLOAT), "suffix": ""}
    plans = [
        native.encoder_plan(config, **options),
        native.batch_encoder_plan(config, **options),
        native.decoder_plan(config, tokens=TOKENS, **options),
    ]
    if dtype == "float16":
        plans.append(native.paged_encoder_plan(config, **options))
    graphs = {plan.role: (plan.inputs, plan.outputs) for plan in plans}
    return {"mel": ((mel.INPUT,), (mel.output_spec(config.audio),)), **graphs}


def table(role: str, float16: Graphs, float32: Graphs) -> str:
    """Return a table of one graph's inputs and outputs.

    A type that differs between the two activation types is written as T.
    """
    lines = ["| | name | type | shape |", "| --- | --- | --- | --- |"]
    other = float32.get(role, float16[role])  # a graph may exist in one of them
    for kind, half, single in zip(("in", "out"), float16[role], other, strict=True):
        rows = [
            (spec.name, spec.dtype if spec.dtype == other.dtype else "T", _shape(spec))
            for spec, other in zip(half, single, strict=True)
        ]
        lines += [
            f"| {kind} | {name} | {dtype} | {shape} |" for name, dtype, shape in _folded(rows)
        ]
    return "\n".join(lines)


def _folded(rows: Iterable[tuple[str, str, str]]) -> Iterable[tuple[str, str, str]]:
    """Yield rows with names as code, and with the caches of all layers in one row."""
    rows = list(rows)
    layers = [int(match[1]) for name, _, _ in rows if (match := re.search(r"\.(\d+)\.", name))]
    for name, dtype, shape in rows:
        if name.endswith(".0.key"):
            prefix = name.removesuffix(".0.key")
            yield f"`{prefix}.{{i}}.key`, `….value` for i = 0 to {max(layers)}", dtype, shape
        elif not re.search(r"\.\d+\.", name):
            yield f"`{name}`", dtype, shape


def _shape(spec: TensorSpec) -> str:
    return "[" + ", ".join(str(size).replace("*", "·") for size in spec.shape) + "]"


def precisions() -> str:
    """Return a table of the precisions: suffix of the files, activation type, recipe."""
    lines = ["| precision | suffix | T | recipe |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {name} | {f'`{kind.suffix}`' if kind.suffix else 'none'} | {kind.dtype} | "
        f"{kind.recipe or 'none'} |"
        for name, kind in PRECISIONS.items()
    ]
    return "\n".join(lines)


def calls(config: VoxtralConfig) -> str:
    """Return a table of example calls before, at and after the shifts of both caches.

    Each row has the call's first position p, the number of rows that it may write of those that the
    host would like to write, their place in the buffer, and the shift that follows, if any.
    """
    lines = [
        "| cache | p | rows | row(p) | `seqlens_k` | then |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, cache in caches(config).items():
        # The last token before the second shift
        again = 2 * cache.capacity - cache.keep - cache.rows_per_token
        if name == "encoder":
            wanted = [
                (0, 64),
                (cache.capacity // 64 * 64, 64),
                (cache.capacity, 64),
                (again, cache.rows_per_token),
            ]
        else:
            wanted = [(0, 39), (cache.capacity - 1, 1), (cache.capacity, 1), (again, 1)]
        for position, asked in wanted:
            rows, row = min(asked, cache.slots_left(position)), cache.row(position)
            is_full = row + rows == cache.capacity
            shift = (
                f"rows {cache.capacity - cache.keep:,} … {row + rows - 1:,} shift to 0 … "
                f"{cache.keep - 1:,}"
            )
            count = f"{rows} of {asked}" if rows < asked else rows
            lines.append(
                f"| {name} | {position:,} | {count} | {row:,} | {row + rows - 1:,} | "
                f"{shift if is_full else ''} |"
            )
    return "\n".join(lines)


def hosts() -> str:
    """Return a table of the hosts that tests run, with a row for each test."""
    lines = ["| host | version | graphs | precisions | test |", "| --- | --- | --- | --- | --- |"]
    for host in read_hosts():
        first = f"{host.name} ({host.note})" if host.note else host.name, host.version
        for test in host.tests:  # name and version stand in the host's first row only
            path, name = test.test.split("::")
            row = *first, test.family, ", ".join(test.precisions), f"[{name}](../{path})"
            lines.append(f"| {' | '.join(row)} |")
            first = "", ""
    return "\n".join(lines)


def budgets() -> str:
    """Return a table of the size limits in limits.py, each with the comment behind it there."""
    source = Path(limits.__file__).read_text("utf-8")
    part = source.partition("# Bytes of a whole file\n")[2].partition("\n\n")[0]
    lines = ["| kind of file | at most |", "| --- | ---: |"]
    for name, note in re.findall(r"^([A-Z_]+) = [^#\n]*(?:#(.*))?$", part, re.MULTILINE):
        kilobytes = getattr(limits, name) // limits.KB
        size = f"{kilobytes // 1024} MB" if kilobytes >= 1024 else f"{kilobytes} KB"
        words = name.lower().replace("_", " ")
        lines.append(f"| {words}{note and ':' + note} | {size} |")
    return "\n".join(lines)


def judged() -> str:
    """Return a table of the limits that `verify` judges by, each with its reason."""
    lines = ["| measured | limit | what it is, and why this limit |", "| --- | ---: | --- |"]
    lines += [f"| {row.name} | {format_error(row.value)} | {row.why} |" for row in thresholds.ALL]
    return "\n".join(lines)


def lacking() -> str:
    """Return a table of the files of bench/results that do not say how they were measured."""
    facts = {
        "date": "date",
        "command": "command",
        "voxtral_onnx": "version of voxtral-onnx",
        "machine": "machine",
    }
    results = {path.name: json.loads(path.read_text("utf-8")) for path in RESULTS.glob("*.json")}
    lines = ["| does not say | file |", "| --- | --- |"]
    for key, words in facts.items():
        names = [name for name, found in sorted(results.items()) if key not in found]
        lines.append(f"| {words} | {', '.join(names) or 'none'} |")
    return "\n".join(lines)


def commands() -> str:
    """Return a section for each command: help, usage, and tables of its options by panel."""
    program: Any = typer.main.get_command(app)
    parts = []
    for name, command in program.commands.items():
        context = typer.Context(command, info_name=f"voxtral-onnx {name}")
        usage = " ".join(command.collect_usage_pieces(context))
        parts.append(f"## {name}\n\n{_plain(command.help)}\n\n`voxtral-onnx {name} {usage}`\n")
        rows: dict[str, list[str]] = {}
        for parameter in command.params:
            if not (hidden := getattr(parameter, "hidden", False)):
                rows.setdefault(getattr(parameter, "rich_help_panel", None) or "", [])
            if hidden or parameter.name == "help":
                continue
            rows[getattr(parameter, "rich_help_panel", None) or ""].append(_row(parameter, context))
        for panel, lines in rows.items():
            if lines:
                parts.append(f"| {panel} | | default |\n| --- | --- | --- |\n" + "\n".join(lines))
                parts.append("")
    return "\n".join(parts).rstrip()


def _row(parameter: Any, context: Any) -> str:
    """Return the table row of an argument or option: its names, its help, its default."""
    names = [parameter.metavar] if parameter.param_type_name == "argument" else parameter.opts
    value = "" if parameter.param_type_name == "argument" else f" {parameter.metavar or ''}"
    shown = parameter.show_default
    default = shown if isinstance(shown, str) else parameter.get_default(context, call=False)
    is_flag = getattr(parameter, "is_flag", False)
    said = "" if default in (None, ()) or is_flag or shown is False else f"{default}"
    called = ", ".join(f"`{name}{value}`".replace(" `", "`") for name in names)
    return f"| {called} | {_plain(parameter.help)} | {said} |"


def _plain(text: str) -> str:
    """Return a help text as one line of Markdown, with Rich's markup for bold text translated."""
    text = re.sub(r"\[b\](.*?)\[/\]", r"**\1**", text).replace("\\[", "[")
    return " ".join(text.replace("|", "\\|").split())


def tables(config: VoxtralConfig = RELEASED) -> dict[str, dict[str, str]]:
    """Return the generated parts of each page, by the names of their markers in the page."""
    float16, float32 = planned(config, "float16"), planned(config, "float32")
    graphs = {role: table(role, float16, float32) for role in float16}
    return {
        "cli.md": {"commands": commands()},
        "artifact.md": {**graphs, "precisions": precisions(), "calls": calls(config)},
        "checking.md": {"thresholds": judged()},
        "hosts.md": {"hosts": hosts()},
        "performance.md": {"lacking": lacking()},
        "verification.md": {"budgets": budgets()},
    }


def renewed() -> dict[str, str]:
    """Return the text of each page with its generated parts replaced, by file name."""
    pages = {}
    for page, parts in tables().items():
        content = (DOCS / page).read_text("utf-8")
        for name, text in parts.items():
            marked = re.compile(f"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
            content, count = marked.subn(
                lambda match, text=text: f"{match[1]}{text}\n{match[2]}", content
            )
            assert count == 1, f"{page}: expected one part marked {name}, found {count}"
        pages[page] = content
    return pages


if __name__ == "__main__":
    for page, content in renewed().items():
        (DOCS / page).write_text(content, "utf-8")
