"""Find what an export can keep of earlier ones in its folder, and why the rest is made anew."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ArtifactError
from ..files import FileSpec
from ..manifest import Manifest, Precision, RecipeSpec
from .graph.families import NATIVE, ROOT_NAMES
from .output import Facts, FinishedGraph, State
from .sources import may_be_source


@dataclass(frozen=True, slots=True)
class WantedGraph:
    """A graph that an export is to make, unless it is there."""

    precision: str
    family: str
    path: str  # of its file, below the artifact folder
    recipe: RecipeSpec
    sizes: Mapping[str, int]  # bytes of its data files, by name

    def flaw(self, made: FinishedGraph, folder: Path, threads: int) -> str | None:
        """Return why a graph that was made earlier cannot be reused; None if it can."""
        if made.recipe != self.recipe:
            return "another recipe"
        if {name: made.files[name].size for name in made.graph.data} != self.sizes:
            return "another --shard-size"
        return made.flaw(folder, threads)


@dataclass(frozen=True, slots=True)
class EarlierWork:
    """The graphs and precisions of earlier exports in a folder that can stay."""

    finished: Mapping[str, FinishedGraph]  # graphs that need not be made, by path
    kept: Manifest | None  # the manifest of the precisions that stay as they are
    replaced: tuple[str, ...]  # a sentence for each precision that is made anew, with why


def find_earlier_work(
    folder: Path,
    state: State,
    facts: Facts,
    wanted: Sequence[WantedGraph],
    shared: Mapping[str, bytes],
    *,
    is_traced: bool,
    threads: int,
) -> EarlierWork:
    """Find the graphs that an export can reuse, and the manifest of all that stays.

    A graph is reused if this version made it of this checkpoint by this recipe, and its files are
    those that were written then.

    Args:
        folder: the artifact's.
        state: of the folder.
        facts: that the bytes of the wanted graphs depend on.
        wanted: the graphs of the export.
        shared: content of the files that all precisions share, by name.
        is_traced: make all of them anew.
        threads: threads that hash.

    Raises:
        ArtifactError: a file that stays is damaged, or is not the one this export would write.
    """
    # Find the finished graphs
    record, manifest = state.record, state.manifest
    earlier = dict(record.finished) if record and record.facts == facts else {}
    held = manifest.precisions if manifest else {}
    is_source = manifest is None or may_be_source(folder, facts.checkpoint)
    changed = _changed(manifest, facts, shared, is_source) if manifest else None
    if manifest and not changed:
        for name in dict.fromkeys(graph.precision for graph in wanted):
            if name in held:
                earlier |= _finished_graphs(manifest, held[name])

    # Look at each of them, and say why one cannot be reused
    finished: dict[str, FinishedGraph] = {}
    reasons: dict[str, str] = {}  # by precision
    for graph in wanted:
        made = None if is_traced else earlier.get(graph.path)
        flaw = graph.flaw(made, folder, threads) if made else None
        if made and not flaw:
            finished[graph.path] = made
        if not (kind := held.get(graph.precision)) or graph.precision in reasons:
            continue
        if is_traced:
            reasons[graph.precision] = "made anew, because all graphs are to be traced"
        elif kind.recipe != graph.recipe:
            reasons[graph.precision] = (
                f"replaces the export with {kind.recipe.title} by one with {graph.recipe.title}"
            )
        elif changed:
            reasons[graph.precision] = f"made anew, because {changed}"
        elif flaw:
            reasons[graph.precision] = f"made anew, because of {flaw}"
    replaced = tuple(f"{folder}: {name}: {why}" for name, why in reasons.items())
    renewed = {(graph.precision, graph.family) for graph in wanted if graph.path not in finished}
    kept = _kept(folder, manifest, renewed, shared, threads) if manifest else None
    if kept and not is_source:
        together = dict.fromkeys([*kept.precisions, *(graph.precision for graph in wanted)])
        raise ArtifactError(
            f"{folder}: its {', '.join(kept.precisions)} was exported from other files than these, "
            "by their sizes and times; export all of them together: --precision "
            f"{','.join(together)}, or choose another folder with --output"
        )
    return EarlierWork(finished, kept, replaced)


def _changed(
    manifest: Manifest, facts: Facts, shared: Mapping[str, bytes], is_source: bool
) -> str | None:
    """Return why nothing that a manifest names can be reused; None if something may be."""
    if manifest.generator != facts.generator:
        return f"it was made by {manifest.generator} and this is {facts.generator}"
    for name, content in shared.items():
        if name in manifest.files and not _is_content(content, manifest.files[name]):
            return f"{name} has changed"
    if not is_source:
        return "the checkpoint's files are not those it was made from"
    return None


def _is_content(content: bytes, file: FileSpec) -> bool:
    return len(content) == file.size and hashlib.sha256(content).hexdigest() == file.sha256


def _kept(
    folder: Path,
    manifest: Manifest,
    renewed: set[tuple[str, str]],
    shared: Mapping[str, bytes],
    threads: int,
) -> Manifest | None:
    """Return the manifest of the precisions and families that are not made anew, if there are any.

    Raises:
        ArtifactError: as `find_earlier_work`.
    """
    precisions = {}
    for name, kind in manifest.precisions.items():
        if (name, NATIVE) not in renewed:
            families = {
                family: graphs
                for family, graphs in kind.families.items()
                if (name, family) not in renewed
            }
            precisions[name] = replace(kind, families=families)
    if not precisions:
        return None

    # Reduce the manifest to those, and check their files
    kept = replace(manifest, precisions=precisions)
    names = {*shared, *ROOT_NAMES, *(file for graph in kept.graphs() for file in graph.files)}
    kept = replace(
        kept, files={name: manifest.files[name] for name in sorted(names & manifest.files.keys())}
    )
    unchecked = shared.keys() | ROOT_NAMES  # these are written anew where they differ
    standing = {name: kept.files[name] for name in kept.files.keys() - unchecked}
    replace(kept, files=standing).check_files(folder)
    kept.check_contents(folder, standing, threads=threads)

    # Check that they can share the mel graph and the tokenizer
    for name, content in shared.items():
        if name in kept.files and not _is_content(content, kept.files[name]):
            together = dict.fromkeys([*precisions, *sorted(name for name, _ in renewed)])
            raise ArtifactError(
                f"{folder}: its {name} is not what this checkpoint and version would write "
                f"(made by {manifest.generator}); export all of its precisions together: "
                f"--precision {','.join(together)}, or choose another folder with --output"
            )
    return kept


def _finished_graphs(manifest: Manifest, precision: Precision) -> dict[str, FinishedGraph]:
    """Return the graphs of a finished precision by path."""
    return {
        graph.path: FinishedGraph(
            graph, precision.recipe, {file: manifest.files[file] for file in graph.files}
        )
        for graph in precision.graphs
        if manifest.files.keys() >= {*graph.files}
    }
