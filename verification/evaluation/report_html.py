"""An evaluation as a self-contained HTML page: error rates, and the recordings with most errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from html import escape
from pathlib import Path

from ...errors import StorageError
from ...files import atomic_write
from ..certificate_html import fact_list, fold, machine_card, page, table
from .evaluate import Evaluation, Row, Score
from .rates import Errors, Rate

JSON_NAME, HTML_NAME = "evaluation.json", "evaluation.html"
BAR = 220  # width of the widest bar, in pixels


def write_report(evaluation: Evaluation, folder: Path) -> None:
    """Write an evaluation to a folder as evaluation.json and evaluation.html.

    Raises:
        StorageError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made ({error.strerror or error})") from error
    values = json.dumps(asdict(evaluation), indent=1, ensure_ascii=False, allow_nan=False)
    atomic_write(folder / JSON_NAME, (values + "\n").encode())
    atomic_write(folder / HTML_NAME, render(evaluation).encode())


def render(evaluation: Evaluation) -> str:
    """Return the HTML page of an evaluation."""
    parts = [
        f"<header><div><h1>Error rates</h1><p class='soft'>{escape(evaluation.generator)}, "
        f"{escape(evaluation.created.replace('T', ' ').replace('+00:00', ' UTC'))}</p></div>"
        "</header>",
        _overview(evaluation),
    ]
    for i, score in enumerate(evaluation.scores):
        rows = [evaluation.rows[place] for place in evaluation.worst[i]]
        if rows:
            parts.append(f"<h2>{escape(score.system.name)}: the worst recordings</h2>")
            parts.append(f'<div class="card">{table(*_worst(rows, i), numbers={0})}</div>')
    parts += _left_out(evaluation)
    parts.append(machine_card(evaluation.machine))
    return page("Error rates", evaluation.data, "\n".join(parts))


def _overview(evaluation: Evaluation) -> str:
    # How it was measured
    facts = {
        "recordings": f"{len(evaluation.rows)} of {escape(evaluation.data)}",
        "compared as": escape(evaluation.normalizer),
        "in brackets": (
            f"the middle {evaluation.bootstrap['interval']} of "
            f"{evaluation.bootstrap['resamples']:,} resamples of recordings, the same for all; "
            "a difference whose bracket holds 0 may be chance"
        ),
    }

    # Rates of each system
    header = ("", "words wrong", "", "against the first", "characters wrong", "RTF")
    most = max((score.wer.value for score in evaluation.scores), default=0)
    rows = [
        (
            f"{escape(score.system.name)}<br><span class='soft'>{escape(score.system.device)}, "
            f"{score.system.delay_ms} ms</span>",
            show_rate(score.wer),
            _bar(score, most),
            show_difference(score.wer_above_first),
            show_rate(score.cer),
            f"{score.real_time_factor:.3f}",
        )
        for score in evaluation.scores
    ]
    return (
        f'<div class="card">{fact_list(facts)}</div><div class="card">{table(header, rows)}</div>'
    )


def show_rate(rate: Rate) -> str:
    """Return a rate with its interval as text: 4.31 % (3.90 to 4.75)."""
    low, high = rate.interval
    return f"{rate.value:.2f} % ({low:.2f} to {high:.2f})"


def show_difference(rate: Rate | None) -> str:
    """Return a difference of rates with its sign and interval; a dash for None."""
    if rate is None:
        return "–"
    low, high = rate.interval
    return f"{rate.value:+.2f} ({low:+.2f} to {high:+.2f})"


def _bar(score: Score, most: float) -> str:
    width = BAR * score.wer.value / most if most else 0
    return (
        f'<svg width="{BAR}" height="12" style="width:{BAR}px" role="img" '
        f'aria-label="{score.wer.value:.2f} %"><rect class="first" width="{width:.1f}" height="12" '
        'rx="3"/></svg>'
    )


def _worst(rows: list[Row], system: int) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    header = (
        "errors",
        "recording",
        "what is said, struck out where it was missed, and what was written",
    )
    return header, [
        (
            f"{row.errors[system].word_errors} of {row.errors[system].words}",
            f"{escape(row.file)}<br><span class='soft'>{row.audio_seconds:.1f} s</span>",
            " ".join(_aligned(row.errors[system])),
        )
        for row in rows
    ]


def _aligned(errors: Errors) -> Iterator[str]:
    """Yield HTML of an alignment: wrong words struck out, followed by those of the hypothesis."""
    for piece in errors.pieces:
        if piece.kind == "equal":
            yield escape(piece.reference)
            continue
        if piece.reference:
            yield f"<del>{escape(piece.reference)}</del>"
        if piece.hypothesis:
            yield f"<ins>{escape(piece.hypothesis)}</ins>"


def _left_out(evaluation: Evaluation) -> Iterator[str]:
    if evaluation.failed:
        rows = [(escape(file), escape(reason)) for file, reason in evaluation.failed]
        yield f'<h2>Not transcribed</h2><div class="card open">{table(("file", ""), rows)}</div>'
    if evaluation.without_text:
        names = "<br>".join(map(escape, evaluation.without_text))
        yield fold(f"{len(evaluation.without_text)} recordings without a text", names)
