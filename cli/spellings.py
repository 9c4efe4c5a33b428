"""Accept whisper's spelling of options, and say why options without a counterpart are refused.

Options are written with hyphens or, as whisper's, with underscores. The names are those of
openai-whisper and of the programs around faster-whisper and whisperx.
"""

from __future__ import annotations

from typing import Any, ClassVar

from typer.core import TyperCommand, TyperGroup

from ..errors import UsageError
from ..escaping import quoted
from .terminal import info

# Options of other programs, by the reason why they are refused
REASONS = {
    "the model detects the language by itself, and cannot be told one": (
        "--language",
        "--detect-language",
        "--language-detection-threshold",
        "--multilingual",
    ),
    "the model writes what is said in the language in which it is said, and translates nothing": (
        "--task",
        "--translate",
    ),
    "the model takes no text as a prompt; --hotwords FILE makes words and phrases likelier": (
        "--prompt",
        "--initial-prompt",
        "--carry-initial-prompt",
        "--prefix",
    ),
    "the model does not tell speakers apart; `--channels split` does where each has a channel": (
        "--diarize",
        "--speaker-name",
        "--speaker-num",
        "--min-speakers",
        "--max-speakers",
        "--hf-token",
        "--diarize-model",
        "--speaker-embeddings",
    ),
    "text is written while it is spoken, so the likeliest token is taken: no sampling, no beams": (
        "--temperature",
        "--temperature-increment-on-fallback",
        "--best-of",
        "--beam-size",
        "--patience",
        "--length-penalty",
        "--repetition-penalty",
        "--no-repeat-ngram-size",
    ),
    "the model chooses among all its tokens; none are suppressed": (
        "--suppress-tokens",
        "--suppress-blank",
        "--suppress-numerals",
    ),
    "a recording is one stream to the model, not windows that could see each other's text": (
        "--condition-on-previous-text",
        "--prompt-reset-on-temperature",
    ),
    "nothing is decoded twice, so there is no threshold for it; --vad leaves silence out": (
        "--compression-ratio-threshold",
        "--logprob-threshold",
        "--no-speech-threshold",
        "--hallucination-silence-threshold",
    ),
    "--vad judges by loudness, --vad-model PATH by Silero's model; neither has settings": (
        "--vad-method",
        "--vad-onset",
        "--vad-offset",
        "--vad-threshold",
        "--vad-min-speech-duration-ms",
        "--vad-min-silence-duration-ms",
        "--vad-speech-pad-ms",
    ),
    "a recording is transcribed whole; cut it before, as with ffmpeg's -ss and -to": (
        "--clip-timestamps",
        "--chunk-length",
        "--chunk-size",
    ),
    "each 80 ms of a recording give one token, so its length is their number": (
        "--max-new-tokens",
    ),
    "times are the model's own, one for each segment; nothing is aligned again": (
        "--prepend-punctuations",
        "--append-punctuations",
        "--align-model",
        "--no-align",
        "--interpolate-method",
        "--return-char-alignments",
        "--segment-resolution",
    ),
    "txt has no times, every other --output-format has them": ("--without-timestamps",),
    "captions have two lines of at most 42 columns": (
        "--highlight-words",
        "--max-line-width",
        "--max-line-count",
        "--max-words-per-line",
    ),
    "downloads go into the folder $HF_HOME; --model takes any folder": (
        "--model-dir",
        "--model-directory",
        "--download-root",
    ),
    "an artifact has fixed number formats; --precision chooses among them": (
        "--compute-type",
        "--quantization",
    ),
    "name the device itself: --device cuda:N": ("--device-index",),
    "use --offline": ("--local-files-only", "--model-cache-only"),
    "use --batch-size N": ("--batched", "--num-workers"),
    "use --threads N": ("--cpu-threads",),
    "progress is always shown on a terminal, and nowhere else": ("--print-progress",),
    "words have no colours; --json says how likely each segment is": ("--print-colors",),
    "speech as it is spoken is what `voxtral-onnx listen` transcribes": ("--live-transcribe",),
    "the state of a stream is saved from Python, with Stream.save": (
        "--checkpoint",
        "--checkpoint-every",
    ),
    "it is the default; --no-blank-guard turns it off": ("--blank-guard",),
}
UNSUPPORTED = {name: reason for reason, names in REASONS.items() for name in names}
LISTEN = "speech as it is spoken is for `voxtral-onnx listen`; transcribe takes files"
TRANSCRIBE = "files are for `voxtral-onnx transcribe`; listen takes speech as it is spoken"
OF_LISTEN = (
    "--mic",
    "--sample-format",
    "--input-device",
    "--list-devices",
    "--stream-json",
)

VAD = "it judges by loudness and takes no value; name Silero's model with --vad-model PATH"

# Values that ask for what this program does anyway; other values of the option are refused
USUAL = {"--task": "transcribe"} | dict.fromkeys(
    (
        "--batched",
        "--carry-initial-prompt",
        "--condition-on-previous-text",
        "--highlight-words",
        "--live-transcribe",
        "--local-files-only",
        "--model-cache-only",
        "--print-colors",
        "--suppress-blank",
        "--without-timestamps",
    ),
    "false",
)
# Whisper's options that take True or False, and what replaces one that is True
SWITCHES = {
    "--word-timestamps": [],  # segments have times always
    "--verbose": [],  # words are shown always
    "--fp16": [],
    "--vad-filter": ["--vad"],
}


def with_hyphens(name: str) -> str:
    """Return an option's name with hyphens in place of underscores."""
    return name.replace("_", "-")


def option_name(argument: str) -> str:
    """Return the name of a long option, without its value; empty for any other argument."""
    return with_hyphens(argument.partition("=")[0]) if argument.startswith("--") else ""


def refuse(arguments: list[str], reasons: dict[str, str]) -> None:
    """Refuse options that this program does not have, with the reason.

    Raises:
        UsageError: one of them is given.
    """
    for name in map(option_name, arguments):
        if name in reasons:
            raise UsageError(f"{name}: {reasons[name]}")


def refuse_vad_value(arguments: list[str]) -> None:
    """Refuse a value of --vad, because a model's path after it would be taken for a recording.

    Raises:
        UsageError: there is one.
    """
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        is_model = argument == "--vad" and following.lower().endswith(".onnx")
        if is_model or argument.startswith("--vad="):
            raise UsageError(f"--vad: {VAD}")


def leave_out_usual(arguments: list[str]) -> list[str]:
    """Return arguments without options whose value asks for what this program does anyway."""
    kept, left = list[str](), arguments[::-1]
    while left:
        argument = left.pop()
        _, separator, value = argument.partition("=")
        usual = USUAL.get(option_name(argument))
        if not separator and left:
            value = left[-1]
        if value.lower() != usual:
            kept.append(argument)
        elif not separator:
            left.pop()
    return kept


def refuse_empty(arguments: list[str]) -> None:
    """Refuse an argument or an option's value that is empty.

    Raises:
        UsageError: one is empty; the message names it.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    for number, argument in enumerate(arguments):
        name, sign, value = argument.partition("=")
        if number < end and name.startswith("--") and sign and not value:
            what = name
        elif not argument:
            before = arguments[number - 1] if 0 < number <= end else ""
            what = before if before.startswith("-") and len(before) > 1 else "an argument"
        else:
            continue
        raise UsageError(f"{what}: expected a value, got ''; is a variable of the shell not set?")


def refuse_formats(arguments: list[str]) -> None:
    """Refuse several output formats, of which only the last would be written.

    Raises:
        UsageError: there are several.
    """
    names = [option_name(argument) or argument[:2] for argument in arguments]
    if sum(name in ("-f", "--output-format") for name in names) > 1:
        raise UsageError(
            "--output-format: expected one, got several; all of them are written with "
            "-f all --output-dir FOLDER"
        )


def replace_switches(arguments: list[str]) -> list[str]:
    """Return arguments with whisper's switches replaced, and their True or False removed.

    Raises:
        UsageError: a switch has another value.
    """
    replaced, left = list[str](), arguments[::-1]
    while left:
        argument = left.pop()
        name, _, value = argument.partition("=")
        name = option_name(name)
        if name not in SWITCHES:
            replaced.append(argument)
            continue
        if "=" not in argument and left and left[-1].lower() in ("true", "false"):
            value = left.pop()
        if value.lower() not in ("", "true", "false"):
            raise UsageError(f"{name}: expected True or False, got {quoted(value)}")
        if name == "--fp16":
            info("note: --fp16 changes nothing; --precision chooses the number format")
        if value.lower() != "false":
            replaced += SWITCHES[name]
    return replaced


class Program(TyperGroup):
    """The program's group of commands, in which `transcribe --stdin` means `listen --stdin`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments; an empty one is refused, as its path would be the working folder."""
        if not ctx.resilient_parsing:  # set for shell completion
            refuse_empty(args)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command by its name and options."""
        options = args[: args.index("--")] if "--" in args else args
        if args[:1] == ["transcribe"] and "--stdin" in options:
            args = ["listen", *args[1:]]
        return super().resolve_command(ctx, args)


def model_first(arguments: list[str]) -> list[str]:
    """Return arguments in which the value of --model or -m stands first, without its option."""
    rest, models, left = list[str](), list[str](), arguments[::-1]
    while left:
        argument = left.pop()
        name, sign, value = argument.partition("=")
        if name not in ("--model", "-m"):
            rest.append(argument)
        elif sign or left:
            models.append(value if sign else left.pop())
        else:
            raise UsageError(f"{name}: expected a value, got nothing")
    return models + rest


class ArtifactCommand(TyperCommand):
    """A command that takes its artifact as an argument, and as `transcribe` does: --model MODEL."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments; those before `--` may have --model."""
        end = args.index("--") if "--" in args else len(args)
        if not ctx.resilient_parsing:  # set for shell completion
            args = model_first(args[:end]) + args[end:]
        return super().parse_args(ctx, args)


class SpeechCommand(TyperCommand):
    """A command that also accepts whisper's options."""

    elsewhere: ClassVar[dict[str, str]] = {}  # reasons to refuse options of another command

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments; those before `--` may be in whisper's spelling."""
        end = args.index("--") if "--" in args else len(args)
        if not ctx.resilient_parsing:  # set for shell completion
            given = leave_out_usual(args[:end])
            refuse(given, UNSUPPORTED | self.elsewhere)
            refuse_vad_value(given)
            refuse_formats(given)
            args = replace_switches(given) + args[end:]
        return super().parse_args(ctx, args)


class TranscribeCommand(SpeechCommand):
    """The command `transcribe`, which refuses options of `listen`."""

    elsewhere: ClassVar = dict.fromkeys(OF_LISTEN, LISTEN)


class ListenCommand(SpeechCommand):
    """The command `listen`, which refuses files and options of `transcribe`."""

    elsewhere: ClassVar = {
        **dict.fromkeys(
            ("--batch-size", "--no-split", "--batched", "--skip-existing", "--gain", "--channels"),
            TRANSCRIBE,
        ),
        "--mic": "a microphone is what listen records anyway; leave it out",
    }

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments, and refuse files."""
        ctx.allow_extra_args = True  # so that the refusal below names the command for files
        files = super().parse_args(ctx, args)
        if files and not ctx.resilient_parsing:
            raise UsageError(f"{files[0]}: {TRANSCRIBE}")
        return files
