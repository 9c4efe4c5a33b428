"""Files decoded together.

A call of the decoder reads all weights, however many files it advances by a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter

import numpy as np

from ..errors import AudioError
from .audio.files import AudioSource
from .audio.vad import SpeechFilter, filtered_blocks
from .decoder import Decoder
from .device.cache import BatchedKVCache, KVCache
from .stream import Stream
from .tokens import Token


class BatchSlot:
    """One file on its way."""

    def __init__(self, source: AudioSource, stream: Stream, gate: SpeechFilter | None = None):
        self.source, self.stream, self.gate = source, stream, gate
        self.tokens: list[Token] = []
        self.error: AudioError | None = None
        # [positions, hidden_size], encoded and not decoded yet
        self.audio_embeds = np.zeros((0, 0))
        self._chunks = self._encode()

    def _encode(self) -> Iterator[np.ndarray]:
        for block in filtered_blocks(self.source, self.gate):
            yield from self.stream.encode(block)
        yield from self.stream.encode_tail()

    def prepare(self) -> bool:
        """Encode up to the next position to decode, and run the prompt in calls of its own.

        False at the file's end.
        """
        try:
            while not (self.stream.finished or len(self.audio_embeds)):
                self.audio_embeds = next(self._chunks, self.audio_embeds)
                self.advance(max(0, self.stream.prompt_length - self.stream.decoder_cache.position))
        except AudioError as error:
            self.error = error
        return not (self.stream.finished or self.error)

    def advance(self, positions: int) -> None:
        """Decode so many positions of this file alone, or what there is."""
        self.tokens += self.stream.decode(self.audio_embeds[:positions])
        self.audio_embeds = self.audio_embeds[positions:]

    def move_to(self, cache: KVCache) -> None:
        """Go on in another cache."""
        cache.copy_from(self.stream.decoder_cache)
        self.stream.decoder_cache = cache

    def result(self) -> Iterator[Token]:
        """The tokens, and the error that ended them."""
        yield from self.tokens
        if self.error:
            raise self.error


def advance_together(
    decoder: Decoder, count: int, begin: Callable[[KVCache], BatchSlot | None]
) -> Iterator[BatchSlot]:
    """Rows that have ended, each as soon as it has.

    Args:
        decoder: on a device that has rows.
        count: rows that advance together.
        begin: the next row, whose stream decodes into this cache; None where there is none.
    """
    buffers = decoder.new_batch(count)
    rows = [row for place in range(count) if (row := begin(buffers.cache(place)))]
    while rows:
        ended = [place for place, row in enumerate(rows) if not row.prepare()]
        for place in reversed(ended):
            # a transcript may be kept for long
            del rows[place].stream.encoder_cache, rows[place].stream.decoder_cache
            yield rows[place]
            if row := begin(buffers.cache(place)):
                rows[place] = row
                continue
            last = rows.pop()  # fills the gap, because a call runs the first rows
            if place < len(rows):
                last.move_to(buffers.cache(place))
                rows[place] = last
        if ended:
            continue  # those that took their places are to be prepared
        if len(rows) == 1:
            rows[0].advance(len(rows[0].audio_embeds))
        else:
            _step(decoder, buffers, rows)


def _step(decoder: Decoder, buffers: BatchedKVCache, rows: list[BatchSlot]) -> None:
    """Advance each row by one token.

    A decision that other kernels might turn is made again alone, over the same row of the cache, so
    that text does not depend on what else is transcribed.
    """
    began = perf_counter()
    streams = [row.stream for row in rows]
    choices = decoder.step_batch(
        buffers,
        [stream.decoder_cache for stream in streams],
        [stream.next_id for stream in streams],
        np.stack([row.audio_embeds[0] for row in rows]),
        [stream.num_delay_tokens for stream in streams],
        [stream.blank_penalty() for stream in streams],
        [stream.sample for stream in streams],
    )
    seconds = (perf_counter() - began) / len(rows)
    for row, choice in zip(rows, choices, strict=True):
        row.stream.timings.decode_seconds += seconds
        if choice.is_close():
            row.advance(1)
            continue
        row.stream.decoder_cache.advance(1)
        row.tokens.append(row.stream.accept_token(choice))
        row.audio_embeds = row.audio_embeds[1:]
