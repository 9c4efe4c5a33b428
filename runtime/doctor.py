"""What this machine can run and how fast, found by trying it.

Nothing is taken from a list of names: a provider is one that ran a node, an extra one whose
packages are there, and an artifact is sound on this machine when it writes the tokens that its
certificate holds.
"""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ..assets import SAMPLES
from ..config import RELEASED
from ..errors import ArtifactError, DeviceError, UsageError, VoxtralOnnxError
from ..manifest import Manifest
from ..memory import available_memory
from ..threads import num_cores
from .audio.files import open_audio
from .audio.microphone import input_devices
from .delay import delay_ms
from .device.base import CUDA, MIN_ONNXRUNTIME, WEBGPU, import_onnxruntime, is_installed
from .device.cache import check_context
from .device.helper_graphs import zeros_model
from .locate import DEFAULT_PRECISIONS, choose_precisions, find_artifact
from .machine import copy_bandwidth, describe_machine, read_bandwidth
from .memory import needed_memory
from .transcriber import DEFAULT_CONTEXT, Transcriber

PACKAGE = "voxtral-onnx"
DECIDED = 1.0  # blank margin from which every host writes the certificate's token
OK, NOTE, MISSING, FAILED = "ok", "note", "missing", "failed"
ARM = ("aarch64", "arm64", "armv8l")
# Extras that are reported elsewhere, or are not for users
AMONG_DEVELOPERS = ("cpu", "gpu", "dev", "bench")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    topic: str
    name: str
    status: str  # OK, NOTE, MISSING (something needed), FAILED (something wrong)
    summary: str  # with what to do, where there is something to do
    values: Mapping[str, Any] = field(default_factory=dict)


def doctor(
    model: str | Path | None = None,
    *,
    precisions: Sequence[str] | None = None,
    device: str = "auto",
    context: int = DEFAULT_CONTEXT,
    read_self_test: Callable[[Path, str], Mapping[str, Any] | str],
) -> Iterator[Check]:
    """Check after check, as they are done.

    Args:
        model: an artifact, as `Transcriber` takes it; None for the one that would run, if there is
            one.
        precisions: that are to be tested, by default the one that would run; ["all"] for all.
        device: on which, as `Transcriber` takes it.
        context: positions of 80 ms for which there must be memory.
        read_self_test: reads what an artifact's certificate holds of a precision: clip,
            num_delay_tokens, token_ids and blank_margins; or says why there is nothing.

    Raises:
        ArtifactError, UsageError: the model that was named, or its precisions, are not there.
    """
    check_context(context)
    try:
        folder = find_artifact(model)
    except ArtifactError as error:
        if model is not None:
            raise
        if unknown := sorted({*(precisions or ())} - {*DEFAULT_PRECISIONS, "all"}):
            known = ", ".join(DEFAULT_PRECISIONS)
            raise UsageError(
                f"precision: expected some of {known}, or all, got {unknown[0]!r}"
            ) from None
        folder, missing = Path.cwd(), str(error).partition(";")[0].partition("\n")[0]
        yield from _machine(folder)
        yield Check("artifact", "none", NOTE, missing)
        return
    manifest = Manifest.read(folder)
    chosen = choose_precisions(manifest, precisions)
    machine = []
    for check in _machine(folder):
        machine.append(check)
        yield check
    bandwidth = next(
        check.values["read_bytes_per_second"] for check in machine if check.name == "bandwidth"
    )
    gpus = [check for check in machine if check.name.startswith("cuda:") and check.status == OK]
    on_gpu = (
        [name for name in chosen if manifest.precisions[name].activation_dtype == "float16"]
        if gpus
        else []
    )
    if device != "auto":
        on_gpu = chosen if device.startswith("cuda") else []
    needed = (
        ()
        if device.startswith(("cuda", "webgpu"))
        else [name for name in chosen if name not in on_gpu]
    )
    yield from _artifact(folder, manifest, needed, context, bandwidth)
    for gpu in gpus:
        is_meant = gpu.name == ("cuda:0" if device in ("auto", "cuda") else device)
        yield from _on_gpu(folder, manifest, gpu, on_gpu if is_meant else (), context)
    if platform.machine().lower() in ARM and "q4f16" in chosen and not gpus:
        has = (
            "--precision q4"
            if "q4" in manifest.precisions
            else "voxtral-onnx export SOURCE --precision q4"
        )
        yield Check(
            "artifact",
            "ARM",
            NOTE,
            f"float16 is slow on this kind of CPU; q4 computes in float32: {has}",
        )
    if any(check.status == MISSING for check in machine):
        return
    for precision in chosen:
        expected = read_self_test(folder, precision)
        yield _self_test(folder, precision, device, context, expected)


def _machine(folder: Path) -> Iterator[Check]:
    yield from _versions()
    yield from _providers()
    yield from _hardware(folder)
    yield from _extras()


def _versions() -> Iterator[Check]:
    yield Check("versions", "python", OK, platform.python_version())
    try:
        found = str(import_onnxruntime().__version__)
    except DeviceError as error:
        yield Check("versions", "onnxruntime", MISSING, str(error))
        return
    yield Check(
        "versions", "onnxruntime", OK, f"{found} (needed: {'.'.join(map(str, MIN_ONNXRUNTIME))})"
    )
    yield Check("versions", "numpy", OK, metadata.version("numpy"))


def _providers() -> Iterator[Check]:
    """What runs a node.

    The CPU, which is needed, then each device, and what else onnxruntime lists.
    """
    try:
        listed = import_onnxruntime().get_available_providers()
    except DeviceError:
        return
    if _runs_a_node("CPUExecutionProvider"):
        yield Check("providers", "cpu", OK, "runs")
    else:
        yield Check("providers", "cpu", MISSING, "runs no node; install onnxruntime anew")
    if CUDA in listed:
        yield from _cuda_devices()
    else:
        yield Check(
            "providers",
            "cuda",
            NOTE,
            "not in this onnxruntime; for NVIDIA: pip install 'voxtral-onnx[gpu]'",
        )
    yield _webgpu()
    for provider in listed:
        if provider not in ("CPUExecutionProvider", CUDA, WEBGPU):
            name = provider.removesuffix("ExecutionProvider").lower()
            runs = (
                "runs a node" if _runs_a_node(provider) else "listed by onnxruntime, runs nothing"
            )
            yield Check("providers", name, NOTE, f"{runs}; not used")


def _cuda_devices() -> Iterator[Check]:
    from .device.cuda import Cuda

    for index in count():
        try:
            device = Cuda(index)
            free, bandwidth = device.free_memory(), copy_bandwidth(device)
        except DeviceError as error:
            if index == 0:
                yield Check("providers", "cuda", NOTE, str(error))
            return
        summary = f"runs; {free / 1e9:.1f} GB free, {bandwidth / 1e9:,.0f} GB/s copied there"
        yield Check(
            "providers",
            device.name,
            OK,
            summary,
            {"free_memory": free, "copy_bytes_per_second": bandwidth},
        )


def _webgpu() -> Check:
    from .device.webgpu import WebGpu

    try:
        return Check("providers", WebGpu().name, OK, "runs")
    except DeviceError as error:
        return Check("providers", "webgpu", NOTE, str(error).removeprefix("webgpu:0: "))


def _runs_a_node(provider: str) -> bool:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    model = zeros_model(np.dtype(np.float32), 1)
    try:
        session = ort.InferenceSession(model, options, providers=[provider], enable_fallback=False)
        zeros = np.asarray(session.run(None, {"shape": np.array([3], np.int64)})[0])
        return not zeros.any() and {
            part.ep_name for part in session.get_provider_graph_assignment_info()
        } == {provider}
    except Exception:  # onnxruntime's own exceptions share no narrower base
        return False


def _hardware(folder: Path) -> Iterator[Check]:
    machine = describe_machine()
    yield Check(
        "machine",
        "processor",
        OK,
        f"{machine['cpu']}, {machine['cores']} cores",
        {"cores": machine["cores"]},
    )
    free, total = available_memory(), machine["memory"]
    if free is None or total is None:
        yield Check("machine", "memory", NOTE, "the system does not say")
    else:
        yield Check(
            "machine",
            "memory",
            OK,
            f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free",
            {"available_memory": free, "total_memory": total},
        )
    disk = shutil.disk_usage(folder).free
    yield Check("machine", "disk", OK, f"{disk / 1e9:.1f} GB free at {folder}", {"free_disk": disk})
    threads = num_cores()
    bandwidth, load = read_bandwidth(threads), machine["load_average"] or 0.0
    is_busy = load > machine["cores"]
    yield Check(
        "machine",
        "bandwidth",
        NOTE if is_busy else OK,
        f"{bandwidth / 1e9:.1f} GB/s read from memory by {threads} threads"
        + (f"; the machine is busy (load {load:.1f}), idle it is faster" if is_busy else ""),
        {"read_bytes_per_second": bandwidth, "threads": threads},
    )


def _extras() -> Iterator[Check]:
    """The optional parts that this package names, and whether all that each needs is installed."""
    try:
        requirements = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        yield Check("extras", "none", NOTE, "run from a checkout: what is optional is not known")
        return
    extras: dict[str, list[str]] = {}
    for requirement in requirements:
        if match := re.match(r"([\w.-]+).*;.*extra == ['\"]([\w-]+)['\"]", requirement):
            extras.setdefault(match[2], []).append(match[1])
    for extra, packages in extras.items():
        if extra in AMONG_DEVELOPERS:
            continue
        if missing := [name for name in packages if not is_installed(name)]:
            advice = f"without {', '.join(missing)}; pip install '{PACKAGE}[{extra}]'"
            yield Check("extras", extra, NOTE, advice)
        else:
            yield (
                _microphones()
                if extra == "mic"
                else Check("extras", extra, OK, ", ".join(packages))
            )


def _microphones() -> Check:
    try:
        number = len(input_devices())
    except DeviceError as error:
        return Check("extras", "mic", NOTE, str(error))
    return Check(
        "extras",
        "mic",
        OK if number else NOTE,
        f"PortAudio sees {number} microphones",
        {"number": number},
    )


def _artifact(
    folder: Path, manifest: Manifest, needed_here: Sequence[str], context: int, bandwidth: float
) -> Iterator[Check]:
    """What it takes to run each precision on the CPU, and how fast it could be.

    Some must fit into memory.
    """
    held = manifest.held(folder)
    manifest.check_files(folder, held)
    yield Check("artifact", "files", OK, f"{folder}: {', '.join(held)}, sizes as in the manifest")
    for precision in held:
        needed = needed_memory(manifest, precision, context)
        rtf = predict_rtf(manifest, precision, bandwidth)
        yield _prospect(
            precision, "the CPU", needed, available_memory(), rtf, precision in needed_here
        )


def _on_gpu(
    folder: Path, manifest: Manifest, gpu: Check, needed_there: Sequence[str], context: int
) -> Iterator[Check]:
    """The same on a CUDA device, from its own memory and how fast that is."""
    for precision in manifest.held(folder):
        name = f"{precision} {gpu.name}"
        if manifest.precisions[precision].activation_dtype != "float16":
            status = MISSING if precision in needed_there else NOTE
            yield Check(
                "artifact",
                name,
                status,
                "does not run there: CUDA has attention in float16 only (q4f16, fp16)",
            )
            continue
        needed = needed_memory(manifest, precision, context, on_device=True)
        rtf = predict_rtf(manifest, precision, gpu.values["copy_bytes_per_second"])
        yield _prospect(
            name, gpu.name, needed, gpu.values["free_memory"], rtf, precision in needed_there
        )


def _prospect(
    name: str, place: str, needed: int, free: int | None, rtf: tuple[float, float], is_needed: bool
) -> Check:
    live, files = rtf
    fits = free is None or needed <= free
    memory = f"{needed / 1e9:.1f} GB of memory" + (
        "" if fits else f" needed, {(free or 0) / 1e9:.1f} free"
    )
    speed = f"predicted RTF on {place}, at best: {files:.2g} on files, {live:.2g} live"
    values = {"needed_memory": needed, "predicted_rtf_files": files, "predicted_rtf_live": live}
    return Check(
        "artifact",
        name,
        OK if fits else MISSING if is_needed else NOTE,
        f"{memory}; {speed}",
        values,
    )


def predict_rtf(manifest: Manifest, precision: str, bandwidth: float) -> tuple[float, float]:
    """Least seconds for a second of audio, live and on files: the time to read the weights.

    Every token of 80 ms reads the decoder's weights once; the encoder's are read once for a chunk,
    which is one token in a live stream that keeps up. What else a step does comes on top, and is
    most of it where the model is small.
    """
    graphs, audio = manifest.precisions[precision], manifest.config.audio
    decoder, encoder = (
        sum(manifest.files[f].size for f in g.data) for g in (graphs.decoder, graphs.encoder)
    )
    seconds = audio.samples_per_token / audio.sample_rate
    live, files = decoder + encoder, decoder + encoder / manifest.streaming.max_chunk_tokens
    return live / bandwidth / seconds, files / bandwidth / seconds


def _self_test(
    folder: Path, precision: str, device: str, context: int, expected: Mapping[str, Any] | str
) -> Check:
    """Load a precision and check the tokens that its certificate is sure of.

    The tokens are those of the bundled clip.
    """
    name = f"self-test {precision}"
    if isinstance(expected, str):
        how = f"run: voxtral-onnx verify {folder}"
        return Check("artifact", name, NOTE, f"not self-tested: {expected}; {how}")
    clip = SAMPLES / expected["clip"]
    if not clip.is_file():
        return Check(
            "artifact",
            name,
            NOTE,
            f"not self-tested: its clip {clip.name} is not part of this package",
        )
    try:
        with Transcriber(folder, device, precision=precision, context=context) as transcriber:
            stream = transcriber.stream(
                delay_ms(transcriber.manifest, expected["num_delay_tokens"])
            )
            samples = list(open_audio(clip, transcriber.sample_rate).blocks())
            began = perf_counter()
            tokens = [token for block in samples for token in stream.feed(block)]
            found = [token.token_id for token in tokens + stream.finish()]
            seconds, where = perf_counter() - began, transcriber.device_name
            manifest = transcriber.manifest
    except VoxtralOnnxError as error:
        return Check(
            "artifact", name, MISSING if isinstance(error, DeviceError) else FAILED, str(error)
        )
    sure = [abs(margin) > DECIDED for margin in expected["blank_margins"]]
    if len(found) != len(sure):
        return Check(
            "artifact", name, FAILED, f"on {where}: {len(found)} tokens instead of {len(sure)}"
        )
    wrong = [
        i
        for i, (a, b) in enumerate(zip(found, expected["token_ids"], strict=True))
        if sure[i] and a != b
    ]
    # Silence is encoded before the clip, so this is the RTF of long recordings
    silence = manifest.streaming.left_pad_tokens + manifest.streaming.right_pad_tokens
    rtf = seconds / (0.08 * (len(found) + silence))
    values = {"device": where, "tokens": sum(sure), "wrong": len(wrong), "rtf": rtf}
    values["is_released_shape"] = manifest.config == RELEASED and manifest.scope is None
    if wrong:
        text = (
            f"on {where}: {len(wrong)} of {sum(sure)} sure tokens differ, the first at "
            f"{wrong[0] * 0.08:.2f} s"
        )
        return Check("artifact", name, FAILED, text, values)
    return Check(
        "artifact",
        name,
        OK,
        f"on {where}: the certificate's {sum(sure)} sure tokens of {clip.name}",
        values,
    )
