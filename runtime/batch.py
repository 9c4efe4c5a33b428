"""Files that are decoded together, each in a slot of one batch.

A call of the decoder reads all weights, however many files it advances, so several files together
take less time than one after the other.
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
    """One file of a batch: its audio, its stream, and the tokens so far."""

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
        self.error: Exception | None = None  # that has ended this file, and no other
        self._on_token = on_token
        # Encoded and not decoded yet, [positions, hidden_size]
        self.audio_embeds = np.zeros((0, 0))
        self._chunks = self._encode()

    def _encode(self) -> Iterator[np.ndarray]:
        rest = self.source.after(self.kept.heard_from)
        for block in filtered_blocks(rest, self.speech_filter):
            yield from self.stream.encode(block)
        yield from self.stream.encode_tail()

    def prepare(self) -> bool:
        """Encode until there is a position to decode, and run the positions of known tokens.

        Returns:
            whether there is such a position; False at the end of the file, or after an error.
        """
        try:
            while not (self.stream.finished or self.error or len(self.audio_embeds)):
                self.audio_embeds = next(self._chunks, self.audio_embeds)
                self.advance(self.stream.num_known)
        except Exception as error:
            self.error = error
        return not (self.stream.finished or self.error)

    def advance(self, positions: int) -> None:
        """Decode at most so many positions, without the other files of the batch."""
        try:
            self.accept(self.stream.decode(self.audio_embeds[:positions]))
        except Exception as error:
            self.error = error
        self.audio_embeds = self.audio_embeds[positions:]

    def accept(self, tokens: Iterator[Token]) -> None:
        """Take the next tokens of the file; an exception from `on_token` ends only this file."""
        if self.speech_filter:
            tokens = self.speech_filter.filter(tokens)
        for token in self.kept.rest(tokens):
            self.tokens.append(token)
            try:
                self._on_token(self.source, token)
            except Exception as error:
                self.error = self.error or error

    def move_to(self, cache: KVCache) -> None:
        """Continue in another cache."""
        cache.copy_from(self.stream.decoder_cache)
        self.stream.decoder_cache = cache

    def result(self) -> Iterator[Token]:
        """Yield the file's tokens, then raise the error that has ended them, if there is one."""
        yield from self.tokens
        if self.error:
            raise self.error


def advance_together(
    decoder: Decoder, count: int, begin: Callable[[KVCache], BatchSlot | None]
) -> Iterator[BatchSlot]:
    """Yield the slot of each file as soon as that file has ended.

    Args:
        decoder: on a device that supports batching.
        count: number of slots.
        begin: returns a slot for the next file, whose stream decodes into the given cache; None
            if there are no more files.

    Raises:
        Exception: the one that `begin` has raised, after the files begun before it have ended. An
            exception of a single file is in its slot instead.
    """
    # Begin as many files as there are slots
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

    # Replace files that have ended, then advance all by a token, until none is left
    while slots:
        ended = [i for i, slot in enumerate(slots) if not slot.prepare()]
        for i in reversed(ended):
            slots[i].stream.release()  # frees memory, because a transcript may be kept for long
            yield slots[i]
            if slot := begun(i):
                slots[i] = slot
                continue
            last = slots.pop()  # moves into the gap, because a call runs the first slots
            if i < len(slots):
                last.move_to(batch.cache(i))
                slots[i] = last
        if ended:
            continue  # new files must be prepared first
        if len(slots) == 1:
            slots[0].advance(len(slots[0].audio_embeds))
        else:
            try:
                _step(decoder, batch, slots)
            except Exception as error:  # all files share the call
                for slot in slots:
                    slot.error = error
    if failure:
        raise failure


def _step(decoder: Decoder, batch: BatchedKVCache, slots: list[BatchSlot]) -> None:
    """Advance each slot by one token.

    If the two best tokens are nearly equal, kernels for one stream and for several might choose
    differently. Such a token is sampled again for its file alone, so that a text does not depend on
    what else is transcribed.
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
