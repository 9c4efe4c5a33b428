"""One stream of audio to tokens: feed any number of samples, get the tokens, finish.

Files use the same object.
"""

from __future__ import annotations

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


@dataclass(slots=True)
class Timings:
    """Where the time of a stream went."""

    encode_seconds: float = 0.0
    decode_seconds: float = 0.0
    steps: int = 0  # decoder positions, the prompt's included


class Stream(Uncopied):
    """Audio in, tokens out, at constant memory for any length.

    Identical tokens whatever the sizes of the chunks fed: positions, cache shifts and the end
    depend on the count of samples alone. Threads that feed one stream take turns.

    `async for token in stream` gives the tokens accepted from then on, while a thread feeds; there
    may be several such readers. It ends when the stream is finished, and raises what `feed` or
    `finish` raised. A thread that feeds no more without having finished leaves it waiting: call
    `finish` in a `finally`.
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
        """Made by `Transcriber.stream`."""
        manifest = transcriber.manifest
        self.transcriber = transcriber
        # Its own, as they outlive the transcriber's being closed
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
        self.num_samples = 0  # fed
        self.num_generated = 0
        self.next_id = self.ids.bos
        self.blanks = 0  # generated in a row
        self.overrides: list[Override] = []  # what the blank guard did
        self.sampler = transcriber.new_sampler()  # None where the graph samples
        self.sample = self.sampler and self.sampler.sample
        self.num_swayed = 0  # sampled tokens that hotwords changed
        self.finished = False
        self._given = deque[int]()  # token ids that are known, to be taken as its own
        self.text = TextDecoder(transcriber.tokenizer)
        self.timings = Timings()
        self._feeding, self._is_ending = Feeding(transcriber.require_own_process), False
        # Samples before the audio, and those that a token needs beside its own
        self._silence = (
            self.rules.look_back_samples + self.rules.left_pad_tokens * self.audio.samples_per_token
        )
        self._margin = self.rules.look_back_samples + self.rules.look_ahead_samples
        # From look_back before the next token to encode
        self.samples = np.zeros(self._silence, np.float32)

    def __repr__(self) -> str:
        state = "finished" if self.finished else "failed" if self._feeding.failure else "open"
        seconds = self.num_samples / self.audio.sample_rate
        return f"<Stream, {state}: {seconds:.2f} s fed, {self.num_generated} tokens>"

    def feed(self, samples: Any) -> list[Token]:
        """Take the next samples and return the tokens that follow from them.

        samples: float [n] at the model's rate, mono, full scale 1; any n, zero included. An array,
        a list or a tensor.

        Raises:
            AudioError: no such samples, or non-finite ones; the stream stays as it was. Or it is
                finished.
            ArtifactError: the artifact's weights were changed while they were in use.
        """
        return list(self.iter_feed(samples))

    def iter_feed(self, samples: Any) -> Iterator[Token]:
        """Do as `feed`, a token at a time; those not taken come first in the next call."""
        self._take(samples)
        return self._tokens()

    def encode(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Encode the next samples: the first half of `feed`.

        Yields audio embeddings [tokens, hidden_size], decoded before the next are asked for.
        """
        self._take(samples)
        yield from self._encode()

    def finish(self) -> list[Token]:
        """Take the end of the audio.

        Append silence for what is still delayed and return the last tokens.
        """
        return list(self.iter_finish())

    def iter_finish(self) -> Iterator[Token]:
        """Do as `finish`, a token at a time, those that `iter_feed` has left first."""
        with self._feeding.turn():
            self._feeding.go_on()
            self._is_ending = True
        return chain(self._tokens(), self._tokens())

    def encode_tail(self) -> Iterator[np.ndarray]:
        """Encode the end of the audio: the first half of `finish`, like `encode`.

        The last position used is the one before the last: its token stands for the end of the
        padded audio. Source: transformers' `generate`, whose length is the number of audio
        embeddings.
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
        """Append samples to those that wait to be encoded."""
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
        """Yield the tokens that are to come of what was fed."""
        yield from self._feeding.tokens(self._decoded)
        if self.finished and self.transcriber.is_closed:
            self.release()

    def _decoded(self) -> Iterator[Token]:
        for audio_embeds in self.encode_tail() if self._is_ending else self._encode():
            yield from self.decode(audio_embeds)

    def release(self) -> None:
        """Let go of the sessions and caches: the stream computes no more and is not saved."""
        for name in ("encoder", "decoder", "encoder_cache", "decoder_cache"):
            self.__dict__.pop(name, None)

    def snapshot(self) -> StreamState:
        """Return all that later tokens depend on.

        On the CPU, views of the stream's own buffers, so that one is to end here.
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
        """Go on where `state` was taken."""
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
        """Write the stream's state.

        `Transcriber.load_stream` goes on from it, in another process too.

        Raises:
            StorageError: the file cannot be written.
            UsageError: tokens of the last feed are still to come; or it is finished, and its
                transcriber is closed.
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
        """Load a saved state; called by `Transcriber.load_stream`.

        Raises:
            ArtifactError: not a saved stream, or one of another artifact, precision, delay or
                context.
        """
        identity = self.transcriber.identity(self.num_delay_tokens)
        most_samples = self._silence + self._margin + self.audio.samples_per_token
        most = 4 * most_samples + sum(cache.nbytes for cache in self._caches.values())
        self.stop_at_eos, state = read_state(Path(path), identity, self._arrays_at, most)
        self.load_state(state)

    @property
    def _caches(self) -> dict[str, KVCache]:
        return {"encoder": self.encoder_cache, "decoder": self.decoder_cache}

    def _arrays_at(self, position: Position) -> list[ArraySpec]:
        """Return the arrays of a stream that stands there, between calls of `feed`.

        Raises:
            ValueError: no stream of this delay stands there.
        """
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
        """Encode what the samples allow, up to `last` positions in all."""
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
        """Sample one token a position.

        Positions of the prompt, and of tokens that are given, run in one call. Decoding is
        speculative: after a blank a call also verifies blanks as drafts for those that follow.

        A draft token costs less than a call of its own, because a call reads all weights for
        however many positions. What follows a rejected draft token is run again.
        """
        cache, blank, at = self.decoder_cache, self.ids.streaming_pad, 0
        while at < len(audio_embeds):
            in_prompt = self.prompt_length - cache.position
            token_ids = [self.next_id, *self._ids_ahead(len(audio_embeds) - at)]
            sampled = self._step(token_ids, audio_embeds[at : at + len(token_ids)])
            if in_prompt > 0:  # positions whose token is not asked for
                sampled = sampled[-1:] if cache.position >= self.prompt_length else []
                at += len(token_ids) - len(sampled)
                self.timings.steps += len(token_ids) - len(sampled)
                self.next_id = blank
            for i, each in enumerate(sampled):
                behind = len(sampled) - i - 1
                is_given = bool(self._given)
                if is_given:
                    each = SampledToken(self._given.popleft(), 0.0, 0.0)
                # Calls of one position decide, or speed would change text
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
        # The position whose token is the next one
        first_asked = self.prompt_length - 1 + self.num_generated
        next_row = first_asked - self.decoder_cache.position
        penalties = [self.blank_penalty(max(0, row - next_row)) for row in range(len(token_ids))]
        delay, cache = self.num_delay_tokens, self.decoder_cache
        sampled = self.decoder.step(cache, token_ids, audio_embeds, delay, penalties, self.sample)
        self.timings.decode_seconds += perf_counter() - began
        return sampled

    def _ids_ahead(self, left: int) -> list[int]:
        """Return what follows the next token in a call, where `left` positions can be run.

        It is the prompt's rest, given tokens, or blanks as drafts behind a blank.
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
        """Let the next tokens be these, which another stream has written, and not sampled."""
        self._given.extend(token_ids)

    @property
    def num_known(self) -> int:
        """Return how many of the next positions need no sampling: the prompt's, the given ones."""
        return max(0, self.prompt_length - self.decoder_cache.position) + len(self._given)

    def blank_penalty(self, ahead: int = 0) -> float:
        """Return what the blank's logit loses so many positions ahead."""
        return blank_penalty(self.blanks + ahead) if self.guard else 0.0

    def accept_token(self, sampled: SampledToken) -> Token:
        """Take a sampled token as that of the next position."""
        self.timings.steps += 1
        self.next_id = sampled.token_id
        self.num_swayed += sampled.is_swayed
        if self.sampler:
            self.sampler.accept_token(sampled.token_id)
        if sampled.token_id == self.ids.streaming_pad:
            self.blanks += 1
        else:
            if sampled.blank_margin > 0 and not sampled.is_swayed:
                self.overrides.append(
                    Override(
                        self.num_generated, self.blanks, sampled.blank_margin, self.blank_penalty()
                    )
                )
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
        """Return where in the audio a generated token stands.

        Its end, the delay taken off (left pad and delay cancel).
        """
        return (index + 1) * self.audio.samples_per_token / self.audio.sample_rate
