"""Print results of commands: artifacts, hosts, certificates, checks, measurements, timings."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DeviceError
from .terminal import format_size, stdout, styled, write_json, write_line

if TYPE_CHECKING:
    from rich.table import Table

    from ..manifest import Manifest
    from ..runtime.audio.vad import SpeechFilter
    from ..runtime.bench import Latency, Measurement
    from ..runtime.doctor import Check
    from ..runtime.transcript import Transcript
    from ..verification.certificate import Certificate, Standing
    from ..verification.evaluation.evaluate import Evaluation

# Others, which are undecided, are yellow
VERDICT_COLOURS = {"passed": "green", "failed": "bold red"}


def print_artifact(folder: Path, manifest: Manifest, held: list[str], checked: list[str]) -> None:
    """Print what an artifact holds, its model, graphs and files, and which checks passed."""
    by = f"  format {manifest.format}, by {manifest.generator}"
    stdout.print(styled((str(folder), "bold"), by))
    if manifest.scope:
        stdout.print(styled((manifest.scope, "dim")))
    streaming, windows = manifest.streaming, manifest.caches
    stdout.print(
        f"windows: encoder {windows['encoder'].window} frames, decoder {windows['decoder'].window} "
        f"tokens; delay {streaming.default_delay_tokens} of 1 to {streaming.max_delay_tokens} "
        "tokens"
    )
    stdout.print(_graph_table(manifest), soft_wrap=False)
    for name, precision in manifest.precisions.items():
        stdout.print(styled(f"{name}: {precision.recipe.title}"))
    sizes = [file.size for name, file in manifest.files.items() if (folder / name).exists()]
    stdout.print(f"{len(sizes)} files, {format_size(sum(sizes))}; checked: {', '.join(checked)}")
    if elsewhere := [name for name in manifest.precisions if name not in held]:
        stdout.print(f"not in this folder: {', '.join(elsewhere)}")


def _graph_table(manifest: Manifest) -> Table:
    """Return a table with a row for each graph of each precision."""
    from rich.table import Table

    shown = ("MatMulNBits", "MatMul", "GroupQueryAttention")
    columns = ("precision", "graph", "parameters", "weights", "nodes", *shown[:2], "attention")
    table = Table(*columns, box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for name, precision in manifest.precisions.items():
        families = [graph for graphs in precision.families.values() for graph in graphs]
        others = {Path(graph.path).stem: graph for graph in families}
        shown_before: set[str] = set()  # data files
        for role, graph in (precision.native | others).items():
            own = [manifest.files[file].size for file in graph.data if file not in shown_before]
            shown_before |= {*graph.data}
            table.add_row(
                name,
                role,
                f"{graph.parameters / 1e6:,.1f} M",
                format_size(sum(own)) if own else "shared",
                str(sum(graph.operators.values())),
                *(str(graph.operators.get(operator, 0)) for operator in shown),
            )
    return table


def print_hosts(manifest: Manifest, *, as_json: bool) -> None:
    """Print which other programs run an artifact, and how far each was tested."""
    from dataclasses import asdict

    from rich.console import Group
    from rich.table import Column, Table

    from ..verification.hosts import NOT_IN_ARTIFACT, judge, read_hosts

    if as_json:
        write_json([asdict(verdict) for host in read_hosts() for verdict in judge(host, manifest)])
        return
    table = Table("host", "tested", Column("graphs", overflow="fold"), box=None, pad_edge=False)
    for host in read_hosts():
        # Group the precisions by verdict
        groups: dict[tuple[str, str], list[str]] = {}  # precisions with the same verdict
        verdicts = list(judge(host, manifest))
        for verdict in [verdict for verdict in verdicts if verdict.precision] or verdicts:
            names = groups.setdefault((verdict.family, verdict.status), [])
            names += [verdict.precision] if verdict.precision else []

        # Write a line for each group
        lines = [
            f"{family} {', '.join(names)}".rstrip()
            + f": {status}"
            + (f"; add it: export --family native,{family}" if status == NOT_IN_ARTIFACT else "")
            for (family, status), names in groups.items()
        ]
        if host.note:
            lines.append(f"({host.note})")
        table.add_row(host.name, host.version, Group(*lines))
    stdout.print(table, soft_wrap=False)


def print_standing(standing: Standing) -> None:
    """Print the verdict of an artifact's certificate, and whether it is of this artifact."""
    colour = "bold red" if standing.is_wrong else VERDICT_COLOURS.get(standing.status, "yellow")
    stdout.print(styled("certificate: ", (standing.line, colour)))


def print_certificate(certificate: Certificate) -> None:
    """Print what each check of an artifact found, and the verdict."""
    from rich.table import Table

    from ..exporter.packages import how_to_install
    from ..verification.verdict import merge_unrun

    # Print rows, within a terminal's width but whole in a log, where people search for words
    is_whole = not stdout.is_terminal
    table = Table(*[""] * 5, box=None, pad_edge=False, show_header=False)
    for finding in merge_unrun(certificate.findings):
        colour = VERDICT_COLOURS.get(finding.status, "yellow")
        where = str(finding.rung), finding.precision or "all", finding.check
        table.add_row(*where, styled((finding.status, colour)), finding.summary)
        if is_whole:
            line = "{}  {:6}  {:32}  ".format(*where)
            status = f"{finding.status:10}", colour
            stdout.print(styled(line, status, f"  {finding.summary}"))
    if not is_whole:
        stdout.print(table, soft_wrap=False)

    # Print what was not checked, what to install for it, and the verdict
    for sentence in certificate.not_checked:
        shown = styled(("not checked:", "yellow"), f" {sentence}")
        stdout.print(shown, soft_wrap=is_whole)
    if lacks := certificate.lacks:
        stdout.print(f"to run what lacks packages:\n{how_to_install(lacks)}")
    found = certificate.judgement
    stamp = found.stamp, f"bold {VERDICT_COLOURS.get(found.verdict, 'yellow')}"
    stdout.print(styled(stamp, f": {found.scope}, in {certificate.seconds:.0f} s"))


def print_evaluation(evaluation: Evaluation) -> None:
    """Print error rates, their distance from the first model's, and what was left out."""
    from rich.table import Table

    from ..verification.evaluation.report_html import show_difference, show_rate

    # Print two rows for each model: rates, and their intervals
    table = Table("", "words wrong", "against the first", "characters wrong", "RTF")
    for score in evaluation.scores:
        rates = (
            show_rate(score.wer),
            show_difference(score.wer_above_first),
            show_rate(score.cer),
        )
        table.add_row(
            score.system.name,
            *(rate.partition(" (")[0] for rate in rates),
            f"{score.real_time_factor:.3f}",
        )
        intervals = (rate.partition(" (")[2] for rate in rates)
        table.add_row(
            f"{score.system.device}, {score.system.delay_ms} ms",
            *(f"({interval}" if interval else "" for interval in intervals),
        )
    stdout.print(table)

    # Print what the rates are measured on
    words = evaluation.scores[0].words if evaluation.scores else 0
    stdout.print(
        f"{len(evaluation.rows)} recordings, {words:,} words; in brackets the middle 95 % of "
        f"{evaluation.bootstrap['resamples']:,} resamples, the same for all models"
    )
    stdout.print(f"compared as {evaluation.normalizer}")
    for file, reason in evaluation.failed:
        stdout.print(styled(("not transcribed:", "red"), f" {file}: {reason}"))
    if left := evaluation.without_text:
        stdout.print(f"{len(left)} without a .txt beside them, as {left[0]}")


def print_checks(checks: list[Check]) -> None:
    """Print what `doctor` found: the headline, then a table, topic by topic."""
    from rich.table import Table

    colours = {"ok": "green", "note": "yellow"}
    headline, *checks = checks
    shown = styled((headline.summary, f"bold {colours[headline.status]}"))
    stdout.print(shown, soft_wrap=False)
    stdout.print()
    table = Table("", "", "", "", box=None, pad_edge=False, show_header=False)
    table.columns[3].overflow = "fold"
    topic = ""
    for check in checks:
        shown, topic = "" if check.topic == topic else check.topic, check.topic
        status = styled((check.status, colours.get(check.status, "bold red")))
        table.add_row(styled((shown, "bold")), check.name, status, check.summary)
    stdout.print(table, soft_wrap=False)


def format_measurements(rows: list[Measurement]) -> str:
    """Return what `bench` measured as Markdown tables, with a row for each precision."""
    from ..runtime.bench import markdown_table

    # A table of whole runs
    runs = [
        (
            f"{row.precision} {row.device}",
            f"{row.encode_ms:,.0f}",
            f"{row.decode_ms:,.0f}",
            f"{row.rtf:.3f}",
            f"{row.tokens_per_second:,.1f}",
            " + ".join(format_size(size) for size in (row.peak_memory, row.device_memory) if size),
        )
        for row in rows
    ]
    heads = ("Path", "Encode ms", "Decode ms", "RTF", "Tokens/s", "Memory")
    parts = [markdown_table(heads, runs)]

    # With details, a table of single calls, and a line on loading and memory
    calls, lines = [], []
    for row in rows:
        if (details := row.details) is None:
            continue
        empty, full = details.empty_window, details.full_window
        path, chunk = f"{row.precision} {row.device}", f"{details.chunk_tokens} tokens"
        for call, one, other in (
            ("encoder, 1 token", empty.encoder, full.encoder),
            (f"encoder, {chunk}", empty.encoder_chunk, full.encoder_chunk),
            ("decoder, 1 token", empty.decoder, full.decoder),
        ):
            calls.append((f"{path}: {call}", _latency(one), _latency(other)))
        line = (
            f"{path}: loaded in {details.load_seconds:.2f} s, "
            f"{format_size(details.loaded_memory)}; first step {details.first_step_seconds:.2f} s; "
            f"{format_size(details.full_memory)} with full caches; a decoder step reads "
            f"{format_size(details.decoder_bytes)} of weights"
        )
        if row.device == "cpu":
            line += (
                f" at {details.bandwidth_share:.0%} of the "
                f"{details.read_bytes_per_second / 1e9:.1f} GB/s that {row.threads} threads read"
            )
        lines.append(line)
    if calls:
        heads = ("Milliseconds: min / p50 / p95", "Empty window", "Full window")
        parts.append(markdown_table(heads, calls))
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _latency(latency: Latency) -> str:
    """Return the least, the median and the 95th percentile in milliseconds."""
    return f"{latency.min:.2f} / {latency.p50:.2f} / {latency.p95:.2f}"


def written_line(folder: Path, seconds: float) -> str:
    """Return a line with the size of an artifact, and the time and memory of writing it."""
    from ..manifest import Manifest
    from ..memory import peak_memory

    size = sum(file.size for file in Manifest.read(folder).files.values())
    memory = format_size(peak_memory())
    return f"{format_size(size)} in {seconds:.0f} s, {memory} of memory at most"


def next_step(folder: Path) -> str:
    """Return a line with the command that transcribes with an artifact."""
    return f"transcribe with: voxtral-onnx transcribe --model {shlex.quote(str(folder))} FILE"


def timing_line(transcript: Transcript) -> str:
    """Return a line with a transcript's audio length, RTF, timings and peak memory."""
    from ..memory import peak_memory

    info = transcript.info
    rtf = "–" if info["rtf"] is None else f"{info['rtf']:.3f}"
    return (
        f"{transcript.duration:.2f} s of audio, RTF {rtf} (encode {info['encode_ms']:.0f} ms, "
        f"decode {info['decode_ms']:.0f} ms), {format_size(peak_memory())} of memory"
    )


def remarks(transcript: Transcript) -> Iterator[str]:
    """Yield notes on what the blank guard, hotwords and the speech filter changed."""
    writer, start = transcript.writer, transcript.kept.heard_from
    if writer.overrides:
        times = [start + writer.seconds_of(each.index) for each in writer.overrides]
        at = ", ".join(f"{seconds:.1f}" for seconds in times)
        yield f"the blank guard chose a word at {at} s (--no-blank-guard: never)"
    if count := writer.num_swayed:
        yield f"hotwords changed {count} token{'s' * (count > 1)}"
    if transcript.speech_filter:
        yield vad_line(transcript.speech_filter)


def vad_line(speech_filter: SpeechFilter) -> str:
    """Return a line with the seconds without speech, and the segments left out there."""
    segments = f"{speech_filter.left_out} segment{'s' * (speech_filter.left_out != 1)}"
    quiet = f"no speech in {speech_filter.quiet_seconds:.1f} of {speech_filter.seconds:.1f} s"
    return f"vad: {quiet}, {segments} left out there"


def print_microphones() -> None:
    """Print the microphones that are connected, a line each.

    Raises:
        DeviceError: there are none.
    """
    from ..runtime.audio.microphone import input_devices

    devices = input_devices()
    if not devices:
        raise DeviceError("no microphone is connected")
    for device in devices:
        kind = f"{device.channels} channels, {device.rate:.0f} Hz"
        default = "  (default)" if device.is_default else ""
        write_line(f"{device.index}  {device.name}  {kind}{default}")
