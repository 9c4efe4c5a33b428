"""A description of this machine, measurements of its memory's speed, and the bound that it sets."""

from __future__ import annotations

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ..manifest import Manifest
from ..memory import total_memory
from ..threads import num_cores
from .device.cuda import Cuda, CudaBuffer

READ_BYTES = 512 << 20  # far more than a processor's caches hold


def read_bandwidth(threads: int, passes: int = 7) -> float:
    """Return the bytes per second that `threads` threads together read, in the fastest pass."""
    parts = np.array_split(np.ones(READ_BYTES // 8, np.uint64), threads)
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(passes):
            began = perf_counter()
            # The one of NumPy's reductions that is limited by memory alone
            list(pool.map(np.bitwise_or.reduce, parts))
            seconds.append(perf_counter() - began)
    return READ_BYTES / min(seconds)


def copy_bandwidth(device: Cuda, passes: int = 7) -> float:
    """Return the bytes per second that a GPU reads and writes in its memory, in the fastest pass.

    Raises:
        DeviceError: its memory is full.
    """
    shape, dtype = (1, 1, READ_BYTES // 1024, 256), np.dtype(np.float16)  # each half of READ_BYTES
    source, target = CudaBuffer(device, shape, dtype), CudaBuffer(device, shape, dtype)
    seconds = []
    for _ in range(passes):
        began = perf_counter()
        target.copy_from(source, shape[2])
        seconds.append(perf_counter() - began)
    return 2 * source.nbytes / min(seconds)


def predict_rtf(manifest: Manifest, precision: str, bandwidth: float) -> tuple[float, float]:
    """Return the lowest possible RTF on live streams and on files, given by the memory's speed.

    RTF, the real-time factor, is seconds of work per second of audio. Every token of 80 ms takes at
    least the time to read the decoder's weights once. The encoder's are read once for a chunk,
    which is one token in a live stream that keeps up. The rest of the work comes on top; in a small
    model it is most of it.

    Args:
        manifest: of the model.
        precision: of the weights.
        bandwidth: bytes per second that are read from memory.
    """
    graphs, audio = manifest.precisions[precision], manifest.config.audio
    decoder, encoder = (
        sum(manifest.files[f].size for f in g.data) for g in (graphs.decoder, graphs.encoder)
    )
    seconds = audio.samples_per_token / audio.sample_rate
    live, files = decoder + encoder, decoder + encoder / manifest.streaming.max_chunk_tokens
    return live / bandwidth / seconds, files / bandwidth / seconds


def describe_machine() -> dict[str, Any]:
    """Return the facts that measurements depend on.

    These are the processor, its cores, memory in bytes, versions, and the current load.
    """
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    runtimes = {
        distribution.name for distribution in metadata.distributions(name="onnxruntime")
    } | {distribution.name for distribution in metadata.distributions(name="onnxruntime-gpu")}
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": num_cores(),
        "memory": total_memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in (*sorted(runtimes), "numpy")},
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
