"""Estimates of the memory that a model takes, and the check that it fits before it is loaded."""

from __future__ import annotations

import numpy as np

from ..errors import DeviceError
from ..manifest import CacheSpec, Manifest
from ..memory import available_memory
from .device.base import Device
from .device.cache import decoder_cache_spec

# Bytes of resident memory per byte of weights on disk, without caches; above 1 because onnxruntime
# copies weights into layouts of its own. Source: bench/results/full_size.json,
# "memory_per_weight_byte", rounded up; fp16 and fp32 were measured with half of the layers.
MEMORY_PER_WEIGHT_BYTE = {"q4f16": 1.75, "q4": 1.5, "q8": 1.35, "fp16": 2.2, "fp32": 1.2}
# Bytes of CUDA's context, workspaces and activations; source: bench/results/gpu_speed.json
DEVICE_FIXED_MEMORY = 1300 << 20
# Bytes of Python, its packages and activations; source: `bench` of the tiny artifact
FIXED_MEMORY = 150 << 20
CONTEXTS = (4096, 2048, 1024, 512, 256, 128, 64)  # smaller ones that an error may propose


def require_memory(
    manifest: Manifest, precision: str, context: int, device: Device | None = None
) -> None:
    """Refuse a model that does not fit into memory with the caches of one stream.

    Nothing is refused if the system does not tell how much memory is free.

    Raises:
        DeviceError: it does not fit; the message names the bytes needed and free, and options that
            would fit.
    """
    # Compare
    on_device = device is not None and device.name != "cpu"
    available = device.free_memory() if device and on_device else available_memory()

    def needed(precision: str, context: int) -> int:
        return needed_memory(manifest, precision, context, on_device=on_device)

    if available is None or needed(precision, context) <= available:
        return

    # Find options that would fit
    ways = []
    context = min(context, manifest.config.decoder.sliding_window)
    smaller = [size for size in CONTEXTS if size < context]
    if fitting := [size for size in smaller if needed(precision, size) <= available]:
        ways.append(f"--context {fitting[0]}")
    others = [  # a GPU computes in float16 only
        name
        for name, graphs in manifest.precisions.items()
        if needed(name, context) <= available
        and not (on_device and graphs.activation_dtype != "float16")
    ]
    ways += [f"--precision {name}" for name in others]
    advice = (
        f"what would fit: {', '.join(ways)}" if ways else "no precision of this artifact would fit"
    )

    # Say so
    holder = f"free on {device.name} are" if device and on_device else "this process may still take"
    raise DeviceError(
        f"memory: {precision} with context {context} needs about "
        f"{needed(precision, context) / 1e9:.2f} GB, {holder} {available / 1e9:.2f} GB; {advice}"
    )


def needed_memory(
    manifest: Manifest, precision: str, context: int, *, on_device: bool = False
) -> int:
    """Return the bytes that a transcriber takes: the weights, and the full caches of one stream."""
    caches = cache_bytes(manifest, precision, context)
    return resident_bytes(precision, weight_bytes(manifest, precision), caches, on_device=on_device)


def resident_bytes(precision: str, weights: int, caches: int, *, on_device: bool = False) -> int:
    """Return the bytes that a loaded model takes.

    Args:
        precision: of the weights.
        weights: their bytes on disk; a GPU keeps them in that form.
        caches: bytes of the caches of all streams.
        on_device: the bytes are those of a GPU's memory.
    """
    if on_device:
        return weights + caches + DEVICE_FIXED_MEMORY
    return int(MEMORY_PER_WEIGHT_BYTE[precision] * weights) + caches + FIXED_MEMORY


def weight_bytes(manifest: Manifest, precision: str) -> int:
    """Return the bytes of a precision's weights on disk."""
    graphs = manifest.precisions[precision]
    return sum(
        manifest.files[file].size
        for graph in (graphs.encoder, graphs.decoder)
        for file in graph.data
    )


def cache_bytes(manifest: Manifest, precision: str, context: int) -> int:
    """Return the bytes of the key-value buffers of one stream."""
    size = np.dtype(manifest.precisions[precision].activation_dtype).itemsize
    specs = manifest.caches["encoder"], decoder_cache_spec(manifest, context)
    return sum(buffer_bytes(spec, size) for spec in specs)


def buffer_bytes(spec: CacheSpec, item_size: int) -> int:
    """Return the bytes of the keys and values of all layers of an encoder or decoder."""
    values = spec.num_layers * spec.num_key_value_heads * spec.capacity * spec.head_dim
    return 2 * values * item_size
