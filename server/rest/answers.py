"""Transcripts as OpenAI's API gives them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from math import ceil
from typing import Any, Literal

from pydantic import BaseModel, Field

from ...runtime.text.captions import cues, in_milliseconds
from ...runtime.text.segments import Segment
from ...runtime.text.tokenizer import Tokenizer
from ...runtime.tokens import Token
from ...runtime.transcript import Transcript

UNKNOWN = "und"  # ISO 639-2: undetermined


class Usage(BaseModel):
    """The amount of audio that was transcribed."""

    type: Literal["duration"] = "duration"
    seconds: float


class Logprob(BaseModel):
    """A token and how likely it was."""

    token: str
    bytes: list[int]
    logprob: float


class Transcription(BaseModel):
    """The answer in `json`."""

    text: str
    usage: Usage
    logprobs: list[Logprob] | None = None
    warnings: list[str] | None = Field(
        default=None,
        description="An extension: what of the request or of the recording was left out.",
    )


class Delta(BaseModel):
    """An event with text that follows the text before."""

    type: Literal["transcript.text.delta"] = "transcript.text.delta"
    delta: str
    logprobs: list[Logprob] | None = None


class Done(Transcription):
    """The last event, with all text."""

    type: Literal["transcript.text.done"] = "transcript.text.done"


class VerboseSegment(BaseModel):
    """A sentence, or as much of it as subtitles show at a time."""

    id: int
    seek: int = Field(default=0, description="0: the model hears a recording in one piece.")
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float = 0.0
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float | None = Field(default=None, description="null: the model does not tell.")
    channel: int | None = Field(
        default=None, description="An extension, with channels=split; from 0."
    )


class Word(BaseModel):
    """A word, sometimes a few that the model writes in one go.

    The model marks where it ends. `start` is the end of the word before, at most 0.8 s earlier.
    """

    word: str
    start: float
    end: float
    channel: int | None = Field(
        default=None, description="An extension, with channels=split; from 0."
    )


class VerboseTranscription(BaseModel):
    """The answer in `verbose_json`."""

    task: Literal["transcribe"] = "transcribe"
    language: str = Field(default=UNKNOWN, description="`und`: the model does not tell.")
    duration: float
    text: str
    segments: list[VerboseSegment] | None = None
    words: list[Word] | None = None
    usage: Usage
    warnings: list[str] | None = Field(default=None, description="As in `json`.")


class MistralUsage(BaseModel):
    """The amount of audio that was transcribed, in seconds begun."""

    prompt_audio_seconds: int


class MistralSegment(BaseModel):
    """A sentence or a word."""

    type: Literal["transcription_segment"] = "transcription_segment"
    text: str
    start: float
    end: float


class MistralTranscription(BaseModel):
    """The answer to Mistral's clients."""

    model: str
    text: str
    language: None = Field(default=None, description="null: the model does not tell.")
    usage: MistralUsage
    segments: list[MistralSegment] | None = None
    warnings: list[str] | None = Field(default=None, description="As in `json`.")


def usage(duration: float) -> Usage:
    """Return the usage of a recording of so many seconds."""
    return Usage(seconds=round(duration, 3))


def verbose(
    transcript: Transcript, granularities: Sequence[str], warnings: list[str]
) -> VerboseTranscription:
    """Return a transcript with times."""
    segments = words = None
    if "segment" in granularities or not granularities:
        segments = [_segment(i, cue) for i, cue in enumerate(cues(transcript.segments))]
    if "word" in granularities:
        words = [
            Word(word=each.text.strip(), start=each.start, end=each.end, channel=each.channel)
            for each in in_milliseconds(transcript.segments)
        ]
    return VerboseTranscription(
        duration=round(transcript.duration, 3),
        text=transcript.text,
        segments=segments,
        words=words,
        usage=usage(transcript.duration),
        warnings=warnings or None,
    )


def _segment(number: int, cue: Sequence[Segment]) -> VerboseSegment:
    text = "".join(each.text for each in cue)
    tokens = [token_id for each in cue for token_id in each.token_ids]
    logprob = sum(each.logprob * len(each.token_ids) for each in cue) / len(tokens)
    encoded = text.encode(errors="replace")
    return VerboseSegment(
        id=number,
        start=cue[0].start,
        end=cue[-1].end,
        text=text,
        tokens=tokens,
        avg_logprob=round(logprob, 4),
        compression_ratio=round(len(encoded) / len(zlib.compress(encoded)), 4),  # as whisper's
        channel=cue[0].channel,
    )


def of_mistral(
    transcript: Transcript, model: str, granularities: Sequence[str], warnings: list[str]
) -> MistralTranscription:
    """Return a transcript as Mistral's API gives it.

    Args:
        transcript: whole.
        model: as the client calls it.
        granularities: of the segments: sentences, or words; none without.
        warnings: what was left out.
    """
    segments = None
    if granularities:
        parts = verbose(transcript, granularities[-1:], [])
        found = [(each.text, each.start, each.end) for each in parts.segments or ()]
        found += [(each.word, each.start, each.end) for each in parts.words or ()]
        segments = [MistralSegment(text=text, start=start, end=end) for text, start, end in found]
    return MistralTranscription(
        model=model,
        text=transcript.text,
        usage=MistralUsage(prompt_audio_seconds=ceil(transcript.duration)),
        segments=segments,
        warnings=warnings or None,
    )


def logprobs(tokens: Sequence[Token], tokenizer: Tokenizer) -> list[Logprob]:
    """Return how likely tokens were."""
    return [
        Logprob(
            token=token.text,
            bytes=list(tokenizer.bytes_of(token.token_id)),
            logprob=round(token.logprob, 4),
        )
        for token in tokens
    ]


def json_of(answer: BaseModel) -> dict[str, Any]:
    """Return the JSON object of an answer, without what it does not have."""
    kept = {"no_speech_prob", "language"}
    values = answer.model_dump()

    def lean(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: lean(v) for k, v in value.items() if v is not None or k in kept}
        return [lean(each) for each in value] if isinstance(value, list) else value

    return lean(values)
