"""The location of each weight of a graph in the external data files, known from shapes alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from ..checkpoint.external_data import TensorLocation

ALIGNMENT = 4096  # bytes; what onnxruntime needs to map a tensor


@dataclass(slots=True)
class ExternalDataLayout:
    """Locations of all initializers, and the size of each data file."""

    locations: dict[str, TensorLocation] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


def plan_external_data(module: nn.Module, data_file: str, shard_size: int) -> ExternalDataLayout:
    """Assign every parameter of a module a location in the external data files.

    They are in the module's order, the tied table last and in a file of its own.

    A file ends before it would outgrow `shard_size` bytes; a larger tensor stands alone. The first
    is `data_file`, the next `data_file` with `_1`.
    """
    layout = ExternalDataLayout()
    sizes = {
        name: value.numel() * value.element_size() for name, value in module.state_dict().items()
    }
    # The same bytes
    aliases = {name: name.replace(".gather_", ".") for name in sizes if ".gather_" in name}
    table = [name for name in sizes if ".embed_tokens." in name and name not in aliases]
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
