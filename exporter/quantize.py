"""Quantise a checkpoint or an artifact by a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from .. import hub
from ..arguments import PATH, accepts, optional
from ..errors import UsageError
from .binding.bind import Progress
from .checkpoint.artifact import is_artifact, open_artifact
from .checkpoint.open import Checkpoint, open_checkpoint, resolve_source
from .checkpoint.remote import find_remote
from .export import OPTIONS, SOURCE, export
from .output import default_folder
from .packages import require_tracer
from .plan import SHARD_SIZE, estimate
from .precisions import precision_kind


@accepts(
    source=SOURCE,
    recipe=optional(PATH),
    **OPTIONS,
)
def quantize(
    source: str | Path | Checkpoint,
    output: str | Path | None = None,
    *,
    tokenizer: str | Path | None = None,
    precisions: Sequence[str] = ("q4f16",),
    recipe: str | None = None,
    shard_size: int = SHARD_SIZE,
    threads: int | None = None,
    offline: bool = False,
    on_download: Callable[[hub.Progress], None] = lambda progress: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> Path:
    """Quantise a checkpoint or an artifact by a recipe.

    Args:
        source: a checkpoint as in `export`, or an artifact of floats or 8 bits.
        output: as in `export`.
        tokenizer: as in `export`; not with an artifact, which has its own.
        precisions: as in `export`.
        recipe: as in `export`.
        shard_size: as in `export`.
        threads: as in `export`.
        offline: as in `export`.
        on_download: as in `export`.
        on_progress: as in `export`.
        on_note: as in `export`.

    Returns:
        The artifact folder.

    Raises:
        CheckpointError, ArtifactError, StorageError, UsageError: as in `export`.
        QuantizationError: as in `export`, or the source is an artifact that has only 4-bit weights.
    """
    # Download what is needed of a repository, and open the source
    check_precisions(precisions)
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
            needs = estimate(remote.source, **options)
            require_tracer(needs.traced if needs else ())
            remote.require_room(output, needs.num_bytes if needs else None)
            source = remote.fetch(on_download)
        source = open_source(source, tokenizer)

    # Quantise it
    return export(
        source,
        output_folder(source, output),
        precisions=precisions,
        recipe=recipe,
        shard_size=shard_size,
        threads=threads,
        on_progress=on_progress,
        on_note=on_note,
    )


def check_precisions(precisions: Sequence[str]) -> None:
    """Check that every precision is one of quantised weights.

    Raises:
        UsageError: some are of floats.
    """
    if floats := [name for name in precisions if precision_kind(name).recipe is None]:
        raise UsageError(
            f"precision: {', '.join(floats)} quantises nothing; make it with: voxtral-onnx export"
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
