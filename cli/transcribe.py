"""The command `voxtral-onnx transcribe`, which transcribes files."""

from __future__ import annotations

from ..errors import UsageError
from . import options


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
    resume: options.Resume = False,
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
    batch_size: options.BatchSize = None,
    no_split: options.NoSplit = False,
    context: options.Context = 8192,
    engine: options.Engine = "local",
    address: options.Address = None,
) -> None:
    """Transcribe files; words appear on stdout as they are decoded.

    For speech as it is spoken, use [b]voxtral-onnx listen[/].
    """
    from .archive import find_place, transcribe_archive
    from .files import FileRun
    from .models import hotword_options, open_transcriber, raw_sound, vad_option
    from .outputs import Outputs
    from .streams import claim_stdout

    # Check the options before a model is loaded
    if not audio:
        raise UsageError("name files to transcribe; for a microphone run: voxtral-onnx listen")
    model_options = hotword_options(hotwords, hotword_bias)
    sound = {"gain": gain, "channels": channels, "raw": raw_sound(raw, rate, raw_channels)}
    model_options |= {"precision": precision, "offline": offline, "alternatives": alternatives}
    model_options |= {"delay_ms": delay, "vad": vad_option(vad, vad_model), "context": context}
    model_options |= {"blank_guard": not no_blank_guard, "threads": threads, "device": device}
    model_options |= {"allow_fallback": allow_fallback, "batch_size": batch_size or 1}
    kind, split = "json" if as_json else output_format, not no_split
    if engine == "ray":
        place = find_place(kind, output_dir, address)
        model_options |= {"model": model, "batch_size": batch_size}
        return transcribe_archive(audio, place, model_options, sound, split)
    outputs = Outputs.choose(kind, output_dir)
    if address:
        raise UsageError("--address is that of a cluster: add --engine ray")
    if alternatives and "json" not in outputs.formats:
        raise UsageError("--alternatives are written as JSON: add --json")
    if resume and channels == "split":
        raise UsageError("--resume: no journal is kept of split channels; leave it out")
    claim_stdout(is_only_place=output_dir is None)
    run = FileRun(outputs, resume=resume, skip_existing=skip_existing)
    if not run.find(audio):
        return run.end()
    with outputs.made_folder(), open_transcriber(model, model_options) as transcriber:
        run.run(transcriber, model_options, sound, split=split)
    run.end()
