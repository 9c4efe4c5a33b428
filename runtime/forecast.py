"""A forecast of whether, and how fast, the 4B model will run on this machine.

It is computed from the sizes of the weights, from the memory and speed that `doctor` has measured,
and from constants that were fitted to the measurements in bench/results. If an exported 4B model
has just run its self-test, its measured speed is reported instead.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..config import RELEASED
from ..manifest import CacheSpec
from .doctor import ARM, FAILED, MISSING, NOTE, OK, Check
from .memory import CONTEXTS, buffer_bytes, resident_bytes

HEADLINE = "headline"  # topic of the check that holds the forecast
# Bytes of the exported 4B model's weights: encoder, decoder
WEIGHTS = {
    "q4f16": (596_062_208, 1_982_492_672),
    "q4": (669_540_352, 2_201_915_392),
    "q8": (1_136_812_032, 3_869_052_928),
    "fp16": (1_991_322_112, 6_864_162_816),
    "fp32": (3_982_638_080, 13_726_978_048),
}
FLOAT16 = ("q4f16", "fp16")  # precisions with float16 activations, which alone run on CUDA
USUAL = ("q4f16", "q4")  # precisions that are proposed if none was asked for
ENCODER_SLACK = 256  # frames by which the encoder's cache is larger than its window
# Bytes of weights per second that one core processes in a decoder step; source:
# bench/results/full_size.json (two cores), "decoder", "empty_window"
CORE_RATE = {"q4f16": 10.1e9, "q4": 12.5e9, "q8": 14.3e9, "fp16": 7.6e9, "fp32": 11.8e9}
BANDWIDTH_SHARE = 0.8  # of the memory's measured bandwidth that a decoder step uses; same source
ENCODER_CORE_SECONDS = 0.078  # of one core to encode a token in a chunk; same source
OTHER_WORK = 1.15  # total time divided by that of encoder and decoder; same source
# Of one core to attend to a full window of 8,192 positions, which 11 minutes of audio fill:
# "full_window" less "empty_window" of the decoder; same source
ATTENTION_CORE_SECONDS = {"q4f16": 0.348, "q4": 0.258, "q8": 0.272, "fp16": 0.272, "fp32": 0.072}
# Of a token besides reading weights; source: bench/results/gpu_speed.json
GPU_STEP_SECONDS = 0.0024
TOKEN_SECONDS = 0.08  # of audio
WITHIN = "within a factor of two"  # by which runs on one machine vary
BUSY = "busy as this machine is; idle it is faster"


@dataclass(frozen=True, slots=True)
class Run:
    """A precision, a device and a context with which the 4B model could run here."""

    precision: str
    place: str  # "the CPU" or a GPU's name
    context: int
    needed: int  # bytes of memory
    free: int | None  # bytes; None if the system does not tell
    speed: float  # seconds of audio per second, of the first minute
    hour_speed: float  # the same, of an hour
    certainty: str  # of the speeds, in words

    @property
    def fits(self) -> bool:
        """Return whether enough memory is free, or the system does not tell."""
        return self.free is None or self.needed <= self.free


def forecast(
    checks: Sequence[Check],
    *,
    precisions: Sequence[str] | None = None,
    device: str = "auto",
    context: int,
) -> Check:
    """Return the first line of `doctor`'s report.

    Args:
        checks: all results of `doctor`.
        precisions: that the user has named; None for the usual ones.
        device: as `Transcriber` takes it.
        context: positions of 80 ms for which there must be memory.
    """
    found = {(check.topic, check.name): check for check in checks}
    for topic in ("versions", "providers"):
        for check in checks:
            if check.topic == topic and check.status in (MISSING, FAILED):
                return _headline(NOTE, f"The 4B model cannot run here yet: {check.summary}")
    if measured := _measured(found, context):
        return measured

    asked = [name for name in precisions or USUAL if name in WEIGHTS] or list(WEIGHTS)
    is_arm = platform.machine().lower() in ARM  # whose CPUs are slow in float16
    runs = list(_runs(found, asked, device, context, is_arm and precisions is None))
    if fitting := [run for run in runs if run.fits]:
        return _best(max(fitting, key=lambda run: run.speed))
    others = (
        run
        for size in (context, *(size for size in CONTEXTS if size < context))
        for run in _runs(found, list(WEIGHTS), device, size, is_arm)
    )
    return _instead(asked, device, runs, next((run for run in others if run.fits), None))


def needed_memory(precision: str, context: int, *, on_device: bool = False) -> int:
    """Return the bytes that the 4B model takes with full caches."""
    decoder, encoder = RELEASED.decoder, RELEASED.encoder
    window = min(context, decoder.sliding_window)
    specs = (
        CacheSpec.of(encoder, encoder.downsample_factor, ENCODER_SLACK),
        CacheSpec.of(decoder, 1, window // 4, window),
    )
    caches = sum(buffer_bytes(spec, 2 if precision in FLOAT16 else 4) for spec in specs)
    return resident_bytes(precision, sum(WEIGHTS[precision]), caches, on_device=on_device)


def cpu_speed(precision: str, cores: int, bandwidth: float) -> float:
    """Return seconds of audio per second on a CPU that reads `bandwidth` bytes per second."""
    encoder = ENCODER_CORE_SECONDS / cores
    decoder = WEIGHTS[precision][1] / min(BANDWIDTH_SHARE * bandwidth, cores * CORE_RATE[precision])
    return TOKEN_SECONDS / (OTHER_WORK * (encoder + decoder))


def hour_speed(speed: float, precision: str, cores: int, context: int) -> float:
    """Return seconds of audio per second on a CPU over an hour, in which the window fills.

    Args:
        speed: with an empty window.
        precision: one of `WEIGHTS`.
        cores: of the CPU.
        context: positions of 80 ms that attention sees.
    """
    window = RELEASED.decoder.sliding_window
    positions = min(context, window)
    share_full = 1 - positions * TOKEN_SECONDS / 2 / 3600  # it is half full while it fills
    attention = ATTENTION_CORE_SECONDS[precision] / cores * positions / window * share_full
    return TOKEN_SECONDS / (TOKEN_SECONDS / speed + OTHER_WORK * attention)


def gpu_speed(precision: str, bandwidth: float) -> float:
    """Return seconds of audio per second on a GPU that copies `bandwidth` bytes per second."""
    encoder, decoder = WEIGHTS[precision]
    return TOKEN_SECONDS / (GPU_STEP_SECONDS + (decoder + encoder / 16) / bandwidth)


def _runs(
    found: dict[tuple[str, str], Check],
    names: Iterable[str],
    device: str,
    context: int,
    is_float32: bool,  # leave out float16 on the CPU
) -> Iterable[Run]:
    """Yield the runs of some precisions on all devices that may be used."""
    gpus = [
        check
        for (topic, name), check in found.items()
        if topic == "providers" and name.startswith("cuda:") and check.status == OK
    ]
    if device != "auto":
        gpus = [gpu for gpu in gpus if gpu.name == ("cuda:0" if device == "cuda" else device)]
    cores = found["machine", "processor"].values["cores"]
    bandwidth = found["machine", "bandwidth"]
    read, is_busy = bandwidth.values["read_bytes_per_second"], bandwidth.status == NOTE
    free = found["machine", "memory"].values.get("available_memory")
    for name in names:
        for gpu in gpus if name in FLOAT16 else ():
            needed = needed_memory(name, context, on_device=True)
            speed = gpu_speed(name, gpu.values["copy_bytes_per_second"])
            room = gpu.values["free_memory"]
            yield Run(name, gpu.name, context, needed, room, speed, speed, WITHIN)
        if (not device.startswith("cuda") or not gpus) and not (is_float32 and name in FLOAT16):
            speed = cpu_speed(name, cores, read)
            needed, certainty = needed_memory(name, context), BUSY if is_busy else WITHIN
            hour = hour_speed(speed, name, cores, context)
            yield Run(name, "the CPU", context, needed, free, speed, hour, certainty)


def _measured(found: dict[tuple[str, str], Check], context: int) -> Check | None:
    """Return the first line if an artifact of the 4B model's shape has run its self-test."""
    for check in found.values():
        if check.status == OK and check.values.get("is_released_shape"):
            precision, where = check.name.rpartition(" ")[2], check.values["device"]
            speed = hour = 1 / check.values["rtf"]
            if where == "cpu":
                cores = found["machine", "processor"].values["cores"]
                hour = hour_speed(speed, precision, cores, context)
            place = "the CPU" if where == "cpu" else where
            what = f"The 4B model in {precision} runs at {_times(speed)} on {place}"
            return _headline(
                OK,
                f"A recording of one hour takes about {_hour(hour)} here, and {_live(hour)}. "
                f"{what}, as its self-test just did",
                precision=precision,
                speed=speed,
                is_measured=True,
            )
    return None


def _best(run: Run) -> Check:
    what = f"The 4B model in {run.precision} will begin at about {_times(run.speed)} on {run.place}"
    hour = f"A recording of one hour will take about {_hour(run.hour_speed)} here ({run.certainty})"
    memory = f"it needs up to {run.needed / 1e9:.1f} GB of memory"
    there = "" if run.free is None else f", {run.free / 1e9:.1f} are free"
    return _headline(
        OK,
        f"{hour}, and {_live(run.hour_speed)}. {what}; {memory}{there}. Use: voxtral-onnx export "
        f"--precision {run.precision}",
        precision=run.precision,
        place=run.place,
        speed=run.speed,
        hour_speed=run.hour_speed,
        needed_memory=run.needed,
        is_measured=False,
    )


def _instead(asked: Sequence[str], device: str, runs: Sequence[Run], smaller: Run | None) -> Check:
    """Return the first line if nothing that was asked for runs.

    Args:
        asked: precisions.
        device: as `Transcriber` takes it.
        runs: of these precisions, none of which fits.
        smaller: a run that fits, or None.
    """
    # Say why it does not run
    context = runs[0].context if runs else None
    if runs:
        least = min(runs, key=lambda run: run.needed - (run.free or 0))
        free = (least.free or 0) / 1e9
        what = (
            f"The 4B model in {least.precision} does not fit here: it needs "
            f"{least.needed / 1e9:.1f} GB of memory on {least.place}, {free:.1f} are free"
        )
    else:
        what = f"The 4B model in {', '.join(asked)} does not run on {device}"

    # Say what would run instead
    if smaller is None:
        return _headline(
            NOTE,
            f"{what}, and no other precision or context does. Use a machine with more memory; "
            "or try the small one: voxtral-onnx transcribe --model tiny AUDIO",
        )
    shorter = f" --context {smaller.context}" if context and smaller.context != context else ""
    return _headline(
        NOTE,
        f"{what}. What fits: {smaller.precision}{shorter}, {smaller.needed / 1e9:.1f} GB on "
        f"{smaller.place}, at about {_times(smaller.speed)}: a recording of one hour will take "
        f"about {_hour(smaller.hour_speed)} ({smaller.certainty}), and "
        f"{_live(smaller.hour_speed)}. "
        f"Use: voxtral-onnx export --precision {smaller.precision}"
        + (f", then transcribe{shorter}" if shorter else ""),
        precision=smaller.precision,
        place=smaller.place,
        speed=smaller.speed,
        context=smaller.context,
        needed_memory=smaller.needed,
        is_measured=False,
    )


def _times(speed: float) -> str:
    return f"{speed:.2g} {'times' if speed >= 1 else 'of'} real time (RTF {1 / speed:.2g})"


def _hour(speed: float) -> str:
    """Return how long an hour of audio takes, rounded as a forecast is."""
    if speed > 2 / 3:
        minutes = max(1, round(60 / speed))
        return f"{minutes} minute{'s' * (minutes > 1)}"
    return f"{1 / speed:.{0 if speed < 1 / 3 else 1}f} hours"


def _live(speed: float) -> str:
    """Return a phrase about whether a speed is enough for live speech."""
    if speed < 1:
        return "it is too slow for live speech, which needs more cores or a GPU"
    if speed < 1.5:
        return "it may fall behind live speech"
    return "it keeps up with live speech"


def _headline(status: str, summary: str, **values: str | float | bool) -> Check:
    return Check(HEADLINE, "4B model", status, summary, values)
