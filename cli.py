"""The command line: parse, call one public function, print.

Results go to stdout, all else to stderr.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ._version import __version__
from .errors import (
    AudioError,
    DeviceError,
    StorageError,
    UsageError,
    VerificationError,
    VoxtralOnnxError,
)
from .terminal import (
    DownloadProgress,
    ExportProgress,
    FilesMeter,
    FilesScreen,
    LiveScreen,
    PauseKey,
    Steps,
    format_size,
    print_error,
    say,
    stderr,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from .exporter.checkpoint.remote import RemoteCheckpoint
    from .exporter.plan import ExportPlan
    from .exporter.quantize import Budget, BudgetPlan
    from .manifest import Manifest
    from .runtime.audio.files import AudioSource
    from .runtime.audio.microphone import Microphone
    from .runtime.audio.vad import VoiceGate
    from .runtime.bench import Latency, Measurement
    from .runtime.doctor import Check
    from .runtime.live import Notice, Silence
    from .runtime.text.segments import Segment
    from .runtime.tokens import Token
    from .runtime.transcriber import Transcriber
    from .runtime.transcript import Transcript
    from .verification.certificate import Certificate

SOME_FAILED = 10  # exit code: some of several inputs
INTERRUPTED = 130
TERMINATED = 143

WHICH_ARTIFACT = "Artifact folder; ORG/NAME\\[@REVISION] of the hub; or [b]tiny[/]."
DEFAULT_ARTIFACT = "$VOXTRAL_ONNX_MODEL or last export"
ArtifactArgument = Annotated[
    str | None, typer.Argument(help=WHICH_ARTIFACT, show_default=DEFAULT_ARTIFACT)
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Ask no hub: take what was downloaded before.")
]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Export Voxtral Mini 4B Realtime to 4-bit ONNX, and transcribe with it on your own "
    "machine.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"voxtral-onnx {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options of every command."""


@app.command(rich_help_panel="Build")
def export(
    source: Annotated[
        str | None,
        typer.Argument(
            help="A checkpoint folder, in Mistral's or Hugging Face's layout; a GGUF or the first "
            "of its shards; "
            "ORG/NAME\\[@REVISION] of the hub; or [b]tiny[/].",
            show_default="mistralai/Voxtral-Mini-4B-Realtime-2602",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Artifact folder.", show_default="./<name>-onnx"),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Mistral's tekken.json.", show_default="beside the weights")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Comma-separated: q4f16, q4, q8, fp16, fp32.")
    ] = "q4f16",
    family: Annotated[
        str,
        typer.Option(
            help="Comma-separated: graphs for other hosts too, as native,transformers_js."
        ),
    ] = "native",
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Quantisation recipe: a name or a TOML file.", show_default="the precision's own"
        ),
    ] = None,
    shard_size: Annotated[
        str, typer.Option(help="Size at which a new weight file begins.")
    ] = "512MiB",
    threads: Annotated[
        int | None, typer.Option(min=1, help="For quantising.", show_default="one a core")
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(help="Branch, tag or commit of a source on the hub.", show_default="main"),
    ] = None,
    offline: Offline = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print files, disk, memory and time needed, and write nothing."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False,
) -> None:
    """Export a checkpoint to ONNX; prints the artifact's folder.

    One that was interrupted is taken up again.
    """
    _require_export_packages()
    from .exporter.binding.gguf_report import summaries
    from .exporter.checkpoint.remote import DEFAULT_SOURCE
    from .exporter.export import export as run_export
    from .exporter.plan import plan_export
    from .manifest import Manifest
    from .memory import peak_memory
    from .runtime.locate import remember_export

    names, families = ([name.strip() for name in text.split(",")] for text in (precision, family))
    options = {"tokenizer": tokenizer, "precisions": names, "families": families, "recipe": recipe}
    options["shard_size"] = parse_size(shard_size)
    asks = source is None and not yes
    found = _fetch_checkpoint(
        source or DEFAULT_SOURCE,
        output,
        options,
        revision=revision,
        offline=offline,
        dry_run=dry_run,
        asks=asks,
    )
    if found is None:
        return
    place, output = found
    if dry_run:
        plan = plan_export(place, output, **options, threads=threads)
        _print_plan(plan)
        plan.require_room()
        return
    began = perf_counter()
    with ExportProgress() as progress:
        folder = run_export(place, output, **options, threads=threads, on_progress=progress.update)
    try:
        remember_export(folder)
    except StorageError as error:
        say(f"note: not remembered as the last export: {error}")
    for note in summaries(folder):
        say(note)
    written = sum(file.size for file in Manifest.read(folder).files.values())
    say(
        f"{format_size(written)} in {perf_counter() - began:.0f} s, {format_size(peak_memory())} "
        "of memory at most"
    )
    write(f"{folder}\n")


@app.command(rich_help_panel="Build")
def quantize(
    source: Annotated[
        str,
        typer.Argument(
            help="What [b]export[/] takes, or an artifact of floats or 8 bits; or [b]tiny[/]."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Artifact folder.", show_default="./<name>-onnx"),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Mistral's tekken.json.", show_default="beside the weights")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Comma-separated: q4f16, q4, q8; one with --budget.")
    ] = "q4f16",
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Quantisation recipe: a name or a TOML file.", show_default="the precision's own"
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Size of the artifact, as 2.4GB: measures where bits matter, and spends it."
        ),
    ] = None,
    audio: Annotated[
        list[str] | None,
        typer.Option(
            help="With --budget: speech to measure on, 30 s in all.",
            show_default="the embedded samples",
        ),
    ] = None,
    shard_size: Annotated[
        str, typer.Option(help="Size at which a new weight file begins.")
    ] = "512MiB",
    threads: Annotated[
        int | None, typer.Option(min=1, help="For quantising.", show_default="one a core")
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(help="Branch, tag or commit of a source on the hub.", show_default="main"),
    ] = None,
    offline: Offline = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print files, disk, memory and time needed, and write nothing."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The folder, and what --budget measured and chose.")
    ] = False,
) -> None:
    """Quantise a checkpoint or a float artifact, by a recipe or to a size.

    Prints the new artifact's folder.
    """
    _require_export_packages()
    from .exporter.calibration.calibrate import SECONDS
    from .exporter.plan import plan_export
    from .exporter.quantize import check_options, open_source, output_folder, plan_budget
    from .exporter.quantize import quantize as run_quantize

    if audio and budget is None:
        raise UsageError("--audio calibrates a --budget; without one nothing is measured")
    names = [name.strip() for name in precision.split(",")]
    num_bytes = None if budget is None else parse_size(budget)
    check_options(names, recipe, num_bytes)
    options = {
        "tokenizer": tokenizer,
        "precisions": names,
        "recipe": recipe,
        "shard_size": parse_size(shard_size),
    }
    found = _fetch_checkpoint(
        source,
        output,
        options,
        revision=revision,
        offline=offline,
        dry_run=dry_run,
        artifact_size=num_bytes,
    )
    if found is None:
        return
    place, output = found
    checkpoint = open_source(place, tokenizer)
    folder = output_folder(checkpoint, output)
    say(f"{checkpoint.source}: {checkpoint.layout}")
    if dry_run and num_bytes is not None:
        _print_budget_plan(plan_budget(checkpoint, folder, names[0], num_bytes, threads), num_bytes)
        return
    if dry_run:
        plan = plan_export(checkpoint, folder, **options, threads=threads)
        _print_plan(plan)
        plan.require_room()
        return
    rate = checkpoint.config.audio.sample_rate
    spent: list[Budget] = []
    with ExportProgress() as progress:
        run_quantize(
            checkpoint,
            folder,
            precisions=names,
            recipe=recipe,
            budget=num_bytes,
            recordings=[_read_start(path, rate, SECONDS) for path in audio] if audio else None,
            shard_size=options["shard_size"],
            threads=threads,
            on_progress=progress.update,
            on_stage=progress.measure,
            on_budget=spent.append,
        )
    for result in spent:
        _print_budget(result)
    if as_json:
        table = json.loads(spent[0].table.read_bytes()) if spent else {}
        write(json.dumps({"folder": str(folder), **table}) + "\n")
    else:
        write(f"{folder}\n")


@app.command(rich_help_panel="Run")
def transcribe(
    audio: Annotated[
        list[str] | None,
        typer.Argument(
            help="Audio and, with PyAV, video files; folders, patterns; [b]-[/] reads a file or "
            "raw s16le from stdin."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help=WHICH_ARTIFACT,
            show_default=DEFAULT_ARTIFACT,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Which of the artifact's.", show_default="q4f16, else what it has"),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or webgpu.")] = "auto",
    allow_fallback: Annotated[
        bool,
        typer.Option("--allow-fallback", help="Run on the CPU what the device cannot, and say so."),
    ] = False,
    delay: Annotated[
        int | None,
        typer.Option(
            help="Milliseconds to listen before writing: a multiple of 80 up to 2400.",
            show_default="the model's, 480",
        ),
    ] = None,
    context: Annotated[int, typer.Option(help="Positions of 80 ms that attention sees.")] = 8192,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1, help="Files that advance together, a token each in one call; on CPU or CUDA."
        ),
    ] = 1,
    gain: Annotated[
        str, typer.Option(help="[b]auto[/] scales the peak to 0.95; [b]none[/].")
    ] = "none",
    output_format: Annotated[
        str,
        typer.Option(
            "--output-format", "-f", help="txt, json, srt, vtt, tsv, or all with --output-dir."
        ),
    ] = "txt",
    output_dir: Annotated[
        Path | None,
        typer.Option(help="Write one file a clip and format here, besides the text on stdout."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Same as --output-format json.")] = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing", help="Leave out files whose output stands in --output-dir."
        ),
    ] = False,
    blank_guard: Annotated[
        bool,
        typer.Option(
            help="After 16 s without a word, make blanks less likely; told where it fires."
        ),
    ] = True,
    alternatives: Annotated[
        int,
        typer.Option(help="With json: each token's best N, 1 to 10, with their log probabilities."),
    ] = 0,
    hotwords: Annotated[
        Path | None,
        typer.Option(help="A text file of words and phrases, one a line, that are made likelier."),
    ] = None,
    hotword_bias: Annotated[
        float | None, typer.Option(help="Added to the logits of their tokens.", show_default="4")
    ] = None,
    vad: Annotated[
        str | None,
        typer.Option(
            metavar="[MODEL.onnx]",
            help="Leave out words where nobody speaks: by loudness, or by Silero's model, version "
            "5 or 6.",
            show_default="nothing is left out",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="For onnxruntime.", show_default="one a core")
    ] = None,
    prepacked: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps weights packed for this machine: twice the disk, loads faster."
        ),
    ] = None,
    stdin: Annotated[
        bool,
        typer.Option(
            "--stdin", help="Live: raw samples from standard input, captions as they are spoken."
        ),
    ] = False,
    rate: Annotated[int, typer.Option(help="Of the samples from --stdin, in Hz.")] = 16000,
    sample_format: Annotated[
        str, typer.Option(help="Of the samples from --stdin: s16le or f32le.")
    ] = "s16le",
    mic: Annotated[
        bool, typer.Option("--mic", help="Live: a microphone; space or p pauses, Ctrl-C ends it.")
    ] = False,
    input_device: Annotated[
        str | None,
        typer.Option(help="Number or name of the microphone.", show_default="the system's"),
    ] = None,
    list_devices: Annotated[
        bool, typer.Option("--list-devices", help="List microphones and exit.")
    ] = False,
    stream_json: Annotated[
        bool,
        typer.Option(
            "--stream-json", help="Live: one JSON event a line (partial, group, silence, final)."
        ),
    ] = False,
    offline: Offline = False,
    language: Annotated[str | None, typer.Option(hidden=True)] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "--initial-prompt", hidden=True)] = None,
) -> None:
    """Transcribe audio files; words appear on stdout as they are decoded."""
    if language is not None or prompt is not None:
        raise UsageError(
            "the model has neither a language setting nor a text prompt: it detects the language "
            "by itself; "
            "leave --language and --prompt out"
        )
    from .runtime.audio.files import find_audio

    if list_devices:
        _print_microphones()
        return
    if stdin + mic + bool(audio) != 1:
        raise UsageError(
            "give audio files, or --mic, or --stdin for raw samples as they are "
            "spoken: one of the three"
        )
    if stream_json and audio:
        raise UsageError(
            "--stream-json tells of speech as it comes: add --mic or --stdin, or use "
            "--json for files"
        )
    formats = _formats("json" if as_json else output_format, output_dir)
    if skip_existing and output_dir is None:
        raise UsageError("--skip-existing looks for outputs in a folder: add --output-dir FOLDER")
    if alternatives and not (stream_json or "json" in formats):
        raise UsageError(
            "--alternatives are written as JSON: add --json, or --stream-json for "
            "speech as it comes"
        )
    if hotword_bias is not None and hotwords is None:
        raise UsageError("--hotword-bias is that of --hotwords FILE: add the file")
    audio = find_audio(audio or [])
    _refuse_name_clashes(audio, output_dir)
    if output_dir is not None:
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{output_dir}: cannot be made ({error.strerror or error})"
            ) from error

    from .runtime.transcriber import Transcriber

    if skip_existing and output_dir is not None:
        done = [
            path
            for path in audio
            if all((output_dir / f"{_stem(path)}.{name}").is_file() for name in formats)
        ]
        audio = [path for path in audio if path not in done]
        say(f"{len(done)} skipped, their output stands in {output_dir}; {len(audio)} to do")
        if not audio:
            return
    if batch_size > 1 and not audio:
        raise UsageError(
            "--batch-size is for files that advance together: leave it out with --mic and --stdin"
        )
    options = {
        "batch_size": min(batch_size, max(1, len(audio))),
        "precision": precision,
        "threads": threads,
        "prepacked": prepacked,
        "blank_guard": blank_guard,
        "alternatives": alternatives,
        **_hotword_options(hotwords, hotword_bias),
        "vad": vad,
        "allow_fallback": allow_fallback,
        "offline": offline,
    }
    with DownloadProgress() as download:
        loaded = Transcriber(model, device, delay, context, **options, on_download=download.update)
    with loaded as transcriber:
        _introduce(transcriber)
        if stdin or mic:
            hz = transcriber.sample_rate
            source = (
                _stdin_blocks(sample_format, rate, hz)
                if stdin
                else _open_microphone(input_device, hz)
            )
            _transcribe_live(
                transcriber, "stdin" if stdin else "mic", source, formats, output_dir, stream_json
            )
            return
        several = _transcribe_together if transcriber.batch_size > 1 else _transcribe_in_turn
        with _orderly_end():
            failed = several(transcriber, audio, gain, formats, output_dir)
    if failed:
        raise typer.Exit(failed[0].exit_code if len(audio) == 1 else SOME_FAILED)


@app.command(rich_help_panel="Run")
def serve(
    artifact: ArtifactArgument = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for every one.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    https: Annotated[
        bool,
        typer.Option(
            "--https",
            help="With a certificate of this machine's own: for browsers of other devices.",
        ),
    ] = False,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
    precision: Annotated[
        str | None,
        typer.Option(help="Comma-separated; of ORG/NAME all are downloaded.", show_default="q4f16"),
    ] = None,
    offline: Offline = False,
) -> None:
    """Open the page that transcribes in a browser tab; the model runs there."""
    import webbrowser

    from .server.app import LOCAL
    from .server.app import serve as run_server
    from .server.page import PRECISIONS, absent_precisions

    names = None if precision is None else [name.strip() for name in precision.split(",")]
    folder = _find(artifact, names or list(PRECISIONS[:1]), offline)
    if names is None and (absent := absent_precisions(folder)):
        all_names = ",".join(PRECISIONS)
        say(
            f"{', '.join(absent)} is not here, which browsers without float16 on the GPU need: "
            f"--precision {all_names}"
        )

    def ready(address: str) -> None:
        write(f"{address}\n")
        if not https and host not in LOCAL:
            say(
                "browsers of other devices give no microphone and no GPU to a page without https; "
                "add --https"
            )
        if not no_open:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    run_server(folder, host, port, precisions=names, https=https, on_ready=ready)


@app.command(rich_help_panel="Build")
def bundle(
    artifact: Annotated[str, typer.Argument(help=WHICH_ARTIFACT)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The site's folder.")],
    precision: Annotated[
        str | None, typer.Option(help="Comma-separated.", show_default="q4f16 and q4, where there")
    ] = None,
    space: Annotated[
        bool, typer.Option("--space", help="As a static Space of the Hugging Face hub.")
    ] = False,
    offline: Offline = False,
) -> None:
    """Write the page and a model as a folder that any static host serves; prints it."""
    from .server.page import PRECISIONS
    from .server.page import bundle as write_site

    names = None if precision is None else [name.strip() for name in precision.split(",")]
    folder = _find(artifact, names or list(PRECISIONS[:1]), offline)
    site = write_site(folder, output, names, space=space)
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    say(f"{size / 1e6:,.1f} MB")
    write(f"{site}\n")


@app.command(rich_help_panel="Build")
def publish(
    artifact: Annotated[str, typer.Argument(help=WHICH_ARTIFACT)],
    repository: Annotated[
        str, typer.Argument(help="ORG/NAME on the Hugging Face hub; made where there is none.")
    ],
    space: Annotated[
        bool, typer.Option("--space", help="The page with the model, as a static Space.")
    ] = False,
    private: Annotated[
        bool, typer.Option("--private", help="For those alone who may read the repository.")
    ] = False,
    base_model: Annotated[
        str | None,
        typer.Option(
            help="ORG/NAME\\[@REVISION] that it was exported from, for the card.",
            show_default="the released model, where it has that one's shape",
        ),
    ] = None,
    offline: Offline = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the card and the files, and send nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Upload without asking.")] = False,
) -> None:
    """Upload an artifact with a generated model card, or the page with it.

    Prints the repository's address.
    """
    from huggingface_hub.utils import disable_progress_bars

    from .manifest import Manifest
    from .publish.upload import plan_publication
    from .server.page import PRECISIONS

    folder = _find(artifact, list(PRECISIONS[:1]) if space else ["all"], offline)
    with Steps() as steps:
        steps.show("comparing the files with their hashes")
        publication = plan_publication(folder, repository, space=space, base_model=base_model)
    sizes = publication.sizes
    if dry_run:
        write(
            publication.card
            + "\n"
            + "".join(f"{size:>15,}  {name}\n" for name, size in sizes.items())
        )
        return
    readers = "for you and those you let in" if private else "for everyone to read"
    terms = Manifest.read(folder).license or "terms that the artifact does not name"
    say(
        f"{len(sizes)} files, {format_size(sum(sizes.values()))}, to the {publication.kind} "
        f"{repository}, {readers},"
    )
    say(
        f"the weights under {terms}; another licence stands in the checkpoint's card.json before "
        "the export"
    )
    if not yes:
        _confirm(
            "Upload them?",
            "nothing is uploaded without being asked for: add --yes, or --dry-run to see it",
        )

    def show(name: str, done: int, total: int) -> None:
        say(f"{name}: {format_size(sizes[name])}; {format_size(done)} of {format_size(total)} sent")

    if not stderr.is_terminal:
        disable_progress_bars()  # huggingface_hub's own, one a file
    url = publication.upload(private=private, on_file=show)
    write(f"{url}\n")


@app.command(rich_help_panel="Inspect")
def inspect(
    artifact: ArtifactArgument = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Also compare the contents of all files with their hashes."),
    ] = False,
    hosts: Annotated[
        bool, typer.Option("--hosts", help="Which hosts tests have run it on, instead.")
    ] = False,
    offline: Offline = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The manifest, with what was checked.")
    ] = False,
) -> None:
    """Show what an artifact holds, and check its sizes, graphs and, with --check, hashes."""
    from .manifest import Manifest
    from .runtime.device.session import check_graph
    from .verification.certificate import read_verdict

    folder = _find(artifact, [], offline)
    manifest = Manifest.read(folder)
    if hosts:
        _print_hosts(manifest, as_json=as_json)
        return
    held = manifest.held(folder)
    manifest.check_files(folder, held)
    checked = ["sizes"]
    try:
        for graph in manifest.graphs(held):
            if (folder / graph.path).exists():  # downloads bring no families
                check_graph(folder, graph)
        checked.append("graphs")
    except DeviceError as error:
        say(f"inputs and outputs of the graphs not checked: {error}")
    if check:
        manifest.check_files(folder, held, hashes=True)
        checked.append("hashes")
    if as_json:
        from dataclasses import asdict

        facts = {
            "folder": str(folder),
            "held": held,
            "checked": checked,
            "certificate": read_verdict(folder),
        }
        write(json.dumps({**facts, **asdict(manifest)}, ensure_ascii=False) + "\n")
    else:
        _print_artifact(folder, manifest, held, checked)
        write(f"certificate: {read_verdict(folder)}\n")


@app.command(rich_help_panel="Inspect")
def verify(
    artifact: Annotated[
        str | None,
        typer.Argument(
            help="Artifact folder, or [b]tiny[/].",
            show_default="$VOXTRAL_ONNX_MODEL or last export",
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="What it was exported from; without it weights are not compared."),
    ] = None,
    audio: Annotated[
        list[str] | None,
        typer.Option(
            help="A recording, its text in a .txt beside it; several times.",
            show_default="embedded samples",
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Comma-separated.", show_default="all that it has")
    ] = None,
    rungs: Annotated[
        str, typer.Option(help="Comma-separated, of 0 to 6: as [b]1,2,3,4[/].")
    ] = "0,1,2,3,4,5,6",
    as_json: Annotated[bool, typer.Option("--json", help="The whole certificate.")] = False,
) -> None:
    """Check an artifact from single operators to words, and write its certificate beside it."""
    _require_export_packages()
    from .verification.verify import verify as run_verify

    if not re.fullmatch("[0-9]+(,[0-9]+)*", rungs):
        raise UsageError(f"rungs: expected numbers from 0 to 6 with commas, got {rungs!r}")
    names = [name.strip() for name in precision.split(",")] if precision else None
    failed, began = None, Steps()
    with began:
        try:
            certificate = run_verify(
                artifact,
                checkpoint=checkpoint,
                audio=audio or (),
                precisions=names,
                rungs=[int(rung) for rung in rungs.split(",")],
                on_progress=began.show,
            )
        except VerificationError as error:
            failed, certificate = error, error.report
    if as_json:
        write(json.dumps(certificate.to_dict(), ensure_ascii=False) + "\n")
    else:
        _print_certificate(certificate)
    if failed:
        raise failed


@app.command(rich_help_panel="Inspect")
def diff(
    a: Annotated[str, typer.Argument(help="Artifact folder.")],
    b: Annotated[str, typer.Argument(help="Another.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Every difference, with its numbers.")
    ] = False,
) -> None:
    """Compare two artifacts: manifest, recipes, graphs, and weights tensor by tensor.

    Exit code 8 where they differ.
    """
    _require_export_packages()
    from .verification.diff import diff as run_diff

    difference = run_diff(a, b)
    write(
        json.dumps(difference.to_dict(), ensure_ascii=False) + "\n"
        if as_json
        else difference.render()
    )
    if not difference.is_equal:
        raise typer.Exit(VerificationError.exit_code)


@app.command(rich_help_panel="Inspect")
def bench(
    artifact: ArtifactArgument = None,
    audio: Annotated[
        str | None,
        typer.Argument(help="An audio file.", show_default="15.95 s of the embedded samples"),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated, or [b]all[/]: a row each.",
            show_default="q4f16, else what it has",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or webgpu.")] = "auto",
    allow_fallback: Annotated[
        bool,
        typer.Option("--allow-fallback", help="Run on the CPU what the device cannot, and say so."),
    ] = False,
    delay: Annotated[
        int | None,
        typer.Option(
            help="Milliseconds to listen before writing.", show_default="the model's, 480"
        ),
    ] = None,
    context: Annotated[int, typer.Option(help="Positions of 80 ms that attention sees.")] = 8192,
    threads: Annotated[
        int | None, typer.Option(min=1, help="For onnxruntime.", show_default="one a core")
    ] = None,
    prepacked: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps weights packed for this machine: twice the disk, loads faster."
        ),
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Runs; the row is the fastest.")] = 3,
    offline: Offline = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also time loading, single calls, memory.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, with the machine.")] = False,
) -> None:
    """Measure how fast an artifact transcribes, each precision in a process of its own."""
    from .runtime import bench, machine

    precisions = [name.strip() for name in precision.split(",")] if precision else None
    machine = machine.describe_machine()
    rows = []
    with DownloadProgress() as download:
        for row in bench.bench(
            artifact,
            audio,
            precisions=precisions,
            device=device,
            delay_ms=delay,
            context=context,
            threads=threads,
            prepacked=prepacked,
            allow_fallback=allow_fallback,
            repeat=repeat,
            details=verbose or as_json,
            offline=offline,
            on_download=download.update,
        ):
            rows.append(row)
            for note in row.notes:
                say(f"note: {note}")
            say(
                f"{row.precision}: the fastest of {repeat} runs over {row.audio_seconds:.2f} s of "
                "audio"
            )
    if as_json:
        from dataclasses import asdict

        results = [asdict(row) for row in rows]
        write(
            json.dumps({"voxtral_onnx": __version__, "machine": machine, "results": results}) + "\n"
        )
    else:
        write(_format_measurements(rows))


@app.command(rich_help_panel="Inspect")
def doctor(
    artifact: Annotated[
        str | None,
        typer.Argument(
            help="Artifact folder, or [b]tiny[/].",
            show_default="$VOXTRAL_ONNX_MODEL or last export, if there is one",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated, or [b]all[/]: what is tested.",
            show_default="q4f16, else what it has",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or webgpu.")] = "auto",
    context: Annotated[int, typer.Option(help="Positions of 80 ms that attention sees.")] = 8192,
    as_json: Annotated[bool, typer.Option("--json", help="Every check, with its numbers.")] = False,
) -> None:
    """Say what this machine can run and how fast.

    Exit code 7 where something needed is missing, 8 where one fails.
    """
    from dataclasses import asdict

    from .runtime import doctor as examining
    from .verification.certificate import read_self_tests

    precisions = [name.strip() for name in precision.split(",")] if precision else None
    options = {
        "precisions": precisions,
        "device": device,
        "context": context,
        "self_tests": read_self_tests,
    }
    checks = []
    with Steps() as steps:
        steps.show("looking at this machine")
        for check in examining.doctor(artifact, **options):
            checks.append(check)
            steps.show(f"{check.topic}: {check.name}")
    if as_json:
        write(json.dumps([asdict(check) for check in checks], ensure_ascii=False) + "\n")
    else:
        _print_checks(checks)
    found = {check.status for check in checks}
    for status, error in ((examining.FAILED, VerificationError), (examining.MISSING, DeviceError)):
        if status in found:
            raise typer.Exit(error.exit_code)


def main() -> None:
    """Run the command line: errors a user can act on are one line on stderr and an exit code."""
    try:
        app(_with_hyphens(sys.argv[1:]), prog_name="voxtral-onnx")
    except VoxtralOnnxError as error:
        print_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _with_hyphens(arguments: list[str]) -> list[str]:
    """Whisper spells its flags with underscores; both are understood, up to a `--` alone.

    `--vad` needs no value.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = [
        re.sub("^--[^=]+", lambda flag: flag[0].replace("_", "-"), argument)
        for argument in arguments[:end]
    ]
    followed = zip(flags, [*flags[1:], ""], strict=True)
    flags = [
        "--vad=energy" if flag == "--vad" and not value.endswith(".onnx") else flag
        for flag, value in followed
    ]
    return flags + arguments[end:]


def parse_size(text: str) -> int:
    """Bytes of a size such as 512MiB, 2GB or 1000000.

    Raises:
        UsageError: not a size.
    """
    units = {
        "": 1,
        "b": 1,
        "kb": 1000,
        "mb": 1000**2,
        "gb": 1000**3,
        "kib": 1 << 10,
        "mib": 1 << 20,
        "gib": 1 << 30,
    }
    number = text.strip().lower().rstrip("kmgib")
    unit = text.strip().lower()[len(number) :]
    try:
        size = int(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError):
        raise UsageError(
            f"size: expected a number with B, KB, MB, GB, KiB, MiB or GiB, got {text!r}"
        ) from None
    if size < 1 << 20:
        raise UsageError(f"size: expected at least 1MiB, got {text!r}")
    return size


def _find(artifact: str | None, precisions: list[str] | None, offline: bool) -> Path:
    from .runtime.locate import find_artifact

    with DownloadProgress() as download:
        return find_artifact(artifact, precisions, offline=offline, on_download=download.update)


def _formats(output_format: str, output_dir: Path | None) -> tuple[str, ...]:
    from .runtime.text.captions import FORMATS

    if output_format == "all":
        if output_dir is None:
            raise UsageError("--output-format all writes files: add --output-dir FOLDER")
        return FORMATS
    if output_format not in FORMATS:
        raise UsageError(
            f"output format: expected one of {', '.join(FORMATS)}, all, got {output_format!r}"
        )
    return (output_format,)


def _refuse_name_clashes(audio: list[str], output_dir: Path | None) -> None:
    stems = Counter(_stem(path) for path in audio)
    if output_dir is not None and (clashes := [stem for stem, count in stems.items() if count > 1]):
        raise UsageError(
            f"several inputs would be written as {clashes[0]}.*: transcribe them into "
            "different folders"
        )


def _stem(path: str) -> str:
    return "stdin" if path == "-" else Path(path).stem


def _introduce(transcriber: Transcriber) -> None:
    from .runtime.delay import delay_ms, untrained_delay

    manifest, tokens = transcriber.manifest, transcriber.num_delay_tokens
    context = (
        ""
        if transcriber.context >= manifest.config.decoder.sliding_window
        else f", context {transcriber.context}"
    )
    say(
        f"{transcriber.folder}: {transcriber.precision} on {transcriber.device}, "
        f"delay {delay_ms(manifest, tokens)} ms{context}"
    )
    for note in (*transcriber.notes, manifest.scope, untrained_delay(manifest, tokens)):
        if note:
            say(f"note: {note}")


def _transcribe_in_turn(
    transcriber: Transcriber,
    audio: list[str],
    gain: str,
    formats: tuple[str, ...],
    output_dir: Path | None,
) -> list[VoxtralOnnxError]:
    """One file after the other, word by word; the errors of those that failed."""
    failed: list[VoxtralOnnxError] = []
    with FilesScreen(len(audio)) as screen:
        for number, path in enumerate(audio, 1):
            count = f"[{number}/{len(audio)}] " if len(audio) > 1 else ""
            try:
                _transcribe_one(transcriber, path, gain, formats, output_dir, screen, count)
            # DeviceError: what one format needs, or memory for one file
            except (AudioError, DeviceError) as error:
                failed.append(error)
                screen.say(error)
    _summarize(screen.files, failed)
    return failed


def _transcribe_together(
    transcriber: Transcriber,
    audio: list[str],
    gain: str,
    formats: tuple[str, ...],
    output_dir: Path | None,
) -> list[VoxtralOnnxError]:
    """Several files at a time.

    Each is written when it is done, and stdout has them in their order.
    """
    from .runtime.text.captions import render

    failed: list[VoxtralOnnxError] = []
    numbers: dict[int, int] = {}  # by the source's id
    # for stdout, by the file's number, as long as an earlier file is not done
    done: dict[int, str] = {}
    turn = 1
    screen = FilesScreen(len(audio))

    def fail(number: int, error: VoxtralOnnxError) -> None:
        failed.append(error)
        done[number] = ""
        screen.say(error)

    def sources() -> Iterator[AudioSource]:
        for number, path in enumerate(audio, 1):
            try:
                source = _open_one(transcriber, path, gain, screen, f"[{number}/{len(audio)}] ")
            except (AudioError, DeviceError) as error:
                fail(number, error)
                continue
            numbers[id(source)] = number
            yield source

    with screen:
        try:
            for transcript in transcriber.transcribe_many(sources()):
                number = numbers.pop(id(transcript.source))
                try:
                    texts = {name: render(transcript, name) for name in formats}
                    done[number] = (
                        texts[formats[0]] if output_dir is None else render(transcript, "txt")
                    )
                    count = f"[{number}/{len(audio)}] "
                    _finish_one(
                        transcript, texts, _stem(audio[number - 1]), output_dir, screen, count
                    )
                except AudioError as error:
                    fail(number, error)
                while turn in done:
                    screen.write(done.pop(turn))
                    turn += 1
        finally:  # what is done is shown even if the rest is not to come
            for number in sorted(done):
                screen.write(done[number])
    _summarize(screen.files, failed)
    return failed


def _open_one(
    transcriber: Transcriber, path: str, gain: str, screen: FilesScreen, count: str
) -> AudioSource:
    from .runtime.audio.files import open_audio

    source = open_audio(path, transcriber.sample_rate, gain=gain)
    for note in source.notes:
        screen.say(f"{count}{source.name}: {note}")
    return source


def _transcribe_one(
    transcriber: Transcriber,
    path: str,
    gain: str,
    formats: tuple[str, ...],
    output_dir: Path | None,
    screen: FilesScreen,
    count: str,
) -> None:
    from .runtime.text.captions import Recording, render

    source = _open_one(transcriber, path, gain, screen, count)
    shows_words = output_dir is not None or formats == ("txt",)
    meter = screen.files
    meter.begin(source)

    def show(token: Token) -> None:
        meter.position = token.end
        if shows_words:
            screen.show(token.text)

    transcript = transcriber.transcribe(source, on_token=show)
    try:
        texts = {name: render(transcript, name) for name in formats}
    except BaseException:  # a signal, damage: what was decoded is not lost
        if shows_words:
            screen.end("")
        elif transcript.decoded:
            info = {**transcript.info, "broken_off_at": round(meter.position, 3)}
            screen.write(render(Recording(transcript.decoded, source.duration, info), formats[0]))
        raise
    if shows_words:
        screen.end(transcript.stream.text.flush())
    else:
        screen.write(texts[formats[0]])
    _finish_one(transcript, texts, _stem(path), output_dir, screen, count)


def _finish_one(
    transcript: Transcript,
    texts: dict[str, str],
    stem: str,
    output_dir: Path | None,
    screen: FilesScreen,
    count: str,
) -> None:
    from .files import write_whole

    source = transcript.source
    if output_dir is not None:
        for name, text in texts.items():
            write_whole(output_dir / f"{stem}.{name}", text.encode())
    if fired := transcript.stream.overrides:
        seconds = ", ".join(
            f"{transcript.stream.seconds_of(override.index):.1f}" for override in fired
        )
        screen.say(
            f"{count}{source.name}: the blank guard chose a word at {seconds} s "
            "(--no-blank-guard: never)"
        )
    if swayed := transcript.stream.num_swayed:
        screen.say(f"{count}{source.name}: hotwords changed {swayed} token{'s' * (swayed > 1)}")
    if transcript.gate:
        screen.say(f"{count}{source.name}: {_gate_line(transcript.gate)}")
    screen.say(f"{count}{source.name}: {_timing_line(transcript)}")
    screen.files.finish(source)


def _summarize(meter: FilesMeter, failed: list[VoxtralOnnxError]) -> None:
    if meter.files > 1 and len(failed) < meter.files:
        say(f"{meter.files - len(failed)} of {meter.files} files transcribed, {meter.total}")


def _hotword_options(file: Path | None, bias: float | None) -> dict[str, Any]:
    from .runtime.hotwords import DEFAULT_BIAS, read_hotwords

    return {
        "hotwords": read_hotwords(file) if file else (),
        "hotword_bias": DEFAULT_BIAS if bias is None else bias,
    }


def _gate_line(gate: VoiceGate) -> str:
    groups = f"{gate.left_out} word groups" if gate.left_out != 1 else "1 word group"
    return (
        f"vad: no speech in {gate.quiet_seconds:.1f} of {gate.seconds:.1f} s, {groups} left out "
        "there"
    )


def _stdin_blocks(sample_format: str, rate: int, sample_rate: int) -> Iterator[np.ndarray]:
    from .runtime.audio.raw import raw_blocks

    stdin = os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0)
    return raw_blocks(stdin, sample_format, rate, sample_rate)


def _open_microphone(device: str | None, sample_rate: int) -> Microphone:
    from .runtime.audio.microphone import Microphone

    microphone = Microphone(int(device) if device and device.isdigit() else device, sample_rate)
    resampled = "" if microphone.rate == sample_rate else f", resampled from {microphone.rate} Hz"
    keys = "space pauses, Ctrl-C ends it" if sys.stdin.isatty() else "Ctrl-C ends it"
    say(f"{microphone.name}{resampled}: speak; {keys}")
    return microphone


def _print_microphones() -> None:
    from .runtime.audio.microphone import input_devices

    devices = input_devices()
    if not devices:
        raise DeviceError("no microphone is connected")
    for device in devices:
        default = "  (default)" if device.is_default else ""
        write(
            f"{device.index}  {device.name}  {device.channels} channels, {device.rate:.0f} "
            f"Hz{default}\n"
        )


def _transcribe_live(
    transcriber: Transcriber,
    name: str,
    source: Microphone | Iterator[np.ndarray],
    formats: tuple[str, ...],
    output_dir: Path | None,
    stream_json: bool,
) -> None:
    """Show speech as it comes.

    Ctrl-C and SIGTERM end the capture, and what was captured is still transcribed.
    """
    import signal

    from .files import write_whole
    from .memory import peak_memory
    from .runtime.audio.microphone import Microphone
    from .runtime.live import Capture, Meter, Notice, Silence, listen
    from .runtime.text.captions import Recording, render
    from .runtime.text.segments import Segment

    stream, gate, meter = transcriber.stream(), transcriber.voice_gate(), Meter()
    screen = LiveScreen(meter)
    microphone = source if isinstance(source, Microphone) else None
    capture = Capture(iter(source))
    recording = Recording([])
    shows_words = not stream_json and (output_dir is not None or formats == ("txt",))
    keeps = output_dir is not None or not shows_words

    def show(event: Token | Segment | Silence | Notice) -> None:
        match event:
            case Notice():
                screen.say(f"note: {event.text}")
            case Segment() if keeps:
                recording.segments.append(event)
        if stream_json:
            write(json.dumps(_event(event), ensure_ascii=False) + "\n")
        elif shows_words and not isinstance(event, Segment | Silence | Notice):
            screen.show(event.text)

    stopped_by: list[int] = []

    def stop(number: int, frame) -> None:
        if stopped_by:  # again: do not wait for what is still to transcribe
            raise KeyboardInterrupt
        stopped_by.append(number)
        capture.stop()

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    broken: VoxtralOnnxError | None = None
    try:
        with screen, PauseKey(microphone, screen, meter):
            listen(stream, capture, meter, show, gate)
    except AudioError as error:
        broken = error  # what was captured before is transcribed
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    recording.duration, recording.info = meter.captured, meter.summary()
    if stream_json:
        write(
            json.dumps(
                {"type": "final", "text": recording.text, **recording.info}, ensure_ascii=False
            )
            + "\n"
        )
    elif shows_words:
        screen.end(stream.text.flush())
    texts = {kind: render(recording, kind) for kind in formats} if keeps else {}
    if output_dir is not None:
        for kind, text in texts.items():
            write_whole(output_dir / f"{name}.{kind}", text.encode())
    elif not shows_words and not stream_json:
        write(texts[formats[0]])
    if microphone and microphone.overflows:
        say(
            f"note: audio was lost {microphone.overflows} times before it reached us: the machine "
            "was too busy"
        )
    if gate:
        say(_gate_line(gate))
    say(f"{meter}, {format_size(peak_memory())} of memory")
    if broken is not None:
        raise broken
    if signal.SIGTERM in stopped_by:
        raise typer.Exit(TERMINATED)


def _event(event: Token | Segment | Silence | Notice) -> dict[str, object]:
    """An event of a live stream as `--stream-json` writes it."""
    from .runtime.live import Notice, Silence
    from .runtime.text.captions import segment_values
    from .runtime.text.segments import Segment

    match event:
        case Segment():
            return {"type": "group", **segment_values(event)}
        case Silence():
            return {"type": "silence", "start": round(event.start, 3)}
        case Notice():
            return {"type": "notice", "text": event.text}
    return {"type": "partial", "end": round(event.end, 3), "text": event.text}


@contextmanager
def _orderly_end() -> Iterator[None]:
    """SIGTERM ends files as Ctrl-C does.

    Nothing half-written stays, and what was decoded is shown.
    """
    import signal

    def stop(number: int, frame) -> None:
        raise SystemExit(TERMINATED)

    handler = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _timing_line(transcript: Transcript) -> str:
    from .memory import peak_memory

    info = transcript.info
    rtf = "–" if info["rtf"] is None else f"{info['rtf']:.3f}"
    return (
        f"{transcript.duration:.2f} s of audio: encode {info['encode_ms']:.0f} ms, decode "
        f"{info['decode_ms']:.0f} ms, "
        f"RTF {rtf}, {info['tokens_per_second']:.0f} tokens/s, {format_size(peak_memory())} of "
        "memory"
    )


def _print_artifact(folder: Path, manifest: Manifest, held: list[str], checked: list[str]) -> None:
    from rich.table import Table

    console = Console(highlight=False)
    streaming = manifest.streaming
    title = (
        f"[b]{escape(str(folder))}[/]  format {manifest.format}, by {escape(manifest.generator)}"
    )
    console.print(title, soft_wrap=True)
    if manifest.scope:
        console.print(f"[dim]{escape(manifest.scope)}[/]", soft_wrap=True)
    caches = manifest.caches
    console.print(
        f"windows: encoder {caches['encoder'].window} frames, decoder {caches['decoder'].window} "
        "tokens; "
        f"delay {streaming.default_delay_tokens} of 1 to {streaming.max_delay_tokens} tokens"
    )
    shown = ("MatMulNBits", "MatMul", "GroupQueryAttention")
    table = Table(
        "precision",
        "graph",
        "parameters",
        "weights",
        "nodes",
        *shown[:2],
        "attention",
        box=None,
        pad_edge=False,
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for name, precision in manifest.precisions.items():
        native = {"encoder": precision.encoder, "decoder": precision.decoder}
        others = {
            Path(graph.path).stem: graph
            for graphs in precision.families.values()
            for graph in graphs
        }
        for role, graph in (native | others).items():
            own = [
                manifest.files[file].size
                for file in graph.data
                if role in native or file not in precision.files
            ]
            table.add_row(
                name,
                role,
                f"{graph.parameters / 1e6:,.1f} M",
                format_size(sum(own)) if own else "shared",
                str(sum(graph.operators.values())),
                *(str(graph.operators.get(operator, 0)) for operator in shown),
            )
    console.print(table)
    sizes = [file.size for name, file in manifest.files.items() if (folder / name).exists()]
    console.print(f"{len(sizes)} files, {format_size(sum(sizes))}; checked: {', '.join(checked)}")
    if elsewhere := [name for name in manifest.precisions if name not in held]:
        console.print(f"not in this folder: {', '.join(elsewhere)}")


def _print_hosts(manifest: Manifest, *, as_json: bool) -> None:
    from dataclasses import asdict

    from rich.table import Column, Table

    from .verification.hosts import NOT_IN_ARTIFACT, judge, read_hosts

    if as_json:
        verdicts = [asdict(verdict) for host in read_hosts() for verdict in judge(host, manifest)]
        write(json.dumps(verdicts, ensure_ascii=False) + "\n")
        return
    table = Table("host", "tested", Column("graphs", overflow="fold"), box=None, pad_edge=False)
    for host in read_hosts():
        groups: dict[tuple[str, str], list[str]] = {}  # precisions of which the same can be said
        verdicts = list(judge(host, manifest))
        for verdict in [verdict for verdict in verdicts if verdict.precision] or verdicts:
            names = groups.setdefault((verdict.family, verdict.status), [])
            names += [verdict.precision] if verdict.precision else []
        lines = [
            f"{family} {', '.join(names)}".rstrip()
            + f": {status}"
            + (f"; add it: export --family native,{family}" if status == NOT_IN_ARTIFACT else "")
            for (family, status), names in groups.items()
        ]
        table.add_row(
            host.name, host.version, "\n".join([*lines, *([f"({host.note})"] if host.note else [])])
        )
    Console(highlight=False).print(table)


def _print_certificate(certificate: Certificate) -> None:
    colours = {"passed": "green", "failed": "bold red", "not judged": "yellow", "not run": "yellow"}
    console = Console(highlight=False, soft_wrap=True)
    for finding in certificate.findings:
        status = f"[{colours[finding.status]}]{finding.status:10}[/]"
        where = f"{finding.rung}  {finding.precision or 'all':6}  {finding.check:32}"
        console.print(f"{where}  {status}  {escape(finding.summary)}")
    for sentence in certificate.not_checked:
        console.print(f"[dim]not checked: {escape(sentence)}[/]")
    console.print(f"[b]{certificate.verdict}[/] in {certificate.seconds:.0f} s")


def _print_checks(checks: list[Check]) -> None:
    from rich.table import Table

    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "missing": "[bold red]missing[/]"}
    table = Table("", "", "", "", box=None, pad_edge=False, show_header=False)
    table.columns[3].overflow = "fold"
    topic = ""
    for check in checks:
        shown, topic = "" if check.topic == topic else f"[b]{check.topic}[/]", check.topic
        status = marks.get(check.status, f"[bold red]{check.status}[/]")
        table.add_row(shown, escape(check.name), status, escape(check.summary))
    Console(highlight=False).print(table)


def _format_measurements(rows: list[Measurement]) -> str:
    from .runtime.bench import markdown_table

    runs = [
        (
            f"{row.precision} {row.device}",
            f"{row.encode_ms:,.0f}",
            f"{row.decode_ms:,.0f}",
            f"{row.rtf:.3f}",
            f"{row.tokens_per_second:,.1f}",
            format_size(row.peak_memory)
            + (f" + {format_size(row.device_memory)}" if row.device_memory else ""),
        )
        for row in rows
    ]
    parts = [markdown_table(("Path", "Encode ms", "Decode ms", "RTF", "Tokens/s", "Memory"), runs)]
    calls, lines = [], []
    for row in rows:
        if (details := row.details) is None:
            continue
        empty = details.empty_window
        full = details.full_window
        path = f"{row.precision} {row.device}"
        calls += [
            (f"{path}: encoder, 1 token", _latency(empty.encoder), _latency(full.encoder)),
            (
                f"{path}: encoder, {details.chunk_tokens} tokens",
                _latency(empty.encoder_chunk),
                _latency(full.encoder_chunk),
            ),
            (f"{path}: decoder, 1 token", _latency(empty.decoder), _latency(full.decoder)),
        ]
        lines.append(
            f"{path}: loaded in {details.load_seconds:.2f} s, "
            f"{format_size(details.loaded_memory)}; first step "
            f"{details.first_step_seconds:.2f} s; {format_size(details.full_memory)} with full "
            "caches; a decoder step "
            f"reads {format_size(details.decoder_bytes)} of weights"
            + (
                ""
                if row.device != "cpu"
                else f" at {details.bandwidth_share:.0%} of the "
                f"{details.read_bytes_per_second / 1e9:.1f} GB/s "
                f"that {row.threads} threads read"
            )
        )
    if calls:
        parts.append(
            markdown_table(("Milliseconds: min / p50 / p95", "Empty window", "Full window"), calls)
        )
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _latency(latency: Latency) -> str:
    return f"{latency.min:.2f} / {latency.p50:.2f} / {latency.p95:.2f}"


def _print_plan(plan: ExportPlan) -> None:
    from rich.table import Table

    from .exporter.memory import PEAK

    console = Console(highlight=False, soft_wrap=True)
    table = Table("file", "size", "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for file in plan.files:
        note = "reused" if file.is_reused else "" if file.is_exact else "about"
        table.add_row(file.name, format_size(file.size), note)
    console.print(f"[b]{escape(str(plan.folder))}[/]")
    console.print(table)
    console.print(
        f"disk: {format_size(plan.disk_needed)} needed, {format_size(plan.disk_free)} free; "
        f"memory: about {format_size(PEAK)}; time: about {plan.seconds:.0f} s with {plan.threads} "
        "threads"
    )


def _print_budget_plan(budget: BudgetPlan, num_bytes: int) -> None:
    from .exporter.quantize import MEASURE_PEAK

    console, plan = Console(highlight=False, soft_wrap=True), budget.export
    console.print(
        f"[b]{escape(str(plan.folder))}[/]: {format_size(num_bytes)} at most; "
        f"{format_size(budget.minimum)} are the "
        f"least, and {format_size(budget.floats)} need no quantising\n"
        f"disk: {format_size(num_bytes)} needed, {format_size(plan.disk_free)} free; "
        f"memory: about {format_size(MEASURE_PEAK)}; time: about "
        f"{budget.seconds:.0f} s to measure and {plan.seconds:.0f} s to export with {plan.threads} "
        "threads"
    )


def _fetch_checkpoint(
    source: str,
    output: Path | None,
    options: dict[str, Any],
    *,
    revision: str | None,
    offline: bool,
    dry_run: bool,
    asks: bool = False,
    artifact_size: int | None = None,
) -> tuple[str | Path, Path | None] | None:
    """Bring a checkpoint of the hub, saying what that takes.

    Where it is and the artifact's folder, as far as known.

    None where a dry run ends here, as the weights are not.
    """
    from .exporter.checkpoint.remote import find_remote
    from .exporter.plan import estimate_size

    with DownloadProgress() as download:
        remote = find_remote(
            source,
            revision,
            tokenizer=options["tokenizer"],
            offline=offline,
            on_progress=download.update,
        )
    if remote is None:
        return source, output
    output, size = output or remote.output, artifact_size or estimate_size(remote.source, **options)
    _print_download(remote, output, size, console=Console(soft_wrap=True) if dry_run else stderr)
    remote.require_room(output, size)
    if dry_run and remote.num_bytes:
        return None
    if asks and remote.num_bytes:
        _confirm(
            "Download it and export it?",
            "the download is not begun without being asked for: add --yes, or name a folder that "
            "holds it",
        )
    with DownloadProgress() as download:
        return remote.fetch(download.update), output


def _print_download(
    remote: RemoteCheckpoint, output: Path, artifact_size: int | None, console: Console
) -> None:
    from .exporter.memory import PEAK

    snapshot, num_bytes = remote.snapshot, remote.num_bytes
    here = sum(file.size for file in remote.weights.values()) - num_bytes
    artifact = (
        ""
        if artifact_size is None
        else f", about {format_size(artifact_size)} in {escape(str(output))}"
    )
    console.print(
        f"[b]{escape(str(snapshot.repository))}[/] at {snapshot.commit[:12]}: "
        f"{format_size(num_bytes)} to download, "
        f"{format_size(here)} here already\n"
        f"disk: {format_size(num_bytes)} in {escape(str(remote.folder))}{artifact}; "
        f"memory: about {format_size(PEAK)}",
        highlight=False,
    )


def _confirm(question: str, refusal: str) -> None:
    """Ask on a terminal; refuse where nobody can answer."""
    if not sys.stdin.isatty():
        raise UsageError(refusal)
    if not typer.confirm(question, err=True):
        raise typer.Exit(INTERRUPTED)


def _read_start(path: str, sample_rate: int, seconds: float) -> np.ndarray:
    """The first seconds of an audio file."""
    import numpy as np

    from .runtime.audio.files import open_audio

    source = open_audio(path, sample_rate)
    blocks = [np.zeros(0, np.float32)]
    left = int(seconds * sample_rate)
    for note in source.notes:
        say(f"{source.name}: {note}")
    for block in source.blocks():
        blocks.append(block[:left])
        left -= len(blocks[-1])
        if not left:
            break
    return np.concatenate(blocks)


def _print_budget(budget: Budget) -> None:
    from rich.table import Table

    table = Table(
        "tensors",
        "4-bit drift",
        "margin",
        "flips",
        "chosen",
        "size",
        "drift",
        box=None,
        pad_edge=False,
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for part, form in zip(budget.sensitivities, budget.chosen, strict=True):
        table.add_row(
            part.group.name,
            f"{part.drift.total:.1e}",
            f"{part.drift.margin:.3f}",
            str(part.drift.flips),
            f"{form.bits} bits, {form.block_size}",
            format_size(form.size),
            f"{form.drift:.1e}",
        )
    stderr.print(table)
    say(
        f"{format_size(budget.size)} of {format_size(budget.num_bytes)}, drift {budget.drift:.1e} "
        "nats; "
        f"recipe: {budget.recipe}, everything measured: {budget.table}"
    )


def _require_export_packages() -> None:
    from importlib.util import find_spec

    from .exporter import memory

    if missing := [
        name
        for name in ("torch", "onnx", "onnxscript", "onnx_ir", "gguf")
        if find_spec(name) is None
    ]:
        raise DeviceError(
            f"export needs {', '.join(missing)}; run:\n"
            "  pip install torch --index-url https://download.pytorch.org/whl/cpu && pip install "
            "'voxtral-onnx[export]'"
        )
    memory.require_memory(memory.IMPORTS)
