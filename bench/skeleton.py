"""Export the 4B model's graphs without weights, and fill them with random ones on another machine.

The graphs alone have a few MB, so they can be sent to machines that no checkpoint can be sent to.

    python bench/skeleton.py make build/twin build/skeleton --precision q4f16,fp16
    python bench/skeleton.py fill build/skeleton build/artifact
    python bench/skeleton.py silence build/artifact build/silent

twin.py writes the first folder. Sizes, types and locations of the weights are those of an export;
their values are random, and small enough to keep activations finite. Random weights write the same
word over and over; `silence` makes them write nothing but blanks, at the same cost.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import repeat
from math import prod
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from voxtral_onnx.contents import hash_files
from voxtral_onnx.files import PIECE_SIZE, FileSpec, hash_file
from voxtral_onnx.manifest import FILE_NAME, Manifest
from voxtral_onnx.threads import num_cores

app = typer.Typer(help="Graphs of the 4B model without its weights, and random ones for them.")
POOL = 1 << 26  # random values at most that all tensors are cut from; more than a GPU's cache
CODE_SPREAD = {4: 4.6, 8: 73.9}  # standard deviation of uniform codes, by their bits
MIDDLE = 0x88  # two 4-bit zero points of 8 in a byte
UNKNOWN = "0" * 64  # the sha256 of files that are not written yet


@app.command()
def make(
    checkpoint: Path,
    folder: Path,
    precision: Annotated[str, typer.Option(help="Precisions, comma-separated.")] = "q4f16",
    recipe: Annotated[str | None, typer.Option(help="Recipe, as for export.")] = None,
) -> None:
    """Export graphs without their data files, whose sizes stay in the manifest."""
    from voxtral_onnx.exporter import export
    from voxtral_onnx.exporter.binding import bind

    def leave_empty(graphs, checkpoint, folder, threads, on_progress) -> None:
        for traced, layout in graphs:
            for name in layout.sizes:
                (folder / name).touch()
            bind._point_at_files(traced, layout.locations, folder)
            sizes.update(layout.sizes)

    def describe(names, plan) -> dict[str, FileSpec]:
        return {
            name: unknown(sizes[name]) if name in sizes else hash_file(folder / name)
            for name in names
        }

    sizes: dict[str, int] = {}
    export.bind, export._hash_files = leave_empty, describe
    export.export(checkpoint, folder, precisions=precision.split(","), recipe=recipe)
    for name in sizes:
        (folder / name).unlink()


def unknown(size: int) -> FileSpec:
    """Return the entry of a file that `fill` will write, with hashes that no file has."""
    pieces = -(-size // PIECE_SIZE) if size > PIECE_SIZE else 0
    return FileSpec(size, UNKNOWN, (UNKNOWN,) * pieces)


@app.command()
def fill(skeleton: Path, folder: Path) -> None:
    """Copy an artifact without weights and write random ones into the copy."""
    import onnx

    # Copy it, and draw pools of random values
    shutil.copytree(skeleton, folder)
    manifest = Manifest.read(folder)
    rng = np.random.default_rng(0)
    size = min(POOL, sum(manifest.files[name].size for name in manifest.weights))
    normal, codes = rng.standard_normal(size, np.float32), rng.integers(0, 256, 4 * size, np.uint8)

    def write(tensor, shapes: dict[str, tuple[int, ...]], files: dict[str, np.memmap]) -> int:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if not place:
            return 0
        count, start = prod(shapes[tensor.name]), int(place["offset"])
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if tensor.name.endswith("blank_mask"):
            values = np.where(np.arange(count) == manifest.tokens.streaming_pad, -1e30, 0.0)
        elif tensor.name.endswith("token_ids"):
            values = np.arange(count)
        elif tensor.name.endswith("zero_points"):
            values = np.full(count, MIDDLE, np.uint8)
        elif dtype == np.uint8:
            values = cut(codes, start, count)
        else:
            values = cut(normal, start, count) * np.float32(
                spread(tensor.name, shapes)
            ) + np.float32(center(tensor.name, shapes))
        content = values.astype(dtype, copy=False).view(np.uint8)
        assert len(content) == int(place["length"]), tensor.name
        files[f"onnx/{place['location']}"][start : start + len(content)] = content
        return len(content)

    # Write each graph's tensors where its file says that they are
    written = 0
    for precision in manifest.precisions.values():
        for graph in (precision.encoder, precision.decoder):
            sizes = {name: manifest.files[name].size for name in graph.data}
            files = {
                name: np.memmap(folder / name, np.uint8, "w+", shape=(size,))
                for name, size in sizes.items()
            }
            tensors = onnx.load(
                str(folder / graph.path), load_external_data=False
            ).graph.initializer
            shapes = {tensor.name: tuple(tensor.dims) for tensor in tensors}
            with ThreadPoolExecutor() as pool:
                written += sum(pool.map(write, tensors, repeat(shapes), repeat(files)))
    write_hashes(folder, manifest, manifest.weights)
    print(f"{written / 1e9:.2f} GB")


@app.command()
def silence(artifact: Path, folder: Path) -> None:
    """Make an artifact whose decoder writes only blanks, of hard links to another's files."""
    import onnx

    shutil.copytree(artifact, folder, copy_function=os.link)
    manifest, changed = Manifest.read(folder), set[str]()

    def open_tensor(graph, name: str, dtype: type) -> np.memmap:
        [tensor] = [each for each in graph.initializer if each.name == name]
        place = {entry.key: entry.value for entry in tensor.external_data}
        path = f"onnx/{place['location']}"
        if path not in changed:  # it is still the other artifact's file
            (folder / path).unlink()
            shutil.copyfile(artifact / path, folder / path)
            changed.add(path)
        return np.memmap(folder / path, dtype, "r+", int(place["offset"]), tuple(tensor.dims))

    for precision in manifest.precisions.values():
        graph = onnx.load(str(folder / precision.decoder.path), load_external_data=False).graph
        # Added to the logits to find the best token that is not the blank
        open_tensor(graph, "blank_mask", np.float32)[:] = -1e30
        # Or the blank's logprob would not be finite, as other logits are higher by hundreds
        norm = {"float16": np.float16, "float32": np.float32}[precision.activation_dtype]
        open_tensor(graph, "language_model.norm.weight", norm)[:] /= 64
    (folder / FILE_NAME).unlink()
    write_hashes(folder, manifest, changed)


def write_hashes(folder: Path, manifest: Manifest, names: Collection[str]) -> None:
    """Write the manifest with the hashes of some files, as loading compares them."""
    paths = {folder / name: name for name in names}
    hashes = {paths[path]: file for path, file in hash_files(paths, num_cores()).items()}
    replace(manifest, files={**manifest.files, **hashes}).write(folder)


def cut(pool: np.ndarray, start: int, count: int) -> np.ndarray:
    """Return `count` values of a pool, from an index that `start`, a tensor's offset, gives."""
    start %= len(pool) // 2
    return pool[start : start + count] if start + count <= len(pool) else np.resize(pool, count)


def spread(name: str, shapes: dict[str, tuple[int, ...]]) -> float:
    """Return the standard deviation of the random values of a float tensor; 0 for scales."""
    shape = shapes[name]
    if name.endswith("scales"):
        return 0.0
    if len(shape) == 1 or name.endswith("table"):
        return 0.02
    if "embed_tokens" in name:
        return 0.7
    # MatMul's weights are transposed, Conv's are not
    inputs = shape[0] if len(shape) == 2 else prod(shape[1:])
    return 0.7 * inputs**-0.5


def center(name: str, shapes: dict[str, tuple[int, ...]]) -> float:
    """Return the mean of the random values of a float tensor."""
    if name.endswith("scales"):
        weight = shapes[name.removesuffix("gather_scales").removesuffix("scales") + "weight"]
        _, num_blocks, block_bytes = weight
        bits = 4 if block_bytes in (16, 64) else 8
        inputs = num_blocks * block_bytes * 8 // bits
        return (0.7 if "embed_tokens" in name else 0.7 * inputs**-0.5) / CODE_SPREAD[bits]
    return float((len(shapes[name]) == 1 and "bias" not in name) or name.endswith("table"))


if __name__ == "__main__":
    app()
