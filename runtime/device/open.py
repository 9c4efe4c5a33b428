"""The choice of a device by its name."""

from __future__ import annotations

from ...errors import DeviceError, UsageError
from ...escaping import quoted
from .base import CUDA, Device, import_onnxruntime, is_installed
from .cpu import Cpu


def present_devices() -> list[str]:
    """Return the kinds of GPUs for which a package is installed, although they may not run."""
    found = {
        "cuda": CUDA in import_onnxruntime().get_available_providers(),
        "webgpu": is_installed("onnxruntime-ep-webgpu"),
    }
    return [kind for kind, is_there in found.items() if is_there]


def open_device(
    asked: str, activation_dtype: str = "float16", *, allow_fallback: bool = False
) -> Device:
    """Open a device.

    Args:
        asked: "cpu", "cuda", "cuda:N", "webgpu", or "auto": CUDA if it runs graphs of this type,
            else the CPU.
        activation_dtype: type of the graphs' activations.
        allow_fallback: open the CPU, with a note, if the device is not available.

    Raises:
        UsageError: the name is unknown.
        DeviceError: the device is not available, and `allow_fallback` is False.
    """
    # Take the CPU, and refuse unknown names
    kind, _, index = asked.partition(":")
    if asked == "cpu" or (
        asked == "auto" and CUDA not in import_onnxruntime().get_available_providers()
    ):
        return Cpu()
    if asked != "auto" and not (
        kind in ("cuda", "webgpu") and ((index.isdecimal() and len(index) < 4) or asked == kind)
    ):
        raise UsageError(f"device: expected auto, cpu, cuda, cuda:N or webgpu, got {quoted(asked)}")

    # Try the GPU
    try:
        if kind == "webgpu":
            from .webgpu import WebGpu

            return WebGpu(int(index or 0), activation_dtype, allow_fallback=allow_fallback)
        if activation_dtype != "float16":
            raise DeviceError(
                "CUDA has attention in float16 only, and this precision computes in "
                f"{activation_dtype}; choose --precision q4f16 or fp16, or --device cpu"
            )
        from .cuda import Cuda

        return Cuda(int(index or 0), allow_fallback=allow_fallback)
    except DeviceError as error:
        if asked == "auto" or allow_fallback:
            return Cpu(str(error))
        raise
