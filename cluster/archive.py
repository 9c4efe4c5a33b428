"""Transcribe an archive on all machines of a cluster; a run that was ended is continued."""

# Packages that have an environment of their own, see make test-ray
# pyright: reportMissingImports=false
from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data

from ..errors import DeviceError, UsageError, VoxtralOnnxError
from ..manifest import FILE_NAME
from .manifest import dealt, to_parquet
from .place import Place
from .rows import ATTEMPTS, FAILED, ROWS, TABLES, Failure, gather
from .worker import Done, Job, Worker

MANIFEST, TODO, SETTINGS = "work/manifest.parquet", "work/todo.parquet", "work/settings.json"
ROUNDS = 8  # batches for each worker, where there are enough recordings to fill its places
MOST_IDLE = 3  # times that Ray may fail without anything done in between
AUTO_PLACES = {"cpu": 16, "cuda": 128}  # that --batch-size auto may take


@dataclass(frozen=True)
class Workers:
    """A number of workers that a cluster carries, and what each takes of it."""

    count: int
    threads: int
    num_cpus: int  # as Ray counts them
    num_gpus: int

    @property
    def each(self) -> str:
        """Return what each of them runs on, for people."""
        cores = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return f"a GPU and {cores}" if self.num_gpus else cores


def plan_workers(device: str, threads: int | None) -> Workers:
    """Return the workers for the cluster that is connected: one for each GPU, else for cores.

    A core of each machine is left to Ray. Its own work takes no time, but waits for one for ever
    where workers have them all.

    Args:
        device: cuda, cpu, or auto: GPUs if there are any.
        threads: of each worker; None for all cores of the smallest machine.

    Raises:
        DeviceError: no machine has a GPU, or enough cores.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    sizes = [(int(node.get("CPU", 0)) - 1, int(node.get("GPU", 0))) for node in nodes]
    gpus = [(cores, count) for cores, count in sizes if count]
    if device == "cuda" and not gpus:
        raise DeviceError("Ray: no machine of the cluster has a GPU; use --device cpu")
    if device != "cpu" and gpus:
        share = max(0, min(cores // count for cores, count in gpus))
        count = sum(count for _, count in gpus)
        return Workers(count, threads or max(1, share), min(threads or share, share), 1)
    cores = threads or min((cores for cores, _ in sizes if cores > 0), default=1)
    count = sum(max(0, each // cores) for each, _ in sizes)
    if not count:
        raise DeviceError(
            f"Ray: expected a machine with {cores + 1} cores, of which one is left to Ray, got "
            f"{max((cores for cores, _ in sizes), default=-1) + 1}; use fewer --threads"
        )
    return Workers(count, cores, cores, 0)


def batch_rows(num_recordings: int, workers: Workers, places: int | str) -> int:
    """Return how many recordings a worker gets at a time.

    Few, so that workers end at about the same time and progress is seen; but two to four for each
    place of the batch that it decodes, as places are empty at a batch's end.

    Args:
        num_recordings: in all.
        workers: that share them.
        places: of a worker, or auto.
    """
    if isinstance(places, str):
        places = AUTO_PLACES["cuda" if workers.num_gpus else "cpu"]
    share = -(-num_recordings // workers.count)
    return max(1, min(4 * places, max(2 * places, share // ROUNDS), share))


class Archive:
    """The outputs of an archive's recordings, which runs fill and none repeats.

    Each worker writes a row for each recording as a file, whole or not at all, so what is done is
    seen from the names of files, whoever was killed. Ray's own checkpoint knows blocks of rows
    instead, and only those that were written to the end.
    """

    def __init__(self, place: Place, table: pa.Table, format: str):
        """Take where its outputs are, its manifest, and the format of its table."""
        self.place, self.table, self.format = place, table, format

    def begin(self, settings: dict[str, Any]) -> int:
        """Write the manifest, forget failures, and return how many recordings are to be done.

        Args:
            settings: all that a text depends on, as JSON has it.

        Raises:
            UsageError: outputs with other settings are there.
            StorageError: the place cannot be read or written.
        """
        content = json.dumps(settings, indent=1, sort_keys=True, default=str).encode()
        if self.place.has(SETTINGS):
            earlier = json.loads(self.place.read(SETTINGS))
            new = json.loads(content)
            if other := [key for key in new | earlier if new.get(key) != earlier.get(key)]:
                raise UsageError(
                    f"{self.place.at('')}: has outputs with another {', '.join(sorted(other))} "
                    f"({SETTINGS}); choose another folder"
                )
        else:
            self.place.write(SETTINGS, content)
        self.place.write(MANIFEST, to_parquet(self.table))
        self.todo = self._lacking(ROWS)
        for folder in (FAILED, ATTEMPTS):
            self.place.clear(folder)
        if len(self.todo):
            for name in TABLES.values():  # one that lacks recordings would look finished
                self.place.remove(name)
        return len(self.todo)

    def run(
        self,
        job: Job,
        on_done: Callable[[Sequence[Done]], None],
        on_trouble: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Transcribe what is to be done, on the cluster that is connected.

        Where Ray fails, as when a machine is lost on which it is about to start a worker, this
        begins anew with what is left, until nothing more gets done.

        Args:
            job: for the workers.
            on_done: called with the recordings of each batch that is done.
            on_trouble: called with the reason for beginning anew.

        Raises:
            VoxtralOnnxError: the model cannot be opened, outputs not written, or Ray has failed.
        """
        idle = 0
        while len(self.todo):
            try:
                self._run(job, on_done)
                return
            except VoxtralOnnxError:
                raise
            except Exception as error:
                last = str(error).strip().splitlines()[-1:] or [""]
                reason = f"Ray: {type(error).__name__}: {last[0]}"
                count, self.todo = len(self.todo), self._lacking(ROWS, FAILED)
                idle = idle + 1 if len(self.todo) == count else 0
                if idle == MOST_IDLE:
                    raise DeviceError(f"{reason}; run the same again to go on") from error
                on_trouble(f"{reason}; going on with {len(self.todo)} files")

    def _lacking(self, *folders: str) -> pa.Table:
        """Return the rows of the manifest for which none of some folders has a file."""
        done = set[str]().union(*map(self.place.names, folders))
        lacking = [f"{name}.json" not in done for name in self.table["id"].to_pylist()]
        return self.table.filter(pa.array(lacking, pa.bool_()))

    def _run(self, job: Job, on_done: Callable[[Sequence[Done]], None]) -> None:
        """Transcribe what is to be done, once.

        Raises:
            VoxtralOnnxError: the run cannot go on.
            Exception: Ray has failed.
        """
        workers = plan_workers(job.model["device"], job.model["threads"])

        # Deal the recordings into batches, and say what each worker runs on
        places = job.model["batch_size"] or ("auto" if workers.num_gpus else 1)
        rows = batch_rows(len(self.todo), workers, places)
        self.place.write(TODO, to_parquet(dealt(self.todo, rows)))
        model = job.model | {
            "device": "cuda" if workers.num_gpus else "cpu",
            "threads": workers.threads,
            "batch_size": places,
        }

        # Let workers transcribe them
        manifest = ray.data.read_parquet(self.place.file(TODO), filesystem=self.place.system)
        results = manifest.repartition(target_num_rows_per_block=rows).map_batches(
            Worker,
            fn_constructor_args=(replace(job, model=model),),
            batch_size=rows,
            num_cpus=workers.num_cpus,
            num_gpus=workers.num_gpus,
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=workers.count, initial_size=workers.count
            ),
        )
        for batch in results.iter_batches(batch_size=None):
            on_done(_done(batch))

    def end(self) -> list[Failure]:
        """Gather the rows into the table, in order of paths, and return the failures in it.

        Raises:
            StorageError: a row is missing, or the table cannot be written.
        """
        failures = gather(self.place, self.table["id"].to_pylist(), self.format)
        self.place.clear(ATTEMPTS)
        return failures


def model_settings(model: str | None) -> dict[str, Any]:
    """Return a model's name and, where it is a folder, the hash of what it holds."""
    try:
        content = (Path(model or "") / FILE_NAME).read_bytes()
    except OSError:
        return {"model": model}
    return {"model": model, "model_sha256": hashlib.sha256(content).hexdigest()}


def _done(batch: dict[str, Any]) -> list[Done]:
    """Return what a worker tells of a batch.

    Raises:
        VoxtralOnnxError: the run cannot go on.
    """
    done = list[Done]()
    columns = ("id", "size", "seconds", "name", "code", "message", "is_fatal")
    for row in zip(*(batch[name].tolist() for name in columns), strict=True):
        name, size, seconds, kind, code, message, is_fatal = row
        failure = Failure(kind, code, message) if kind else None
        if is_fatal and failure:
            raise failure.error()
        done.append(Done(name, size, seconds, failure))
    return done
