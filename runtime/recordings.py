"""Transcription of recordings, one at a time while it is iterated or many in the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from .audio.files import AudioSource
from .audio.vad import SpeechFilter
from .channels import SplitTranscript
from .engine.live import Ticker
from .engine.loop import EngineLoop
from .engine.recording import FileRecording, Recording
from .engine.sizes import SlotSize, slot_sizes
from .engine.sound import Sound
from .engine.stitching import Stitching
from .engine.work import Work
from .engine.written import Encoded, Events, Failure
from .kept import Kept
from .model import LoadedModel
from .pieces.cutter import Cutter
from .stream import Sampler, Stream
from .tokens import Token
from .transcript import Transcript, decode
from .writer import StreamOptions, TokenWriter

MOST_EXACT = 8  # slots up to which close decisions are made again alone; docs/performance.md
AHEAD = 6  # recordings that are open besides those in slots
LONG_SECONDS = 300.0  # beyond which a recording is decoded in pieces


@dataclass(frozen=True)
class Recordings:
    """A factory of transcripts, which holds the loaded model even if its transcriber is closed."""

    model: LoadedModel
    options: StreamOptions
    new_stream: Callable[[], Stream]
    new_sampler: Callable[[], Sampler | None]
    new_filter: Callable[[], SpeechFilter | None]
    work: Work  # of the engines

    def begin(
        self, source: AudioSource, on_token: Callable[[Token], None], kept: Kept
    ) -> Transcript:
        """Return the transcript of a recording, of which nothing is decoded yet.

        Split channels are begun one by one, when the one before is decoded.
        """
        if source.parts:
            begin = partial(self.begin, on_token=on_token, kept=kept)
            return SplitTranscript(source, map(begin, source.parts))
        stream, speech_filter = self.new_stream(), self.new_filter()
        stream.give(kept.given_ids)
        tokens = decode(stream, source.after(kept.heard_from), speech_filter)
        if speech_filter:
            tokens = speech_filter.filter(tokens)
        return Transcript(source, stream.writer, kept.rest(tokens), on_token, speech_filter, kept)

    def many(
        self,
        sources: Iterator[AudioSource],
        batch_size: int | None,
        *,
        splits: bool,
        on_token: Callable[[AudioSource, Token], None],
        on_progress: Callable[[AudioSource, float], None],
        kept: Callable[[AudioSource], Kept],
        loop: EngineLoop | None = None,
    ) -> Iterator[Transcript]:
        """Decode recordings together, and yield the transcript of each when it is whole.

        Args:
            sources: taken as the engine needs them.
            batch_size: decoded together; None for as many as suit the device.
            splits: whether long ones are decoded in pieces.
            on_token: called with each token and its source.
            on_progress: called with a source and how many of its seconds are done, in all its
                pieces; encoding a second is half of it, decoding the other.
            kept: returns what is known of a source's transcript.
            loop: that runs already; None for one of their own.

        Raises:
            Exception: the one that `sources` or `kept` has raised, after the recordings before have
                ended.
            ArtifactError: the model's files were changed while they were in use.
        """
        if loop is None:
            sizes = slot_sizes(self.model, batch_size, self.model.device.notes)
            with self.loop(sizes) as loop:
                yield from self._in_loop(loop, sources, splits, on_token, on_progress, kept)
        else:
            yield from self._in_loop(loop, sources, splits, on_token, on_progress, kept)

    def loop(self, sizes: list[SlotSize], ticker: Ticker | None = None) -> EngineLoop:
        """Return a loop that decodes in slots of these sizes, and live recordings with a ticker."""
        model, options = self.model, self.options
        return EngineLoop(
            model,
            sizes,
            options.num_delay_tokens,
            guard=options.blank_guard,
            is_exact=sizes[0].count <= MOST_EXACT or model.facts.precision == "fp32",
            work=self.work,
            ticker=ticker,
        )

    def _in_loop(
        self,
        loop: EngineLoop,
        sources: Iterator[AudioSource],
        splits: bool,
        on_token: Callable[[AudioSource, Token], None],
        on_progress: Callable[[AudioSource, float], None],
        kept: Callable[[AudioSource], Kept],
    ) -> Iterator[Transcript]:
        """Decode recordings as `many` does."""
        model, events, most_open = self.model, loop.queue(), loop.sizes[0].count + AHEAD
        open_ones = dict[Recording, Stitching]()
        is_at_end, failure = False, None

        def next_one() -> Stitching | None:
            nonlocal is_at_end, failure
            try:
                source = next(sources, None)
                found = source and self._open(loop, events, source, splits, on_token, kept(source))
            except Exception as error:
                found, failure = None, error
            is_at_end = found is None
            return found

        # Keep it busy, and put the tokens in order that it writes
        try:
            while True:
                while len(open_ones) < most_open and not is_at_end:
                    if begun := next_one():
                        open_ones[begun.recording] = begun
                        loop.add(begun.recording)
                if not open_ones:
                    break
                event = events.get()
                if isinstance(event, Encoded):
                    if encoded := open_ones.get(event.recording):
                        on_progress(encoded.source, encoded.seconds)
                    continue
                if isinstance(event, Failure):
                    if event.recording is None:
                        raise event.error
                    ended = open_ones.pop(event.recording, None)
                    if ended is None:  # its text was complete before
                        continue
                else:
                    ended = open_ones.get(event.run.recording)
                    if ended is None or ended.recording.error:
                        continue
                    try:
                        ended.take(event)
                        on_progress(ended.source, ended.seconds)
                    except Exception as error:
                        loop.fail(ended.recording, error)
                        continue
                    if not ended.is_complete:
                        continue
                    del open_ones[ended.recording]
                model.weights.require_unchanged()
                yield self._transcript(ended)
        finally:
            for recording in open_ones:
                loop.fail(recording, InterruptedError("nobody takes its transcript"))
            loop.forget(events)
        if failure:
            raise failure

    def _open(
        self,
        loop: EngineLoop,
        events: Events,
        source: AudioSource,
        splits: bool,
        on_token: Callable[[AudioSource, Token], None],
        kept: Kept,
    ) -> Stitching:
        """Return what the engine takes of a source, and what puts its tokens in order."""
        model, options, rest = self.model, self.options, source.after(kept.heard_from)
        cutter, count, delay = None, loop.sizes[0].count, options.num_delay_tokens
        if splits and rest.duration > LONG_SECONDS and count > 1:
            cutter = Cutter(model.manifest.config.audio, rest.duration, count)
        recording = FileRecording.of(
            model,
            Sound(model, rest, delay, self.new_filter()),
            loop.prefix(delay, is_live=False),
            delay,
            events=events,
            new_sampler=self.new_sampler,
            kept=kept,
            cutter=cutter,
        )
        writer = TokenWriter(model.facts, options)
        stitching = Stitching(recording, writer, partial(on_token, source), source)
        writer.batch = lambda: {"slots": count, **stitching.facts()}
        return stitching

    def _transcript(self, ended: Stitching) -> Transcript:
        """Return the transcript of a recording that is complete or has failed."""
        recording = ended.recording
        ended.writer.timings.encode_seconds = recording.encode_seconds
        recording.release()

        def tokens() -> Iterator[Token]:
            yield from ended.tokens
            if recording.error:
                raise recording.error

        speech_filter, nothing = recording.sound.speech_filter, lambda token: None
        return Transcript(
            ended.source, ended.writer, tokens(), nothing, speech_filter, recording.kept
        )
