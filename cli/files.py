"""Transcribe files, in turn or several together, and write what each becomes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import AudioError, DeviceError, VoxtralOnnxError
from .outputs import Outputs, output_name
from .screen import FilesScreen
from .tables import timing_line, vad_line
from .terminal import info

if TYPE_CHECKING:
    from ..runtime.audio.files import AudioSource
    from ..runtime.audio.formats import RawSound
    from ..runtime.tokens import Token
    from ..runtime.transcriber import Transcriber
    from ..runtime.transcript import Transcript


@dataclass
class FileRun:
    """Files that one transcriber transcribes, and the errors of those that failed."""

    transcriber: Transcriber
    audio: list[str]
    outputs: Outputs
    gain: str = "none"
    channels: str = "mix"
    raw: RawSound | None = None  # how files without a header are to be read
    failed: list[VoxtralOnnxError] = field(default_factory=list)

    def __post_init__(self):
        self.screen = FilesScreen(self.audio)

    def run(self) -> list[VoxtralOnnxError]:
        """Transcribe them all; a file that fails does not keep the others from it."""
        with self.screen:
            if self.transcriber.batch_size > 1:
                self._run_together()
            else:
                self._run_in_turn()
        progress, done = self.screen.files, len(self.audio) - len(self.failed)
        if len(self.audio) > 1 and done:
            info(f"{done} of {len(self.audio)} files transcribed, {progress.total}")
        return self.failed

    def _run_in_turn(self) -> None:
        """Transcribe one after the other, word by word."""
        for number, path in enumerate(self.audio, 1):
            try:
                self._transcribe(number, path)
            # DeviceError: what one format needs, or memory for one file
            except (AudioError, DeviceError) as error:
                self.screen.files.know(number, 0.0)
                self._fail(error)

    def _run_together(self) -> None:
        """Transcribe several at a time, and write each when it is done; stdout has their order."""
        from ..runtime.text.captions import render

        numbers: dict[int, int] = {}  # by the source's id
        done: dict[int, str] = {}  # for stdout, while an earlier file is not done
        turn = 1

        def sources() -> Iterator[AudioSource]:
            for number, path in enumerate(self.audio, 1):
                try:
                    source = self._open(number, path)
                except (AudioError, DeviceError) as error:
                    self.screen.files.know(number, 0.0)
                    self._fail(error)
                    done[number] = ""
                    continue
                numbers[id(source)] = number
                yield source

        try:
            for transcript in self.transcriber.transcribe_many(sources()):
                number = numbers.pop(id(transcript.source))
                try:
                    texts = {kind: render(transcript, kind) for kind in self.outputs.formats}
                    done[number] = texts.get(self._shown) or render(transcript, self._shown)
                    self._finish(number, transcript, texts)
                except AudioError as error:
                    self.screen.files.know(number, 0.0)
                    self._fail(error)
                    done[number] = ""
                while turn in done:
                    self.screen.write(done.pop(turn))
                    turn += 1
        finally:  # what is done is shown even if the rest is not to come
            for number in sorted(done):
                self.screen.write(done[number])

    def _transcribe(self, number: int, path: str) -> None:
        """Transcribe a file; where something ends that early, what was decoded is shown."""
        from ..runtime.text.captions import Recording, render

        source = self._open(number, path)
        screen, progress, outputs = self.screen, self.screen.files, self.outputs
        shows_words = outputs.shows_words and not source.parts  # channels speak at the same time
        progress.begin(source)

        def show(token: Token) -> None:
            progress.position = token.end
            if shows_words:
                screen.show(token.text)

        transcript = self.transcriber.transcribe(source, on_token=show)
        try:
            texts = {kind: render(transcript, kind) for kind in outputs.formats}
        except BaseException:  # a signal, damage: what was decoded is not lost
            if shows_words:
                screen.end("")
            elif transcript.decoded:
                facts = {**transcript.info, "broken_off_at": round(progress.position, 3)}
                names = transcript.channel_names
                part = Recording(transcript.decoded, source.duration, facts, names)
                screen.write(render(part, self._shown))
            raise
        if shows_words:
            screen.end(transcript.stream.text.flush())
        else:
            screen.write(texts.get(self._shown) or render(transcript, self._shown))
        self._finish(number, transcript, texts)

    def _open(self, number: int, path: str) -> AudioSource:
        from ..runtime.audio.files import open_audio

        source = open_audio(
            path, self.transcriber.sample_rate, gain=self.gain, channels=self.channels, raw=self.raw
        )
        self.screen.files.know(number, source.duration)
        for note in source.notes:
            self._say(number, source, note)
        return source

    @property
    def _shown(self) -> str:
        """Return the format that stdout gets."""
        return "txt" if self.outputs.shows_words else self.outputs.formats[0]

    def _finish(self, number: int, transcript: Transcript, texts: dict[str, str]) -> None:
        """Write a file's outputs, and report what was remarkable about it."""
        source = transcript.source
        self.outputs.write(output_name(self.audio[number - 1]), texts)
        for part in transcript.parts:
            names, channel = transcript.channel_names, part.source.channel
            of = f"{names[channel]}: " if names and channel is not None else ""
            for note in _remarks(part):
                self._say(number, source, of + note)
        self._say(number, source, timing_line(transcript))
        self.screen.files.finish(source)
        if source.losses:  # what was heard is written, and still it is not all
            self._fail(AudioError(f"{source.name}: {'; '.join(source.losses)}"))

    def _say(self, number: int, source: AudioSource, message: str) -> None:
        count = f"[{number}/{len(self.audio)}] " if len(self.audio) > 1 else ""
        self.screen.info(f"{count}{source.name}: {message}")

    def _fail(self, error: VoxtralOnnxError) -> None:
        self.failed.append(error)
        self.screen.info(error)


def _remarks(transcript: Transcript) -> Iterator[str]:
    """Yield what was remarkable about a transcript."""
    stream = transcript.stream
    if stream.overrides:
        times = [f"{stream.seconds_of(override.index):.1f}" for override in stream.overrides]
        yield f"the blank guard chose a word at {', '.join(times)} s (--no-blank-guard: never)"
    if count := stream.num_swayed:
        yield f"hotwords changed {count} token{'s' * (count > 1)}"
    if transcript.speech_filter:
        yield vad_line(transcript.speech_filter)
