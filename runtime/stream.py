"""One stream of audio to tokens: feed any number of samples, get what is decided, finish. Files use the same object."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from ..errors import ArtifactError, AudioError
from ..manifest import write_whole
from .tokenizer import TextDecoder

if TYPE_CHECKING:
    from .transcribe import Transcriber


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token: 80 ms of audio."""

    index: int  # from 0, the prompt not counted
    token_id: int
    text: str  # what this token completes; empty for blanks and inside a character
    end: float  # seconds of audio that this token stands for the end of, the delay taken off
    logprob: float
    blank_margin: float


@dataclass(slots=True)
class Timings:
    """Where the time of a stream went."""

    encode_seconds: float = 0.0
    decode_seconds: float = 0.0
    steps: int = 0  # decoder positions, the prompt's included


class Stream:
    """Audio in, tokens out, at constant memory for any length.

    Identical tokens whatever the sizes of the chunks fed: positions, cache moves and the end depend on the count of
    samples alone. `async for token in stream` gives what is decided from then on, while a thread feeds.
    """

    def __init__(self, transcriber: Transcriber, num_delay_tokens: int, *, stop_at_eos: bool = False):
        """Made by `Transcriber.stream`."""
        manifest = transcriber.manifest
        self.transcriber, self.num_delay_tokens, self.stop_at_eos = transcriber, num_delay_tokens, stop_at_eos
        self.rules, self.audio, self.ids = manifest.streaming, manifest.config.audio, manifest.tokens
        self.encoder_cache = transcriber.encoder.new_cache()
        self.decoder_cache = transcriber.decoder.new_cache()
        self.prompt_length = 1 + self.rules.left_pad_tokens + num_delay_tokens
        self.num_samples = 0  # fed
        self.num_generated = 0
        self.next_id = self.ids.bos
        self.finished = False
        self.text = TextDecoder(transcriber.tokenizer)
        self.timings = Timings()
        self._listener: tuple[asyncio.AbstractEventLoop, asyncio.Queue[Token | None]] | None = None
        silence = self.rules.look_back_samples + self.rules.left_pad_tokens * self.audio.samples_per_token
        self.samples = np.zeros(silence, np.float32)  # from look_back before the next token to encode

    def feed(self, samples: np.ndarray) -> list[Token]:
        """Take the next samples and return the tokens they decide.

        samples: float [n] at the model's rate, mono, full scale 1; any n, zero included.

        Raises:
            AudioError: not such an array, or one with non-finite values; the stream stays as it was.
        """
        return list(self.iter_feed(samples))

    def iter_feed(self, samples: np.ndarray) -> Iterator[Token]:
        """`feed`, a token at a time."""
        if self.finished:
            raise AudioError("the stream is finished; open another with Transcriber.stream()")
        samples = check_samples(samples)
        self.num_samples += len(samples)
        self.samples = np.concatenate((self.samples, samples))
        yield from self._advance()

    def finish(self) -> list[Token]:
        """Take the end of the audio: append silence for what is still delayed and return the last tokens."""
        return list(self.iter_finish())

    def iter_finish(self) -> Iterator[Token]:
        """`finish`, a token at a time.

        The last position used is the one before the last: its token stands for the end of the padded audio.
        Source: transformers' `generate`, whose length is the number of audio embeddings.
        """
        if self.finished:
            return
        per_token = self.audio.samples_per_token
        pad_tokens = self.num_delay_tokens + self.rules.right_pad_tokens
        padding = -self.num_samples % per_token + pad_tokens * per_token + self.rules.look_ahead_samples
        self.samples = np.concatenate((self.samples, np.zeros(padding, np.float32)))
        num_tokens = self.rules.left_pad_tokens + -(-self.num_samples // per_token) + pad_tokens
        yield from self._advance(last=num_tokens - 1)
        self.finished = True
        self._tell(None)

    def save(self, path: str | Path) -> None:
        """Write the stream's state; `Transcriber.load_stream` goes on from it, in another process too.

        Raises:
            StorageError: the file cannot be written.
        """
        state = {
            "identity": self.transcriber.identity(self.num_delay_tokens),
            "stop_at_eos": self.stop_at_eos,
            "num_samples": self.num_samples,
            "num_generated": self.num_generated,
            "next_id": self.next_id,
            "finished": self.finished,
            "text": self.text.state(),
        }
        arrays = {"samples": self.samples}
        for name, cache in (("encoder", self.encoder_cache), ("decoder", self.decoder_cache)):
            state[f"{name}_position"] = cache.position
            arrays |= {f"{name}_{i}": rows for i, rows in enumerate(cache.save())}
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, state=np.array(json.dumps(state)), **arrays)
        write_whole(Path(path), content.getvalue())

    def restore(self, path: str | Path) -> None:
        """Take over a saved state; called by `Transcriber.load_stream`.

        Raises:
            ArtifactError: not a saved stream, or one of another artifact, precision, delay or context.
        """
        try:
            with Path(path).open("rb") as file, np.load(file) as saved:
                state = json.loads(str(saved["state"]))
                arrays = {name: saved[name] for name in saved.files if name != "state"}
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise ArtifactError(f"{path}: not a saved stream ({error})") from error
        if state["identity"] != self.transcriber.identity(self.num_delay_tokens):
            raise ArtifactError(
                f"{path}: saved with another artifact, precision, delay or context; open a stream with the same"
            )
        self.stop_at_eos, self.finished, self.next_id = state["stop_at_eos"], state["finished"], state["next_id"]
        self.num_samples, self.num_generated = state["num_samples"], state["num_generated"]
        self.samples = arrays["samples"]
        self.text.restore(state["text"])
        for name, cache in (("encoder", self.encoder_cache), ("decoder", self.decoder_cache)):
            saved = [arrays[f"{name}_{i}"] for i in range(len(cache.states) + len(cache.buffers))]
            cache.restore(state[f"{name}_position"], saved)

    def __aiter__(self) -> Stream:
        self._listener = (asyncio.get_running_loop(), asyncio.Queue())
        if self.finished:
            self._tell(None)
        return self

    async def __anext__(self) -> Token:
        assert self._listener is not None, "iterate with `async for`"
        token = await self._listener[1].get()  # the end too comes this way, behind tokens still on theirs
        if token is None:
            raise StopAsyncIteration
        return token

    def _tell(self, token: Token | None) -> None:
        if self._listener is not None:
            loop, queue = self._listener
            loop.call_soon_threadsafe(queue.put_nowait, token)

    def _advance(self, last: int | None = None) -> Iterator[Token]:
        """Encode and decode what the samples allow, up to `last` positions in all."""
        per_token = self.audio.samples_per_token
        margin = self.rules.look_back_samples + self.rules.look_ahead_samples
        encoder = self.transcriber.encoder
        while not self.finished:
            available = (len(self.samples) - margin) // per_token
            if last is not None:
                available = min(available, last - self.decoder_cache.position)
            tokens = min(available, self.rules.max_chunk_tokens, encoder.max_tokens(self.encoder_cache))
            if tokens <= 0:
                return
            began = perf_counter()
            audio_embeds = encoder.encode(self.encoder_cache, self.samples[: tokens * per_token + margin])
            self.timings.encode_seconds += perf_counter() - began
            self.samples = self.samples[tokens * per_token :]
            yield from self._decode(audio_embeds)

    def _decode(self, audio_embeds: np.ndarray) -> Iterator[Token]:
        """One token a position; the prompt's positions in one call where they stand together."""
        decoder, cache, at = self.transcriber.decoder, self.decoder_cache, 0
        while at < len(audio_embeds):
            in_prompt = self.prompt_length - cache.position
            rows = min(len(audio_embeds) - at, in_prompt, cache.room) if in_prompt > 0 else 1
            blanks = [self.ids.streaming_pad] * (rows - 1)
            began = perf_counter()
            choice = decoder.step(cache, [self.next_id, *blanks], audio_embeds[at : at + rows], self.num_delay_tokens)
            self.timings.decode_seconds += perf_counter() - began
            self.timings.steps += rows
            at += rows
            if cache.position < self.prompt_length:
                self.next_id = self.ids.streaming_pad
                continue
            self.next_id = choice.token_id
            is_end = self.stop_at_eos and choice.token_id == self.ids.eos
            self.finished = is_end
            token = self._token(choice)
            self._tell(token)
            if is_end:
                self._tell(None)
            yield token
            if is_end:
                return

    def _token(self, choice) -> Token:
        index = self.num_generated
        self.num_generated += 1
        end = (index + 1) * self.audio.samples_per_token / self.audio.sample_rate  # spec: left pad and delay cancel
        return Token(index, choice.token_id, self.text.push(choice.token_id), end, choice.logprob, choice.blank_margin)


def check_samples(samples: np.ndarray) -> np.ndarray:
    """The samples as float32 [n].

    Raises:
        AudioError: another shape, an integer type, or a non-finite value.
    """
    array = np.asarray(samples)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.floating):
        raise AudioError(
            f"samples: expected float [n] with full scale 1, got {array.dtype} {list(array.shape)}; "
            "average the channels and divide integers by their full scale"
        )
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise AudioError(f"samples: sample {bad[0]} is {array[bad[0]]}: the recording is damaged")
    return array.astype(np.float32, copy=False)
