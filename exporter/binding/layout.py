"""Locations of a graph's weights in its external data files, planned from shapes alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..checkpoint.external_data import TensorLocation
from ..model.parameters import Parts, named_parameters

ALIGNMENT = 4096  # bytes; onnxruntime maps only tensors that begin at a multiple of it


@dataclass(slots=True)
class ExternalDataLayout:
    """Locations of all initializers, and the size of each data file in bytes."""

    locations: dict[str, TensorLocation] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


def plan_external_data(parts: Parts, data_file: str, shard_size: int) -> ExternalDataLayout:
    """Assign every parameter of a graph a location in the external data files.

    Parameters keep their order, but the tied table comes last, in a file of its own. A file
    ends before it would outgrow `shard_size` bytes; a larger tensor has a file to itself. The first
    file is named `data_file`, the next `data_file` with `_1`.
    """
    layout = ExternalDataLayout()
    sizes = {name: found.num_bytes for name, found in named_parameters(parts).items()}
    # The embedding gathers from the bytes that the head multiplies by
    aliases = {name: name.replace(".gather_", ".") for name in sizes if ".gather_" in name}
    table = [name for name in sizes if ".embed_tokens." in name and name not in aliases]

    # Divide the parameters into files
    shards: list[list[str]] = [[]]
    size = 0
    for name in [name for name in sizes if name not in table and name not in aliases]:
        need = _aligned(sizes[name])
        if shards[-1] and size + need > shard_size:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += need
    if table:
        shards.append(table)

    # Place each file's parameters one after the other
    for number, shard in enumerate(filter(None, shards)):
        file = data_file + (f"_{number}" if number else "")
        offset = 0
        for name in shard:
            layout.locations[name] = TensorLocation(file, offset, sizes[name])
            offset += _aligned(sizes[name])
        last = layout.locations[shard[-1]]
        layout.sizes[file] = last.offset + last.size
    layout.locations |= {name: layout.locations[source] for name, source in aliases.items()}
    return layout


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
