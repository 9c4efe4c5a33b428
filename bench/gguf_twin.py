"""A full-size Q4_0 GGUF to an artifact and back: time, memory, and every tensor compared.

    python bench/gguf_twin.py [--twin build/twin] [--work build/gguf]

Quantises the random twin of the released checkpoint (twin.py) to Q4_0, exports the file and its 512 MiB shards, turns
the artifact back into a GGUF, compares both GGUFs with the `gguf` package's reader, and writes results/gguf.json. Each
step has a process of its own. What was written besides is deleted; 11 GB of disk are needed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
from full_size import in_new_process

from voxtral_onnx import __version__, export
from voxtral_onnx.exporter import gguf
from voxtral_onnx.exporter.checkpoint import open_checkpoint
from voxtral_onnx.exporter.convert import convert
from voxtral_onnx.exporter.report import FILE_NAME
from voxtral_onnx.exporter.tensors import F32, Tensor
from voxtral_onnx.exporter.weights import mistral_name
from voxtral_onnx.memory import peak_memory
from voxtral_onnx.quant.blocks import quantize_blockwise
from voxtral_onnx.quant.gguf import restore
from voxtral_onnx.quant.recipe import Rule
from voxtral_onnx.runtime.bench import describe_machine

RESULTS = Path(__file__).parent / "results" / "gguf.json"
SHARD = "512m"
Q4_0 = Rule("*", 4, 32, "rtn_symmetric")
SLICE_VALUES = 1 << 21


def write_q4_0(twin: Path, path: Path) -> None:
    """The twin as the community's file: matrices in Q4_0, the rest F32, Mistral's names and order of rows."""

    def entry(tensor: Tensor) -> gguf.Entry:
        is_matrix = len(tensor.shape) == 2
        step = max(1, SLICE_VALUES // (tensor.num_values // tensor.shape[0]))

        def parts() -> Iterator[np.ndarray]:
            for start in range(0, tensor.shape[0], step):
                rows = tensor.rows(start, start + step)
                if is_matrix:
                    blocks = quantize_blockwise(rows, Q4_0)
                    rows = restore(blocks.packed, blocks.scales, 4)
                tensor.release(start, min(start + step, tensor.shape[0]))
                yield rows.reshape(-1).view(np.uint8)

        return gguf.Entry(mistral_name(tensor.name), tensor.shape, gguf.Q4_0 if is_matrix else F32, parts)

    tensors = open_checkpoint(twin).tensors.values()
    with path.open("wb") as file:
        entries = [entry(replace(tensor, order=None)) for tensor in tensors]
        gguf.write_gguf(file, {"general.architecture": "voxtral"}, entries)


def measured(step, *arguments) -> dict[str, Any]:
    """Run a step in this process; its seconds and memory."""
    began = perf_counter()
    found = step(*arguments) or {}
    return {
        "seconds": round(perf_counter() - began, 1),
        "cpu_seconds": round(process_time(), 1),
        "peak_memory": peak_memory(),
        **found,
    }


def export_gguf(source: Path, tokenizer: Path, folder: Path) -> dict[str, Any]:
    """Export, and what the report says of it."""
    export(source, folder, tokenizer=tokenizer)
    report = json.loads((folder / FILE_NAME).read_text())["precisions"]["q4f16"]
    results = Counter(f"{entry['result']} {entry['stored']}" for entry in report["tensors"])
    return {"summary": report["summary"], "results": results}


def convert_back(folder: Path, path: Path) -> dict[str, Any]:
    """Convert, and what was made."""
    return {"summary": convert(folder, path).summary.removeprefix(f"{path}: "), "bytes": path.stat().st_size}


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Count the tensors whose bytes are the same in both files, by type."""
    from gguf import GGUFReader

    ours = {tensor.name: tensor for tensor in GGUFReader(other).tensors}
    equal, different = Counter(), Counter()
    for tensor in GGUFReader(one).tensors:
        is_equal = np.array_equal(tensor.data.view(np.uint8), ours.pop(tensor.name).data.view(np.uint8))
        (equal if is_equal else different)[tensor.tensor_type.name] += 1
    assert not ours, f"tensors that only {other} has: {list(ours)}"
    return {"equal": equal, "different": different}


def main() -> None:
    """Run all steps and write the results."""
    parser = argparse.ArgumentParser(description="Measure a full-size Q4_0 GGUF in and out.")
    parser.add_argument("--twin", type=Path, default=Path("build/twin"))
    parser.add_argument("--work", type=Path, default=Path("build/gguf"))
    options = parser.parse_args()
    work, tokenizer = options.work, options.twin / "tekken.json"
    work.mkdir(parents=True, exist_ok=True)
    source, folder, back, shards = work / "twin-q4_0.gguf", work / "artifact", work / "back.gguf", work / "shards"
    steps = {}

    def step(name: str, *arguments) -> None:
        steps[name] = in_new_process(measured, *arguments)
        print(name, json.dumps(steps[name]))

    try:
        step("make", write_q4_0, options.twin, source)
        step("export", export_gguf, source, tokenizer, folder)
        step("convert", convert_back, folder, back)
        step("compare", compare, source, back)
        back.unlink()
        shutil.rmtree(folder)
        shards.mkdir()
        subprocess.run(["split", "-b", SHARD, source, shards / "shard-"], check=True)
        step("export from shards", export_gguf, shards, tokenizer, folder)
        steps["export from shards"]["shards"] = len(list(shards.iterdir()))
        size = source.stat().st_size
    finally:
        shutil.rmtree(work)
    machine = describe_machine()
    results = {"voxtral_onnx": __version__, "machine": machine, "source_bytes": size, "steps": steps}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
