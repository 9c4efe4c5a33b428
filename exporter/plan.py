"""Plan what an export will write, reuse and need, before a byte is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir

from .._version import __version__
from ..config import VoxtralConfig
from ..errors import UsageError
from ..escaping import quoted
from ..files import disk_of, require_disk
from ..manifest import TOKENIZER, Manifest, Streaming, Tokens
from ..quant.methods import METHODS
from ..quant.recipe import Recipe
from ..threads import check_threads, num_cores
from . import memory
from .binding.layout import plan_external_data
from .checkpoint.names import quantizable_modules
from .checkpoint.open import Checkpoint, open_checkpoint, read_card, read_config, resolve_source
from .checkpoint.tekken import decode_tekken, read_tekken
from .earlier import find_earlier_work
from .graph.families import FAMILIES, NATIVE, ROOT_NAMES, choose_families
from .graph.ready import ReadyGraphs, find_ready
from .model.mel import mel_model
from .model.parameters import PartFactory
from .output import LOCK, Facts, FinishedGraph, State, default_folder, read_state, stale_files
from .packages import TRACE, missing
from .planned import PlannedFile, PlannedGraph
from .precisions import PRECISIONS, choose_recipes

MEL = "onnx/mel.onnx"
SHARD_SIZE = 512 << 20  # bytes; browsers without JSPI read each data file whole
# Measured with 2 cores of an x86 server on the 4B model's shapes, which bench/twin.py makes
TRACE_SECONDS = 4.0  # of one core, to trace a graph
PASS_SECONDS = 1e-9  # of a core, to read and write a byte where it is quantised by its method
CONVERT_SECONDS = 5e-9  # of a core, to convert a byte where it stays a float
STORE_RATE = 0.4e9  # bytes written, flushed and hashed a second
LAYER_BYTES = 10_000  # of a graph's file, for each layer and once more: 9,400 in the 4B model
MANIFEST_BYTES = 64_000  # for each precision and family
BLOCK = 4096  # bytes that file systems round sizes up to


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """An export before it begins: its checkpoint, its graphs, and the files that it can reuse."""

    folder: Path
    fingerprint: str  # of the checkpoint
    checkpoint: Checkpoint
    tokens: Tokens
    streaming: Streaming
    graphs: tuple[PlannedGraph, ...]
    shared: Mapping[str, bytes]  # content of the files that all precisions share
    root: Mapping[str, bytes]  # content of the families' files in the artifact's root
    state: State  # of the folder
    finished: Mapping[str, FinishedGraph]  # graphs that an earlier export finished, by path
    kept: Manifest | None  # the manifest of the precisions that stay as they are
    threads: int
    is_traced: bool  # whether graphs are traced that are shipped, too
    replaced: tuple[str, ...] = ()  # a sentence for each precision that is made anew, with why

    @property
    def open_graphs(self) -> tuple[PlannedGraph, ...]:
        """Return the graphs that are still to be made."""
        return tuple(graph for graph in self.graphs if graph.plan.graph_file not in self.finished)

    @property
    def traced(self) -> tuple[str, ...]:
        """Return the files of the graphs that are to be traced, which needs the extra `trace`."""
        return tuple(
            graph.plan.graph_file for graph in self.open_graphs if self._needs_trace(graph)
        )

    def _needs_trace(self, graph: PlannedGraph) -> bool:
        is_known = graph.family == NATIVE and graph.plan.role in self.checkpoint.graphs
        return self.is_traced or not (graph.is_shipped or is_known)

    @property
    def is_there(self) -> bool:
        """Return whether the artifact is there already, so that nothing is to be written."""
        return (
            not self.open_graphs
            and self.state.record is None
            and not (self.folder / LOCK).exists()  # another export writes here, or was killed
            and self.kept == self.state.manifest
            and all(
                _holds(self.folder / name, content)
                for name, content in (*self.shared.items(), *self.root.items())
            )
        )

    @property
    def facts(self) -> Facts:
        """Return the facts that every graph's bytes depend on."""
        packages = ["onnx", "onnx-ir", "numpy"]
        if any(map(self._needs_trace, self.graphs)):
            packages += [name for name in TRACE if not missing([name])]
        return Facts(
            generator=f"voxtral-onnx {__version__}",
            packages={name: version(name) for name in packages},
            fingerprint=self.fingerprint,
            checkpoint={path.name: stamp for path, stamp in self.checkpoint.files.items()},
        )

    @property
    def files(self) -> tuple[PlannedFile, ...]:
        """Return the files of the planned precisions, and those that all precisions share.

        The manifest is not among them.
        """
        found = [
            PlannedFile(name, len(content), True, _size(self.folder / name) == len(content))
            for name, content in (*self.shared.items(), *self.root.items())
        ]
        for graph in self.graphs:
            is_reused = graph.plan.graph_file in self.finished
            size = LAYER_BYTES * (1 + graph.plan.num_layers) + graph.plan.inline_bytes
            if is_reused:
                size = self.finished[graph.plan.graph_file].files[graph.plan.graph_file].size
            found.append(PlannedFile(graph.plan.graph_file, size, is_reused, is_reused))
            found += [
                PlannedFile(name, size, True, is_reused) for name, size in graph.written.items()
            ]
        return tuple(found)

    @property
    def num_bytes(self) -> int:
        """Return the number of bytes that will be written."""
        return sum(file.size for file in self.files if not file.is_reused)

    @property
    def disk_needed(self) -> int:
        """Return the bytes that must be free on the disk, less what the export removes first."""
        manifests = (
            2 * MANIFEST_BYTES * len({(graph.precision, graph.family) for graph in self.graphs})
        )
        written = sum(-(-file.size // BLOCK) * BLOCK for file in self.files if not file.is_reused)
        stale = {self.folder / name for name in stale_files(self.state, self.kept, self.finished)}
        stale |= set((self.folder / "onnx").glob("*.partial"))
        return max(0, written + manifests - sum(_size(path) or 0 for path in stale))

    @property
    def disk_free(self) -> int:
        """Return the free bytes of the disk that the folder is or will be on."""
        return disk_of(self.folder)[1]

    @property
    def seconds(self) -> float:
        """Return the estimated time of the export, from rates measured on two cores."""
        shared = {
            (graph.plan.tensors, graph.recipe.rules): graph
            for graph in self.open_graphs
            if graph.written
        }
        seconds = sum(self._bind_seconds(graph) for graph in shared.values())
        cores = min(self.threads, num_cores())
        return len(self.traced) * TRACE_SECONDS + seconds / cores + self.num_bytes / STORE_RATE

    def _bind_seconds(self, graph: PlannedGraph) -> float:
        """Return the estimated seconds of one core for a graph's weights."""
        seconds = 0.0
        for name, tensor in self.checkpoint.tensors.items():
            if name.startswith(graph.plan.tensors):
                rule = graph.recipe.rule_for(name.removesuffix(".weight"))
                each = (
                    PASS_SECONDS + METHODS[rule.method].seconds_per_gb / 1e9
                    if rule
                    else CONVERT_SECONDS
                )
                seconds += tensor.num_bytes * each
        return seconds

    def bytes_bound(self, graphs: Sequence[PlannedGraph]) -> int:
        """Return the bytes of the checkpoint that are read to bind graphs that are not made yet.

        Graphs of one role are bound in one pass.
        """
        passes = {
            (graph.family, graph.plan.role): graph.plan.tensors
            for graph in graphs
            if graph.written and graph.plan.graph_file not in self.finished
        }
        return sum(self.checkpoint.num_bytes(*tensors) for tensors in passes.values())

    def require_room(self) -> None:
        """Check that the disk has room for the export.

        Raises:
            StorageError: the disk is too small.
        """
        require_disk({self.folder: self.disk_needed})


def plan_export(
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
) -> ExportPlan:
    """Plan what `export` would do with the same arguments, without writing anything.

    Raises:
        CheckpointError, QuantizationError, ArtifactError, StorageError, UsageError: as errors.py
            describes.
    """
    # Open the checkpoint
    threads = check_threads(threads)
    if shard_size < 1:
        raise UsageError(f"shard size: expected at least 1 byte, got {quoted(shard_size)}")
    if isinstance(source, Checkpoint):
        checkpoint = source
    else:
        checkpoint = open_checkpoint(resolve_source(source), Path(tokenizer) if tokenizer else None)
    recipes = choose_recipes(precisions, recipe, checkpoint)
    memory.require_memory(memory.BINDING + threads * memory.THREAD)
    tokens, streaming = read_tekken(
        checkpoint.tokenizer, checkpoint.config, checkpoint.card.trained_delays_ms
    )
    folder = default_folder(checkpoint.source) if output is None else Path(output)
    fingerprint = checkpoint.fingerprint()

    # Plan all graphs, those of families that are in the folder included
    state = read_state(folder, fingerprint)
    asked = choose_families(families)
    made = {name: choose_families([*asked, *_families_of(state, name)]) for name in recipes}
    ready = None if trace else find_ready(checkpoint.config, tokens)
    graphs = _plan_graphs(checkpoint.config, tokens, recipes, made, shard_size, ready)

    # Add the other files, and find what can be reused
    shared = {
        MEL: ir.to_proto(mel_model(checkpoint.config.audio)).SerializeToString(deterministic=True),
        TOKENIZER: checkpoint.tokenizer,
    }
    plan = ExportPlan(
        folder,
        fingerprint,
        checkpoint,
        tokens,
        streaming,
        graphs,
        shared,
        root={},
        state=state,
        finished={},
        kept=None,
        threads=threads,
        is_traced=trace,
    )
    earlier = find_earlier_work(
        folder,
        state,
        plan.facts,
        [graph.wanted for graph in graphs],
        shared,
        is_traced=trace,
        threads=threads,
    )
    plan = replace(plan, finished=earlier.finished, kept=earlier.kept, replaced=earlier.replaced)
    if plan.traced:
        memory.require_memory(memory.TRACING + threads * memory.THREAD, memory.peak_of(plan.traced))
    return _with_root_files(plan)


@dataclass(frozen=True, slots=True)
class Estimate:
    """The needs of an export, as far as a checkpoint's small files tell them."""

    num_bytes: int  # of the weight files
    traced: tuple[str, ...]  # files of the graphs that must be traced


def estimate(
    source: Path,
    *,
    tokenizer: str | Path | None = None,
    precisions: Sequence[str] = ("q4f16",),
    families: Sequence[str] = (NATIVE,),
    recipe: str | Path | Recipe | None = None,
    shard_size: int = SHARD_SIZE,
    trace: bool = False,
) -> Estimate | None:
    """Estimate what an export needs, from a checkpoint's small files only.

    Return None for a GGUF, which has none.

    Raises:
        CheckpointError, QuantizationError, UsageError: as errors.py describes.
    """
    recipes = choose_recipes(precisions, recipe, None)
    asked = choose_families(families)
    if not source.is_dir():
        return None
    config, card = read_config(source), read_card(source)
    tokens, _ = read_tekken(
        Path(tokenizer or source / TOKENIZER).read_bytes(), config, card.trained_delays_ms
    )
    ready = None if trace else find_ready(config, tokens)
    graphs = _plan_graphs(config, tokens, recipes, dict.fromkeys(recipes, asked), shard_size, ready)
    return Estimate(
        sum(size for graph in graphs for size in graph.written.values()),
        tuple(graph.plan.graph_file for graph in graphs if not graph.is_shipped),
    )


def _families_of(state: State, precision: str) -> Iterable[str]:
    """Return the families that the folder's artifact has in a precision, besides the native one.

    An export of the precision makes them anew.
    """
    kind = state.manifest.precisions.get(precision) if state.manifest else None
    return kind.families if kind else ()


def _plan_graphs(
    config: VoxtralConfig,
    tokens: Tokens,
    recipes: Mapping[str, Recipe],
    families: Mapping[str, Sequence[str]],
    shard_size: int,
    ready: ReadyGraphs | None,
) -> tuple[PlannedGraph, ...]:
    """Plan the graphs of each precision, family by family."""
    graphs: dict[str, PlannedGraph] = {}
    for name, recipe in recipes.items():
        recipe.check_patterns(quantizable_modules(config))
        build, suffix = PartFactory(PRECISIONS[name].dtype, recipe), PRECISIONS[name].suffix
        for family in families[name]:
            for plan_of in FAMILIES[family].plans(tokens=tokens, build=build, suffix=suffix):
                plan = plan_of(config)
                if plan.shares_weights_of:
                    layout = graphs[plan.shares_weights_of].layout
                else:
                    layout = plan_external_data(plan.parts, plan.data_file, shard_size)
                source = ready if ready and ready.has(family, plan) else None
                graphs[plan.graph_file] = PlannedGraph(
                    name, family, plan_of, plan, recipe, layout, source
                )
    return tuple(graphs.values())


def _with_root_files(plan: ExportPlan) -> ExportPlan:
    """Add to a plan the families' files in the artifact's root.

    They describe all precisions, so the manifest drops those of an earlier export that differ.
    """
    # Count the data files of all graphs
    counts: dict[str, dict[str, dict[str, int]]] = {}  # data files, by family, precision and graph
    for name, kind in plan.kept.precisions.items() if plan.kept else ():
        for family, graphs in kind.families.items():
            counts.setdefault(family, {})[name] = {graph.path: len(graph.data) for graph in graphs}
    for graph in plan.graphs:
        made = counts.setdefault(graph.family, {}).setdefault(graph.precision, {})
        made[graph.plan.graph_file] = len(graph.layout.sizes)

    # Make the files
    root = {}
    for name, family in FAMILIES.items():
        if family.root_files and name in counts:
            root |= family.root_files(
                config=plan.checkpoint.config,
                tokens=plan.tokens,
                streaming=plan.streaming,
                tekken=decode_tekken(plan.checkpoint.tokenizer),
                graphs={
                    precision: counts[name][precision]
                    for precision in PRECISIONS
                    if precision in counts[name]
                },
            )

    # Drop those that differ
    if plan.kept is None:
        return replace(plan, root=root)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in root.items()}
    files = {
        name: file
        for name, file in plan.kept.files.items()
        if name not in ROOT_NAMES or hashes.get(name) == file.sha256
    }
    return replace(plan, root=root, kept=replace(plan.kept, files=files))


def _holds(path: Path, content: bytes) -> bool:
    return _size(path) == len(content) and path.read_bytes() == content


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
