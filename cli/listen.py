"""The command `voxtral-onnx listen`, which transcribes speech as it is spoken."""

from __future__ import annotations

from ..errors import UsageError
from . import options


def listen(
    stdin: options.Stdin = False,
    rate: options.Rate = 16000,
    sample_format: options.SampleFormat = "s16le",
    input_device: options.InputDevice = None,
    list_devices: options.ListDevices = False,
    model: options.Model = None,
    precision: options.Precision = None,
    offline: options.Offline = False,
    output_format: options.OutputFormat = "txt",
    output_dir: options.OutputFolder = None,
    as_json: options.JsonFormat = False,
    stream_json: options.StreamJson = False,
    resume: options.ResumeStreams = False,
    alternatives: options.Alternatives = 0,
    delay: options.Delay = None,
    hotwords: options.Hotwords = None,
    hotword_bias: options.HotwordBias = None,
    vad: options.Vad = False,
    vad_model: options.VadModel = None,
    no_blank_guard: options.NoBlankGuard = False,
    device: options.Device = "auto",
    allow_fallback: options.AllowFallback = False,
    threads: options.Threads = None,
    context: options.Context = 8192,
) -> None:
    """Transcribe speech as it is spoken, from a microphone or standard input.

    Ctrl-C ends it; what was said by then is still transcribed. Space or p pauses a microphone.
    """
    from ..runtime.audio.container.raw import check_raw
    from ..runtime.live.capture import Capture
    from .live import capture_stdin, open_microphone, transcribe_live, write_interrupted
    from .models import hotword_options, open_transcriber, vad_option
    from .outputs import Outputs
    from .streams import claim_stdout
    from .tables import print_microphones

    # Check the options before a model is loaded
    if list_devices:
        return print_microphones()
    outputs = Outputs.choose("json" if as_json else output_format, output_dir)
    if resume:
        return write_interrupted(outputs)
    if alternatives and not stream_json and "json" not in outputs.formats:
        raise UsageError("--alternatives are written as JSON: add --json or --stream-json")
    model_options = hotword_options(hotwords, hotword_bias)
    check_raw(sample_format, rate)
    claim_stdout(is_only_place=output_dir is None)

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
        "context": context,
    }
    with outputs.made_folder(), open_transcriber(model, model_options) as transcriber:
        hz = transcriber.sample_rate
        mic = None if stdin else open_microphone(input_device, hz)
        capture = Capture(iter(mic)) if mic else capture_stdin(sample_format, rate, hz)
        transcribe_live(transcriber, capture, mic, outputs, stream_json)
