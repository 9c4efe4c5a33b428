"""Files decoded together, a slot of one batch each.

A call of the decoder reads all weights, however many files it advances by a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter

import numpy as np

from .audio.files import AudioSource
from .audio.vad import SpeechFilter, filtered_blocks
from .decoder import Decoder
from .device.cache import BatchedKVCache, KVCache
from .kept import NOTHING, Kept
from .stream import Stream
from .tokens import Token


class BatchSlot:
    """One file's place in a batch."""

    def __init__(
        self,
        source: AudioSource,
        stream: Stream,
        speech_filter: SpeechFilter | None = None,
        on_token: Callable[[AudioSource, Token], None] = lambda source, token: None,
        kept: Kept = NOTHING,
    ):
        self.source, self.stream, self.speech_filter = source, stream, speech_filter
        self.kept = kept
        stream.give(kept.given_ids)
        self.tokens: list[Token] = []
        self.error: Exception | None = None  # whatever ended it; it ends no other file
        self._on_token = on_token
        # Of shape [positions, hidden_size], encoded and not decoded yet
        self.audio_embeds = np.zeros((0, 0))
        self._chunks = self._encode()

    def _encode(self) -> Iterator[np.ndarray]:
        rest = self.source.after(self.kept.heard_from)
        for block in filtered_blocks(rest, self.speech_filter):
            yield from self.stream.encode(block)
        yield from self.stream.encode_tail()

    def prepare(self) -> bool:
        """Encode up to the next position to decode, and run what is known in calls of its own.

        False at the file's end.
        """
        try:
            while not (self.stream.finished or self.error or len(self.audio_embeds)):
                self.audio_embeds = next(self._chunks, self.audio_embeds)
                self.advance(self.stream.num_known)
        except Exception as error:
            self.error = error
        return not (self.stream.finished or self.error)

    def advance(self, positions: int) -> None:
        """Decode so many positions of this file alone, or what there is."""
        try:
            self.accept(self.stream.decode(self.audio_embeds[:positions]))
        except Exception as error:
            self.error = error
        self.audio_embeds = self.audio_embeds[positions:]

    def accept(self, tokens: Iterator[Token]) -> None:
        """Take the next tokens of the file; what they give rise to is the file's own error."""
        if self.speech_filter:
            tokens = self.speech_filter.filter(tokens)
        for token in self.kept.rest(tokens):
            self.tokens.append(token)
            try:
                self._on_token(self.source, token)
            except Exception as error:
                self.error = self.error or error

    def move_to(self, cache: KVCache) -> None:
        """Go on in another cache."""
        cache.copy_from(self.stream.decoder_cache)
        self.stream.decoder_cache = cache

    def result(self) -> Iterator[Token]:
        """Yield the tokens, and raise the error that ended them."""
        yield from self.tokens
        if self.error:
            raise self.error


def advance_together(
    decoder: Decoder, count: int, begin: Callable[[KVCache], BatchSlot | None]
) -> Iterator[BatchSlot]:
    """Yield the slots whose files have ended, each as soon as it has.

    What a file raises is in its slot. What `begin` raises comes behind the files begun before.

    Args:
        decoder: on a device that supports batching.
        count: slots of the batch.
        begin: the next file, whose stream decodes into this cache; None where there is none.
    """
    batch, slots = decoder.new_batch(count), list[BatchSlot]()
    failure: Exception | None = None

    def begun(i: int) -> BatchSlot | None:
        nonlocal failure
        try:
            return None if failure else begin(batch.cache(i))
        except Exception as error:
            failure = error
            return None

    while len(slots) < count and (slot := begun(len(slots))):
        slots.append(slot)
    while slots:
        ended = [i for i, slot in enumerate(slots) if not slot.prepare()]
        for i in reversed(ended):
            slots[i].stream.release()  # its transcript may be kept for long
            yield slots[i]
            if slot := begun(i):
                slots[i] = slot
                continue
            last = slots.pop()  # fills the gap, because a call runs the first slots
            if i < len(slots):
                last.move_to(batch.cache(i))
                slots[i] = last
        if ended:
            continue  # those that took their slots are to be prepared
        if len(slots) == 1:
            slots[0].advance(len(slots[0].audio_embeds))
        else:
            try:
                _step(decoder, batch, slots)
            except Exception as error:  # of the call that they share
                for slot in slots:
                    slot.error = error
    if failure:
        raise failure


def _step(decoder: Decoder, batch: BatchedKVCache, slots: list[BatchSlot]) -> None:
    """Advance each slot by one token.

    A close decision, which other kernels might turn, is made again alone, in the same slot of the
    cache, so that text does not depend on what else is transcribed.
    """
    began = perf_counter()
    streams = [slot.stream for slot in slots]
    sampled = decoder.step_batch(
        batch,
        [stream.decoder_cache for stream in streams],
        [stream.next_id for stream in streams],
        np.stack([slot.audio_embeds[0] for slot in slots]),
        [stream.num_delay_tokens for stream in streams],
        [stream.blank_penalty() for stream in streams],
        [stream.sample for stream in streams],
    )
    seconds = (perf_counter() - began) / len(slots)
    for slot, token in zip(slots, sampled, strict=True):
        slot.stream.timings.decode_seconds += seconds
        if token.is_close():
            slot.advance(1)
            continue
        slot.stream.decoder_cache.advance(1)
        slot.accept(iter([slot.stream.accept_token(token)]))
        slot.audio_embeds = slot.audio_embeds[1:]
