"""Quantise a checkpoint or an artifact, by a recipe or so that it fits a size."""

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

# Measured on the 4B model's shapes and 30 s of speech (bench/budget.py)
MEASURE_SECONDS = 2.7e-7  # of one core, for a byte of the checkpoint
MEASURE_PEAK = 1_750_000_000  # bytes resident


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """The sizes that a budget is spent on, before anything is measured."""

    export: ExportPlan  # by the smallest recipe
    sizes: Mapping[Group, Mapping[tuple[int, int], int]]  # bytes of each group by option
    fixed: int  # bytes of all that is in no group
    minimum: int  # bytes of the smallest artifact
    floats: int  # bytes of an artifact of floats

    @property
    def seconds(self) -> float:
        """Return the estimated time to measure, without that of the export."""
        return (
            MEASURE_SECONDS
            * self.export.checkpoint.num_bytes()
            / min(self.export.threads, num_cores())
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget and the storage options that were chosen to fit it."""

    num_bytes: int  # the budget
    size: int  # planned bytes of the artifact
    sensitivities: tuple[Sensitivity, ...]
    chosen: tuple[StorageOption, ...]  # one for each of them
    recipe: Path  # the TOML file with the chosen options
    table: Path  # the JSON file with all of this

    @property
    def drift(self) -> float:
        """Return the drift of the whole model in nats, as the sum of its groups'."""
        return sum(option.drift for option in self.chosen)

    def read_table(self) -> dict[str, Any]:
        """Read the content of the JSON file `table`.

        Raises:
            QuantizationError: the file is damaged.
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
    """Quantise a checkpoint or an artifact, by a recipe or so that the result fits a budget.

    With a budget every group of tensors is quantised alone and run on the recordings, which takes
    minutes; then each gets the bits with which the decisions of the whole model drift least. Beside
    the folder this writes `<folder>-recipe.toml`, to edit and pass to `export`, and
    `<folder>-sensitivity.json`, from which a later call with the same source, precision and
    recordings takes the measurements.

    Args:
        source: a checkpoint as in `export`, or an artifact of floats or 8 bits.
        output: as in `export`.
        tokenizer: as in `export`; not with an artifact, which has its own.
        precisions: as in `export`; with a budget one of q4f16 and q4.
        recipe: as in `export`; not with a budget.
        budget: the most bytes of an artifact that has only this precision.
        recordings: float arrays [samples] at the model's rate, whose first 30 s are run; by default
            the packaged samples.
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
        AudioError: the recordings have no samples.
        QuantizationError: the budget is too small, or so large that floats fit.
        CheckpointError, ArtifactError, StorageError, UsageError: as in `export`.
    """
    # Open the source
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

    # Turn a budget into a recipe, and export
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
    """Check the options of `quantize` that do not depend on the source.

    Raises:
        UsageError: they contradict each other, or a precision has no quantisation.
    """
    if floats := [name for name in precisions if precision_kind(name).recipe is None]:
        raise UsageError(
            f"precision: {', '.join(floats)} quantises nothing; make it with: voxtral-onnx export"
        )
    if budget is not None and recipe is not None:
        raise UsageError("budget: chooses a recipe itself; leave --recipe or --budget out")
    if budget is not None and (len(precisions) != 1 or precisions[0] not in ("q4f16", "q4")):
        raise UsageError(
            f"budget: expected one precision of q4f16 and q4, got {','.join(precisions)}"
        )


def output_folder(checkpoint: Checkpoint, output: str | Path | None) -> Path:
    """Return the folder of the quantised artifact.

    Raises:
        UsageError: it is the source's own folder.
    """
    folder = default_folder(checkpoint.source) if output is None else Path(output)
    if folder.exists() and folder.resolve() == checkpoint.source.resolve():
        raise UsageError(f"{folder}: is the source itself; choose another folder with --output")
    return folder


def open_source(source: str | Path, tokenizer: str | Path | None = None) -> Checkpoint:
    """Open the checkpoint or artifact to quantise.

    Raises:
        CheckpointError, ArtifactError: the source is neither, or damaged.
        QuantizationError: the source is an artifact that has only 4-bit weights.
        UsageError: a tokenizer is given for an artifact.
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
    """Check a budget against the smallest artifact and one of floats, without writing anything.

    Raises:
        QuantizationError: the budget is too small, or so large that floats fit.
    """
    sizes = option_sizes(checkpoint, getattr(torch, PRECISIONS[precision].dtype))
    least = [min(options, key=options.__getitem__) for options in sizes.values()]
    smallest = _recipe("smallest", dict(zip(sizes, least, strict=True)))
    plan = plan_export(checkpoint, folder, precisions=[precision], recipe=smallest, threads=threads)
    # Options are counted in whole pages, but a data file ends at any byte: allow for the difference
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
            f"budget: {budget:,} bytes hold the model in floats, which take {floats:,}; export it "
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
    """Measure sensitivities, choose storage options, write recipe and table beside the folder.

    Raises:
        AudioError, QuantizationError, StorageError: as `quantize` describes.
    """
    # Measure, unless the table of an earlier call has it
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
        _write_table(table, facts, sensitivities)  # at once, because measuring took minutes

    # Choose
    picks = solve_knapsack([part.forms for part in sensitivities], budget - plan.fixed)
    chosen = tuple(part.forms[pick] for part, pick in zip(sensitivities, picks, strict=True))

    # Make the recipe, and check its size
    path = folder.with_name(f"{folder.name}-recipe.toml")
    options = {
        part.group: (option.bits, option.block_size)
        for part, option in zip(sensitivities, chosen, strict=True)
    }
    recipe = _recipe(path.stem, options)
    size = _planned_size(plan_export(checkpoint, folder, precisions=[precision], recipe=recipe))
    spent = Budget(budget, size, tuple(sensitivities), chosen, path, table)
    assert spent.size <= budget, f"planned {spent.size:,} bytes of {budget:,}"

    # Write recipe and table
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
    """The fields of a table that are read again; the others are for people."""

    facts: dict[str, str | list[str]]
    sensitivities: list[Sensitivity]


def _read_table(
    path: Path, facts: Mapping[str, Any], sizes: Mapping[Group, Mapping[tuple[int, int], int]]
) -> list[Sensitivity] | None:
    """Read what an earlier call measured on the same model and recordings.

    Return None where there is no such table, or one with other facts, groups or sizes.
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
    """Return a recipe with some option for each group.

    The most frequent rule of linear layers becomes the rule `*`, for all that no other rule names.
    """
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
