"""A live stream of an engine: fed by one thread or task, read by another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import sleep
from typing import Any

from ...arguments import Uncopied
from ...errors import AudioError, DeviceError, UsageError, VoxtralOnnxError
from ..audio.samples import check_samples
from ..writer import TokenWriter
from .live import LiveRecording
from .token_queue import TokenQueue
from .written import Burst, End, Event, Failure

MOST_WAITING = 30.0  # seconds of audio that may wait for the engine before `feed` waits
MOST_UNREAD = 20_000  # tokens that nobody has read, 27 minutes, before a stream ends
POLL_SECONDS = 0.02  # between two looks of a feeder that waits


class EngineStream(Uncopied):
    """A live stream of an `Engine`: samples are fed in pieces of any size, and `events` has tokens.

    Any threads and tasks may feed and read it, feeders one at a time. The tokens do not depend on
    the sizes of the pieces, nor on other streams; docs/streams.md says how exact that is.

    ```python
    with engine.open() as stream:
        stream.feed(samples)
        stream.finish()
        for token in stream.events:
            print(token.text, end="")
    ```
    """

    def __init__(
        self,
        recording: LiveRecording,
        writer: TokenWriter,
        close: Callable[[Exception], None],
        forget: Callable[[Exception], None],
    ):
        """Make a stream; called by `Engine.open`.

        Args:
            recording: that the engine encodes and decodes.
            writer: of its text.
            close: ends it in the engine with an error, unless it has ended.
            forget: does so soon, and may be called by garbage collection.
        """
        self.events = TokenQueue()
        self._recording, self.writer = recording, writer
        self._close, self._forget = close, forget
        self._sample_rate = writer.audio.sample_rate
        self._is_finished = False  # nothing more can be fed
        self._error: Exception | None = None
        self._has_ended = False

    def __repr__(self) -> str:
        state = "failed" if self._error else "ended" if self._has_ended else "open"
        seconds = self.num_samples / self._sample_rate
        return f"<EngineStream, {state}: {seconds:.2f} s fed, {self.writer.num_generated} tokens>"

    def __enter__(self) -> EngineStream:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_has_ended", True):  # it was not refused
            self._forget(_closed())

    @property
    def num_samples(self) -> int:
        """Return the number of samples fed."""
        return self.writer.num_fed(self._recording.num_samples)

    @property
    def num_encoded_samples(self) -> int:
        """Return how many of them the encoder has taken."""
        recording = self._recording
        return self.writer.num_fed(max(0, recording.num_samples - recording.num_waiting))

    @property
    def is_open(self) -> bool:
        """Return whether tokens may still come."""
        return not self._has_ended

    @property
    def has_room(self) -> bool:
        """Return whether `feed` takes samples without waiting."""
        return self._recording.num_waiting < MOST_WAITING * self._sample_rate

    def feed(self, samples: Any) -> None:
        """Take the next samples; wait while more than 30 seconds of them wait for the engine.

        Args:
            samples: array, list or tensor, float [n] of any length, mono, at the model's sample
                rate, full scale 1.

        Raises:
            AudioError: the samples are of another kind or not finite, and the stream stays as it
                was; or it is finished.
            Exception: what has ended the stream.
        """
        checked = self._checked(samples)
        while not self.has_room:
            sleep(POLL_SECONDS)
            self._require_open()
        self._recording.feed(checked)

    async def feed_async(self, samples: Any) -> None:
        """Take the next samples as `feed` does, and let other tasks run while it waits."""
        checked = self._checked(samples)
        while not self.has_room:
            await asyncio.sleep(POLL_SECONDS)
            self._require_open()
        self._recording.feed(checked)

    def finish(self) -> None:
        """End the audio; the last tokens follow it by the delay, then `events` end."""
        self._require_open()
        self._is_finished = True
        self._recording.is_ending = True

    def flush(self) -> int:
        """Let all words that were spoken come at once, as at the end of an utterance.

        The stream hears a moment of silence besides its audio, as long as the delay and 0.9 s; the
        times of later tokens do not count it. More samples may follow.

        Returns:
            how many tokens the stream has when all those words are there.

        Raises:
            AudioError: the stream is finished.
            Exception: what has ended it.
        """
        self._require_open()
        audio, right = self.writer.audio, self.writer.model.manifest.streaming.right_pad_tokens
        tokens, per_token = self._recording.num_delay_tokens + right, audio.samples_per_token
        first = self._recording.put_silence_in(per_token, tokens, self.writer.put_silence_in)
        return -(-first // per_token) + right - 1

    def close(self) -> None:
        """End the stream at once and free its slot; of one that has ended nothing is lost."""
        if not self._has_ended:
            self._close(_closed())

    def _checked(self, samples: Any) -> Any:
        self._require_open()
        return check_samples(samples).copy()

    def _require_open(self) -> None:
        if self._error:
            raise self._error
        if self._is_finished or self._has_ended:
            raise AudioError("the stream is finished; open another with Engine.open()")

    def take(self, event: Event) -> None:
        """Write what the engine has decoded; called by the engine's thread for text.

        Raises:
            DeviceError: the model computed numbers that are not finite.
            UsageError: too many tokens wait to be read.
        """
        if isinstance(event, Failure):
            self.end(event.error if isinstance(event.error, Exception) else _lost(event.error))
        elif isinstance(event, Burst):
            self.writer.timings.decode_seconds += event.seconds
            self.writer.timings.steps += event.steps
            for sampled in event.tokens():
                self.events.put(self.writer.write(sampled))
            if len(self.events) > MOST_UNREAD:
                raise UsageError(
                    f"the stream has {len(self.events)} tokens that nobody reads; iterate over "
                    "its events"
                )
        elif isinstance(event, End):
            self.end()

    def end(self, error: Exception | None = None) -> None:
        """End the stream, with an error unless its text is complete."""
        if not self._has_ended:
            self._has_ended, self._error = True, error
            self.events.end(error)


def _closed() -> VoxtralOnnxError:
    return UsageError("the stream was closed before its end")


def _lost(error: BaseException) -> VoxtralOnnxError:
    return DeviceError(f"the engine was interrupted: {type(error).__name__}")
