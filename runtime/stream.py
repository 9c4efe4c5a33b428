"""A stream, which turns samples into tokens as they come; recordings are streams as well."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments import PATH, Uncopied, accepts
from ..errors import AudioError, UsageError
from .audio.samples import check_samples
from .decoder import Decoder
from .device.cache import KVCache
from .encoder import Encoder
from .feeding import Feeding, Reader
from .guard import blank_penalty
from .stream_state import ArraySpec, Position, StreamState, read_state, write_state
from .text.tokenizer import TextDecoder
from .tokens import Override, SampledToken, Token

if TYPE_CHECKING:
    from .transcriber import Transcriber

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Timings:
    """The time that a stream has spent in the encoder and in the decoder."""

    encode_seconds: float = 0.0  # mel frames included
    decode_seconds: float = 0.0
    steps: int = 0  # decoder positions, the prompt's included


class Stream(Uncopied):
    """A live stream: samples are fed in pieces of any size, and tokens come out.

    Memory does not grow with its length. The tokens do not depend on the sizes of the pieces.
    Several threads may feed it, one at a time.

    `async for token in stream` yields the tokens from then on while another thread feeds; several
    tasks may read so. It ends when the stream is finished, and raises errors of `feed` and
    `finish`. Call `finish` in a `finally`, because readers wait for the end.
    """

    def __init__(
        self,
        transcriber: Transcriber,
        num_delay_tokens: int,
        *,
        stop_at_eos: bool = False,
        num_draft_tokens: int = 0,
        decoder_cache: KVCache | None = None,
        stages: tuple[Encoder, Decoder] | None = None,
    ):
        """Open a stream; called by `Transcriber.stream`."""
        # What it computes with, which outlives the transcriber's being closed
        manifest = transcriber.manifest
        self.transcriber = transcriber
        self.encoder, self.decoder = stages or transcriber.require_open()
        self.num_delay_tokens = num_delay_tokens
        self.stop_at_eos = stop_at_eos
        self.guard, self.num_draft_tokens = transcriber.blank_guard, num_draft_tokens
        self.rules = manifest.streaming
        self.audio = manifest.config.audio
        self.ids = manifest.tokens
        self.encoder_cache = self.encoder.new_cache()
        self.decoder_cache = decoder_cache or self.decoder.new_cache()
        self.prompt_length = 1 + self.rules.left_pad_tokens + num_delay_tokens

        # Where it is
        self.num_samples = 0  # fed
        self.num_generated = 0
        self.next_id = self.ids.bos
        self.blanks = 0  # generated in a row
        self.overrides: list[Override] = []  # where the blank guard changed the text
        self.sampler = transcriber.new_sampler()  # None where the graph samples
        self.sample = self.sampler and self.sampler.sample
        self.num_swayed = 0  # sampled tokens that hotwords changed
        self.finished = False
        self._given = deque[int]()  # ids that are known and replace those of the next positions
        self.text = TextDecoder(transcriber.tokenizer)
        self.timings = Timings()
        self._feeding, self._is_ending = Feeding(transcriber.require_own_process), False

        # Samples before the audio, and samples around its own that a token needs
        self._silence = (
            self.rules.look_back_samples + self.rules.left_pad_tokens * self.audio.samples_per_token
        )
        self._margin = self.rules.look_back_samples + self.rules.look_ahead_samples
        # Not encoded yet, from look_back before the next token on
        self.samples = np.zeros(self._silence, np.float32)

    def __repr__(self) -> str:
        state = "finished" if self.finished else "failed" if self._feeding.failure else "open"
        seconds = self.num_samples / self.audio.sample_rate
        return f"<Stream, {state}: {seconds:.2f} s fed, {self.num_generated} tokens>"

    def feed(self, samples: Any) -> list[Token]:
        """Take the next samples, and return the tokens that can be decoded now.

        Args:
            samples: array, list or tensor, float [n] of any length, mono, at the transcriber's
                `sample_rate`, full scale 1.

        Raises:
            AudioError: the samples are of another kind or not finite, and the stream stays as it
                was; or it is finished.
            ArtifactError: the model's files were changed while they were in use.
        """
        return list(self.iter_feed(samples))

    def iter_feed(self, samples: Any) -> Iterator[Token]:
        """Yield the tokens of `feed` one by one; the next call yields those not taken first."""
        self._take(samples)
        return self._tokens()

    def encode(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Encode the next samples, which is the first half of `feed`.

        Yields:
            audio embeddings [tokens, hidden_size]; decode them before taking the next.
        """
        self._take(samples)
        yield from self._encode()

    def finish(self) -> list[Token]:
        """End the audio, and return the last tokens, which follow it by the delay."""
        return list(self.iter_finish())

    def iter_finish(self) -> Iterator[Token]:
        """Yield the tokens of `finish` one by one, after those that `iter_feed` has left."""
        with self._feeding.turn():
            self._feeding.go_on()
            self._is_ending = True
        return chain(self._tokens(), self._tokens())

    def encode_tail(self) -> Iterator[np.ndarray]:
        """Encode the end of the audio, which is the first half of `finish`, like `encode`.

        The last audio embedding is not used: the token of the position before it stands for the end
        of the padded audio. Source: `generate` of transformers, whose length is their number.
        """
        if self.finished:
            return
        per_token = self.audio.samples_per_token
        pad_tokens = self.num_delay_tokens + self.rules.right_pad_tokens
        padding = (
            -self.num_samples % per_token + pad_tokens * per_token + self.rules.look_ahead_samples
        )
        self.samples = np.concatenate((self.samples, np.zeros(padding, np.float32)))
        num_tokens = self.rules.left_pad_tokens + -(-self.num_samples // per_token) + pad_tokens
        yield from self._encode(last=num_tokens - 1)
        self.finished = True
        self._feeding.publish(None)

    def _take(self, samples: Any) -> None:
        """Append samples to those that are not encoded yet."""
        with self._feeding.turn():
            if self.finished or self._is_ending:
                raise AudioError("the stream is finished; open another with Transcriber.stream()")
            try:
                checked = check_samples(samples)
            except AudioError as error:
                self._feeding.refuse(error)
                raise
            self._feeding.go_on()
            self.num_samples += len(checked)
            self.samples = np.concatenate((self.samples, checked))

    def _tokens(self) -> Iterator[Token]:
        """Yield the tokens that follow from the samples fed so far."""
        yield from self._feeding.tokens(self._decoded)
        if self.finished and self.transcriber.is_closed:
            self.release()

    def _decoded(self) -> Iterator[Token]:
        for audio_embeds in self.encode_tail() if self._is_ending else self._encode():
            yield from self.decode(audio_embeds)

    def release(self) -> None:
        """Free the sessions and caches, after which the stream can neither go on nor be saved."""
        for name in ("encoder", "decoder", "encoder_cache", "decoder_cache"):
            self.__dict__.pop(name, None)

    def snapshot(self) -> StreamState:
        """Return everything that later tokens depend on.

        On the CPU these are views of the stream's buffers, valid until it is fed again.
        """
        position = Position(
            num_samples=self.num_samples,
            num_generated=self.num_generated,
            next_id=self.next_id,
            blanks=self.blanks,
            finished=self.finished,
            recent=tuple(self.sampler.recent) if self.sampler else (),
            pending=self.text.pending.hex(),
            encoder=self.encoder_cache.position,
            decoder=self.decoder_cache.position,
        )
        arrays = {"samples": self.samples[:0] if self.finished else self.samples}
        for name, cache in self._caches.items():
            arrays |= {f"{name}_{i}": rows for i, rows in enumerate(cache.save())}
        return StreamState(position, arrays)

    def load_state(self, state: StreamState) -> None:
        """Continue from a state."""
        position, arrays = state.position, state.arrays
        self.num_samples, self.num_generated = position.num_samples, position.num_generated
        self.next_id, self.blanks = position.next_id, position.blanks
        self.finished = position.finished
        self.text.restore(bytes.fromhex(position.pending))
        if self.sampler:
            self.sampler.recent = list(position.recent)
        self.samples = arrays["samples"]
        for name, cache in self._caches.items():
            rows = [array for key, array in arrays.items() if key.startswith(f"{name}_")]
            cache.restore(getattr(position, name), rows)

    @accepts(path=PATH)
    def save(self, path: str | Path) -> None:
        """Save the stream's state, from which `Transcriber.load_stream` continues.

        Raises:
            StorageError: the file cannot be written.
            UsageError: not all tokens of `iter_feed` were taken; or the stream is finished and its
                transcriber closed.
        """
        with self._feeding.turn():
            if "decoder" not in self.__dict__:
                raise UsageError("save: the stream is finished and its transcriber is closed")
            state = self.snapshot()
            try:
                self._arrays_at(state.position)
            except ValueError as error:
                raise UsageError(
                    "save: tokens of the last feed are still to come; take all that `iter_feed` "
                    "yields first"
                ) from error
            identity = self.transcriber.identity(self.num_delay_tokens)
            write_state(Path(path), identity, self.stop_at_eos, state)

    def restore(self, path: str | Path) -> None:
        """Load a saved state; called by `Transcriber.load_stream`, whose errors are its own."""
        identity = self.transcriber.identity(self.num_delay_tokens)
        most_samples = self._silence + self._margin + self.audio.samples_per_token
        most = 4 * most_samples + sum(cache.nbytes for cache in self._caches.values())
        self.stop_at_eos, state = read_state(Path(path), identity, self._arrays_at, most)
        self.load_state(state)

    @property
    def _caches(self) -> dict[str, KVCache]:
        return {"encoder": self.encoder_cache, "decoder": self.decoder_cache}

    def _arrays_at(self, position: Position) -> list[ArraySpec]:
        """Return types and shapes of the arrays of a stream at this position.

        Raises:
            ValueError: no stream of this delay can be there between calls of `feed`.
        """
        # Refuse a position that cannot be
        per_token, blank = self.audio.samples_per_token, self.ids.streaming_pad
        num_encoded, rest = divmod(position.encoder, self.encoder_cache.spec.rows_per_token)
        num_generated = max(0, position.decoder - self.prompt_length + 1)
        is_fed = position.num_samples > 0 or position.encoder > 0
        samples = self._silence + position.num_samples - num_encoded * per_token
        first_id = blank if position.decoder else self.ids.bos
        if (
            rest
            or position.num_generated != num_generated
            or position.next_id >= self.transcriber.manifest.config.decoder.vocab_size
            or (position.blanks > 0) != (num_generated > 0 and position.next_id == blank)
            or (num_generated == 0 and position.next_id != first_id)
        ):
            raise ValueError("its numbers contradict each other")
        if position.finished:
            samples, is_whole = 0, position.decoder <= num_encoded
        else:
            is_whole = position.decoder == num_encoded and (
                self._margin <= samples < self._margin + per_token
                if is_fed
                else samples == self._silence
            )
        if not is_whole:
            raise ValueError("its numbers contradict each other")

        # List the arrays
        arrays = [ArraySpec("samples", "float32", (samples,))]
        for name, cache in self._caches.items():
            arrays += [
                ArraySpec(f"{name}_{i}", dtype.name, shape)
                for i, (dtype, shape) in enumerate(cache.saved_shapes(getattr(position, name)))
            ]
        return arrays

    def __aiter__(self) -> Reader:
        reader = self._feeding.reader()
        if self.finished:
            reader.put(None)
        return reader

    def _encode(self, last: int | None = None) -> Iterator[np.ndarray]:
        """Encode as many samples as possible, up to the position `last` if it is given."""
        per_token, margin = self.audio.samples_per_token, self._margin
        encoder = self.encoder
        while not self.finished:
            self.transcriber.weights.require_unchanged()
            available = (len(self.samples) - margin) // per_token
            if last is not None:
                available = min(available, last - self.decoder_cache.position)
            tokens = min(
                available, self.rules.max_chunk_tokens, encoder.max_tokens(self.encoder_cache)
            )
            if tokens <= 0:
                return
            began = perf_counter()
            audio_embeds = encoder.encode(
                self.encoder_cache, self.samples[: tokens * per_token + margin]
            )
            self.timings.encode_seconds += perf_counter() - began
            self.samples = self.samples[tokens * per_token :]
            yield audio_embeds

    def decode(self, audio_embeds: np.ndarray) -> Iterator[Token]:
        """Decode audio embeddings, and yield one token for each position after the prompt.

        Positions whose tokens are known run in one call. After a blank, decoding is speculative: a
        call also runs some of the next positions as if their inputs were blanks. Those are kept as
        long as blanks are sampled. A call reads all weights anyway, so they take little time.
        """
        # Run positions until all are decoded
        cache, blank, at = self.decoder_cache, self.ids.streaming_pad, 0
        while at < len(audio_embeds):
            in_prompt = self.prompt_length - cache.position
            token_ids = [self.next_id, *self._ids_ahead(len(audio_embeds) - at)]
            sampled = self._step(token_ids, audio_embeds[at : at + len(token_ids)])

            # Drop the tokens sampled inside the prompt
            if in_prompt > 0:
                sampled = sampled[-1:] if cache.position >= self.prompt_length else []
                at += len(token_ids) - len(sampled)
                self.timings.steps += len(token_ids) - len(sampled)
                self.next_id = blank

            # Accept tokens until an input turns out wrong; drop the cache rows after it
            for i, each in enumerate(sampled):
                behind = len(sampled) - i - 1
                is_given = bool(self._given)
                if is_given:
                    each = SampledToken(self._given.popleft(), 0.0, 0.0)
                # A call of one position decides, so that text does not depend on drafts
                elif len(sampled) > 1 and each.is_close():
                    cache.trim(behind + 1)
                    [each], behind = self._step([blank], audio_embeds[at : at + 1]), 0
                is_draft_right = is_given or (each.token_id == blank and behind > 0)
                if not is_draft_right:
                    cache.trim(behind)
                at += 1
                yield self.accept_token(each)
                if self.finished:
                    return
                if not is_draft_right:
                    break

    def _step(self, token_ids: list[int], audio_embeds: np.ndarray) -> list[SampledToken]:
        began = perf_counter()
        # The row whose token is the next to be generated, from 0 in this call
        first_asked = self.prompt_length - 1 + self.num_generated
        next_row = first_asked - self.decoder_cache.position
        penalties = [self.blank_penalty(max(0, row - next_row)) for row in range(len(token_ids))]
        delay, cache = self.num_delay_tokens, self.decoder_cache
        sampled = self.decoder.step(cache, token_ids, audio_embeds, delay, penalties, self.sample)
        self.timings.decode_seconds += perf_counter() - began
        return sampled

    def _ids_ahead(self, left: int) -> list[int]:
        """Return the inputs that a call takes after the next token, at most `left` - 1.

        These are the rest of the prompt, given tokens, or blanks as drafts after a blank.
        """
        blank, most = self.ids.streaming_pad, min(left, self.decoder_cache.slots_left) - 1
        if (in_prompt := self.prompt_length - self.decoder_cache.position) > 0:
            return [blank] * min(most, in_prompt - 1)
        if self._given:
            return list(islice(self._given, min(most, len(self._given) - 1)))
        if self.next_id != blank:
            return []
        # Rows that were shifted cannot be trimmed
        return [blank] * max(0, min(self.num_draft_tokens, most, self.decoder_cache.slots_left - 2))

    def give(self, token_ids: Sequence[int]) -> None:
        """Use these ids, which another stream has written, for the next tokens."""
        self._given.extend(token_ids)

    @property
    def num_known(self) -> int:
        """Return how many of the next positions have known tokens: the prompt's and given ones."""
        return max(0, self.prompt_length - self.decoder_cache.position) + len(self._given)

    def blank_penalty(self, ahead: int = 0) -> float:
        """Return the penalty for the blank `ahead` positions after the next one."""
        return blank_penalty(self.blanks + ahead) if self.guard else 0.0

    def accept_token(self, sampled: SampledToken) -> Token:
        """Accept a token as that of the next position, and publish it to readers."""
        self.timings.steps += 1
        self.next_id = sampled.token_id
        self.num_swayed += sampled.is_swayed
        if self.sampler:
            self.sampler.accept_token(sampled.token_id)
        if sampled.token_id == self.ids.streaming_pad:
            self.blanks += 1
        else:
            if sampled.blank_margin > 0 and not sampled.is_swayed:
                index, margin = self.num_generated, sampled.blank_margin
                self.overrides.append(Override(index, self.blanks, margin, self.blank_penalty()))
                at = self.seconds_of(index)
                _log.info("blank guard: text at %.1f s, after %d blanks", at, self.blanks)
            self.blanks = 0
        self.finished = self.stop_at_eos and sampled.token_id == self.ids.eos
        token = self._token(sampled)
        self._feeding.publish(token)
        if self.finished:
            self._feeding.publish(None)
        return token

    def _token(self, sampled: SampledToken) -> Token:
        index, end = self.num_generated, self.seconds_of(self.num_generated)
        self.num_generated += 1
        text = self.text.push(sampled.token_id)
        margin, alternatives = sampled.blank_margin, sampled.alternatives
        return Token(index, sampled.token_id, text, end, sampled.logprob, margin, alternatives)

    def seconds_of(self, index: int) -> float:
        """Return where a generated token ends in the audio, in seconds; the delay is subtracted."""
        return (index + 1) * self.audio.samples_per_token / self.audio.sample_rate
