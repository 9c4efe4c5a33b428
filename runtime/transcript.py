"""Text, segments and token ids of one audio source, decoded as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .audio.files import AudioSource
from .audio.vad import SpeechFilter
from .delay import delay_ms
from .stream import Stream
from .text.segments import Segment, group, within
from .tokens import Token


class Transcript:
    """Text, segments and token ids of one audio source, decoded as they are asked for."""

    def __init__(
        self,
        source: AudioSource,
        stream: Stream,
        tokens: Iterator[Token],
        on_token: Callable[[Token], None],
        speech_filter: SpeechFilter | None = None,
    ):
        """Made by `Transcriber.transcribe`."""
        self.source, self.stream, self.transcriber = source, stream, stream.transcriber
        self.duration = source.duration
        self.speech_filter, self._tokens, self._on_token = speech_filter, tokens, on_token
        self._token_ids: list[int] = []
        self._segments: list[Segment] = []
        self._pending = group(self._taken(), stream.ids)

    def _taken(self) -> Iterator[Token]:
        for token in self._tokens:
            self._token_ids.append(token.token_id)
            self._on_token(token)
            yield token

    def __iter__(self) -> Iterator[Segment]:
        """Yield the segments, the decoded ones first."""
        count = 0
        while True:
            if count == len(self._segments):
                segment = next(self._pending, None)
                if segment is None:
                    return
                self._segments.append(within(segment, self.duration))
            yield self._segments[count]
            count += 1

    @property
    def decoded(self) -> list[Segment]:
        """Return the segments so far; decodes nothing."""
        return list(self._segments)

    @property
    def segments(self) -> list[Segment]:
        """Decode and return all segments."""
        return list(self)

    @property
    def text(self) -> str:
        """Decode and return the whole text."""
        return self.transcriber.tokenizer.decode(list(self.token_ids))

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Decode and return the generated ids without the prompt, one for every 80 ms."""
        for _ in self:
            pass
        return tuple(self._token_ids)

    @property
    def info(self) -> dict[str, Any]:
        """Return what ran, and the time it took."""
        timings, transcriber = self.stream.timings, self.transcriber
        seconds = timings.encode_seconds + timings.decode_seconds
        return {
            "precision": transcriber.precision,
            "device": transcriber.device_name,
            "delay_ms": delay_ms(transcriber.manifest, self.stream.num_delay_tokens),
            "context": transcriber.context,
            "blank_guard": len(self.stream.overrides) if transcriber.blank_guard else None,
            "hotwords": self.stream.num_swayed if transcriber.hotwords else None,
            "vad": self.speech_filter.summary() if self.speech_filter else None,
            "encode_ms": round(1000 * timings.encode_seconds, 1),
            "decode_ms": round(1000 * timings.decode_seconds, 1),
            "rtf": round(seconds / self.duration, 4) if self.duration else None,
            "tokens_per_second": round(timings.steps / seconds, 1) if seconds else None,
        }
