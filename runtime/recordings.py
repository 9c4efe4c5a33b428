"""Transcription of recordings, one at a time while it is iterated or several in a batch."""

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
    """A factory of transcripts, which holds the loaded model even if its transcriber is closed."""

    decoder: Decoder
    new_stream: Callable[..., Stream]  # takes a `decoder_cache`
    new_filter: Callable[[], SpeechFilter | None]

    def begin(
        self, source: AudioSource, on_token: Callable[[Token], None], kept: Kept
    ) -> Transcript:
        """Return the transcript of a recording, of which nothing is decoded yet.

        Split channels are begun one by one, when the one before is decoded.
        """
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
        """Decode several recordings together, and yield the transcript of each when it is whole."""

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
