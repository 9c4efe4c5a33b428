"""All arguments and options, each defined once: its names, its help, and its panel of `--help`.

Commands annotate their parameters with these types, and add only the defaults. Help is written for
a terminal of 80 columns, where about 45 are left for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..limits import MOST_REPEATS
from .values import batch_size, engine, output_folder

# Panels of `--help`; options without one stand beside `--help` itself
MODEL, INPUT, OUTPUT, DECODING, DEVICE = "Model", "Input", "Output", "Decoding", "Device and memory"
QUANTISATION = "Quantisation"

LAST_EXPORT = "$VOXTRAL_ONNX_MODEL or last export"
LOCAL = "An artifact: a folder that [b]export[/] wrote, or [b]tiny[/], a small test model."
HUB = "ORG/NAME\\[@REVISION] on Hugging Face or its address"
ANYWHERE = f"An artifact: a folder that [b]export[/] wrote, {HUB}, or [b]tiny[/]."


def _argument(name: str, text: str, default: str | bool = False) -> Any:
    """Return a positional argument, which help calls `name`."""
    return typer.Argument(metavar=name, help=text, show_default=default)


def _value(
    panel: str | None, flags: str, value: str, text: str, default: str | bool = True, **more: Any
) -> Any:
    """Return an option that takes a value, which help calls `value`."""
    more |= {"metavar": value, "help": text, "rich_help_panel": panel, "show_default": default}
    return typer.Option(*flags.split(), **more)


def _flag(panel: str | None, flags: str, text: str) -> Any:
    """Return an option that takes no value."""
    return typer.Option(*flags.split(), metavar="", help=text, rich_help_panel=panel)


# Positional arguments
Artifact = Annotated[str | None, _argument("ARTIFACT", ANYWHERE, LAST_EXPORT)]
NamedArtifact = Annotated[str, _argument("ARTIFACT", ANYWHERE)]
LocalArtifact = Annotated[str | None, _argument("ARTIFACT", LOCAL, LAST_EXPORT)]
FirstArtifact = Annotated[str, _argument("A", "A folder that [b]export[/] wrote.")]
SecondArtifact = Annotated[str, _argument("B", "The folder to compare it with.")]
Source = Annotated[
    str | None,
    _argument(
        "SOURCE",
        "A checkpoint, the model's weights: a folder in Mistral's or Hugging Face's layout, a GGUF "
        f"file or its first shard, {HUB}, or [b]tiny[/], a small test model.",
        "one of two downloads",
    ),
]
QuantizeSource = Annotated[
    str,
    _argument(
        "SOURCE",
        "A checkpoint as [b]export[/] takes it, or an artifact with float or 8-bit weights.",
    ),
]
Audio = Annotated[
    list[str] | None,
    _argument("AUDIO", "Audio or video files, folders, patterns; [b]-[/] is standard input."),
]
BenchAudio = Annotated[
    str | None,
    _argument("AUDIO", "An audio file to measure with.", "15.95 s of the embedded samples"),
]
Repository = Annotated[
    str,
    _argument("ORG/NAME", "A repository on the Hugging Face hub; created if it does not exist."),
]

# Choice of the model
Model = Annotated[str | None, _value(MODEL, "--model -m", "MODEL", ANYWHERE, LAST_EXPORT)]
Precision = Annotated[
    str | None,
    _value(
        MODEL, "--precision", "NAME", "Number format: q4f16, q4, q8, fp16 or fp32.", "its first"
    ),
]
ManyPrecisions = Annotated[
    str | None,
    _value(
        MODEL, "--precision", "NAMES", "Number formats, with commas, or [b]all[/].", "its first"
    ),
]
VerifiedPrecisions = Annotated[
    str | None,
    _value(MODEL, "--precision", "NAMES", "Number formats, with commas.", "all that it has"),
]
ComparedPrecisions = Annotated[
    str | None,
    _value(
        MODEL,
        "--precision",
        "NAMES",
        "One number format of both, or two: A's, then B's.",
        "those that both have, else their firsts",
    ),
]
PagePrecisions = Annotated[
    str | None,
    _value(MODEL, "--precision", "NAMES", "Number formats: q4f16, q4, or both.", "those it has"),
]
Offline = Annotated[bool, _flag(MODEL, "--offline", "Use only what was downloaded before.")]

# Export and quantisation
ArtifactFolder = Annotated[
    Path | None, _value(OUTPUT, "--output -o", "FOLDER", "Folder to write to.", "./<name>-onnx")
]
Precisions = Annotated[
    str,
    _value(
        OUTPUT, "--precision", "NAMES", "Number formats, with commas: q4f16, q4, q8, fp16, fp32."
    ),
]
QuantizedPrecisions = Annotated[
    str,
    _value(OUTPUT, "--precision", "NAMES", "Number formats, with commas: q4f16, q4, q8."),
]
Families = Annotated[
    str,
    _value(
        OUTPUT,
        "--family",
        "NAMES",
        "Add graphs for other programs: native,transformers_js; native,portable "
        "needs the extra [b]trace[/].",
    ),
]
ShardSize = Annotated[
    str, _value(OUTPUT, "--shard-size", "SIZE", "Begin a new weight file at this size.")
]
ExportDryRun = Annotated[
    bool,
    _flag(OUTPUT, "--dry-run", "Print the files, disk, memory and time needed; write nothing."),
]
Trace = Annotated[
    bool,
    _flag(
        OUTPUT, "--trace", "Trace all graphs anew, shipped ones too; needs the extra [b]trace[/]."
    ),
]
Recipe = Annotated[
    str | None,
    _value(
        QUANTISATION,
        "--recipe",
        "RECIPE",
        "Which weights get how many bits: a recipe's name, such as quality, or a TOML file.",
        "the precision's own",
    ),
]
Tokenizer = Annotated[
    Path | None,
    _value(
        MODEL,
        "--tokenizer",
        "FILE",
        "Mistral's tokenizer, tekken.json.",
        "in the GGUF or beside the weights",
    ),
]
Revision = Annotated[
    str | None, _value(MODEL, "--revision", "NAME", "Branch, tag or commit on the hub.", "main")
]
YesDownload = Annotated[
    bool, _flag(MODEL, "--yes -y", "Download as before, or in full, without asking.")
]

# Audio input
Stdin = Annotated[bool, _flag(INPUT, "--stdin", "Read standard input: raw mono samples or a WAV.")]
Rate = Annotated[int, _value(INPUT, "--rate", "HZ", "Sample rate of raw --stdin, in Hz.")]
SampleFormat = Annotated[
    str,
    _value(INPUT, "--sample-format", "FORMAT", "Raw samples: s16le, f32le, mulaw or alaw."),
]
Channels = Annotated[
    str,
    _value(
        INPUT,
        "--channels",
        "WHICH",
        "[b]mix[/] all, take [b]left[/] or [b]right[/], or [b]split[/]: each on its own.",
    ),
]
Raw = Annotated[
    str | None,
    _value(INPUT, "--raw", "FORMAT", "Read headerless s16le, f32le, mulaw or alaw.", False),
]
RawRate = Annotated[int | None, _value(INPUT, "--rate", "HZ", "Rate of --raw, in Hz.", "16000")]
RawChannels = Annotated[int | None, _value(INPUT, "--raw-channels", "N", "Channels of --raw.", "1")]
InputDevice = Annotated[
    str | None,
    _value(INPUT, "--input-device", "NAME", "Microphone, by name or number.", "the system's"),
]
ListDevices = Annotated[bool, _flag(INPUT, "--list-devices", "List microphones and exit.")]

# Transcripts
OutputFormat = Annotated[
    str,
    _value(OUTPUT, "--output-format -f", "FORMAT", "txt, json, srt, vtt, tsv, lrc; all with -o."),
]
OutputFolder = Annotated[
    Any,
    _value(
        OUTPUT,
        "--output-dir -o",
        "FOLDER",
        "Folder for the files, made if missing.",
        False,
        parser=output_folder,
    ),
]
JsonFormat = Annotated[bool, _flag(OUTPUT, "--json", "Same as --output-format json.")]
StreamJson = Annotated[
    bool, _flag(OUTPUT, "--stream-json", "Print a JSON event per line, as words are spoken.")
]
SkipExisting = Annotated[
    bool, _flag(OUTPUT, "--skip-existing", "Skip files whose outputs are in -o.")
]
Resume = Annotated[bool, _flag(OUTPUT, "--resume", "Continue an interrupted run into -o.")]
ResumeStreams = Annotated[
    bool,
    _flag(
        OUTPUT,
        "--resume",
        "Do not listen: write the text of interrupted streams into -o.",
    ),
]
Alternatives = Annotated[
    int,
    _value(OUTPUT, "--alternatives", "N", "Add each token's best N to JSON, 1 to 10.", False),
]

# Decoding
Delay = Annotated[
    int | None,
    _value(
        DECODING,
        "--delay",
        "MS",
        "Milliseconds to listen before a word is written: a multiple of 80 up to 2400.",
        "the model's, 480",
    ),
]
Hotwords = Annotated[
    Path | None,
    _value(DECODING, "--hotwords", "FILE", "Words and phrases to favour, one per line.", False),
]
HotwordBias = Annotated[
    float | None,
    _value(DECODING, "--hotword-bias", "X", "How much to favour hotwords: added to logits.", "4"),
]
Vad = Annotated[
    bool,
    _flag(DECODING, "--vad", "Leave out words written where nobody speaks, judged by loudness."),
]
VadModel = Annotated[
    Path | None,
    _value(
        DECODING, "--vad-model", "FILE", "Like --vad, judged by Silero's model (5 or 6).", False
    ),
]
NoBlankGuard = Annotated[
    bool,
    _flag(
        DECODING,
        "--no-blank-guard",
        "Turn off the blank guard, which makes words likelier after 16 s without any.",
    ),
]
Gain = Annotated[
    str, _value(DECODING, "--gain", "GAIN", "[b]none[/], or [b]auto[/] to make quiet files louder.")
]

# Device and memory
Device = Annotated[str, _value(DEVICE, "--device", "NAME", "auto, cpu, cuda, cuda:N or webgpu.")]
AllowFallback = Annotated[
    bool, _flag(DEVICE, "--allow-fallback", "Let the CPU run what the device cannot.")
]
Threads = Annotated[
    int | None, _value(DEVICE, "--threads", "N", "CPU threads.", "one per core", min=1)
]
BatchSize = Annotated[
    Any,
    _value(
        DEVICE,
        "--batch-size",
        "N",
        "Decode N files or pieces of long ones together; [b]auto[/]: as many as suit.",
        parser=batch_size,
    ),
]
NoSplit = Annotated[
    bool,
    _flag(
        DEVICE,
        "--no-split",
        "With a [b]--batch-size[/], do not cut files of more than 5 minutes into pieces.",
    ),
]
Context = Annotated[
    int, _value(DEVICE, "--context", "N", "How much past it sees, in steps of 80 ms.")
]

Engine = Annotated[
    str,
    _value(DEVICE, "--engine", "NAME", "local, or ray: on a cluster, into -o.", parser=engine),
]
Address = Annotated[
    str | None,
    _value(DEVICE, "--address", "PLACE", "Ray's cluster, such as auto; else here.", False),
]

# The page, and publishing
Host = Annotated[
    str,
    _value(None, "--host", "ADDRESS", "Address; 0.0.0.0 for other devices too."),
]
Port = Annotated[int, _value(None, "--port", "N", "Port; 0 takes a free one.", min=0, max=65535)]
Https = Annotated[
    bool, _flag(None, "--https", "With a self-signed certificate, for other devices.")
]
AllowedHosts = Annotated[
    list[str] | None,
    _value(
        None,
        "--allowed-host",
        "NAME",
        "Another name of this computer; repeatable.",
        False,
    ),
]
AllowedArtifacts = Annotated[
    list[str] | None,
    _value(
        None,
        "--allow-artifacts",
        "ORIGIN",
        "An origin that links (?artifact=URL) may name; repeatable.",
        "the page's own",
    ),
]
NoOpen = Annotated[bool, _flag(None, "--no-open", "Do not open a browser.")]
SiteFolder = Annotated[Path, _value(None, "--output -o", "FOLDER", "Folder to write to.", False)]
Space = Annotated[
    bool, _flag(None, "--space", "Make the page a static Space of the Hugging Face hub.")
]
Private = Annotated[bool, _flag(None, "--private", "Create the repository as private.")]
BaseModel = Annotated[
    str | None,
    _value(
        None,
        "--base-model",
        "ORG/NAME",
        "The model it was exported from, for the model card.",
        "the released model, if shapes agree",
    ),
]
PublishDryRun = Annotated[
    bool, _flag(None, "--dry-run", "Print the model card and the files; upload nothing.")
]
YesUpload = Annotated[bool, _flag(None, "--yes -y", "Upload without asking.")]

# Checks and measurements
Json = Annotated[bool, _flag(None, "--json", "Print JSON, with all details.")]
CheckHashes = Annotated[bool, _flag(None, "--check", "Also compare all files with their hashes.")]
Hosts = Annotated[
    bool, _flag(None, "--hosts", "Show instead which other programs its graphs were tested on.")
]
Checkpoint = Annotated[
    str | None,
    _value(None, "--checkpoint", "SOURCE", "Its checkpoint, to compare weights with.", False),
]
VerifyAudio = Annotated[
    list[str] | None,
    _value(
        None,
        "--audio",
        "FILE",
        "A recording with its text in a .txt beside it; repeatable.",
        "the embedded samples",
    ),
]
Rungs = Annotated[
    str,
    _value(
        None,
        "--rungs",
        "NUMBERS",
        "Checks to run: 0 files' hashes (always), 1 operators, 2 modules, 3 weights and graphs, "
        "4 streams, 5 comparison with float weights, 6 words.",
    ),
]
Require = Annotated[
    str | None,
    _value(
        None,
        "--require",
        "NUMBERS",
        "Exit with code 8 unless these checks ran in full and passed, such as 0-6.",
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
    int,
    _value(None, "--repeat", "N", "Number of runs; the fastest counts.", min=1, max=MOST_REPEATS),
]
Verbose = Annotated[
    bool, _flag(None, "--verbose -v", "Also measure loading, single calls and memory.")
]
