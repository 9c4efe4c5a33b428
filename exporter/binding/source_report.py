"""Report of how an artifact stores each tensor of a source that was quantised already.

The artifact's files are read back and compared with the source's blocks bit by bit.
"""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from msgspec import Struct

from ...decode import Name, Sentence, decode, read_within
from ...errors import ArtifactError, StorageError
from ...files import atomic_write
from ...limits import REPORT
from ...manifest import Manifest
from ...quant.kept import keeps
from ...quant.methods import as_float16
from ...quant.packing import unpack
from ...quant.recipe import Recipe
from ..checkpoint.external_data import read_initializers
from ..checkpoint.open import Checkpoint
from ..checkpoint.tensors import F16, Tensor

FILE_NAME = "source_report.json"  # in the artifact's folder, outside its manifest
SLICE_VALUES = 1 << 20


def write_report(folder: Path, manifest: Manifest, checkpoint: Checkpoint, threads: int) -> None:
    """Compare every precision with the checkpoint and write the report.

    Nothing is compared or written where no tensor of the checkpoint is quantised in blocks.

    Raises:
        StorageError: blocks that the artifact keeps, read back, differ from the checkpoint's.
    """
    if all(tensor.encoding.block_size == 1 for tensor in checkpoint.tensors.values()):
        return
    precisions = {}
    for name in manifest.precisions:
        tensors = compare(folder, manifest, name, checkpoint, threads)
        if wrong := [entry["tensor"] for entry in tensors if entry["result"] == "differs"]:
            raise StorageError(
                f"{folder}: {name}: {len(wrong)} tensors read back differ from what was written, "
                f"such as {wrong[0]}: the disk or memory is at fault; export again"
            )
        precisions[name] = {"summary": _summary(tensors), "tensors": tensors}
    values = {
        "source": checkpoint.source.name,
        "fingerprint": checkpoint.fingerprint(),
        "precisions": precisions,
    }
    atomic_write(folder / FILE_NAME, (json.dumps(values, indent=1) + "\n").encode())


def summaries(folder: Path) -> list[str]:
    """Return one line for each precision in an artifact's report, none if it has no report.

    Raises:
        ArtifactError: the report is damaged.
    """
    path = folder / FILE_NAME

    def wrong(reason: str) -> ArtifactError:
        return ArtifactError(f"{path}: not a report ({reason}); export again")

    try:
        report = decode(_Report, read_within(path, REPORT, wrong), wrong)
    except FileNotFoundError:
        return []
    return [f"{report.source}: {name}: {kind.summary}" for name, kind in report.precisions.items()]


class _Comparison(Struct):
    summary: Sentence


class _Report(Struct):
    source: Name
    precisions: dict[str, _Comparison]


def compare(
    folder: Path, manifest: Manifest, precision: str, checkpoint: Checkpoint, threads: int
) -> list[dict[str, str]]:
    """Return how a precision of the artifact stores each tensor of the checkpoint.

    An entry has the tensor's name, its type in the checkpoint (`stored`), its storage in the
    artifact (`as`) and a `result`: "exact" where codes and scales are bit-equal, "rounded" where
    codes are and float16 has the scales rounded, "differs" where they should be and are not,
    "requantised" where the values were rounded anew, "float" where they became floats, "folded"
    where the delay gains were computed from them (MODEL.md, step 6).
    """
    kind = manifest.precisions[precision]
    recipe = Recipe.of(kind.recipe)
    found = read_initializers(folder, kind.encoder) | read_initializers(folder, kind.decoder)
    entries = []
    with ThreadPoolExecutor(threads) as pool:
        for name, tensor in checkpoint.tensors.items():
            module = name.removesuffix(".weight")
            entry = {"tensor": name, "stored": tensor.encoding.name}

            # A tensor without scales is stored as floats
            if f"{module}.scales" not in found:
                is_gain = ".ada_rms_norm." in name
                result = (
                    {"as": "delay gains", "result": "folded"} if is_gain else {"result": "float"}
                )
                entries.append(entry | {"as": kind.activation_dtype} | result)
                continue

            # A quantised one keeps its blocks if the recipe's rule allows that
            rule = recipe.rule_for(module)
            assert rule is not None, f"{module}: quantised by no rule"
            result = "requantised"
            if keeps(rule, tensor.encoding.kept):
                result = _compare_blocks(tensor, found[name], found[f"{module}.scales"], pool)
            storage = f"{rule.bits} bits in blocks of {rule.block_size}, {rule.method}"
            entries.append(entry | {"as": storage, "result": result})
    return entries


def _compare_blocks(
    tensor: Tensor, packed: Tensor, scales: Tensor, pool: ThreadPoolExecutor
) -> str:
    """Return whether a tensor's blocks equal an artifact's: "exact", "rounded" or "differs".

    Each side is decoded as its own format defines.
    """
    kept = tensor.encoding.kept
    assert kept is not None

    def compare_rows(start: int) -> str:
        stop = min(start + step, tensor.shape[0])
        theirs, codes = tensor.scales_and_codes(start, stop)
        stored = packed.stored_rows(start, stop).reshape(*theirs.shape, -1)
        ours = scales.rows(start, stop)
        result = "differs"
        if np.array_equal(codes, unpack(stored, kept.bits, kept.block_size)):
            if np.array_equal(theirs.view(np.uint32), ours.view(np.uint32)):
                result = "exact"
            elif scales.encoding == F16 and np.array_equal(as_float16(theirs), ours):
                result = "rounded"
        for read in (tensor, packed, scales):
            read.release(start, stop)
        return result

    step = max(1, SLICE_VALUES // tensor.shape[1])
    found = set(pool.map(compare_rows, range(0, tensor.shape[0], step)))
    return next(result for result in ("differs", "rounded", "exact") if result in found)


def _summary(tensors: list[dict[str, str]]) -> str:
    """Return counts by result: "bit-equal: 409 Q4_0; as floats: 250 F32"."""
    counts = {
        result: Counter(e["stored"] for e in tensors if e["result"] == result)
        for result in _RESULTS
    }
    parts = [
        f"{_RESULTS[result]}{', '.join(f'{count} {name}' for name, count in sorted(found.items()))}"
        for result, found in counts.items()
        if found
    ]
    return "; ".join(parts)


_RESULTS = {
    "exact": "bit-equal: ",
    "rounded": "bit-equal but for scales rounded to float16: ",
    "requantised": "requantised: ",
    "float": "as floats: ",
    "folded": "in the delay gains: ",
}
