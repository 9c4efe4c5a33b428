"""How many decoder slots of which size there are, by the memory that is free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...manifest import CacheSpec, Manifest
from ...memory import available_memory
from ..device.base import Device
from ..device.pages import page_bytes
from ..memory import buffer_bytes
from ..model import LoadedModel
from .encoders.samples import MOST_TOKENS
from .encoding import MOST_CACHES

# Positions of slots for short recordings and for pieces of long ones, 80 s and 5.3 minutes; each
# takes less memory than a slot for the whole context, and need not shift
SMALL_CAPACITIES = (1024, 4096)
# Of the free memory: for slots of each size, from the smallest; what is left is for activations
SHARES = {1: (0.8,), 2: (0.5, 0.3), 3: (0.4, 0.2, 0.2)}
MOST_AUTO = {"cpu": 8, "cuda": 256}  # slots beyond which a device gains nothing


@dataclass(frozen=True, slots=True)
class SlotSize:
    """Slots of one size."""

    spec: CacheSpec
    count: int
    may_shift: bool  # the oldest positions make room, as the window or `context` says


def slot_sizes(
    model: LoadedModel,
    batch_size: int | None,
    notes: list[str],
    spec: CacheSpec | None = None,
    *,
    has_live: bool = False,
) -> list[SlotSize]:
    """Return the sizes of slots from the smallest; on the CPU, whose memory is lazy, there is one.

    Args:
        model: that decodes.
        batch_size: slots of each size; None for as many as the memory and the device suit.
        notes: gets a sentence on how many there are, if that was not asked for or does not fit.
        spec: of the largest slots; None for that of the model's context.
        has_live: leave room for the encoder's cache of a live stream in each of the largest slots,
            and for its graph's weights.
    """
    specs = _specs(spec or model.decoder.spec, model.device)
    free = free_memory(model)
    kind = model.facts.device_name.partition(":")[0]
    wanted = batch_size or MOST_AUTO[kind]
    if free is None:
        sizes = [SlotSize(spec, wanted, spec is specs[-1]) for spec in specs]
        _tell(sizes, batch_size, model.manifest, notes)
        return sizes
    item_size = np.dtype(_activation_dtype(model.manifest, model.facts.precision)).itemsize
    free -= MOST_CACHES * buffer_bytes(model.grid.spec, item_size)
    of_live = 0
    if has_live:
        of_live = live_bytes(model)
        graphs = model.manifest.precisions[model.facts.precision]
        free -= sum(model.manifest.files[name].size for name in graphs.encoder.data)
    sizes = []
    for spec, share in zip(specs, SHARES[len(specs)], strict=True):
        each = buffer_bytes(spec, item_size) + (of_live if spec is specs[-1] else 0)
        count = max(1, min(wanted, int(share * free) // each))
        sizes.append(SlotSize(spec, count, spec is specs[-1]))
    _tell(sizes, batch_size, model.manifest, notes)
    return sizes


def _tell(
    sizes: Sequence[SlotSize], batch_size: int | None, manifest: Manifest, notes: list[str]
) -> None:
    """Note once how many recordings are decoded together, unless it is what was asked for."""
    audio = manifest.config.audio
    told = []
    for size in sizes:
        seconds = size.spec.capacity * audio.samples_per_token / audio.sample_rate
        of = " of any length" if size is sizes[-1] else f" of up to {seconds:.0f} s"
        if batch_size is None or size.count < batch_size:
            told.append(f"{size.count}{of if len(sizes) > 1 else ''}")
    if not told:
        return
    counts = ", ".join(told)
    why = f"as many as fit into memory, not {batch_size}" if batch_size else "chosen by auto"
    note = f"batch size: {counts} together ({why})"
    if note not in notes:
        notes.append(note)


def live_bytes(model: LoadedModel) -> int:
    """Return the bytes of the encoder's cache of a live stream."""
    spec = model.encoder.spec
    size = np.dtype(_activation_dtype(model.manifest, model.facts.precision)).itemsize
    return page_bytes(spec, MOST_TOKENS * spec.rows_per_token, size)


def free_memory(model: LoadedModel) -> int | None:
    """Return the bytes that are free for caches; None if the system does not tell."""
    found = model.device.free_memory()
    return available_memory() if found is None else found


def size_for(sizes: Sequence[SlotSize], positions: int) -> int:
    """Return the index of the smallest size that holds so many positions, else of the largest.

    A slot's last row is not used, unless it may shift.
    """
    fitting = (i for i, size in enumerate(sizes) if positions < size.spec.capacity)
    return next(fitting, len(sizes) - 1)


def _specs(spec: CacheSpec, device: Device) -> list[CacheSpec]:
    if device.free_memory() is None:  # pages of the CPU's buffers take memory when written
        return [spec]
    small = [size for size in SMALL_CAPACITIES if 2 * size <= spec.capacity]
    return [*(replace(spec, keep=size - 1, capacity=size) for size in small), spec]


def _activation_dtype(manifest: Manifest, precision: str) -> str:
    return manifest.precisions[precision].activation_dtype
