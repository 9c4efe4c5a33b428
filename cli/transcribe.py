"""`voxtral-onnx transcribe`: files to text."""

from __future__ import annotations

import typer

from ..errors import UsageError
from . import options
from .exit_codes import SOME_FAILED


def transcribe(
    audio: options.Audio = None,
    raw: options.Raw = None,
    rate: options.RawRate = None,
    raw_channels: options.RawChannels = None,
    channels: options.Channels = "mix",
    model: options.Model = None,
    precision: options.Precision = None,
    offline: options.Offline = False,
    output_format: options.OutputFormat = "txt",
    output_dir: options.OutputFolder = None,
    as_json: options.JsonFormat = False,
    skip_existing: options.SkipExisting = False,
    alternatives: options.Alternatives = 0,
    delay: options.Delay = None,
    hotwords: options.Hotwords = None,
    hotword_bias: options.HotwordBias = None,
    vad: options.Vad = False,
    vad_model: options.VadModel = None,
    no_blank_guard: options.NoBlankGuard = False,
    gain: options.Gain = "none",
    device: options.Device = "auto",
    allow_fallback: options.AllowFallback = False,
    threads: options.Threads = None,
    batch_size: options.BatchSize = 1,
    context: options.Context = 8192,
    prepacked: options.Prepacked = None,
) -> None:
    """Transcribe files; words appear on stdout as they are decoded.

    Speech as it is spoken is for [b]voxtral-onnx listen[/].
    """
    from ..runtime.audio.find import find_audio
    from .files import FileRun
    from .models import hotword_options, open_transcriber, raw_sound, vad_option
    from .outputs import Outputs
    from .streams import claim_stdout

    # Refuse what cannot be, before a model is loaded
    if not audio:
        raise UsageError("name files to transcribe; for a microphone run: voxtral-onnx listen")
    outputs = Outputs.choose("json" if as_json else output_format, output_dir)
    if alternatives and "json" not in outputs.formats:
        raise UsageError("--alternatives are written as JSON: add --json")
    model_options = hotword_options(hotwords, hotword_bias)
    form = raw_sound(raw, rate, raw_channels)
    paths = find_audio(audio)
    claim_stdout(is_only_place=output_dir is None)
    outputs.refuse_clashes(paths)
    outputs.make_folder()
    if skip_existing and not (paths := outputs.leave_out_done(paths)):
        return

    model_options |= {
        "precision": precision,
        "offline": offline,
        "alternatives": alternatives,
        "delay_ms": delay,
        "vad": vad_option(vad, vad_model),
        "blank_guard": not no_blank_guard,
        "device": device,
        "allow_fallback": allow_fallback,
        "threads": threads,
        "batch_size": min(batch_size, len(paths)),
        "context": context,
        "prepacked": prepacked,
    }
    with open_transcriber(model, model_options) as transcriber:
        failed = FileRun(transcriber, paths, outputs, gain, channels, form).run()
    if failed:
        raise typer.Exit(failed[0].exit_code if len(paths) == 1 else SOME_FAILED)
