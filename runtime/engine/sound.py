"""The encoder's inputs for recordings, made in threads ahead of the calls that take them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np

from ..audio.files import AudioSource
from ..audio.samples import check_samples
from ..audio.vad import SpeechFilter
from ..device.cache import angles
from ..model import LoadedModel

CHUNKS_AHEAD = 2  # calls of the encoder whose inputs are ready


@dataclass(frozen=True, slots=True)
class Chunk:
    """The inputs of one call of the encoder that do not depend on its cache."""

    tokens: int  # to be taken from its output
    feeds: dict[str, np.ndarray]  # input_features, cos, sin
    is_last: bool  # of the recording


class Sound:
    """One recording as chunks: it is read, resampled and made mel frames of, a bit at a time."""

    def __init__(
        self,
        model: LoadedModel,
        source: AudioSource,
        num_delay_tokens: int,
        speech_filter: SpeechFilter | None = None,
    ):
        self.source, self.speech_filter = source, speech_filter
        # Held while the filter takes sound, or lets tokens pass
        self.filter_lock = Lock()
        self._model, self._delay = model, num_delay_tokens
        self._chunks = self._made()
        self._ready = deque[Chunk]()
        self._is_reading = False
        self.error: Exception | None = None
        self.is_read = False  # no chunk follows those that are ready
        # Called by the thread that reads, with the samples of each block, and after the last
        self.on_samples: Callable[[np.ndarray], None] = lambda samples: None
        self.on_end: Callable[[], None] = lambda: None

    @property
    def is_ready(self) -> bool:
        """Return whether `take` has something to return or to raise."""
        return bool(self._ready) or self.error is not None or self.is_read

    @property
    def most_places(self) -> int:
        """Return how many positions its decoder takes at most, by the length that is told."""
        audio, rules = self._model.manifest.config.audio, self._model.manifest.streaming
        tokens = int(self.source.duration * audio.sample_rate / audio.samples_per_token) + 2
        return tokens + rules.left_pad_tokens + self._delay + rules.right_pad_tokens

    def take(self) -> Chunk | None:
        """Return the next chunk; None after the last.

        Raises:
            Exception: what reading has raised.
        """
        if self._ready:
            return self._ready.popleft()
        if self.error:
            raise self.error
        return None

    def read_ahead(self, pool: ThreadPoolExecutor, told: Callable[[], None]) -> None:
        """Let a thread make chunks, unless enough are ready; it calls `told` when it has."""
        if self._is_reading or self.is_read or self.error or len(self._ready) >= CHUNKS_AHEAD:
            return
        self._is_reading = True
        pool.submit(self._read, told)

    def _read(self, told: Callable[[], None]) -> None:
        try:
            while len(self._ready) < CHUNKS_AHEAD:
                if (chunk := next(self._chunks, None)) is None:
                    self.is_read = True
                    break
                self._ready.append(chunk)
        except Exception as error:
            self.error = error
        self._is_reading = False
        told()

    def _blocks(self) -> Iterator[np.ndarray]:
        """Yield the samples in blocks, which the speech filter has taken."""
        for block in self.source.blocks():
            samples = check_samples(block)
            if self.speech_filter:
                with self.filter_lock:
                    self.speech_filter.push(samples)
            self.on_samples(samples)
            yield samples
        self.on_end()

    def _made(self) -> Iterator[Chunk]:
        """Yield the chunks from the end of the silence before the audio, as a stream encodes it."""
        # Begin with what is left of the silence
        rules, audio = self._model.manifest.streaming, self._model.manifest.config.audio
        grid, per_token = self._model.grid, audio.samples_per_token
        margin = rules.look_back_samples + rules.look_ahead_samples
        silence = rules.look_back_samples + (rules.left_pad_tokens - grid.first) * per_token
        waiting, count = [np.zeros(silence, np.float32)], silence
        position, num_samples = grid.first, 0

        def chunk(tokens: int, samples: np.ndarray, *, is_last: bool = False) -> Chunk:
            size = grid.call_size(tokens)
            samples = np.pad(samples, (0, size * per_token + margin - len(samples)))
            return Chunk(tokens, self._feeds(position, samples), is_last)

        # Make a chunk as soon as all its samples are there
        for block in self._blocks():
            num_samples += len(block)
            waiting.append(block)
            count += len(block)
            size = grid.next_end(position) - position
            if count < size * per_token + margin:
                continue
            samples = np.concatenate(waiting)
            while len(samples) >= (size := grid.next_end(position) - position) * per_token + margin:
                yield chunk(size, samples[: size * per_token + margin])
                samples, position = samples[size * per_token :], position + size
            waiting, count = [samples], len(samples)

        # Go on with silence to the last position, whose audio embedding is not used
        pad_tokens = self._delay + rules.right_pad_tokens
        last = rules.left_pad_tokens + -(-num_samples // per_token) + pad_tokens - 1
        samples = np.concatenate(waiting)
        while position < last:
            size = min(grid.next_end(position), last) - position
            is_last = position + size == last
            yield chunk(size, samples[: size * per_token + margin], is_last=is_last)
            samples, position = samples[size * per_token :], position + size

    def _feeds(self, position: int, samples: np.ndarray) -> dict[str, np.ndarray]:
        """Return the inputs of a call from a position on, in tokens."""
        encoder = self._model.encoder
        features = encoder.mel.run({"audio": samples[None]})
        rows = features.shape[2] // 2  # the first convolutions halve the rate
        first = position * encoder.spec.rows_per_token
        cos, sin = angles(encoder.spec, np.arange(first, first + rows), encoder.dtype)
        return {"input_features": features, "cos": cos[None], "sin": sin[None]}
