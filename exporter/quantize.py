"""quantize(): a checkpoint or an artifact with fewer bits, by a recipe or to a size."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import Struct

from .. import hub
from .._version import __version__
from ..arguments import CALLBACK, PATH, Kind, accepts, optional, several, whole
from ..decode import decode, read_within
from ..errors import QuantizationError, StorageError, UsageError
from ..files import atomic_write
from ..limits import REPORT
from ..quant.recipe import FLOAT, Recipe, Rule, load_recipe
from ..threads import num_cores
from .binding.bind import Progress
from .binding.layout import ALIGNMENT
from .calibration.budget import StorageOption, solve_knapsack
from .calibration.calibrate import calibrate, embedded_recordings
from .calibration.layerwise import TABLE, Layerwise
from .calibration.sensitivity import Group, Sensitivity, measure_sensitivities, option_sizes
from .checkpoint.artifact import is_artifact, open_artifact
from .checkpoint.open import Checkpoint, open_checkpoint, resolve_source
from .checkpoint.remote import find_remote
from .export import OPTIONS, SOURCE, export
from .memory import named_memory_errors
from .output import default_folder
from .plan import MANIFEST_BYTES, SHARD_SIZE, ExportPlan, estimate_size, plan_export
from .precisions import PRECISIONS, precision_kind

# Measured on the 4B model's shapes and 30 s of speech (bench/budget.py).
MEASURE_SECONDS = 2.7e-7  # of one core, for a byte of checkpoint
MEASURE_PEAK = 1_750_000_000  # bytes resident


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """What a budget leaves to choose, before anything is measured."""

    export: ExportPlan  # by the smallest recipe
    sizes: Mapping[Group, Mapping[tuple[int, int], int]]  # bytes of each group by option
    fixed: int  # bytes of all else
    minimum: int  # bytes that a budget must have
    floats: int  # bytes with which nothing need be quantised

    @property
    def seconds(self) -> float:
        """Return the time to measure, estimated; the export's time comes on top."""
        return (
            MEASURE_SECONDS
            * self.export.checkpoint.num_bytes()
            / min(self.export.threads, num_cores())
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """How the storage options that fit a budget were chosen."""

    num_bytes: int  # asked for
    size: int  # of the artifact, as planned
    sensitivities: tuple[Sensitivity, ...]
    chosen: tuple[StorageOption, ...]  # of each group
    recipe: Path  # the TOML file that says so
    table: Path  # the JSON file of all of this

    @property
    def drift(self) -> float:
        """Return that of the whole model, in nats, as the sum of its groups'."""
        return sum(option.drift for option in self.chosen)

    def read_table(self) -> dict[str, Any]:
        """Return all of this as the file has it.

        Raises:
            QuantizationError: it is damaged.
        """
        content = read_within(self.table, REPORT, QuantizationError)
        return decode(dict[str, Any], content, QuantizationError)


def _recording(value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind != "f":
        raise TypeError
    if not np.isfinite(value).all():
        raise ValueError
    return value


@accepts(
    source=SOURCE,
    recipe=optional(PATH),
    recordings=optional(several(Kind("", _recording), "a list of finite float arrays [samples]")),
    budget=optional(whole(1, unit=" byte")),
    on_stage=CALLBACK,
    on_budget=CALLBACK,
    **OPTIONS,
)
def quantize(
    source: str | Path | Checkpoint,
    output: str | Path | None = None,
    *,
    tokenizer: str | Path | None = None,
    precisions: Sequence[str] = ("q4f16",),
    recipe: str | None = None,
    budget: int | None = None,
    recordings: Sequence[np.ndarray] | None = None,
    shard_size: int = SHARD_SIZE,
    threads: int | None = None,
    offline: bool = False,
    on_download: Callable[[hub.Progress], None] = lambda progress: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_stage: Callable[[str], None] = lambda stage: None,
    on_budget: Callable[[Budget], None] = lambda budget: None,
) -> Path:
    """Export what `source` holds, by a recipe or so that the artifact fits a budget.

    With a budget every group of tensors is quantised alone and run on the recordings, which takes
    minutes, and gets the bits with which the decisions of the whole drift least. Beside the folder
    this leaves `<folder>-recipe.toml`, to edit and pass to `export`, and
    `<folder>-sensitivity.json`; a later call of equal source, precision and recordings measures
    nothing again.

    Args:
        source: a checkpoint as in `export`, or an artifact of floats or 8 bits.
        output: as in `export`.
        tokenizer: as in `export`; an artifact has its own.
        precisions: as in `export`; with a budget one of q4f16 and q4.
        recipe: as in `export`; not with a budget.
        budget: bytes of an artifact with this precision alone.
        recordings: float arrays [samples] at the model's rate, of which the first 30 s calibrate;
            by default the embedded samples.
        shard_size: as in `export`.
        threads: as in `export`.
        offline: as in `export`.
        on_download: as in `export`.
        on_progress: as in `export`.
        on_stage: called with the name of each part of the model that is measured, before it is.
        on_budget: called when the options are chosen, before the export begins.

    Returns:
        The artifact folder.

    Raises:
        AudioError: the recordings hold no sound.
        QuantizationError: the budget is too small, or floats fit into it.
        CheckpointError, ArtifactError, StorageError, UsageError: as in `export`.
    """
    check_options(precisions, recipe, budget)
    if not isinstance(source, Checkpoint):
        if remote := find_remote(
            source, tokenizer=tokenizer, offline=offline, on_progress=on_download
        ):
            output = Path(output or remote.output)
            options = {
                "tokenizer": tokenizer,
                "precisions": precisions,
                "recipe": recipe,
                "shard_size": shard_size,
            }
            remote.require_room(output, budget or estimate_size(remote.source, **options))
            source = remote.fetch(on_download)
        source = open_source(source, tokenizer)
    checkpoint, folder = source, output_folder(source, output)
    if budget is not None:
        with named_memory_errors():
            spent = spend_budget(checkpoint, folder, precisions[0], budget, recordings, on_stage)
        on_budget(spent)
        recipe = str(spent.recipe)
    return export(
        checkpoint,
        folder,
        precisions=precisions,
        recipe=recipe,
        shard_size=shard_size,
        threads=threads,
        on_progress=on_progress,
    )


def check_options(precisions: Sequence[str], recipe: str | None, budget: int | None) -> None:
    """Refuse what no source could be quantised by.

    Raises:
        UsageError: saying why.
    """
    if floats := [name for name in precisions if precision_kind(name).recipe is None]:
        raise UsageError(
            f"precision: {', '.join(floats)} quantises nothing; that is what `export` is for"
        )
    if budget is not None and recipe is not None:
        raise UsageError("budget: makes a recipe of its own; leave --recipe or --budget out")
    if budget is not None and (len(precisions) != 1 or precisions[0] not in ("q4f16", "q4")):
        raise UsageError(
            f"budget: expected one precision of q4f16 and q4, got {','.join(precisions)}"
        )


def output_folder(checkpoint: Checkpoint, output: str | Path | None) -> Path:
    """The artifact's folder, which is not the one that is read.

    Raises:
        UsageError: it is.
    """
    folder = default_folder(checkpoint.source) if output is None else Path(output)
    if folder.exists() and folder.resolve() == checkpoint.source.resolve():
        raise UsageError(f"{folder}: is what is read; choose another folder with --output")
    return folder


def open_source(source: str | Path, tokenizer: str | Path | None = None) -> Checkpoint:
    """The checkpoint or artifact that a user wants quantised.

    Raises:
        CheckpointError, ArtifactError, QuantizationError: neither, a damaged one, or an artifact of
            4 bits alone.
        UsageError: a tokenizer for an artifact.
    """
    folder = resolve_source(source)
    if not is_artifact(folder):
        return open_checkpoint(folder, Path(tokenizer) if tokenizer else None)
    if tokenizer is not None:
        raise UsageError(
            f"tokenizer: {folder} is an artifact and has its own; leave --tokenizer out"
        )
    return open_artifact(folder)


def plan_budget(
    checkpoint: Checkpoint, folder: Path, precision: str, budget: int, threads: int | None = None
) -> BudgetPlan:
    """Compare a budget with what the artifact takes at least and at most; nothing is written.

    Raises:
        QuantizationError: it is too small, or floats fit into it.
    """
    sizes = option_sizes(checkpoint, getattr(torch, PRECISIONS[precision].dtype))
    least = [min(options, key=options.__getitem__) for options in sizes.values()]
    smallest = _recipe("smallest", dict(zip(sizes, least, strict=True)))
    plan = plan_export(checkpoint, folder, precisions=[precision], recipe=smallest, threads=threads)
    # Data files end at any byte, tensors begin at whole pages
    ends = ALIGNMENT * (8 + budget // SHARD_SIZE)
    minimum = _planned_size(plan) + ends
    fixed = minimum - sum(
        options[option] for options, option in zip(sizes.values(), least, strict=True)
    )
    floats = _planned_size(plan_export(checkpoint, folder, precisions=[precision], recipe=FLOAT))
    if budget < minimum:
        raise QuantizationError(
            f"budget: {precision} takes {minimum:,} bytes at least, got {budget:,}"
        )
    if budget >= floats:
        raise QuantizationError(
            f"budget: {budget:,} bytes hold the model without quantising, in {floats:,}; export it "
            f"with --precision {'fp16' if PRECISIONS[precision].dtype == 'float16' else 'fp32'}"
        )
    return BudgetPlan(plan, sizes, fixed, minimum, floats)


def _planned_size(plan: ExportPlan) -> int:
    return sum(file.size for file in plan.files) + MANIFEST_BYTES


def spend_budget(
    checkpoint: Checkpoint,
    folder: Path,
    precision: str,
    budget: int,
    recordings: Sequence[np.ndarray] | None,
    on_stage: Callable[[str], None],
) -> Budget:
    """Measure and choose, and write the recipe and the table beside the folder.

    Raises:
        AudioError, QuantizationError, StorageError: as `quantize` describes.
    """
    plan = plan_budget(checkpoint, folder, precision, budget)
    recordings = embedded_recordings() if recordings is None else recordings
    table = folder.with_name(f"{folder.name}-sensitivity.json")
    facts = {
        "generator": f"voxtral-onnx {__version__}",
        "fingerprint": checkpoint.fingerprint(),
        "precision": precision,
        "recordings": [
            hashlib.sha256(np.float32(samples).tobytes()).hexdigest() for samples in recordings
        ],
    }
    sensitivities = _read_table(table, facts, plan.sizes)
    if sensitivities is None:
        clips = calibrate(Layerwise(checkpoint), recordings)
        sensitivities = measure_sensitivities(checkpoint, clips, plan.sizes, on_stage)
        _write_table(table, facts, sensitivities)  # before anything else can fail: it took minutes
    picks = solve_knapsack([part.forms for part in sensitivities], budget - plan.fixed)
    chosen = tuple(part.forms[pick] for part, pick in zip(sensitivities, picks, strict=True))

    path = folder.with_name(f"{folder.name}-recipe.toml")
    options = {
        part.group: (option.bits, option.block_size)
        for part, option in zip(sensitivities, chosen, strict=True)
    }
    recipe = _recipe(path.stem, options)
    size = _planned_size(plan_export(checkpoint, folder, precisions=[precision], recipe=recipe))
    spent = Budget(budget, size, tuple(sensitivities), chosen, path, table)
    assert spent.size <= budget, f"planned {spent.size:,} bytes of {budget:,}"
    comment = (
        f"The bits with which an artifact of {spent.size:,} bytes drifts least; its budget was "
        f"{budget:,}."
    )
    atomic_write(path, recipe.to_toml(comment).encode())
    _write_table(
        table,
        facts,
        sensitivities,
        budget=budget,
        size=spent.size,
        drift=spent.drift,
        chosen=chosen,
    )
    return spent


def _write_table(
    path: Path, facts: Mapping[str, Any], sensitivities: Sequence[Sensitivity], **outcome: Any
) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path.parent}: cannot be made ({error.strerror or error})") from error
    values = {"facts": facts, "sensitivities": sensitivities, **outcome}
    atomic_write(path, (json.dumps(values, indent=1, default=asdict) + "\n").encode())


class _Table(Struct):
    """What is read of a table; the other fields are for people."""

    facts: dict[str, str | list[str]]
    sensitivities: list[Sensitivity]


def _read_table(
    path: Path, facts: Mapping[str, Any], sizes: Mapping[Group, Mapping[tuple[int, int], int]]
) -> list[Sensitivity] | None:
    """Return what an earlier call measured on the same model and sounds.

    The result is None where there is nothing such: no file, or one of other facts, groups or
    sizes.
    """
    try:
        found = decode(_Table, read_within(path, REPORT, ValueError), ValueError)
    except (OSError, ValueError):
        return None
    parts = found.sensitivities
    fits = [part.group for part in parts] == [*sizes] and all(
        part.forms
        and all(
            sizes[part.group].get((form.bits, form.block_size)) == form.size for form in part.forms
        )
        for part in parts
    )
    return parts if found.facts == facts and fits else None


def _recipe(name: str, options: Mapping[Group, tuple[int, int]]) -> Recipe:
    """Return rules for every group; the most frequent one of linear layers is for all others."""
    rules = [rule for group, option in options.items() for rule in group.rules(*option)]
    kinds = [(rule.bits, rule.block_size, rule.method) for rule in rules]
    ((common, _),) = Counter(
        kind for kind, rule in zip(kinds, rules, strict=True) if rule.tensors != TABLE
    ).most_common(1)
    own = [
        rule
        for kind, rule in zip(kinds, rules, strict=True)
        if kind != common or rule.tensors == TABLE
    ]
    return Recipe(name, load_recipe("default").accuracy_level, (*own, Rule("*", *common)))
