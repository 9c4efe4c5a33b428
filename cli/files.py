"""Transcribe files, one after the other or in batches, and write each transcript."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import typer

from ..errors import AudioError, UsageError, VoxtralOnnxError
from ..escaping import one_line, readable
from .exit_codes import SOME_FAILED
from .outputs import Outputs, is_stream, shown_name
from .screen import FilesScreen
from .streams import require_stdin
from .tables import remarks, timing_line
from .terminal import format_names, format_time, info

if TYPE_CHECKING:
    from ..runtime.audio.files import AudioSource
    from ..runtime.journal import Header, Journal
    from ..runtime.kept import Kept
    from ..runtime.tokens import Token
    from ..runtime.transcriber import Transcriber
    from ..runtime.transcript import Transcript

MOST_NAMED = 3  # files that are passed over
# Options of `Transcriber` that do not change the text, so that a journal stays valid
NOT_IN_JOURNAL = {"offline", "device", "allow_fallback", "threads", "batch_size", "prepacked"}
MOST_LINES = 3  # on output files; more are counted


@dataclass(eq=False)
class Work:
    """A file to transcribe, with its open source, its journal and its progress."""

    number: int  # from 1
    path: str
    name: str  # of its outputs, without a suffix
    source: AudioSource = field(init=False)
    journal: Journal = field(init=False)
    position: float = 0.0  # seconds
    is_shown: bool = False  # on stdout, at least in part
    has_failed: bool = False  # also if only part of it was lost
    began: float = field(init=False)  # when it was opened, by perf_counter

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
        self._at_hand: dict[int, Work] = {}  # opened and not finished, by id() of their sources
        self._waiting: dict[int, str] = {}  # texts for stdout, until all earlier files are written
        self._turn, self._is_sent = 1, False  # next file for stdout; whether it has any text

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
        audio = find_audio(inputs, failures.__setitem__, _say_others)
        self.num_inputs = len(audio) + len(failures)
        if "-" in audio:
            require_stdin()
        found = list(zip(audio, self.outputs.name(audio), strict=True))
        if self.resume or self.skip_existing:
            found = self._leave_out_done(found)

        # Number those that are to be transcribed, and look for them before a model is loaded
        self.works = [Work(number, path, name) for number, (path, name) in enumerate(found, 1)]
        self.screen = FilesScreen([work.path for work in self.works])
        for name, error in failures.items():
            self.screen.write(self._failure(name, self._fail(name, error)))
        for work in self.works:
            with self._own_failure(work):
                if work.path != "-":
                    refuse_address(work.path)
                    require_file(Path(work.path))
        return len(self._left)

    def run(self, transcriber: Transcriber, options: dict[str, Any], sound: dict[str, Any]) -> None:
        """Transcribe all files that `find` has found.

        Args:
            transcriber: the loaded model.
            options: the options that it was made with, for the journals.
            sound: the options of `open_audio`.
        """
        self.transcriber, self.options, self.sound = transcriber, options, sound
        with self.screen:
            try:
                if transcriber.batch_size != 1:
                    self._run_together()
                else:
                    self._run_in_turn()
            finally:  # after a signal too: show finished texts, keep journals of the rest
                for number in sorted(self._waiting):
                    self._send(self._waiting[number])
                for work in list(self._at_hand.values()):
                    self._leave(work)
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
        """Transcribe one file after the other, showing words as they are decoded."""
        for work in self._left:
            with self._own_failure(work):
                self._begin(work)
                self._transcribe(work)

    def _run_together(self) -> None:
        """Transcribe several files at a time, writing each when done; stdout keeps their order."""
        from ..runtime.kept import NOTHING

        def sources() -> Iterator[AudioSource]:
            for work in self._left:
                with self._own_failure(work):
                    self._begin(work)
                    yield work.source

        def push(source: AudioSource, token: Token) -> None:
            if work := self._at_hand.get(id(source)):  # not a split channel's
                self._push(work, token)

        def kept(source: AudioSource) -> Kept:
            work = self._at_hand.get(id(source))
            return work.journal.kept if work else NOTHING

        # A call that fails, fails its open files; the next call takes those that follow
        waiting = sources()
        while True:
            try:
                for transcript in self.transcriber.transcribe_many(
                    waiting, on_token=push, kept=kept
                ):
                    work = self._at_hand[id(transcript.source)]
                    with self._own_failure(work):
                        texts = self._texts(work, transcript)
                        self._write(work, self._heading(work) + texts[self.outputs.shown])
                        self._finish(work, transcript, texts)
                return
            except typer.Exit:
                raise
            except Exception as error:
                if not self._at_hand:
                    raise
                for work in list(self._at_hand.values()):
                    self._fail_work(work, error)

    def _transcribe(self, work: Work) -> None:
        """Transcribe one file; if an error or a signal ends it early, show what was decoded."""
        screen, outputs, kept = self.screen, self.outputs, work.journal.kept
        # Words of split channels overlap in time, so these are shown at the end
        shows_words = outputs.shows_words and not work.source.parts
        screen.files.begin(work.source, kept.start)
        if shows_words:
            self._write(work, self._heading(work))
            screen.show("".join(segment.text for segment in kept.segments))

        def show(token: Token) -> None:
            screen.files.position = token.end
            self._push(work, token)
            if shows_words:
                screen.show(token.text)

        # Decode, and render the whole transcript
        transcript = self.transcriber.transcribe(work.source, on_token=show, kept=kept)
        try:
            texts = self._texts(work, transcript)
        except BaseException as error:  # also a signal: what was decoded is not lost
            if shows_words:
                screen.end("")
            elif transcript.decoded:
                self._write(work, self._heading(work) + self._part(work, transcript, error))
            raise

        # Show it, or end the line of words
        if shows_words:
            screen.end(transcript.writer.text.flush())
        else:
            self._write(work, self._heading(work) + texts[outputs.shown])
        self._finish(work, transcript, texts)

    def _begin(self, work: Work) -> None:
        """Open a file and its journal, and continue where the journal ends."""
        from ..runtime.audio.files import open_audio

        self.outputs.require_places(work.name)
        work.began = perf_counter()
        source = work.source = open_audio(work.path, self.transcriber.sample_rate, **self.sound)
        for note in source.notes:
            self._say(work, note)
        work.journal = self._journal(work)
        work.position = work.journal.kept.start
        self.screen.files.know(work.number, work.seconds_left)
        self._at_hand[id(source)] = work

    def _journal(self, work: Work) -> Journal:
        """Return the journal of a file; one that keeps nothing without an output folder."""
        from ..runtime.journal import Journal, claim_journal, journal_path, open_journal

        manifest, folder = self.transcriber.manifest, self.outputs.folder
        if folder is None or work.source.parts:  # a journal holds one stream, not several channels
            return Journal()
        header = self._header(work.path)
        if header.is_stream:
            taken, tokens = self.outputs.is_taken, manifest.tokens
            work.name, journal = claim_journal(folder, work.name, header, taken, info, tokens)
            return journal
        return open_journal(
            journal_path(folder, work.name),
            manifest,
            self.transcriber.model.grid,
            header,
            resume=self.resume,
            say=lambda message: self._say(work, message),
        )

    def _header(self, path: str) -> Header:
        """Return the header of a file's journal: all that its text depends on."""
        from ..runtime.journal import Header, fingerprint

        transcriber, model = self.transcriber, self.transcriber.model
        options = {k: v for k, v in self.options.items() if k not in NOT_IN_JOURNAL}
        options |= self.sound | {"precision": transcriber.precision}
        return Header(
            1,
            shown_name(path),
            *fingerprint(Path(path)),
            model=model.identity(transcriber.num_delay_tokens, model.grid),
            options=json.loads(json.dumps(options, default=str)),
            is_stream=is_stream(path),
        )

    def _push(self, work: Work, token: Token) -> None:
        """Append a token of a file to its journal."""
        work.position = token.end
        work.journal.push(token)

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

    def _send(self, text: str) -> None:
        """Write the next text to stdout, with an empty line between texts that have headings."""
        if text and self.outputs.shown == "txt":
            text = "\n" * self._is_sent + text
            self._is_sent = True
        self.screen.write(text)

    def _write(self, work: Work, text: str) -> None:
        """Write a file's text to stdout as soon as the texts of all earlier files are written."""
        work.is_shown = True
        self._waiting[work.number] = text
        while self._turn in self._waiting:
            self._send(self._waiting.pop(self._turn))
            self._turn += 1

    def _finish(self, work: Work, transcript: Transcript, texts: dict[str, str]) -> None:
        """Write a file's outputs, remove its journal, and print notes and timings."""
        source = work.source
        self.outputs.write(work.name, {kind: texts[kind] for kind in self.outputs.formats})
        work.journal.remove()
        del self._at_hand[id(source)]
        for part in transcript.parts:
            names, channel = transcript.channel_names, part.source.channel
            of = f"{names[channel]}: " if names and channel is not None else ""
            for note in remarks(part):
                self._say(work, of + note)
        self._say_written(work, texts)
        self._say(work, timing_line(transcript))
        self.screen.files.finish(work.seconds_left)
        if source.losses:  # the text is written, and is not that of all the audio
            work.has_failed = True
            self._fail(work.path, AudioError(f"{source.name}: {'; '.join(source.losses)}"))

    @property
    def _left(self) -> list[Work]:
        """Return the works that have not failed."""
        return [work for work in self.works if not work.has_failed]

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

    def _say(self, work: Work, message: str) -> None:
        count = f"[{work.number}/{len(self.works)}] " if len(self.works) > 1 else ""
        self.screen.info(f"{count}{work.source.name}: {message}")

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
        own = self._fail(work.path, error)
        self.screen.files.know(work.number, 0.0)
        if not work.is_shown:
            self._write(work, self._failure(work.path, own))
        if work in self._at_hand.values():
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
        self._at_hand.pop(id(work.source), None)
        work.journal.close()
        if work.journal.path and not work.journal.is_empty:
            option = "listen --resume -o FOLDER" if is_stream(work.path) else "--resume"
            self._say(work, f"kept up to {work.journal.end:.2f} s: {option} goes on")


def _say_others(names: list[str]) -> None:
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
