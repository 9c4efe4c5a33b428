"""The certificate as a self-contained HTML page: text, tables and drawings in SVG.

The page loads nothing from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from math import log10
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from ..exporter.packages import how_to_install
from .thresholds import GRAPH_ERROR, SHIPPED_ERROR
from .verdict import merge_unrun

if TYPE_CHECKING:
    from .certificate import Certificate
    from .verdict import Finding

_TEMPLATE = Path(__file__).with_name("certificate.html")
# The CSS class that colours each status of a finding and each verdict
_CLASSES = {
    "passed": "passed",
    "partly passed": "open",
    "failed": "failed",
    "not judged": "open",
    "not run": "open",
}
_CLAIM = (
    "Self-reported by whoever ran verify. Verify it yourself: "
    "<code>voxtral-onnx verify FOLDER</code>"
)
_KINDS = {"float": "float model", "shipped": "as shipped"}
WIDTH, HEIGHT = 460, 190  # size of a drawing, in SVG units
LEFT, BOTTOM = 40, 24  # space for the labels of its axes
FLOOR = 1e-8  # the bottom of the error axis; smaller errors are drawn there


def render(certificate: Certificate, name: str) -> str:
    """Return the HTML page of a certificate, for the artifact named `name`."""
    parts = [
        _header(certificate, name),
        _open_questions(certificate.not_checked, certificate.lacks),
        _ladder(certificate.findings),
    ]
    limits = {threshold["name"]: threshold["value"] for threshold in certificate.thresholds}
    for precision, details in certificate.details.items():
        parts.append(_precision(precision, details, limits))
    parts += [_thresholds(certificate.thresholds), machine_card(certificate.machine)]
    return page(name, certificate.judgement.stamp, "\n".join(parts))


def page(name: str, verdict: str, body: str) -> str:
    """Return a complete HTML page: the template with a name, a verdict and an HTML body."""
    values = {"name": escape(name), "verdict": escape(verdict), "body": body}
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(values)


def format_error(error: float) -> str:
    """Return a number with two significant digits, its exponent unpadded: 1.5e-6, 0.015."""
    return f"{error:.2g}".replace("e-0", "e-")


def _header(certificate: Certificate, name: str) -> str:
    found = certificate.judgement
    kind, stamp = _CLASSES[found.verdict], found.stamp
    made = certificate.created.replace("T", " ").replace("+00:00", " UTC")
    source = escape(certificate.checkpoint or "not given")
    fingerprint = escape(certificate.fingerprint[:16])
    facts = {
        "manifest sha256": f"<code>{escape(certificate.manifest_sha256)}</code>",
        "checkpoint": f'{source} <span class="soft">fingerprint <code>{fingerprint}…</code></span>',
        "precisions": escape(", ".join(certificate.precisions)),
        "rungs passed": ", ".join(map(str, found.passed_rungs)) or "none",
    }
    if found.partial_rungs:
        facts["passed in part"] = ", ".join(map(str, found.partial_rungs))
    return (
        f'<header><div><h1>{escape(name)}</h1><p class="soft">{escape(certificate.generator)}, '
        f"{escape(made)}, "
        f'{certificate.seconds:.0f} s</p><p class="soft">{_CLAIM}</p></div>'
        f'<div class="stamp {kind}">{stamp}</div></header>'
        f'<div class="card">{fact_list(facts)}</div>'
    )


def _ladder(findings: Sequence[Finding]) -> str:
    rows = [
        (
            f'<span class="rung">{finding.rung}</span>',
            escape(finding.check),
            escape(finding.precision or "all"),
            f'<span class="{_CLASSES[finding.status]}">{finding.status}</span>',
            escape(finding.summary),
        )
        for finding in merge_unrun(findings)
    ]
    return (
        "<h2>The ladder</h2><div "
        f'class="card">{table(("rung", "check", "precision", "", ""), rows)}</div>'
    )


def _open_questions(sentences: Sequence[str], lacks: Sequence[str]) -> str:
    if not sentences:
        return ""
    items = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    if lacks:
        lines = "<br>".join(escape(line.strip()) for line in how_to_install(lacks).splitlines())
        items += f"<p>To run what lacks packages:<br><code>{lines}</code></p>"
    return f'<h2>Not checked</h2><div class="card open">{items}</div>'


def _precision(name: str, details: Mapping[str, Any], limits: Mapping[str, float]) -> str:
    # Drawings
    drawings = []
    if stages := details.get("stages"):
        drawings.append(
            '<figure class="card"><h3>Error of each stage</h3>'
            + _draw_stages(stages, limits[GRAPH_ERROR.name], limits[SHIPPED_ERROR.name])
            + '<figcaption><span class="key">graph against module, float32</span>'
            '<span class="key other">as shipped</span>; dashed: the limits</figcaption></figure>'
        )
    if margins := details.get("margins"):
        drawings.append(
            '<figure class="card"><h3>Blank margins</h3>'
            + _draw_margins(margins)
            + '<figcaption><span class="key">float model</span><span class="key other">as '
            "shipped</span>; to the right of 0 a position stays blank</figcaption></figure>"
        )

    # The drawings, and tables below them
    parts = [f"<h2>{escape(name)}</h2>"]
    if drawings:
        parts.append(f'<div class="pair">{"".join(drawings)}</div>')
    if clips := details.get("clips"):
        parts.append(_words(clips))
    if operators := details.get("operators"):
        rows = [
            (escape(row["name"]), escape(row["device"]), format_error(row["error"]))
            for row in operators
        ]
        parts.append(fold("Operators", table(("operator", "device", "error"), rows, numbers={2})))
    if stages:
        others = list(stages[-1]["devices"])  # devices that ran every stage
        rows = [
            (
                escape(row["name"]),
                *(format_error(row[kind]) for kind in ("graph", "streamed", "shipped")),
                *(format_error(row["devices"][other]) for other in others),
            )
            for row in stages
        ]
        columns = (
            "stage",
            "one call",
            "call by call",
            "as shipped",
            *(f"{escape(other)} against CPU" for other in others),
        )
        parts.append(fold("Stages", table(columns, rows, numbers=set(range(1, len(columns))))))
    if test := details.get("self_test"):
        ids = " ".join(map(str, test["token_ids"]))
        parts.append(
            fold(
                "Self-test",
                f"<p>{escape(test['clip'])}: {escape(test['text'])}</p><code>{ids}</code>",
            )
        )
    return "".join(parts)


def _words(clips: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            escape(row["clip"]),
            escape(row["text"]),
            *(_against(row["text"], row[f"{kind}_text"]) for kind in _KINDS),
        )
        for row in clips
    ]
    totals = {key: sum(row[key] for row in clips) for key in ("words", "characters")}
    rates = [
        (
            title,
            f"{sum(row[f'{kind}_word_edits'] for row in clips) / max(1, totals['words']):.1%}",
            f"{sum(row[f'{kind}_edits'] for row in clips) / max(1, totals['characters']):.1%}",
        )
        for kind, title in _KINDS.items()
    ]
    summary = f"{len(clips)} clips, {totals['words']} words"
    counts = table((summary, "words wrong", "characters wrong"), rates, numbers={1, 2})
    texts = fold("Transcripts", table(("clip", "text", "float model", "as shipped"), rows))
    return f'<div class="card"><h3>Words</h3>{counts}{texts}</div>'


def _against(wanted: str, text: str) -> str:
    return (
        '<span class="soft">the same</span>'
        if text == wanted
        else f"<del>{escape(text) or 'nothing'}</del>"
    )


def _thresholds(values: Iterable[Mapping[str, Any]]) -> str:
    rows = [(escape(row["name"]), format_error(row["value"]), escape(row["why"])) for row in values]
    return (
        "<h2>Thresholds</h2><div "
        f'class="card">{table(("name", "value", "why"), rows, numbers={1})}</div>'
    )


def machine_card(machine: Mapping[str, Any]) -> str:
    """Return a card of HTML with the result of `describe_machine`."""
    machine = dict(machine)
    packages = machine.pop("packages")
    memory = machine.pop("memory")
    facts = {name: escape(str(value)) for name, value in machine.items() if value is not None}
    if memory:
        facts["memory"] = f"{memory / 1e9:.1f} GB"
    facts["packages"] = escape(", ".join(f"{name} {version}" for name, version in packages.items()))
    facts = {name.replace("_", " "): value for name, value in facts.items()}
    return f'<h2>Machine</h2><div class="card">{fact_list(facts)}</div>'


def _draw_stages(
    stages: Sequence[Mapping[str, Any]], graph_limit: float, shipped_limit: float
) -> str:
    """Return a drawing of each stage's errors: a column a stage, on a logarithmic axis.

    The limits are those of errors of exact graphs and of graphs as shipped.
    """
    top = 1.0

    def y(error: float) -> float:
        share = (log10(min(max(error, FLOOR), top)) - log10(FLOOR)) / (log10(top) - log10(FLOOR))
        return (HEIGHT - BOTTOM) * (1 - share) + 4

    # Axis and limits
    step = (WIDTH - LEFT - 8) / len(stages)
    marks = []
    for decade in range(-8, 1, 2):
        at = y(10.0**decade)
        marks.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH}" y1="{at:.1f}" y2="{at:.1f}"/>')
        label = "1" if decade == 0 else f"1e{decade}"
        marks.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{label}</text>')
    limits = [y(limit) for limit in (graph_limit, shipped_limit)]
    marks += [
        f'<line class="limit" x1="{LEFT}" x2="{WIDTH}" y1="{at:.1f}" y2="{at:.1f}"/>'
        for at in limits
    ]

    # Two dots for each stage
    radius = max(1.6, min(4.0, step / 3))
    for number, stage in enumerate(stages):
        x = LEFT + step * (number + 0.5)
        errors = [format_error(stage[kind]) for kind in ("graph", "shipped")]
        title = f"{escape(stage['name'])}: {errors[0]}, as shipped {errors[1]}"
        for kind, colour in (("graph", "first"), ("shipped", "second")):
            place = f'cx="{x:.1f}" cy="{y(stage[kind]):.1f}" r="{radius:.1f}"'
            marks.append(f'<circle class="{colour}" {place}><title>{title}</title></circle>')

    # A line between the encoder's stages and the decoder's
    border = next(
        (n for n, stage in enumerate(stages) if stage["name"].startswith("language_model")),
        len(stages),
    )
    x = LEFT + step * border
    marks.append(
        f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{HEIGHT - BOTTOM + 4}"/>'
    )
    for label, at in (("encoder", (LEFT + x) / 2), ("decoder", (x + WIDTH) / 2)):
        marks.append(f'<text x="{at:.1f}" y="{HEIGHT - 4}" text-anchor="middle">{label}</text>')
    return _svg(marks, "Errors of the stages")


def _draw_margins(histogram: Mapping[str, Sequence[float]]) -> str:
    """Return a histogram of blank margins, with two bars side by side in each bin.

    Heights are square roots of the counts, so that rare margins can be seen.
    """
    # The horizontal axis
    edges, highest = histogram["edges"], max(1, *histogram["float"], *histogram["shipped"]) ** 0.5
    low, high = edges[0], edges[-1]

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT) * (value - low) / (high - low)

    marks = [
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH}" y1="{HEIGHT - BOTTOM}" '
        f'y2="{HEIGHT - BOTTOM}"/>'
    ]

    # Bars
    for number, (begin, end) in enumerate(pairwise(edges)):
        width = (x(end) - x(begin)) * 0.42
        for side, (key, kind, colour) in enumerate(
            zip(_KINDS, _KINDS.values(), ("first", "second"), strict=True)
        ):
            count = histogram[key][number]
            height = (HEIGHT - BOTTOM - 8) * count**0.5 / highest
            place = f'x="{x(begin) + side * width:.1f}" y="{HEIGHT - BOTTOM - height:.1f}" rx="1"'
            size = f'width="{width:.1f}" height="{height:.1f}"'
            title = f"{begin:g} to {end:g}: {count} {kind}"
            marks.append(f'<rect class="{colour}" {place} {size}><title>{title}</title></rect>')

    # Labels, and a line at 0, where a decision turns over
    ticks = sorted({low, 0.0 if low < 0 < high else low, high})
    marks += [
        f'<text x="{x(at):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{at:g}</text>' for at in ticks
    ]
    if low < 0 < high:
        marks.append(
            f'<line class="limit" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="4" y2="{HEIGHT - BOTTOM}"/>'
        )
    for share in (1.0, 0.25):
        count, at = share * highest**2, HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 8) * share**0.5
        marks.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{count:.0f}</text>')
    return _svg(marks, "Histogram of blank margins")


def _svg(marks: Iterable[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{title}">{"".join(marks)}</svg>'
    )


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: frozenset[int] | set[int] = frozenset(),
) -> str:
    """Return an HTML table; cells are HTML, and the columns `numbers` are aligned to the right."""

    def cells(tag: str, values: Sequence[str]) -> str:
        classes = (' class="number"' if column in numbers else "" for column in range(len(values)))
        return "".join(
            f"<{tag}{kind}>{value}</{tag}>" for kind, value in zip(classes, values, strict=True)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells('th', header)}</tr></thead><tbody>{body}</tbody></table>"


def fold(title: str, content: str) -> str:
    """Return HTML with a title that opens and closes its content when it is clicked."""
    return f'<details><summary>{title}</summary><div class="card">{content}</div></details>'


def fact_list(facts: Mapping[str, str]) -> str:
    """Return an HTML list of names and their values, which are HTML themselves."""
    return (
        "<dl>"
        + "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in facts.items())
        + "</dl>"
    )
