"""Find onnxruntime and open the device that was asked for."""

from __future__ import annotations

from importlib import metadata

from ...errors import DeviceError, UsageError
from .base import CUDA, Device
from .cpu import Cpu

_INSTALL = "pip install 'voxtral-onnx[cpu]'   # or 'voxtral-onnx[gpu]' for CUDA"
# the contrib operators' contracts that the graphs were checked against begin here
MIN_ONNXRUNTIME = (1, 30)


def import_onnxruntime():
    """The onnxruntime module.

    Raises:
        DeviceError: none of its wheels is installed, or one that is too old, or both, which
            overwrite each other.
    """
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(installed) > 1:
        raise DeviceError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
            "run:\n"
            f"  pip uninstall -y onnxruntime onnxruntime-gpu\n  {_INSTALL}"
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(f"onnxruntime is not installed ({error}); run:\n  {_INSTALL}") from error
    found = onnxruntime.__version__
    if tuple(int(part) for part in found.split(".")[:2]) < MIN_ONNXRUNTIME:
        least = ".".join(map(str, MIN_ONNXRUNTIME))
        raise DeviceError(f"onnxruntime {found}: needed is {least} or newer; run:\n  {_INSTALL}")
    return onnxruntime


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def present_devices() -> list[str]:
    """Kinds of devices besides the CPU for which a package is installed.

    Whether they run shows when one is opened.
    """
    found = {
        "cuda": CUDA in import_onnxruntime().get_available_providers(),
        "webgpu": _is_installed("onnxruntime-ep-webgpu"),
    }
    return [kind for kind, is_there in found.items() if is_there]


def open_device(
    asked: str, activation_dtype: str = "float16", *, allow_fallback: bool = False
) -> Device:
    """The device that was asked for.

    `auto` is CUDA where it runs graphs of this type, else the CPU.

    Raises:
        UsageError: an unknown name.
        DeviceError: what was asked for is not there, and nothing less is allowed.
    """
    kind, _, index = asked.partition(":")
    if asked == "cpu" or (
        asked == "auto" and CUDA not in import_onnxruntime().get_available_providers()
    ):
        return Cpu()
    if asked != "auto" and not (
        kind in ("cuda", "webgpu") and (index.isdecimal() or asked == kind)
    ):
        raise UsageError(f"device: expected auto, cpu, cuda, cuda:N or webgpu, got {asked!r}")
    try:
        if kind == "webgpu":
            from .webgpu import WebGpu

            return WebGpu(int(index or 0), activation_dtype, allow_fallback=allow_fallback)
        if activation_dtype != "float16":
            raise DeviceError(
                "CUDA has attention in float16 only, and this precision computes in "
                f"{activation_dtype}; "
                "choose --precision q4f16 or fp16, or --device cpu"
            )
        from .cuda import Cuda

        return Cuda(int(index or 0), allow_fallback=allow_fallback)
    except DeviceError as error:
        if asked == "auto" or allow_fallback:
            return Cpu(str(error))
        raise
