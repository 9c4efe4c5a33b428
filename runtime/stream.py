"""A stream, which turns samples into tokens as they come; recordings are streams as well."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from ..arguments import PATH, Uncopied, accepts
from ..errors import AudioError, UsageError
from .audio.samples import check_samples
from .device.cache import KVCache
from .feeding import Feeding, Reader
from .grid import EncoderGrid
from .model import LoadedModel
from .starts import kept_start
from .stream_state import ArraySpec, Position, StreamState, read_state, write_state
from .tokens import Override, SampledToken, Token
from .writer import StreamOptions, Timings, TokenWriter


class Sampler(Protocol):
    """A sampler of a stream's tokens from logits, instead of the graph."""

    recent: list[int]

    def sample(self, logits: np.ndarray, blank_penalty: float) -> SampledToken:
        """Return the token of a position from its logits, float32 [vocab_size]."""
        ...

    def accept_token(self, token_id: int) -> None:
        """Take the token that was written."""
        ...


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
        model: LoadedModel,
        options: StreamOptions,
        *,
        sampler: Sampler | None = None,
        grid: EncoderGrid | None = None,
    ):
        """Open a stream; called by `Transcriber.stream`.

        Args:
            model: what it computes with, which outlives the transcriber's being closed.
            options: how it decodes.
            sampler: samples from the logits; None leaves that to the graph.
            grid: of the encoder's calls for a recording; None encodes what has come.
        """
        # What it computes with
        manifest = model.manifest
        self.model, self.options, self._closed = model, options, model.closed
        self.encoder, self.decoder = model.encoder, model.decoder
        self.num_delay_tokens = options.num_delay_tokens
        self.rules = manifest.streaming
        self.audio = manifest.config.audio
        self.ids = manifest.tokens
        self.grid = grid
        self.encoder_cache = self.encoder.new_cache(grid and grid.spec)
        self.decoder_cache = self.decoder.new_cache()
        self.prompt_length = 1 + self.rules.left_pad_tokens + options.num_delay_tokens

        # Where it is
        self.num_samples = 0  # fed
        self.next_id = self.ids.bos
        self.sampler, self.sample = sampler, sampler.sample if sampler else None
        self.writer = TokenWriter(model.facts, options)
        self.finished = False
        self._given = deque[int]()  # ids that are known and replace those of the next positions
        self._feeding, self._is_ending = Feeding(model.require_own_process), False

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

    @property
    def num_generated(self) -> int:
        """Return the number of tokens so far, the prompt's not counted."""
        return self.writer.num_generated

    @property
    def num_encoded_samples(self) -> int:
        """Return the number of samples that the encoder has taken of those fed so far."""
        return max(0, self.num_samples - len(self.samples))

    @property
    def overrides(self) -> list[Override]:
        """Return where the blank guard has changed the text."""
        return self.writer.overrides

    @property
    def timings(self) -> Timings:
        """Return the time that the stream has spent so far."""
        return self.writer.timings

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

    def finish(self) -> list[Token]:
        """End the audio, and return the last tokens, which follow it by the delay."""
        return list(self.iter_finish())

    def iter_finish(self) -> Iterator[Token]:
        """Yield the tokens of `finish` one by one, after those that `iter_feed` has left."""
        with self._feeding.turn():
            self._feeding.go_on()
            self._is_ending = True
        return chain(self._tokens(), self._tokens())

    def _encode_tail(self) -> Iterator[np.ndarray]:
        """Encode the end of the audio, which is the first half of `finish`.

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
        if self.finished and self._closed.is_set():
            self.release()

    def _decoded(self) -> Iterator[Token]:
        for audio_embeds in self._encode_tail() if self._is_ending else self._encode():
            yield from self.decode(audio_embeds)

    def release(self) -> None:
        """Free the sessions and caches, after which the stream can neither go on nor be saved."""
        for name in ("model", "encoder", "decoder", "encoder_cache", "decoder_cache"):
            self.__dict__.pop(name, None)

    def snapshot(self) -> StreamState:
        """Return everything that later tokens depend on.

        On the CPU these are views of the stream's buffers, valid until it is fed again.
        """
        position = Position(
            num_samples=self.num_samples,
            num_generated=self.num_generated,
            next_id=self.next_id,
            blanks=self.writer.blanks,
            finished=self.finished,
            recent=tuple(self.sampler.recent) if self.sampler else (),
            pending=self.writer.text.pending.hex(),
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
        self.num_samples, self.writer.num_generated = position.num_samples, position.num_generated
        self.next_id, self.writer.blanks = position.next_id, position.blanks
        self.finished = position.finished
        self.writer.text.restore(bytes.fromhex(position.pending))
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
            identity = self.model.identity(self.num_delay_tokens, self.grid)
            write_state(Path(path), identity, self.options.stop_at_eos, state)

    def restore(self, path: str | Path) -> None:
        """Load a saved state; called by `Transcriber.load_stream`, whose errors are its own."""
        identity = self.model.identity(self.num_delay_tokens, self.grid)
        self.load_state(self.read(Path(path), identity))

    def read(self, path: Path, identity: str) -> StreamState:
        """Return a saved state with this identity, checked as `read_state` does."""
        most_samples = self._silence + self._margin + self.audio.samples_per_token
        most = 4 * most_samples + sum(cache.nbytes for cache in self._caches.values())
        return read_state(path, identity, self._arrays_at, most)[1]

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
            or position.next_id >= self.model.manifest.config.decoder.vocab_size
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
        per_token, cache = self.audio.samples_per_token, self.encoder_cache
        while not self.finished:
            self.model.weights.require_unchanged()
            position = cache.position // cache.spec.rows_per_token
            available = (len(self.samples) - self._margin) // per_token
            if last is not None:
                available = min(available, last - position)
            most = min(self.rules.max_chunk_tokens, self.encoder.max_tokens(cache))
            if self.grid:
                most = self.grid.next_end(position) - position
            tokens = min(available, most)
            if tokens <= 0 or (self.grid and tokens < most and last is None):
                return
            began = perf_counter()
            samples = self.samples[: tokens * per_token + self._margin]
            if self.grid and last is not None:
                padding = (self.grid.call_size(tokens) - tokens) * per_token
                samples = np.pad(samples, (0, padding))
            audio_embeds = self.encoder.encode(cache, samples)[:tokens]
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
        rows = range(len(token_ids))
        penalties = [self.writer.blank_penalty(max(0, row - next_row)) for row in rows]
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
        most = min(most, self.decoder_cache.slots_left - 2)
        return [blank] * max(0, min(self.options.num_draft_tokens, most))

    def give(self, token_ids: Sequence[int]) -> None:
        """Use these ids, which another stream has written, for the next tokens."""
        self._given.extend(token_ids)

    def accept_token(self, sampled: SampledToken) -> Token:
        """Accept a token as that of the next position, and publish it to readers."""
        self.next_id = sampled.token_id
        if self.sampler:
            self.sampler.accept_token(sampled.token_id)
        self.timings.steps += 1
        token = self.writer.write(sampled)
        self.finished = self.writer.finished
        self._feeding.publish(token)
        if self.finished:
            self._feeding.publish(None)
        return token


def silent_start(
    model: LoadedModel, num_delay_tokens: int, grid: EncoderGrid | None
) -> StreamState:
    """Return the state of a stream after the silence that precedes all audio.

    It is computed once for each delay, and on the CPU kept for later runs.
    """
    key = num_delay_tokens, grid is not None
    if key not in model.starts:
        silent = Stream(model, StreamOptions(num_delay_tokens), grid=grid)

        def compute() -> StreamState:
            silent.feed(np.zeros(0, np.float32))
            return silent.snapshot().copy()  # later streams use the buffers again

        model.starts[key] = kept_start(model, num_delay_tokens, grid, silent.read, compute)
    return model.starts[key]
