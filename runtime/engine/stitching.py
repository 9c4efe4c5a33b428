"""Tokens of a recording in order, from pieces that are decoded at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..audio.files import AudioSource
from ..tokens import SampledToken, Token
from ..writer import TokenWriter
from .recording import FileRecording, PieceRun
from .written import Burst, End, Join


@dataclass(eq=False)
class Stitching:
    """The tokens of one recording so far: it takes what its pieces have written."""

    recording: FileRecording
    writer: TokenWriter
    on_token: Callable[[Token], None]
    source: AudioSource
    tokens: list[Token] = field(default_factory=list)
    is_complete: bool = False
    num_pieces: int = 1  # begun and not joined with the one before
    num_joined: int = 0
    num_eos: int = 0  # end-of-text tokens that have ended pieces, but not the recording
    num_close: int = 0
    num_decoded: int = 0  # tokens, of all pieces
    _counts: dict[PieceRun, int] = field(default_factory=dict)  # tokens of each piece so far
    _begin: int = 0  # of the piece whose turn it is
    # Of pieces that wait for their turn
    _waiting: dict[PieceRun, list[Burst | End | Join]] = field(default_factory=dict)
    _beyond: list[SampledToken] = field(default_factory=list)  # written after the piece's end

    def take(self, event: Burst | End | Join) -> None:
        """Take what a piece has written; tokens are passed on when all before them are.

        Raises:
            Exception: what `on_token` has raised, or a token that is no decision.
        """
        run = event.run
        self._count(event)
        if isinstance(event, Join):
            self._waiting.pop(event.dropped, None)
            self.num_joined += 1
        if run.is_dropped:
            return
        if run.piece.begin != self._begin:
            self._waiting.setdefault(run, []).append(event)
            return
        self._apply(event)
        while following := next((r for r in self._waiting if r.piece.begin == self._begin), None):
            for each in self._waiting.pop(following):
                self._apply(each)

    def facts(self) -> dict[str, Any]:
        """Return what `Transcript.info` says of the batch."""
        cutter = self.recording.cutter
        return {
            "pieces": self.num_pieces,
            "joined": self.num_joined,
            "whole_from": cutter and cutter.whole_from,
            "end_of_text": self.num_eos,
            "close_decisions": self.num_close,
        }

    @property
    def seconds(self) -> float:
        """Return how many seconds of the recording are done, what was kept included.

        Encoding a second is half of it, decoding the other.
        """
        recording, kept, audio = self.recording, self.recording.kept, self.writer.audio
        done, seconds_per_token = 0.0, audio.samples_per_token / audio.sample_rate
        for tokens in (recording.num_encoded - recording.first, self.num_decoded):
            end = kept.heard_from + tokens * seconds_per_token
            done += min(end, self.source.duration) / 2
        return max(kept.start, done)

    def _count(self, event: Burst | End | Join) -> None:
        """Count the tokens that are decoded, which may still wait for their turn."""
        run = event.run
        if isinstance(event, Join):
            self.num_decoded -= self._counts.pop(event.dropped, 0)
        elif isinstance(event, Burst) and not run.is_dropped:
            so_far = event.first + len(event.sampled) - run.piece.begin
            if event.end is not None:
                so_far = min(so_far, event.end - run.piece.begin)
            self.num_decoded += so_far - self._counts.get(run, 0)
            self._counts[run] = so_far

    def _apply(self, event: Burst | End | Join) -> None:
        run = event.run
        if isinstance(event, Join):
            beyond, self._beyond = self._beyond, []
            self._write(run, beyond, event.end)
            return
        if isinstance(event, Burst):
            self.num_close += event.num_close
            self.writer.timings.decode_seconds += event.seconds
            self.writer.timings.steps += event.steps
            self._write(run, event.tokens(), event.end)
            return
        self._beyond.clear()
        if event.end is None:
            self.is_complete = True
            return
        if event.is_eos:  # blanks stand for the rest of the piece
            self.num_eos += 1
            blank = SampledToken(self.writer.ids.streaming_pad, 0.0, 0.0)
            self._write(run, [blank] * (event.end - self.writer.num_generated), event.end)
        self._begin, self.num_pieces = event.end, self.num_pieces + 1

    def _write(self, run: PieceRun, sampled: Sequence[SampledToken], end: int | None) -> None:
        """Write those tokens that are the piece's own, which end before `end`."""
        writer = self.writer
        own = len(sampled) if end is None else max(0, end - writer.num_generated)
        self._beyond += sampled[own:]
        if writer.num_generated == run.piece.begin:
            writer.blanks = run.piece.blanks
        sound = self.recording.sound
        with sound.filter_lock:
            tokens = iter([writer.write(token) for token in sampled[:own]])
            if sound.speech_filter:
                tokens = iter(list(sound.speech_filter.filter(tokens)))
        for token in self.recording.kept.rest(tokens):
            self.tokens.append(token)
            self.on_token(token)
