"""Transcribe an archive's recordings in an actor of Ray, which keeps the model loaded."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from threading import Event
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

from .._version import __version__
from ..errors import AudioError, DeviceError, StorageError, VoxtralOnnxError
from ..runtime.audio.files import AudioSource, open_audio
from ..runtime.opening import open_files_ahead
from ..runtime.text.captions import render
from ..runtime.transcriber import Transcriber
from ..runtime.transcript import Transcript
from .place import Place, local_copy, reason
from .rows import ATTEMPTS, FAILED, ROWS, Failure, failed_row, text_row, to_json

STUCK_SECONDS = 600.0  # without anything read or decoded
LOOK_SECONDS = 0.5  # between looks at the time


@dataclass(frozen=True)
class Job:
    """All that a worker must know of an archive."""

    place: Place  # of the outputs
    model: dict[str, Any]  # options of `Transcriber`, its model included
    sound: dict[str, Any]  # options of `open_audio`
    split: bool  # decode long recordings in pieces
    formats: tuple[str, ...]  # of the files beside the table
    stuck_seconds: float = STUCK_SECONDS
    version: str = __version__


class Recording(NamedTuple):
    """A row of the manifest."""

    id: str
    path: str
    size: int  # bytes


class Done(NamedTuple):
    """A recording whose row is written, as the driver hears of it."""

    id: str
    size: int
    seconds: float  # of audio
    failure: Failure | None
    is_fatal: bool = False  # the run cannot go on


@dataclass(eq=False)
class _AtHand:
    """A recording that was opened."""

    recording: Recording
    source: AudioSource
    resources: ExitStack = field(default_factory=ExitStack)  # its copy from a bucket


class Worker:
    """An actor that writes a row for each recording of a batch.

    A recording that kills its process, or keeps it busy for ever, would do so again wherever Ray
    repeats the batch. So each that is opened leaves a mark. Where a batch is repeated, those with a
    mark and without a row come last, each alone; one that was begun alone before is given up.
    """

    def __init__(self, job: Job):
        """Load the model; an error is told with the first batch, as Ray would repeat this."""
        self.job, self.place = job, job.place
        self.watch = Watch(job.stuck_seconds)
        self.failure: Failure | None = None
        try:
            if job.version != __version__:
                raise DeviceError(
                    f"{platform.node()}: voxtral-onnx {__version__} is installed, the run was "
                    f"started with {job.version}; install the same everywhere"
                )
            self.transcriber = Transcriber(**job.model)
        except Exception as error:
            self.failure = Failure.of(error)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Transcribe the recordings of a batch, rows of the manifest as columns.

        Returns:
            columns of `Done`, whose failure is in three of its own.
        """
        columns = (batch["id"].tolist(), batch["path"].tolist(), batch["size"].tolist())
        recordings = [Recording(*row) for row in zip(*columns, strict=True)]
        failure = self.failure
        done = list[Done]()
        if failure is None:
            try:
                with self.watch:
                    done += self._transcribe(recordings)
            except Exception as error:  # no place for outputs, or an error of our own
                failure = Failure.of(error)
        if failure:
            done = [Done(recordings[0].id, 0, 0.0, failure, is_fatal=True)]
        failures = [each.failure or Failure("", 0, "") for each in done]
        return {
            "id": [each.id for each in done],
            "size": [each.size for each in done],
            "seconds": [each.seconds for each in done],
            "name": [each.name for each in failures],
            "code": [each.code for each in failures],
            "message": [each.message for each in failures],
            "is_fatal": [each.is_fatal for each in done],
        }

    def _transcribe(self, recordings: Sequence[Recording]) -> Iterator[Done]:
        """Write the rows of a batch that no earlier attempt at it has written."""
        mark = f"{ATTEMPTS}/{recordings[0].id}.batch"
        if not self.place.has(mark):
            self.place.write(mark, b"")
            yield from self._together(recordings)
            return
        left, suspects = list[Recording](), list[Recording]()
        for each in recordings:
            name = f"{each.id}.json"
            if self.place.has(f"{ROWS}/{name}") or self.place.has(f"{FAILED}/{name}"):
                yield Done(each.id, each.size, 0.0, None)
            elif self.place.has(f"{ATTEMPTS}/{each.id}.alone"):
                error = DeviceError(
                    f"{each.path}: given up: the process that transcribed it alone was killed, "
                    f"perhaps for want of memory, or did nothing for {self.watch.seconds:g} s"
                )
                yield self._fail(each, error)
            else:
                has_begun = self.place.has(f"{ATTEMPTS}/{each.id}.begun")
                (suspects if has_begun else left).append(each)
        yield from self._together(left)
        for each in suspects:
            self.place.write(f"{ATTEMPTS}/{each.id}.alone", b"")
            yield from self._together([each])

    def _together(self, recordings: Sequence[Recording]) -> Iterator[Done]:
        """Transcribe recordings together; an error of one fails that one alone."""
        at_hand = dict[int, _AtHand]()  # by the id() of their sources
        failed = list[Done]()
        closed = Event()

        def open(recording: Recording) -> _AtHand:
            return self._open(recording, closed)

        def sources() -> Generator[AudioSource, None, None]:
            with closing(open_files_ahead(recordings, open, closed)) as opened:
                for recording, future in opened:
                    try:
                        found = future.result()
                    except OutputError:
                        raise
                    except Exception as error:
                        failed.append(self._fail(recording, error))
                    else:
                        at_hand[id(found.source)] = found
                        yield found.source
                    self.watch.touch()

        # A call that fails, fails its open files; the next call takes those that follow
        with closing(sources()) as taken:
            while True:
                try:
                    for transcript in self.transcriber.transcribe_many(
                        taken,
                        split=self.job.split,
                        on_token=lambda *_: self.watch.touch(),
                        on_progress=lambda *_: self.watch.touch(),
                    ):
                        found = at_hand.pop(id(transcript.source))
                        with found.resources:
                            yield self._finish(found.recording, transcript)
                        yield from failed
                        failed.clear()
                    break
                except OutputError:
                    raise
                except Exception as error:
                    if not at_hand:
                        raise
                    for found in at_hand.values():
                        found.resources.close()
                        failed.append(self._fail(found.recording, error))
                    at_hand.clear()
        yield from failed

    def _open(self, recording: Recording, closed: Event) -> _AtHand:
        """Open a recording; one in a bucket is copied here first.

        Raises:
            VoxtralOnnxError, OSError: it cannot be read.
            OutputError: its mark cannot be written.
        """
        self._write(f"{ATTEMPTS}/{recording.id}.begun", b"")
        with ExitStack() as stack:
            path = stack.enter_context(local_copy(recording.path, self.watch.touch))
            source = open_audio(
                path,
                self.transcriber.sample_rate,
                **self.job.sound,
                name=recording.path,
                closed=closed,
            )
            return _AtHand(recording, source, stack.pop_all())

    def _finish(self, recording: Recording, transcript: Transcript) -> Done:
        """Decode what is left of a transcript, and write its files and then its row."""
        try:
            row = text_row(recording.id, recording.path, transcript)
            texts = {kind: render(transcript, kind) for kind in self.job.formats}
        except Exception as error:
            return self._fail(recording, error)
        for kind, text in texts.items():
            self._write(f"{recording.id}.{kind}", text.encode())
        self._write(f"{ROWS}/{recording.id}.json", to_json(row))
        failure = Failure(**row["error"]) if row["error"] else None
        return Done(recording.id, recording.size, row["duration"], failure)

    def _fail(self, recording: Recording, error: Exception) -> Done:
        """Write the row of a recording that could not be transcribed."""
        own = error if isinstance(error, VoxtralOnnxError) else _unreadable(recording, error)
        failure = Failure.of(own, recording.path)
        row = failed_row(recording.id, recording.path, failure)
        self._write(f"{FAILED}/{recording.id}.json", to_json(row))
        return Done(recording.id, recording.size, 0.0, failure)

    def _write(self, name: str, content: bytes) -> None:
        """Write a file of the outputs.

        Raises:
            OutputError: it cannot be written, and so could no other.
        """
        try:
            self.place.write(name, content)
        except StorageError as error:
            raise OutputError(str(error)) from error


class OutputError(StorageError):
    """An error in writing the outputs, with which a run ends."""


class Watch:
    """A watch that ends this process when nothing was read or decoded for a while.

    Nothing else ends a thread that reads a device or a network for ever.
    """

    def __init__(self, seconds: float):
        """Take how long nothing may happen."""
        self.seconds, self._last = seconds, monotonic()

    def __enter__(self) -> None:
        self.touch()
        self._ended = Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def touch(self) -> None:
        """Note that something has happened."""
        self._last = monotonic()

    def _run(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            if monotonic() - self._last > self.seconds:
                os._exit(1)


def _unreadable(recording: Recording, error: Exception) -> VoxtralOnnxError:
    """Return one of our errors for another one in reading or decoding a recording."""
    if isinstance(error, OSError):
        return AudioError(f"{recording.path}: cannot be read ({reason(error)})")
    return VoxtralOnnxError(f"{type(error).__name__}: {error}")
