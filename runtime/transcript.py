"""Transcripts of recordings, which are decoded as they are iterated."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from threading import RLock
from typing import Any

from ..arguments import Uncopied
from ..errors import UsageError, VoxtralOnnxError
from ..escaping import quoted
from .audio.files import AudioSource
from .audio.vad import SpeechFilter, filtered_blocks
from .delay import delay_ms
from .kept import NOTHING, Kept
from .stream import Stream
from .text.captions import render
from .text.segments import Segment, group, within
from .tokens import Token
from .writer import TokenWriter

_log = logging.getLogger(__name__)


class Transcript(Uncopied):
    """The text, segments and token ids of one recording, decoded as they are needed.

    It may be iterated several times, partly, by several threads, and after its transcriber was
    closed. If decoding fails, every access to segments that are missing raises the same error, so a
    text is never incomplete without an error. `decoded` holds the segments before the failure.
    """

    def __init__(
        self,
        source: AudioSource,
        writer: TokenWriter,
        tokens: Iterator[Token],
        on_token: Callable[[Token], None],
        speech_filter: SpeechFilter | None = None,
        kept: Kept = NOTHING,
    ):
        """Begin a transcript; called by `Transcriber.transcribe`.

        `tokens` are the ones that follow the kept beginning.
        """
        self.source, self.writer, self.model = source, writer, writer.model
        self.duration, self.kept = source.duration, kept
        self.speech_filter, self._tokens, self._on_token = speech_filter, tokens, on_token
        self._token_ids = list(kept.token_ids)
        self._segments = [within(segment, self.duration) for segment in kept.segments]
        self._lock, self._is_decoding = RLock(), False
        self._failure: BaseException | None = None
        self._pending = group(self._taken(), kept.grouper(writer.ids))

    def _taken(self) -> Iterator[Token]:
        for token in self._tokens:
            self._token_ids.append(token.token_id)
            self._on_token(token)
            yield token
        seconds = self.writer.timings.encode_seconds, self.writer.timings.decode_seconds
        _log.debug("%s: encoded in %.2f s, decoded in %.2f s", self.source.name, *seconds)

    def __repr__(self) -> str:
        text = quoted("".join(segment.text for segment in self._segments).strip())
        so_far = f"{len(self._segments)} segments so far, {text}"
        return f"<Transcript of {quoted(self.source.name)}: {self.duration:.2f} s, {so_far}>"

    def __iter__(self) -> Iterator[Segment]:
        """Yield all segments, decoding those that are not decoded yet."""
        count = 0
        while True:
            with self._lock:  # threads take turns
                if count == len(self._segments) and not self._decode_segment():
                    return
            yield self._segments[count]
            count += 1

    def _decode_segment(self) -> bool:
        """Decode the next segment, and return whether there was one.

        Raises:
            Exception: the one that decoding has raised, now or before.
            VoxtralOnnxError: decoding was interrupted before.
            UsageError: called by `on_token`, while a segment is being decoded.
        """
        # Refuse to go on where that cannot be
        if self._is_decoding:
            raise UsageError(
                "on_token: segments that are not decoded yet cannot be accessed while one is being "
                "decoded; `decoded` holds the segments so far"
            )
        if isinstance(self._failure, Exception):
            raise self._failure
        if self._failure is not None:
            raise VoxtralOnnxError(
                f"{self.source.name}: decoding was interrupted; transcribe it again, or take the "
                "segments so far from `decoded`"
            ) from self._failure

        # Decode
        self._is_decoding = True
        try:
            segment = next(self._pending, None)
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._is_decoding = False
        if segment is not None:
            self._segments.append(within(segment, self.duration))
        return segment is not None

    @property
    def parts(self) -> tuple[Transcript, ...]:
        """Return a transcript for each channel that was transcribed separately, else itself."""
        return (self,)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Return the channels' names if each was transcribed separately, else nothing."""
        return ()

    @property
    def decoded(self) -> list[Segment]:
        """Return the segments decoded so far, and decode nothing."""
        return list(self._segments)

    @property
    def num_tokens(self) -> int:
        """Return the number of token ids so far, and decode nothing."""
        return len(self._token_ids)

    @property
    def segments(self) -> list[Segment]:
        """Decode what is left, and return all segments."""
        return list(self)

    @property
    def text(self) -> str:
        """Decode what is left, and return the whole text."""
        return self.model.tokenizer.decode(list(self.token_ids))

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Decode what is left, and return the generated token ids, one for every 80 ms."""
        for _ in self:
            pass
        return tuple(self._token_ids)

    def to_srt(self) -> str:
        """Decode what is left, and return SubRip subtitles (.srt)."""
        return render(self, "srt")

    def to_vtt(self) -> str:
        """Decode what is left, and return WebVTT subtitles (.vtt)."""
        return render(self, "vtt")

    def to_tsv(self) -> str:
        """Decode what is left, and return a table: start and end in ms, text, between tabs."""
        return render(self, "tsv")

    def to_json(self) -> str:
        """Decode what is left, and return a line of JSON with everything, `info` included."""
        return render(self, "json")

    @property
    def losses(self) -> tuple[str, ...]:
        """Return sentences about parts of the recording that could not be read.

        Their words are missing from the text.
        """
        return self.source.losses

    @property
    def info(self) -> dict[str, Any]:
        """Return the model, device and options that ran, losses, and the time so far."""
        model, writer = self.model, self.writer
        timings, options = writer.timings, writer.options
        seconds = timings.encode_seconds + timings.decode_seconds
        heard = self.duration - self.kept.heard_from
        resumed_at = [round(each, 3) for each in self.kept.resumed_at]
        return {
            "losses": list(self.losses),
            "precision": model.precision,
            "device": model.device_name,
            "delay_ms": delay_ms(model.manifest, options.num_delay_tokens),
            "context": model.context,
            "blank_guard": len(writer.overrides) if options.blank_guard else None,
            "hotwords": writer.num_swayed if options.hotwords else None,
            "vad": self.speech_filter.summary() if self.speech_filter else None,
            "batch": writer.batch() if writer.batch else None,
            "encode_ms": round(1000 * timings.encode_seconds, 1),
            "decode_ms": round(1000 * timings.decode_seconds, 1),
            "rtf": round(seconds / heard, 4) if heard else None,
            "tokens_per_second": round(timings.steps / seconds, 1) if seconds else None,
            **({"resumed_at": resumed_at} if resumed_at else {}),
        }


def decode(
    stream: Stream, source: AudioSource, speech_filter: SpeechFilter | None
) -> Iterator[Token]:
    """Yield the tokens of a recording as a stream decodes them."""
    for block in filtered_blocks(source, speech_filter):
        yield from stream.iter_feed(block)
        if stream.finished:  # the model has written its end-of-text token
            return
    yield from stream.iter_finish()
