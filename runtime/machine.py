"""What a machine is and how fast its memory is."""

from __future__ import annotations

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ..memory import total_memory
from ..threads import num_cores
from .device.cuda import Cuda, CudaBuffer

READ_BYTES = 512 << 20  # far beyond the caches that one processor sees


def read_bandwidth(threads: int, passes: int = 7) -> float:
    """Bytes a second that `threads` threads read from memory together, in the fastest pass."""
    parts = np.array_split(np.ones(READ_BYTES // 8, np.uint64), threads)
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(passes):
            began = perf_counter()
            # Among NumPy's reductions the one that waits for memory only
            list(pool.map(np.bitwise_or.reduce, parts))
            seconds.append(perf_counter() - began)
    return READ_BYTES / min(seconds)


def copy_bandwidth(device: Cuda, passes: int = 7) -> float:
    """Bytes a second that a device reads and writes in its own memory, in the fastest pass.

    Raises:
        DeviceError: its memory is full.
    """
    shape, dtype = (1, 1, READ_BYTES // 1024, 256), np.dtype(np.float16)  # half of READ_BYTES each
    source, target = CudaBuffer(device, shape, dtype), CudaBuffer(device, shape, dtype)
    seconds = []
    for _ in range(passes):
        began = perf_counter()
        target.copy_from(source, shape[2])
        seconds.append(perf_counter() - began)
    return 2 * source.nbytes / min(seconds)


def describe_machine() -> dict[str, Any]:
    """What the numbers depend on.

    Processor, cores, memory, versions, and how busy the machine is now.
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
