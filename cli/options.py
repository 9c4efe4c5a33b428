"""Every argument and option once: its names, its help, and the panel of `--help` it stands in.

A parameter of a command is annotated with one of these types and brings only its default. Help is
written for a terminal of 80 columns, where about 45 are left for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..limits import MOST_REPEATS, MOST_STREAMS

# Panels of `--help`; options without one stand beside `--help` itself
MODEL, INPUT, OUTPUT, DECODING, DEVICE = "Model", "Input", "Output", "Decoding", "Device and memory"
QUANTISATION = "Quantisation"

LAST_EXPORT = "$VOXTRAL_ONNX_MODEL or last export"
LOCAL = "An artifact: a folder that [b]export[/] wrote, or [b]tiny[/]."
HUB = "ORG/NAME\\[@REVISION] of the hub"
ANYWHERE = f"An artifact: a folder that [b]export[/] wrote, {HUB}, or [b]tiny[/]."


def _argument(name: str, text: str, default: str | bool = False) -> Any:
    return typer.Argument(metavar=name, help=text, show_default=default)


def _value(
    panel: str | None, flags: str, value: str, text: str, default: str | bool = True, **more: Any
) -> Any:
    """Return an option with a value, which help calls `value`."""
    more |= {"metavar": value, "help": text, "rich_help_panel": panel, "show_default": default}
    return typer.Option(*flags.split(), **more)


def _flag(panel: str | None, flags: str, text: str) -> Any:
    """Return an option without a value."""
    return typer.Option(*flags.split(), metavar="", help=text, rich_help_panel=panel)


# What a command works on
Artifact = Annotated[str | None, _argument("ARTIFACT", ANYWHERE, LAST_EXPORT)]
NamedArtifact = Annotated[str, _argument("ARTIFACT", ANYWHERE)]
LocalArtifact = Annotated[str | None, _argument("ARTIFACT", LOCAL, LAST_EXPORT)]
FirstArtifact = Annotated[str, _argument("A", "A folder that [b]export[/] wrote.")]
SecondArtifact = Annotated[str, _argument("B", "Another.")]
Source = Annotated[
    str | None,
    _argument(
        "SOURCE",
        "A checkpoint, that is weights: a folder in Mistral's or Hugging Face's layout, a GGUF or "
        "its first shard, ORG/NAME\\[@REVISION] of the hub, or [b]tiny[/], a small test model.",
        "mistralai/Voxtral-Mini-4B-Realtime-2602",
    ),
]
QuantizeSource = Annotated[
    str,
    _argument(
        "SOURCE", "A checkpoint as [b]export[/] takes it, or an artifact in floats or 8 bits."
    ),
]
Audio = Annotated[
    list[str] | None,
    _argument("AUDIO", "Audio or video files, folders, patterns; [b]-[/] is standard input."),
]
BenchAudio = Annotated[
    str | None, _argument("AUDIO", "An audio file.", "15.95 s of the embedded samples")
]
Repository = Annotated[
    str, _argument("ORG/NAME", "A repository of the Hugging Face hub; made if there is none.")
]

# Which model
Model = Annotated[str | None, _value(MODEL, "--model -m", "MODEL", ANYWHERE, LAST_EXPORT)]
Precision = Annotated[
    str | None,
    _value(MODEL, "--precision", "NAME", "q4f16, q4, q8, fp16 or fp32.", "the first that it has"),
]
ManyPrecisions = Annotated[
    str | None,
    _value(MODEL, "--precision", "NAMES", "One, several with commas, or [b]all[/].", "its first"),
]
VerifiedPrecisions = Annotated[
    str | None,
    _value(MODEL, "--precision", "NAMES", "One, or several with commas.", "all that it has"),
]
PagePrecisions = Annotated[
    str | None,
    _value(MODEL, "--precision", "NAMES", "q4f16, q4, or both with a comma.", "what is there"),
]
Offline = Annotated[bool, _flag(MODEL, "--offline", "Take what was downloaded before; ask no hub.")]

# What becomes an artifact
ArtifactFolder = Annotated[
    Path | None, _value(OUTPUT, "--output -o", "FOLDER", "Where to write it.", "./<name>-onnx")
]
Precisions = Annotated[
    str,
    _value(OUTPUT, "--precision", "NAMES", "q4f16, q4, q8, fp16, fp32; several with commas."),
]
QuantizedPrecisions = Annotated[
    str, _value(OUTPUT, "--precision", "NAMES", "q4f16, q4, q8; several with commas.")
]
Families = Annotated[
    str,
    _value(
        OUTPUT,
        "--family",
        "NAMES",
        "Graphs for other programs too: native,transformers_js or native,portable.",
    ),
]
ShardSize = Annotated[
    str, _value(OUTPUT, "--shard-size", "SIZE", "Size at which a new weight file begins.")
]
ExportDryRun = Annotated[
    bool,
    _flag(OUTPUT, "--dry-run", "Print files, disk, memory and time needed, and write nothing."),
]
Recipe = Annotated[
    str | None,
    _value(
        QUANTISATION,
        "--recipe",
        "RECIPE",
        "Which weights get how many bits: a name, as quality, or a TOML file.",
        "the precision's own",
    ),
]
Tokenizer = Annotated[
    Path | None,
    _value(MODEL, "--tokenizer", "FILE", "Mistral's tekken.json.", "beside the weights"),
]
Revision = Annotated[
    str | None, _value(MODEL, "--revision", "NAME", "Branch, tag or commit on the hub.", "main")
]
YesDownload = Annotated[bool, _flag(MODEL, "--yes -y", "Download without asking.")]

# What is transcribed
Stdin = Annotated[bool, _flag(INPUT, "--stdin", "Standard input: raw mono samples or a WAV.")]
Rate = Annotated[int, _value(INPUT, "--rate", "HZ", "Of --stdin: samples a second.")]
SampleFormat = Annotated[
    str, _value(INPUT, "--sample-format", "FORMAT", "Of --stdin: s16le, f32le, mulaw or alaw.")
]
Channels = Annotated[
    str,
    _value(
        INPUT,
        "--channels",
        "WHICH",
        "[b]mix[/] them, take [b]left[/] or [b]right[/], or [b]split[/]: each on its own.",
    ),
]
Raw = Annotated[
    str | None,
    _value(INPUT, "--raw", "FORMAT", "No header: s16le, f32le, mulaw, alaw.", False),
]
RawRate = Annotated[int | None, _value(INPUT, "--rate", "HZ", "Of --raw.", "16000")]
RawChannels = Annotated[int | None, _value(INPUT, "--raw-channels", "N", "Of --raw.", "1")]
InputDevice = Annotated[
    str | None,
    _value(INPUT, "--input-device", "NAME", "Microphone, by name or number.", "the system's"),
]
ListDevices = Annotated[bool, _flag(INPUT, "--list-devices", "List microphones and exit.")]

# What is written
OutputFormat = Annotated[
    str,
    _value(OUTPUT, "--output-format -f", "FORMAT", "txt, json, srt, vtt, tsv, lrc; all with -o."),
]
OutputFolder = Annotated[
    Path | None,
    _value(OUTPUT, "--output-dir -o", "FOLDER", "Also write a file a format here.", False),
]
JsonFormat = Annotated[bool, _flag(OUTPUT, "--json", "Same as --output-format json.")]
StreamJson = Annotated[
    bool, _flag(OUTPUT, "--stream-json", "A JSON event a line, as words are spoken.")
]
SkipExisting = Annotated[
    bool, _flag(OUTPUT, "--skip-existing", "Skip files whose output is in -o.")
]
Resume = Annotated[
    bool, _flag(OUTPUT, "--resume", "Go on with what a run into -o left when it was interrupted.")
]
ResumeStreams = Annotated[
    bool,
    _flag(OUTPUT, "--resume", "Only write, into -o, the text of streams that were interrupted."),
]
Alternatives = Annotated[
    int, _value(OUTPUT, "--alternatives", "N", "In JSON: each token's best N, 1 to 10.", False)
]

# How sound becomes text
Delay = Annotated[
    int | None,
    _value(
        DECODING,
        "--delay",
        "MS",
        "How long to listen before a word is written: a multiple of 80 up to 2400.",
        "the model's, 480",
    ),
]
Hotwords = Annotated[
    Path | None,
    _value(DECODING, "--hotwords", "FILE", "Words and phrases to favour, one a line.", False),
]
HotwordBias = Annotated[
    float | None, _value(DECODING, "--hotword-bias", "X", "How much: added to their logits.", "4")
]
Vad = Annotated[
    bool, _flag(DECODING, "--vad", "Leave out words where nobody speaks, judged by loudness.")
]
VadModel = Annotated[
    Path | None,
    _value(DECODING, "--vad-model", "FILE", "The same, judged by Silero's model (5 or 6).", False),
]
NoBlankGuard = Annotated[
    bool,
    _flag(DECODING, "--no-blank-guard", "Do not make words likelier after 16 s without any."),
]
Gain = Annotated[str, _value(DECODING, "--gain", "GAIN", "[b]auto[/] makes quiet files louder.")]

# Where it runs
Device = Annotated[str, _value(DEVICE, "--device", "NAME", "auto, cpu, cuda, cuda:N or webgpu.")]
AllowFallback = Annotated[
    bool, _flag(DEVICE, "--allow-fallback", "Let the CPU run what the device cannot.")
]
Threads = Annotated[
    int | None, _value(DEVICE, "--threads", "N", "CPU threads.", "one a core", min=1)
]
BatchSize = Annotated[
    int,
    _value(
        DEVICE,
        "--batch-size",
        "N",
        "Files decoded together, on CPU or CUDA.",
        min=1,
        max=MOST_STREAMS,
    ),
]
Context = Annotated[
    int, _value(DEVICE, "--context", "N", "How much past is kept, in steps of 80 ms.")
]
Prepacked = Annotated[
    Path | None,
    _value(DEVICE, "--prepacked", "FOLDER", "Keep weights packed here, to load faster.", False),
]

# The page, and what is published
Host = Annotated[
    str, _value(None, "--host", "ADDRESS", "Address to listen on; 0.0.0.0 for every one.")
]
Port = Annotated[int, _value(None, "--port", "N", "0 takes a free one.", min=0, max=65535)]
Https = Annotated[
    bool, _flag(None, "--https", "With a certificate of this machine's own: for other devices.")
]
AllowedHosts = Annotated[
    list[str] | None,
    _value(
        None,
        "--allowed-host",
        "NAME",
        "Another name that browsers call this computer by; several times.",
        False,
    ),
]
AllowedArtifacts = Annotated[
    list[str] | None,
    _value(
        None,
        "--allow-artifacts",
        "ORIGIN",
        "Let links (?artifact=URL) load models from there, as https://example.org; several times.",
        "the page's own",
    ),
]
NoOpen = Annotated[bool, _flag(None, "--no-open", "Do not open a browser.")]
SiteFolder = Annotated[Path, _value(None, "--output -o", "FOLDER", "Where to write it.", False)]
Space = Annotated[bool, _flag(None, "--space", "The page, as a static Space of the hub.")]
Private = Annotated[bool, _flag(None, "--private", "Make a private repository.")]
BaseModel = Annotated[
    str | None,
    _value(
        None,
        "--base-model",
        "ORG/NAME",
        "What it was exported from, for its card.",
        "the released model, where it has that shape",
    ),
]
PublishDryRun = Annotated[
    bool, _flag(None, "--dry-run", "Print the card and the files, and send nothing.")
]
YesUpload = Annotated[bool, _flag(None, "--yes -y", "Upload without asking.")]

# What is checked and measured
Json = Annotated[bool, _flag(None, "--json", "Print JSON, with everything that is known.")]
CheckHashes = Annotated[bool, _flag(None, "--check", "Also compare all files with their hashes.")]
Hosts = Annotated[bool, _flag(None, "--hosts", "Show instead which programs tests have run it on.")]
Checkpoint = Annotated[
    str | None,
    _value(None, "--checkpoint", "SOURCE", "What it was exported from, to compare weights.", False),
]
VerifyAudio = Annotated[
    list[str] | None,
    _value(
        None,
        "--audio",
        "FILE",
        "A recording, its text in a .txt beside it; several times.",
        "the embedded samples",
    ),
]
Rungs = Annotated[
    str,
    _value(
        None,
        "--rungs",
        "NUMBERS",
        "Which checks: 0 files' hashes (always), 1 operators, 2 modules, 3 weights and graphs, "
        "4 streams, 5 against floats, 6 words.",
    ),
]
Require = Annotated[
    str | None,
    _value(
        None,
        "--require",
        "NUMBERS",
        "End with 8 unless these ran as a whole and passed, as 0-6.",
        False,
    ),
]
Artifacts = Annotated[
    list[str], _argument("MODEL...", f"{ANYWHERE} Several are compared on the same recordings.")
]
Data = Annotated[
    Path,
    _value(
        INPUT,
        "--data",
        "PATH",
        "Recordings with their texts: a folder with a .txt beside each, a .tsv with columns path "
        "and text, or a .jsonl.",
        False,
    ),
]
ReportFolder = Annotated[
    Path | None,
    _value(
        OUTPUT,
        "--output-dir -o",
        "FOLDER",
        "Write evaluation.json and evaluation.html here.",
        False,
    ),
]
Repeat = Annotated[
    int, _value(None, "--repeat", "N", "Runs; the fastest counts.", min=1, max=MOST_REPEATS)
]
Verbose = Annotated[
    bool, _flag(None, "--verbose -v", "Also time loading and single calls, and see memory.")
]
