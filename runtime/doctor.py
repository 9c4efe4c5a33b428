"""Checks of this machine: what it can run, and how fast, found out by trying.

A provider of onnxruntime counts as usable if it has run a node, an optional part of this package if
its packages are installed, and an artifact if it writes the tokens that its certificate holds.
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
from .device.helper_graphs import helper_graph
from .locate import DEFAULT_PRECISIONS, choose_precisions, find_artifact
from .machine import copy_bandwidth, describe_machine, predict_rtf, read_bandwidth
from .memory import needed_memory
from .transcriber import DEFAULT_CONTEXT, Transcriber

PACKAGE = "voxtral-onnx"
# Blank margin from which kernels of all machines sample the token that is in the certificate
DECIDED = 1.0
OK, NOTE, MISSING, FAILED = "ok", "note", "missing", "failed"
ARM = ("aarch64", "arm64", "armv8l")
# Optional parts that are reported elsewhere or are not for users
AMONG_DEVELOPERS = ("cpu", "gpu", "dev", "bench")


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    topic: str
    name: str
    status: str  # OK, NOTE, MISSING (something is needed) or FAILED (something is wrong)
    summary: str  # with advice, if there is something to do
    values: Mapping[str, Any] = field(default_factory=dict)


def doctor(
    model: str | Path | None = None,
    *,
    precisions: Sequence[str] | None = None,
    device: str = "auto",
    context: int = DEFAULT_CONTEXT,
    read_self_test: Callable[[Path, str], Mapping[str, Any] | str],
) -> Iterator[Check]:
    """Check the machine and an artifact, and yield each result at once.

    Args:
        model: an artifact, as `Transcriber` takes it; None for the default one, if there is one.
        precisions: to test; None for the default one, ["all"] for all.
        device: to test on, as `Transcriber` takes it.
        context: positions of 80 ms for which there must be memory.
        read_self_test: returns clip, num_delay_tokens, token_ids and blank_margins from the
            artifact's certificate, for a folder and a precision; or a reason why it has none.

    Raises:
        ArtifactError: there is no such model.
        UsageError: it does not have such a precision, or `context` is too small.
    """
    # Find the model; without one, check the machine alone
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
        yield from _machine(Path.cwd())
        yield Check("artifact", "none", NOTE, str(error))
        return
    manifest = Manifest.read(folder)
    chosen = choose_precisions(manifest, precisions)

    # Check the machine
    machine = []
    for check in _machine(folder):
        machine.append(check)
        yield check
    bandwidth = next(
        check.values["read_bytes_per_second"] for check in machine if check.name == "bandwidth"
    )

    # Check that precisions fit where they will run
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
        how = "" if "q4" in manifest.precisions else "voxtral-onnx export SOURCE "
        advice = f"float16 is slow on this kind of CPU; q4 computes in float32: {how}--precision q4"
        yield Check("artifact", "ARM", NOTE, advice)

    # Test them
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
    """Yield whether each provider of onnxruntime runs a node: the CPU's, GPUs', then others."""
    try:
        listed = import_onnxruntime().get_available_providers()
    except DeviceError:
        return
    if _runs_a_node("CPUExecutionProvider"):
        yield Check("providers", "cpu", OK, "runs")
    else:
        yield Check("providers", "cpu", MISSING, "runs no node; reinstall onnxruntime")
    if CUDA in listed:
        yield from _cuda_devices()
    else:
        advice = "not in this onnxruntime; for NVIDIA: pip install 'voxtral-onnx[gpu]'"
        yield Check("providers", "cuda", NOTE, advice)
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
    graph = helper_graph("zeros", np.dtype(np.float32))
    try:
        session = ort.InferenceSession(graph, options, providers=[provider], enable_fallback=False)
        zeros = np.asarray(session.run(None, {"shape": np.array([3], np.int64)})[0])
        return not zeros.any() and {
            part.ep_name for part in session.get_provider_graph_assignment_info()
        } == {provider}
    except Exception:  # onnxruntime's own exceptions share no narrower base
        return False


def _hardware(folder: Path) -> Iterator[Check]:
    # Processor
    machine = describe_machine()
    cores = machine["cores"]
    yield Check("machine", "processor", OK, f"{machine['cpu']}, {cores} cores", {"cores": cores})

    # Memory and disk
    free, total = available_memory(), machine["memory"]
    if free is None or total is None:
        yield Check("machine", "memory", NOTE, "the system does not say")
    else:
        summary = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        values = {"available_memory": free, "total_memory": total}
        yield Check("machine", "memory", OK, summary, values)
    disk = shutil.disk_usage(folder).free
    yield Check("machine", "disk", OK, f"{disk / 1e9:.1f} GB free at {folder}", {"free_disk": disk})

    # Speed of the memory
    threads = num_cores()
    bandwidth, load = read_bandwidth(threads), machine["load_average"] or 0.0
    is_busy = load > cores
    yield Check(
        "machine",
        "bandwidth",
        NOTE if is_busy else OK,
        f"{bandwidth / 1e9:.1f} GB/s read from memory by {threads} threads"
        + (f"; the machine is busy (load {load:.1f}), idle it is faster" if is_busy else ""),
        {"read_bytes_per_second": bandwidth, "threads": threads},
    )


def _extras() -> Iterator[Check]:
    """Yield whether the packages of each optional part (pip's extra) are installed."""
    try:
        requirements = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        yield Check(
            "extras", "none", NOTE, "run from a checkout, whose optional parts are not known"
        )
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
    status, summary = OK if number else NOTE, f"PortAudio sees {number} microphones"
    return Check("extras", "mic", status, summary, {"number": number})


def _artifact(
    folder: Path, manifest: Manifest, needed_here: Sequence[str], context: int, bandwidth: float
) -> Iterator[Check]:
    """Yield the memory that each precision needs on the CPU, and the lowest possible RTF.

    Those in `needed_here` must fit into memory.
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
    """Yield the memory and the RTF of each precision on a CUDA device, as `_artifact` does."""
    for precision in manifest.held(folder):
        name = f"{precision} {gpu.name}"
        if manifest.precisions[precision].activation_dtype != "float16":
            status = MISSING if precision in needed_there else NOTE
            reason = "does not run there: CUDA has attention in float16 only (q4f16, fp16)"
            yield Check("artifact", name, status, reason)
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


def _self_test(
    folder: Path, precision: str, device: str, context: int, expected: Mapping[str, Any] | str
) -> Check:
    """Transcribe the certificate's clip, and compare the tokens with those that it holds.

    Tokens with a small blank margin are left out, because other kernels may sample others.
    """
    # Find the clip
    name = f"self-test {precision}"
    if isinstance(expected, str):
        how = f"run: voxtral-onnx verify {folder}"
        return Check("artifact", name, NOTE, f"not self-tested: {expected}; {how}")
    clip = SAMPLES / expected["clip"]
    if not clip.is_file():
        reason = f"not self-tested: its clip {clip.name} is not part of this package"
        return Check("artifact", name, NOTE, reason)

    # Transcribe it
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
        status = MISSING if isinstance(error, DeviceError) else FAILED
        return Check("artifact", name, status, str(error))

    # Compare the tokens
    sure = [abs(margin) > DECIDED for margin in expected["blank_margins"]]
    if len(found) != len(sure):
        text = f"on {where}: {len(found)} tokens instead of {len(sure)}"
        return Check("artifact", name, FAILED, text)
    wrong = [
        i
        for i, (a, b) in enumerate(zip(found, expected["token_ids"], strict=True))
        if sure[i] and a != b
    ]

    # Measure the RTF as that of a long recording, that is, with the silence around the clip
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
    text = f"on {where}: the certificate's {sum(sure)} sure tokens of {clip.name}"
    return Check("artifact", name, OK, text, values)
