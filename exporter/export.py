"""Export a checkpoint to an artifact: plan, make graphs, bind weights, write the manifest."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx
import onnx_ir as ir

from .. import hub
from .._version import __version__
from ..arguments import CALLBACK, FLAG, INTEGER, NAMES, PATH, accepts, either, instance, optional
from ..config import VoxtralConfig
from ..contents import hash_files
from ..errors import ArtifactError, StorageError
from ..files import FileSpec, atomic_write
from ..manifest import FORMAT, CacheSpec, GraphSpec, Manifest, Precision
from ..quant.recipe import Recipe
from .binding.bind import Progress, bind, share_weights
from .binding.source_report import write_report
from .checkpoint.names import count_parameters
from .checkpoint.open import Checkpoint
from .checkpoint.remote import find_remote
from .graph.families import NATIVE
from .graph.families.spec import PlanOf
from .graph.retarget import retarget
from .graph.unbound import UnboundGraph
from .memory import named_memory_errors, peak_of
from .model.mel import INPUT, output_spec
from .output import FinishedGraph, Record, commit, lock, read_state, start, write_shared
from .packages import require_tracer
from .plan import MEL, SHARD_SIZE, ExportPlan, estimate, plan_export
from .planned import PlannedGraph
from .precisions import PRECISIONS, precision_kind
from .sources import remember_source

_log = logging.getLogger(__name__)

ENCODER_SLACK = 256  # frames between two shifts of the encoder's cache


SOURCE = either(PATH, instance(Checkpoint, "an opened checkpoint"))
OPTIONS = {
    "output": optional(PATH),
    "tokenizer": optional(PATH),
    "precisions": NAMES,
    "shard_size": INTEGER,
    "threads": optional(INTEGER),
    "offline": FLAG,
    "on_download": CALLBACK,
    "on_progress": CALLBACK,
    "on_note": CALLBACK,
}


@accepts(
    source=SOURCE,
    families=NAMES,
    recipe=optional(either(PATH, instance(Recipe, "a recipe"))),
    trace=FLAG,
    **OPTIONS,
)
def export(
    source: str | Path | Checkpoint,
    output: str | Path | None = None,
    *,
    tokenizer: str | Path | None = None,
    precisions: Sequence[str] = ("q4f16",),
    families: Sequence[str] = (NATIVE,),
    recipe: str | Path | Recipe | None = None,
    shard_size: int = SHARD_SIZE,
    threads: int | None = None,
    trace: bool = False,
    offline: bool = False,
    on_download: Callable[[hub.Progress], None] = lambda progress: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> Path:
    """Export a checkpoint to an artifact folder.

    The graphs of the released model and of "tiny" are shipped; those of another configuration, and
    of the portable family, are traced, which takes the extra `trace`.

    An export that was killed is resumed: the graphs that it finished are reused, and the result is
    the same. What is there already is not made again, if its files are as this version wrote them.
    The same arguments give the same bytes, with any number of threads.

    Args:
        source: a checkpoint folder of either layout, a GGUF or its shards, "tiny" for the packaged
            checkpoint, ORG/NAME[@REVISION] of the hub or its address, whose needed files are
            downloaded first, or an opened checkpoint.
        output: the artifact folder, by default `./<name>-onnx`. If it is an artifact of the same
            checkpoint, the export adds to it.
        tokenizer: Mistral's `tekken.json`, by default the one in a GGUF or beside the weights.
        precisions: names out of PRECISIONS.
        families: names out of FAMILIES: graphs for other hosts, which share the weights where they
            can. The native family is always exported. A family that a finished precision lacks is
            added to it.
        recipe: the quantisation of the 4- and 8-bit precisions, instead of their own: a name, a
            TOML file's path or a recipe.
        shard_size: the most bytes of a data file, unless one tensor is larger.
        threads: the number of threads that quantise, by default one a core.
        trace: trace graphs that are shipped, too, and make all of them anew.
        offline: use only what was downloaded before.
        on_download: called for every MiB of a download.
        on_progress: called before each graph is made and after each tensor is bound.
        on_note: called with a sentence for each packing of the checkpoint's weights that costs
            accuracy, and for each precision in the folder that is made anew, before anything is
            written, or with one if all is there already.

    Returns:
        The artifact folder.

    Raises:
        CheckpointError, QuantizationError, ArtifactError, StorageError: as errors.py describes.
        DeviceError: a graph must be traced, and the packages for that are missing.
    """
    for name in precisions:
        precision_kind(name)

    # Download what is needed of a repository
    options = {
        "tokenizer": tokenizer,
        "precisions": precisions,
        "families": families,
        "recipe": recipe,
        "shard_size": shard_size,
    }
    if not isinstance(source, Checkpoint):
        remote = find_remote(source, tokenizer=tokenizer, offline=offline, on_progress=on_download)
        if remote is not None:
            output = Path(output or remote.output)
            needs = estimate(remote.source, **options, trace=trace)
            require_tracer(needs.traced if needs else ())
            remote.require_room(output, needs.num_bytes if needs else None)
            source = remote.fetch(on_download)

    # Plan
    return run(
        plan_export(source, output, **options, threads=threads, trace=trace),
        on_progress=on_progress,
        on_note=on_note,
    )


def run(
    plan: ExportPlan,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> Path:
    """Carry out a plan, and return the artifact folder.

    Raises:
        CheckpointError, QuantizationError, ArtifactError, StorageError: as errors.py describes.
        DeviceError: graphs must be traced, and the packages for that are missing.
    """
    # Look whether there is anything to do, and the means to do it
    if plan.is_there:
        on_note(already_there(plan))
        return plan.folder
    require_tracer(plan.traced)
    plan.require_room()
    for note in (*plan.checkpoint.notes, *plan.replaced):
        on_note(note)
        _log.info("%s", note)

    with named_memory_errors(peak_of(plan.traced)), lock(plan.folder):
        if read_state(plan.folder, plan.fingerprint) != plan.state:
            raise StorageError(
                f"{plan.folder}: another export has just changed it; run this one again"
            )

        # Write down what is planned, then the files that all graphs share
        planned = {file.name for file in plan.files}
        record = Record(plan.fingerprint, plan.facts, tuple(planned), plan.finished)
        start(plan.folder, plan.state, plan.kept, record)
        for name, content in (*plan.shared.items(), *plan.root.items()):
            write_shared(plan.folder / name, content)

        # Make the graphs of one role in all precisions at once, because they share work
        finished, done = dict(plan.finished), 0
        for part in dict.fromkeys((graph.family, graph.plan.role) for graph in plan.graphs):
            graphs = [graph for graph in plan.graphs if (graph.family, graph.plan.role) == part]
            missing = [graph for graph in graphs if graph.plan.graph_file not in finished]
            if missing:
                report = partial(_report, done, plan.bytes_bound(plan.graphs), on_progress)
                finished |= _export_graphs(missing, finished, plan, report)
                done += plan.bytes_bound(missing)
                Record(plan.fingerprint, plan.facts, tuple(planned), finished).write(plan.folder)

        # Finish
        manifest = _manifest(plan, finished)
        write_report(plan.folder, manifest, plan.checkpoint, plan.threads)
        commit(plan.folder, manifest)
        remember_source(plan.folder, plan.facts.checkpoint)
    return plan.folder


def _export_graphs(
    graphs: Sequence[PlannedGraph],
    earlier: Mapping[str, FinishedGraph],
    plan: ExportPlan,
    on_progress: Callable[[Progress], None],
) -> dict[str, FinishedGraph]:
    """Make some graphs of one role, bind their weights, and write the files."""
    # Make them without their weights
    checkpoint, folder = plan.checkpoint, plan.folder
    files = tuple(graph.plan.graph_file for graph in graphs)
    made: list[UnboundGraph] = []
    for graph in graphs:
        on_progress(Progress(files, "", 0, 0, "graphs"))
        made.append(_make(graph, plan))

    # Write the data files, but not of graphs that share another's
    if own := [
        (unbound, graph.layout)
        for unbound, graph in zip(made, graphs, strict=True)
        if not graph.plan.shares_weights_of
    ]:
        bind(own, checkpoint, folder, plan.threads, on_progress)
        checkpoint.check_unchanged()

    # Write the graphs
    bound = plan.bytes_bound(graphs)
    on_progress(Progress(files, "", bound, bound, "hashes"))
    finished = {}
    for graph, unbound in zip(graphs, made, strict=True):
        path, data, contract = graph.plan.graph_file, tuple(graph.layout.sizes), graph.plan
        shared = {}
        if contract.shares_weights_of:
            share_weights(unbound, folder)
            shared = {name: earlier[contract.shares_weights_of].files[name] for name in data}
        atomic_write(
            folder / path, ir.to_proto(unbound.model).SerializeToString(deterministic=True)
        )
        parameters = count_parameters(checkpoint.config, contract.tensors)
        spec = GraphSpec(
            path, contract.required_inputs, contract.outputs, data, parameters, unbound.operators
        )
        hashes = _hash_files((path, *graph.written), plan) | shared
        finished[path] = FinishedGraph(spec, graph.recipe.spec(), hashes)
    return finished


def _make(graph: PlannedGraph, plan: ExportPlan) -> UnboundGraph:
    """Make a graph: retarget an artifact's or a shipped one, else trace it."""
    if not plan.is_traced and (made := _retargeted(graph, plan.checkpoint)):
        return made
    if graph.ready:
        return graph.ready.make(graph.family, graph.plan)
    return trace(graph.plan_of, plan.checkpoint.config)


def trace(plan_of: PlanOf, config: VoxtralConfig) -> UnboundGraph:
    """Trace a graph; only then is PyTorch imported."""
    from .graph.trace import trace

    return trace(plan_of, config)


def _report(
    done: int, total: int, on_progress: Callable[[Progress], None], progress: Progress
) -> None:
    """Report a pass as a part of the whole export, of which `done` bytes were bound before."""
    on_progress(replace(progress, done=done + progress.done, total=total))


def already_there(plan: ExportPlan) -> str:
    """Return a sentence that says what is there, what was checked, and how to check more."""
    manifest, folder = plan.state.manifest, shlex.quote(str(plan.folder))
    assert manifest is not None
    names = dict.fromkeys(graph.precision for graph in plan.graphs)
    size = sum(file.size for file in manifest.files.values())
    return (
        f"{plan.folder}: already there: {', '.join(names)}; {len(manifest.files)} files, "
        f"{size / 1e6:,.1f} MB, sizes and times as hashed before\n"
        f"  to hash all again: voxtral-onnx inspect --check {folder}\n"
        f"  to test the model: voxtral-onnx verify {folder}"
    )


def _retargeted(graph: PlannedGraph, checkpoint: Checkpoint) -> UnboundGraph | None:
    """Make a graph by retargeting the same graph of the artifact that is quantised.

    Return None where there is no such artifact or its graph cannot be retargeted to this one.

    Raises:
        ArtifactError: the artifact's graph is not one that this version exports.
    """
    if graph.family != NATIVE or graph.plan.role not in checkpoint.graphs:
        return None
    path = checkpoint.graphs[graph.plan.role]
    try:
        return retarget(ir.load(path), graph.plan)
    except Exception as error:  # foreign nodes can fail in any way
        raise ArtifactError(
            f"{path}: not a graph that this version exports ({error!r}); export its checkpoint"
        ) from error


def _manifest(plan: ExportPlan, finished: Mapping[str, FinishedGraph]) -> Manifest:
    """Return the manifest of the artifact folder as it is now."""
    # Describe the precisions, those that were there before included
    config = plan.checkpoint.config
    precisions = dict(plan.kept.precisions) if plan.kept else {}
    files = dict(plan.kept.files) if plan.kept else {}
    for name in dict.fromkeys(graph.precision for graph in plan.graphs):
        made = [graph for graph in plan.graphs if graph.precision == name]
        native, families = dict[str, GraphSpec](), dict[str, tuple[GraphSpec, ...]]()
        for graph in made:
            done = finished[graph.plan.graph_file]
            if graph.family == NATIVE:
                native[graph.plan.role] = done.graph
            else:
                families[graph.family] = (*families.get(graph.family, ()), done.graph)
            files |= done.files
        precisions[name] = Precision(
            PRECISIONS[name].dtype, made[0].recipe.spec(), families=families, **native
        )

    # Describe what all of them share
    files |= _hash_files((*plan.shared, *plan.root), plan)
    mel = dict(
        Counter(node.op_type for node in onnx.load_model_from_string(plan.shared[MEL]).graph.node)
    )
    return Manifest(
        format=FORMAT,
        # The oldest version, so that a newer one makes anew what is asked for
        generator=plan.kept.generator if plan.kept else f"voxtral-onnx {__version__}",
        fingerprint=plan.fingerprint,
        scope=plan.checkpoint.card.scope,
        license=plan.checkpoint.card.license,
        config=config,
        tokens=plan.tokens,
        streaming=plan.streaming,
        caches=caches(config),
        mel=GraphSpec(MEL, (INPUT,), (output_spec(config.audio),), (), 0, mel),
        precisions={name: precisions[name] for name in PRECISIONS if name in precisions},
        files=dict(sorted(files.items())),
    )


def caches(config: VoxtralConfig) -> dict[str, CacheSpec]:
    """Return the sizes of the key and value caches of encoder and decoder."""
    return {
        "encoder": CacheSpec.of(config.encoder, config.encoder.downsample_factor, ENCODER_SLACK),
        "decoder": CacheSpec.of(config.decoder, 1, config.decoder.sliding_window // 4),
    }


def _hash_files(names: Iterable[str], plan: ExportPlan) -> dict[str, FileSpec]:
    places = {plan.folder / name: name for name in names}
    return {places[path]: file for path, file in hash_files(places, plan.threads).items()}
