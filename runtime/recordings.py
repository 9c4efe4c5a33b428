"""Recordings to transcripts: one at a time as they are read, or several as one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from .audio.files import AudioSource
from .audio.vad import SpeechFilter
from .batch import BatchSlot, advance_together
from .channels import SplitTranscript
from .decoder import Decoder
from .device.cache import KVCache
from .kept import NOTHING, Kept
from .stream import Stream
from .tokens import Token
from .transcript import Transcript, decode


@dataclass(frozen=True)
class Recordings:
    """Begins recordings, with the stages that were loaded when it was made."""

    decoder: Decoder
    new_stream: Callable[..., Stream]  # takes a `decoder_cache`
    new_filter: Callable[[], SpeechFilter | None]

    def begin(
        self, source: AudioSource, on_token: Callable[[Token], None], kept: Kept
    ) -> Transcript:
        """Begin a recording, or what its channels are when it is asked for them."""
        if source.parts:
            begin = partial(self.begin, on_token=on_token, kept=NOTHING)
            return SplitTranscript(source, map(begin, source.parts))
        stream, speech_filter = self.new_stream(), self.new_filter()
        stream.give(kept.given_ids)
        tokens = decode(stream, source.after(kept.heard_from), speech_filter)
        if speech_filter:
            tokens = speech_filter.filter(tokens)
        return Transcript(source, stream, kept.rest(tokens), on_token, speech_filter, kept)

    def advance(
        self,
        sources: Iterator[AudioSource],
        batch_size: int,
        on_token: Callable[[AudioSource, Token], None],
        kept: Callable[[AudioSource], Kept],
    ) -> Iterator[Transcript]:
        """Advance several recordings together, and yield each when it is whole."""

        def begin(cache: KVCache) -> BatchSlot | None:
            if (source := next(sources, None)) is None:
                return None
            stream = self.new_stream(decoder_cache=cache)
            return BatchSlot(source, stream, self.new_filter(), on_token, kept(source))

        for slot in advance_together(self.decoder, batch_size, begin):
            yield Transcript(
                slot.source,
                slot.stream,
                slot.result(),
                lambda token: None,
                slot.speech_filter,
                slot.kept,
            )
