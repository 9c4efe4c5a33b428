"""Transcribe files, one after the other or together, and write each transcript."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from time import perf_counter
from typing import TYPE_CHECKING, Any

import typer

from ..errors import AudioError, UsageError, VoxtralOnnxError
from ..escaping import one_line, readable
from .exit_codes import SOME_FAILED
from .in_order import TextsInOrder
from .journals import Journals
from .outputs import Outputs, is_stream, shown_name
from .screen import FilesScreen
from .streams import require_stdin
from .tables import remarks, timing_line
from .terminal import format_names, format_time, info

if TYPE_CHECKING:
    from ..runtime.audio.files import AudioSource
    from ..runtime.journal import Journal
    from ..runtime.kept import Kept
    from ..runtime.tokens import Token
    from ..runtime.transcriber import Transcriber
    from ..runtime.transcript import Transcript

MOST_NAMED = 3  # files that are passed over
MOST_LINES = 3  # on output files; more are counted


@dataclass(eq=False)
class Work:
    """A file to transcribe, with its open source, its journal and its progress."""

    number: int  # from 1
    path: str
    name: str  # of its outputs, without a suffix
    source: AudioSource = field(init=False)
    journal: Journal = field(init=False)
    position: float = 0.0  # seconds, of the last token
    reached: dict[int, float] = field(default_factory=dict)  # seconds, of each channel by its id()
    shows_words: bool = False  # on stdout as they are decoded, not the whole at the end
    has_failed: bool = False  # also if only part of it was lost
    began: float = field(init=False)  # when it was opened, by perf_counter

    @property
    def title(self) -> str:
        """Return its name for messages."""
        return "standard input" if self.path == "-" else self.path

    @property
    def seconds_left(self) -> float:
        """Return the seconds of audio that its journal does not cover."""
        return max(0.0, self.source.duration - self.journal.kept.start)


class FileRun:
    """A run of one transcriber over several files; an error of one file fails that file alone."""

    def __init__(self, outputs: Outputs, *, resume: bool, skip_existing: bool):
        self.outputs, self.resume, self.skip_existing = outputs, resume, skip_existing
        self.works: list[Work] = []
        self.failed: list[VoxtralOnnxError] = []
        self.num_inputs = 0  # files found, and inputs that could not be searched
        self.written: list[Path] = []
        # Begun and not finished, by id() of their sources and the parts of these
        self._at_hand: dict[int, Work] = {}

    def find(self, inputs: list[str]) -> int:
        """Find the audio files that inputs name, and return how many there are to transcribe.

        Raises:
            AudioError: standard input is named, and closed.
            UsageError: outputs would collide, or an option does not fit the inputs.
        """
        from ..runtime.audio.container.formats import refuse_address, require_file
        from ..runtime.audio.find import find_audio

        # Find the files, and name their outputs
        failures: dict[str, VoxtralOnnxError] = {}
        audio = find_audio(inputs, failures.__setitem__, say_others)
        self.num_inputs = len(audio) + len(failures)
        if "-" in audio:
            require_stdin()
        found = list(zip(audio, self.outputs.name(audio), strict=True))
        if self.resume or self.skip_existing:
            found = self._leave_out_done(found)

        # Number those that are to be transcribed, and look for them before a model is loaded
        self.works = [Work(number, path, name) for number, (path, name) in enumerate(found, 1)]
        self.screen = FilesScreen([work.path for work in self.works])
        self.texts = TextsInOrder(self.screen, are_spaced=self.outputs.shown == "txt")
        for name, error in failures.items():
            self.screen.write(self._failure(name, self._fail(name, error)))
        for work in self.works:
            with self._own_failure(work):
                if work.path != "-":
                    refuse_address(work.path)
                    require_file(Path(work.path))
        return len(self._left)

    def run(
        self,
        transcriber: Transcriber,
        options: dict[str, Any],
        sound: dict[str, Any],
        *,
        split: bool,
    ) -> None:
        """Transcribe all files that `find` has found.

        Args:
            transcriber: the loaded model.
            options: the options that it was made with, for the journals.
            sound: the options of `open_audio`.
            split: decode long files in pieces, if the batch size is not 1.
        """
        self.transcriber, self.sound, self.split = transcriber, sound, split
        self.journals = Journals(transcriber, self.outputs, options, sound, split, self.resume)
        self._num_notes = len(transcriber.notes)
        with self.screen:
            try:
                if transcriber.batch_size != 1:
                    self._run_together()
                else:
                    self._run_in_turn()
            finally:  # after a signal too: show finished texts, keep journals of the rest
                self.texts.close()
                for work in self._works_at_hand:
                    self._leave(work)
                self._say_notes()
        if self.written and not self._has_few_outputs:
            info(f"{self.outputs.folder}: {len(self.written)} files written")
        if len(self.works) > 1 and (done := len(self._left)):
            total = f"{done} of {len(self.works)} files transcribed, {self.screen.files.total}"
            failed = [shown_name(work.path) for work in self.works if work.has_failed]
            info(f"{total}; failed: {format_names(failed)}" if failed else total)

    def end(self) -> None:
        """Exit with the error code of the only input, or with SOME_FAILED, if any input failed."""
        if self.failed:
            only = self.num_inputs == 1
            raise typer.Exit(self.failed[0].exit_code if only else SOME_FAILED)

    def _leave_out_done(self, found: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return the (path, output name) pairs whose outputs are not all written yet."""
        from ..runtime.journal import journal_path

        option = "--resume" if self.resume else "--skip-existing"
        if (folder := self.outputs.folder) is None:
            raise UsageError(f"{option} looks for outputs in a folder: add --output-dir FOLDER")
        if streams := [path for path, _ in found if is_stream(path)]:
            raise UsageError(f"{option}: {streams[0]} is no file that another run could recognise")
        left = [
            (path, name)
            for path, name in found
            if not self.outputs.are_written(name)
            or (self.resume and journal_path(folder, name).exists())
        ]
        info(
            f"{len(found) - len(left)} skipped, their output stands in {folder}; {len(left)} to do"
        )
        return left

    def _run_in_turn(self) -> None:
        """Transcribe one file after the other."""
        for work in self._left:
            with self._own_failure(work):
                self._begin(work, self._open(work))
                self._transcribe(work)

    def _run_together(self) -> None:
        """Transcribe several files, or pieces of long ones, at a time."""
        from ..runtime.kept import NOTHING

        def push(source: AudioSource, token: Token) -> None:
            if (work := self._at_hand.get(id(source))) and not work.source.parts:
                self._push(work, token)

        def reach(source: AudioSource, seconds: float) -> None:
            work = self._at_hand[id(source)]
            work.reached[id(source)] = seconds
            count = max(1, len(work.source.parts))  # of channels, each transcribed on its own
            self.screen.files.reach(work.number, sum(work.reached.values()) / count)
            self._say_notes()

        def kept(source: AudioSource) -> Kept:
            return NOTHING if source.channel is not None else self._at_hand[id(source)].journal.kept

        # A call that fails, fails its open files; the next call takes those that follow
        with closing(self._begun_ahead()) as sources:
            while True:
                try:
                    for transcript in self.transcriber.transcribe_many(
                        sources, split=self.split, on_token=push, on_progress=reach, kept=kept
                    ):
                        work = self._at_hand[id(transcript.source)]
                        with self._own_failure(work):
                            self._finish(work, transcript)
                    return
                except typer.Exit:
                    raise
                except Exception as error:
                    if not self._at_hand:
                        raise
                    for work in self._works_at_hand:
                        self._fail_work(work, error)

    def _begun_ahead(self) -> Generator[AudioSource, None, None]:
        """Begin the files in turn; they are opened in threads ahead, pipes in their turn."""
        from ..runtime.opening import open_files_ahead

        def open(work: Work) -> AudioSource | None:
            return None if is_stream(work.path) else self._open(work, closed)

        closed = Event()
        with closing(open_files_ahead(self._left, open, closed)) as opened:
            for work, future in opened:
                self._say_notes()
                with self._own_failure(work):
                    self._begin(work, future.result() or self._open(work))
                    yield work.source

    def _open(self, work: Work, closed: Event | None = None) -> AudioSource:
        from ..runtime.audio.files import open_audio

        return open_audio(work.path, self.transcriber.sample_rate, **self.sound, closed=closed)

    def _begin(self, work: Work, source: AudioSource) -> None:
        """Begin a file that is open: its journal, which may hold its beginning, and its text."""
        self.outputs.require_places(work.name)
        work.source, work.began = source, perf_counter()
        for note in source.notes:
            self._say(work, note)
        work.name, work.journal = self.journals.open(
            source, work.path, work.name, partial(self._say, work)
        )
        for each in (source, *source.parts):
            self._at_hand[id(each)] = work
        kept = work.journal.kept
        work.position = kept.start
        self.screen.files.begin(work.number, source, kept.start)
        # Words of split channels overlap in time, and notes on others would interrupt those of
        # one file among many, so these are shown at the end
        is_alone = len(self.works) == 1 or self.transcriber.batch_size == 1
        if self.outputs.shows_words and is_alone and not source.parts:
            work.shows_words = True
            self.texts.begin(work.number, self._heading(work))
            self.texts.show(work.number, "".join(segment.text for segment in kept.segments))

    def _transcribe(self, work: Work) -> None:
        """Transcribe one file; if an error or a signal ends it early, show what was decoded."""

        def show(token: Token) -> None:
            self.screen.files.reach(work.number, token.end)
            self._push(work, token)

        transcript = self.transcriber.transcribe(work.source, on_token=show, kept=work.journal.kept)
        try:
            self._finish(work, transcript)
        except BaseException as error:  # also a signal: what was decoded is not lost
            if (
                not work.shows_words
                and transcript.decoded
                and not self.texts.has_ended(work.number)
            ):
                part = self._part(work, transcript, error)
                self.texts.end(work.number, self._heading(work) + part)
            raise

    def _push(self, work: Work, token: Token) -> None:
        """Append a token of a file to its journal, and show it."""
        work.position = token.end
        work.journal.push(token)
        if work.shows_words:
            self.texts.show(work.number, token.text)

    def _texts(self, work: Work, transcript: Transcript) -> dict[str, str]:
        """Return a transcript in each output format and in that of stdout, by format name."""
        from ..runtime.text.captions import render

        formats = dict.fromkeys((self.outputs.shown, *self.outputs.formats))
        return {kind: render(transcript, kind, file=shown_name(work.path)) for kind in formats}

    def _part(self, work: Work, transcript: Transcript, error: BaseException) -> str:
        """Return what was decoded of a file before an error or a signal, in stdout's format."""
        from ..runtime.text.captions import Recording, render

        part = transcript.info | {"broken_off_at": round(work.position, 3)}
        facts = {"file": shown_name(work.path)}
        if isinstance(error, Exception):
            facts["error"] = readable(str(_own_error(work.path, error)))
        recording = Recording(
            transcript.decoded,
            transcript.duration,
            part,
            channel_names=transcript.channel_names,
        )
        return render(recording, self.outputs.shown, **facts)

    def _heading(self, work: Work) -> str:
        """Return the heading of a file's text, where stdout gets the text of several files."""
        if len(self.works) == 1 or self.outputs.shown != "txt":
            return ""
        return f"==> {one_line(shown_name(work.path))} <==\n"

    def _finish(self, work: Work, transcript: Transcript) -> None:
        """Show a file's text, write its outputs, remove its journal; print notes and timings.

        This decodes what is left of it.
        """
        texts = self._texts(work, transcript)
        if work.shows_words:
            self.texts.end(work.number, transcript.writer.text.flush())
        else:
            self.texts.end(work.number, self._heading(work) + texts[self.outputs.shown])
        source = work.source
        self.outputs.write(work.name, {kind: texts[kind] for kind in self.outputs.formats})
        work.journal.remove()
        for each in (source, *source.parts):
            del self._at_hand[id(each)]
        for part in transcript.parts:
            names, channel = transcript.channel_names, part.source.channel
            of = f"{names[channel]}: " if names and channel is not None else ""
            for note in remarks(part):
                self._say(work, of + note)
        self._say_written(work, texts)
        self._say(work, timing_line(transcript))
        self.screen.files.finish(work.number)
        if source.losses:  # the text is written, and is not that of all the audio
            work.has_failed = True
            self._fail(work.path, AudioError(f"{source.name}: {'; '.join(source.losses)}"))
        del work.source  # which holds the beginning of the file

    @property
    def _left(self) -> list[Work]:
        """Return the works that have not failed."""
        return [work for work in self.works if not work.has_failed]

    @property
    def _works_at_hand(self) -> list[Work]:
        """Return the works that are begun and not finished."""
        return list(dict.fromkeys(self._at_hand.values()))

    @property
    def _has_few_outputs(self) -> bool:
        """Return whether there is a line for each output file, not one for all of them."""
        return len(self.works) * len(self.outputs.formats) <= MOST_LINES

    def _say_written(self, work: Work, texts: dict[str, str]) -> None:
        """Print which files were written of a recording, if there are few."""
        self.written += self.outputs.paths(work.name)
        if self._has_few_outputs:
            part = "the last " if work.journal.kept.start else ""
            length, took = format_time(work.seconds_left), perf_counter() - work.began
            within = f"{took:.1f} s" if took < 60 else format_time(took)
            for line in self.outputs.describe(work.name, texts):
                self.screen.info(f"{line}{part}{length} of sound in {within}")

    def _say_notes(self) -> None:
        """Print the transcriber's notes that are new."""
        notes = self.transcriber.notes
        for note in notes[self._num_notes :]:
            self.screen.info(f"note: {note}")
        self._num_notes = len(notes)

    def _say(self, work: Work, message: str) -> None:
        count = f"[{work.number}/{len(self.works)}] " if len(self.works) > 1 else ""
        self.screen.info(f"{count}{work.title}: {message}")

    @contextmanager
    def _own_failure(self, work: Work) -> Iterator[None]:
        """Turn any exception in the block, except typer.Exit, into a failure of this file."""
        try:
            yield
        except typer.Exit:
            raise
        except Exception as error:
            self._fail_work(work, error)

    def _fail_work(self, work: Work, error: Exception) -> None:
        """Record and show the failure of a file, and close it."""
        work.has_failed = True
        self.screen.files.fail(work.number)
        own = _own_error(work.path, error)
        if not self.texts.has_ended(work.number):
            self.texts.end(work.number, self._failure(work.path, own))
        self._fail(work.path, own)
        if work in self._works_at_hand:
            self._leave(work)

    def _fail(self, path: str, error: Exception) -> VoxtralOnnxError:
        """Record and print the failure of an input, and return it as one of our errors."""
        own = _own_error(path, error)
        self.failed.append(own)
        self.screen.info(own)
        return own

    def _failure(self, path: str, error: VoxtralOnnxError) -> str:
        """Return what stdout gets for an input that failed: a line of JSON, or nothing."""
        if self.outputs.shown != "json":
            return ""
        values = {"file": shown_name(path), "error": readable(str(error))}
        return json.dumps(values, ensure_ascii=False) + "\n"

    def _leave(self, work: Work) -> None:
        """Close a file that is not finished, and keep its journal."""
        for each in (work.source, *work.source.parts):
            self._at_hand.pop(id(each), None)
        work.journal.close()
        if work.journal.path and not work.journal.is_empty:
            option = "listen --resume -o FOLDER" if is_stream(work.path) else "--resume"
            self._say(work, f"kept up to {work.journal.end:.2f} s: {option} goes on")
        del work.source


def say_others(names: list[str]) -> None:
    """Print which files of folders were not tried, because their names do not say sound."""
    more = "" if len(names) <= MOST_NAMED else f" and {len(names) - MOST_NAMED} more"
    files = f"{len(names)} other file{'s' * (len(names) > 1)} not tried"
    listed = ", ".join(names[:MOST_NAMED])
    info(f"note: {files}: {listed}{more}; name them to read them")


def _own_error(path: str, error: Exception) -> VoxtralOnnxError:
    """Return an error of a file as a VoxtralOnnxError whose message names the file."""
    name = "standard input" if path == "-" else path
    reason = str(error)
    if isinstance(error, VoxtralOnnxError):
        if name in reason:
            return error
    elif isinstance(error, OSError):
        reason = error.strerror or reason
    else:
        reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    named = VoxtralOnnxError(f"{name}: {reason}")
    named.exit_code = getattr(error, "exit_code", VoxtralOnnxError.exit_code)
    named.__cause__ = error
    return named
