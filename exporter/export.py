"""export(): a checkpoint in, an artifact out; the whole flow on one screen."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnx_ir as ir
import torch

from .. import __version__
from ..config import VoxtralConfig
from ..errors import ArtifactError, StorageError, UsageError
from ..manifest import FILE_NAME, FORMAT, CacheSpec, GraphSpec, Manifest, Precision, hash_file, write_whole
from ..quant.recipe import FLOAT, Recipe, load_recipe
from .bind import Progress, bind, lay_out
from .checkpoint import Checkpoint, open_checkpoint
from .families import native
from .mel import INPUT, mel_model, output_spec
from .modules import Build
from .tekken import read_tekken
from .trace import Traced, trace

TINY = Path(__file__).parent.parent / "assets" / "tiny"
SHARD_SIZE = 512 << 20  # bytes; browsers without JSPI read each data file whole
ENCODER_SLACK = 256  # frames between two moves of the encoder's cache
UNFINISHED = "unfinished.json"  # stands in the folder while an export runs


@dataclass(frozen=True, slots=True)
class PrecisionKind:
    """An activation type, the recipe it has unless told otherwise, and the suffix of its files (transformers.js's)."""

    dtype: str
    recipe: str | None
    suffix: str


PRECISIONS = {
    "q4f16": PrecisionKind("float16", "default", "_q4f16"),
    "q4": PrecisionKind("float32", "default", "_q4"),
    "q8": PrecisionKind("float32", "q8", "_quantized"),
    "fp16": PrecisionKind("float16", None, "_fp16"),
    "fp32": PrecisionKind("float32", None, ""),
}


def export(
    source: str | Path,
    output: str | Path | None = None,
    *,
    precisions: Sequence[str] = ("q4f16",),
    recipe: str | None = None,
    shard_size: int = SHARD_SIZE,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Export a checkpoint to an artifact folder.

    Args:
        source: a checkpoint folder of either layout, or "tiny" for the embedded checkpoint.
        output: the artifact folder, by default `./<name>-onnx`. An artifact of the same checkpoint is added to.
        precisions: names out of PRECISIONS.
        recipe: name or TOML file of the recipe for the 4- and 8-bit precisions, instead of their own.
        shard_size: bytes at which a new data file begins.
        on_progress: called before each graph is traced and after each tensor is bound.

    Returns:
        The artifact folder.

    Raises:
        CheckpointError, QuantizationError, ArtifactError, StorageError: as errors.py describes.
    """
    kinds = {name: _precision_kind(name) for name in precisions}
    recipes = {name: _recipe(kind, recipe) for name, kind in kinds.items()}
    checkpoint = open_checkpoint(resolve_source(source))
    tokens, streaming = read_tekken(checkpoint.tokenizer, checkpoint.config, checkpoint.card.trained_delays_ms)
    fingerprint = checkpoint.fingerprint()
    folder = Path(output) if output is not None else Path(f"{Path(source).name}-onnx")
    existing = _prepare_folder(folder, fingerprint, kinds)

    def export_graph(plan_of: Callable[[VoxtralConfig], native.GraphPlan]) -> GraphSpec:
        plan = plan_of(checkpoint.config)
        on_progress(Progress(plan.graph_file, "", 0, 0))
        traced = trace(plan_of, checkpoint.config)
        layout = lay_out(traced, shard_size)
        num_parameters = bind(traced, checkpoint, layout, folder, on_progress)
        _save(traced.model, folder / plan.graph_file)
        return _graph_spec(traced, tuple(layout.sizes), num_parameters)

    mel = _export_mel(checkpoint, folder)
    done = dict(existing.precisions) if existing else {}
    for name, kind in kinds.items():
        build = Build(getattr(torch, kind.dtype), recipes[name])
        encoder = partial(native.encoder_plan, build=build, dtype=kind.dtype, suffix=kind.suffix)
        decoder = partial(native.decoder_plan, tokens=tokens, build=build, dtype=kind.dtype, suffix=kind.suffix)
        done[name] = Precision(kind.dtype, recipes[name].to_dict(), export_graph(encoder), export_graph(decoder))

    write_whole(folder / "tekken.json", checkpoint.tokenizer)
    encoder, decoder = checkpoint.config.encoder, checkpoint.config.decoder
    manifest = Manifest(
        format=FORMAT,
        generator=f"voxtral-onnx {__version__}",
        fingerprint=fingerprint,
        scope=checkpoint.card.scope,
        config=checkpoint.config,
        tokens=tokens,
        streaming=streaming,
        caches={
            "encoder": CacheSpec.of(encoder, encoder.downsample_factor, ENCODER_SLACK),
            "decoder": CacheSpec.of(decoder, 1, decoder.sliding_window // 4),
        },
        mel=mel,
        precisions={name: done[name] for name in PRECISIONS if name in done},
        files={},
    )
    names = {"tekken.json"} | {file for graph in manifest.graphs() for file in (graph.path, *graph.data)}
    known = existing.files if existing else {}
    written = {file for name in kinds for file in _files(done[name])} | {mel.path, "tekken.json"}
    files = {name: hash_file(folder / name) if name in written else known[name] for name in sorted(names)}
    Manifest(**{**{f: getattr(manifest, f) for f in Manifest.__slots__}, "files": files}).write(folder)
    (folder / UNFINISHED).unlink()
    return folder


def resolve_source(source: str | Path) -> Path:
    """The checkpoint folder that a user means."""
    return TINY if str(source) == "tiny" and not Path(source).exists() else Path(source)


def _precision_kind(name: str) -> PrecisionKind:
    if name not in PRECISIONS:
        raise UsageError(f"precision: expected some of {list(PRECISIONS)}, got {name!r}")
    return PRECISIONS[name]


def _recipe(kind: PrecisionKind, asked: str | None) -> Recipe:
    return FLOAT if kind.recipe is None else load_recipe(asked or kind.recipe)


def _prepare_folder(folder: Path, fingerprint: str, precisions) -> Manifest | None:
    """Make the folder, or open the artifact in it and take the precisions that will be written out of its manifest.

    From here to the end of the export the folder says that it is unfinished, and what for.
    """
    existing = None
    if _is_occupied(folder):
        if (folder / FILE_NAME).exists():
            existing = Manifest.read(folder)
            found = existing.fingerprint
        elif (folder / UNFINISHED).exists():
            found = _unfinished_fingerprint(folder / UNFINISHED)
        else:
            raise ArtifactError(f"{folder}: exists and is no artifact; choose another folder with --output")
        if found != fingerprint:
            raise ArtifactError(
                f"{folder}: holds an artifact of another checkpoint; choose another folder with --output"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # First, because a rerun is refused where neither this file nor a manifest stands.
        write_whole(folder / UNFINISHED, json.dumps({"fingerprint": fingerprint}).encode())
        (folder / "onnx").mkdir(exist_ok=True)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise _cannot_be_made(folder, error) from error
    if existing and set(precisions) & set(existing.precisions):
        kept = {name: kind for name, kind in existing.precisions.items() if name not in precisions}
        if kept:
            files = {"tekken.json", existing.mel.path} | {file for kind in kept.values() for file in _files(kind)}
            existing = replace(existing, precisions=kept, files={name: existing.files[name] for name in sorted(files)})
            existing.write(folder)
        else:
            (folder / FILE_NAME).unlink()
    return existing


def _is_occupied(folder: Path) -> bool:
    try:
        return folder.exists() and any(folder.iterdir())
    except OSError as error:
        raise _cannot_be_made(folder, error) from error


def _unfinished_fingerprint(path: Path) -> str | None:
    try:
        return json.loads(path.read_bytes())["fingerprint"]
    except (ValueError, KeyError, TypeError):
        return None


def _cannot_be_made(folder: Path, error: OSError) -> StorageError:
    return StorageError(f"{folder}: cannot be made ({error.strerror or error}); choose another folder with --output")


def _export_mel(checkpoint: Checkpoint, folder: Path) -> GraphSpec:
    model = mel_model(checkpoint.config.audio)
    path = "onnx/mel.onnx"
    _save(model, folder / path)
    operators: dict[str, int] = {}
    for node in model.graph:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    return GraphSpec(path, (INPUT,), (output_spec(checkpoint.config.audio),), (), 0, operators, {})


def _graph_spec(traced: Traced, data: tuple[str, ...], num_parameters: int) -> GraphSpec:
    plan = traced.plan
    return GraphSpec(plan.graph_file, plan.inputs, plan.outputs, data, num_parameters, traced.operators, traced.passes)


def _save(model: ir.Model, path: Path) -> None:
    write_whole(path, ir.to_proto(model).SerializeToString(deterministic=True))


def _files(precision: Precision) -> list[str]:
    return [file for graph in (precision.encoder, precision.decoder) for file in (graph.path, *graph.data)]
