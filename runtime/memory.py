"""How much memory a model takes and how much there is: what cannot fit is refused before it is loaded."""

from __future__ import annotations

import numpy as np

from ..errors import DeviceError
from ..manifest import CacheSpec, Manifest
from ..memory import available_memory
from .cache import decoder_cache_spec

# Bytes resident for each byte of weights on disk, caches apart: onnxruntime arranges weights anew in memory of its own.
# Source: bench/results/full_size.json, "memory_per_weight_byte", rounded up; fp16 and fp32 with half of the layers.
MEMORY_PER_WEIGHT_BYTE = {"q4f16": 1.75, "q4": 1.5, "q8": 1.35, "fp16": 2.2, "fp32": 1.2}
FIXED_MEMORY = 150 << 20  # bytes of Python, its packages and activations; source: `bench` of the tiny artifact
CONTEXTS = (4096, 2048, 1024, 512, 256, 128, 64)  # that a refusal may propose


def require_memory(manifest: Manifest, precision: str, context: int) -> None:
    """Refuse a model that cannot fit. Where the system does not say what there is, nothing is refused.

    Raises:
        DeviceError: with what is needed, what there is, and what would fit.
    """
    available = available_memory()
    if available is None or (needed := needed_memory(manifest, precision, context)) <= available:
        return
    ways = []
    context = min(context, manifest.config.decoder.sliding_window)
    smaller = [size for size in CONTEXTS if size < context]
    if fitting := [size for size in smaller if needed_memory(manifest, precision, size) <= available]:
        ways.append(f"--context {fitting[0]}")
    others = [name for name in manifest.precisions if needed_memory(manifest, name, context) <= available]
    ways += [f"--precision {name}" for name in others]
    advice = f"what would fit: {', '.join(ways)}" if ways else "no precision of this artifact would fit"
    raise DeviceError(
        f"memory: {precision} with context {context} needs about {needed / 1e9:.2f} GB, "
        f"this process may still take {available / 1e9:.2f} GB; {advice}"
    )


def needed_memory(manifest: Manifest, precision: str, context: int) -> int:
    """Bytes that a transcriber with one stream takes at most: weights, and caches with all their rows written."""
    weights = MEMORY_PER_WEIGHT_BYTE[precision] * weight_bytes(manifest, precision)
    return int(weights) + cache_bytes(manifest, precision, context) + FIXED_MEMORY


def weight_bytes(manifest: Manifest, precision: str) -> int:
    """Bytes of a precision's data files."""
    graphs = manifest.precisions[precision]
    return sum(manifest.files[file].size for graph in (graphs.encoder, graphs.decoder) for file in graph.data)


def cache_bytes(manifest: Manifest, precision: str, context: int) -> int:
    """Bytes of the key-value buffers of one stream."""
    size = np.dtype(manifest.precisions[precision].activation_dtype).itemsize

    def buffers(spec: CacheSpec) -> int:
        return 2 * spec.num_layers * spec.num_key_value_heads * spec.capacity * spec.head_dim * size

    return buffers(manifest.caches["encoder"]) + buffers(decoder_cache_spec(manifest, context))
