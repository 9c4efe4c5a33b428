"""Transcribe an archive by Ray, on this machine or a cluster, and show how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import typer

from ..errors import UsageError, VoxtralOnnxError
from ..escaping import quoted
from .clusters import check_device, model_elsewhere, to_install
from .exit_codes import SOME_FAILED
from .files import say_others
from .journals import NOT_IN_JOURNAL
from .packages import require_extra
from .progress import progress_line
from .screen import LiveScreen
from .streams import claim_stdout
from .terminal import format_time, info, print_error, stderr, write_line
from .values import split_names

if TYPE_CHECKING:
    from ..cluster.worker import Done

LINE_SECONDS = 60.0  # between lines on the progress, where no status line is drawn


@dataclass(frozen=True)
class ArchivePlace:
    """A place for an archive's outputs, their formats, and the cluster that makes them."""

    name: str  # a folder, or an address
    table: str  # jsonl or parquet
    formats: tuple[str, ...]  # of the files beside the table
    address: str | None  # of the cluster; None for one on this machine


def find_place(name: str, folder: Path | str | None, address: str | None) -> ArchivePlace:
    """Return where an archive's outputs go.

    Args:
        name: formats, with commas: `json` and `parquet` are those of the table, which is written
            always; files of the others stand beside it.
        folder: or the address of one.
        address: of the cluster; None for one on this machine.

    Raises:
        UsageError: there is no folder, or an unknown format.
    """
    from ..runtime.text.captions import FORMATS

    if folder is None:
        raise UsageError("--engine ray writes files: add --output-dir FOLDER, or s3://…")
    names = FORMATS if name == "all" else split_names(name)
    if other := [each for each in names if each not in (*FORMATS, "parquet")]:
        expected = ", ".join((*FORMATS, "parquet"))
        raise UsageError(f"output format: expected some of {expected}, got {quoted(other[0])}")
    beside = tuple(each for each in names if each not in ("json", "parquet"))
    table = "parquet" if "parquet" in names else "jsonl"
    return ArchivePlace(str(folder), table, beside, address)


def transcribe_archive(
    audio: Sequence[str],
    place: ArchivePlace,
    options: dict[str, Any],
    sound: dict[str, Any],
    split: bool,
) -> None:
    """Transcribe all that inputs name and earlier runs into the same place have not.

    Args:
        audio: files, folders, patterns, addresses, and Parquet files that list them.
        place: of the outputs.
        options: of `Transcriber`.
        sound: options of `open_audio`.
        split: decode long recordings in pieces.

    Raises:
        typer.Exit: with SOME_FAILED, or the error code of the only input, if any has failed.
        VoxtralOnnxError: the run could not go on.
    """
    with require_extra("--engine ray", to_install("ray")):
        from ..cluster.archive import Archive, model_settings, plan_workers
        from ..cluster.hold import held
        from ..cluster.manifest import list_recordings
        from ..cluster.place import Place
        from ..cluster.rows import TABLES
        from ..cluster.session import HERE, connected
        from ..cluster.worker import Job

    # Find the recordings that are to be done
    claim_stdout(is_only_place=False)
    options = _for_workers(options)
    failed = list[VoxtralOnnxError]()

    def fail(name: str, error: VoxtralOnnxError) -> None:
        failed.append(error)
        print_error(error)

    table = list_recordings(audio, fail, say_others)
    num_inputs = len(table) + len(failed)
    archive = Archive(Place(place.name), table, place.table)
    texts = {name: value for name, value in options.items() if name not in NOT_IN_JOURNAL}
    facts = {"sound": sound, "split": split, "formats": sorted(place.formats)}
    with held(archive.place):
        todo = archive.begin(texts | model_settings(options["model"]) | facts)
        if done := len(table) - todo:
            info(f"{done} done before, in {archive.place.at('work/rows')}; {todo} to do")

        # Do them, and gather the rows
        if todo:
            with connected(place.address or HERE):
                workers = plan_workers(options["device"], options["threads"])
                count = f"{workers.count} worker{'s' * (workers.count != 1)}"
                info(f"Ray: {count}, each with {workers.each}")
                job = Job(archive.place, options, sound, split, place.formats)
                with ArchiveScreen(todo, sum(archive.todo["size"].to_pylist())) as screen:
                    archive.run(job, screen.take, screen.info)
        failures = archive.end() if len(table) else []
    if len(table):
        failed += [each.error() for each in failures]
        write_line(archive.place.at(TABLES[place.table]))
        told = f"{len(table) - len(failures)} of {len(table)} files transcribed"
        info(f"{told}; {len(failures)} failed, see their error" if failures else told)
    if failed:
        raise typer.Exit(failed[0].exit_code if num_inputs == 1 else SOME_FAILED)


def _for_workers(options: dict[str, Any]) -> dict[str, Any]:
    """Return options of `Transcriber` as workers elsewhere take them: paths are whole.

    Raises:
        ArtifactError: no model is named.
        UsageError: a device that Ray does not hand out.
    """
    check_device(options["device"])
    paths = {"model": model_elsewhere(options["model"])}
    if isinstance(vad := options["vad"], Path):
        paths["vad"] = str(vad.absolute())
    return options | paths


class ArchiveScreen(LiveScreen):
    """The progress of an archive: a status line, or a line a minute where that cannot be drawn."""

    def __init__(self, files: int, size: int):
        """Begin with so many recordings, and their bytes."""
        self.files, self.size = files, size
        self.files_done, self.size_done, self.failed, self.seconds = 0, 0, 0, 0.0
        self.began = self._told = monotonic()
        super().__init__(self.line)

    def take(self, done: Sequence[Done]) -> None:
        """Count recordings that are done, and print the errors of those that failed."""
        for each in done:
            self.files_done += 1
            self.size_done += each.size
            self.seconds += each.seconds
            if each.failure:
                self.failed += 1
                self.info(each.failure.error())
        if not stderr.is_terminal and monotonic() - self._told >= LINE_SECONDS:
            self._told = monotonic()
            self.info(self.line(80))

    def line(self, columns: int) -> str:
        """Return a line on the progress: share, time left, recordings, audio, speed."""
        took = max(monotonic() - self.began, 1e-9)
        share = self.size_done / self.size if self.size else self.files_done / self.files
        parts = [f"{share:4.0%}"]
        if share:
            parts.append(f"{format_time(took / share - took)} left")
        parts.append(f"{self.files_done} of {self.files} files")
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.seconds:
            parts.append(f"{self.seconds / 3600:.1f} h of audio")
            parts.append(f"{self.seconds / took:.1f}x real time")
        return progress_line(share, parts, columns, stderr.encoding)
