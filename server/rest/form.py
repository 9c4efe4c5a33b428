"""The fields of a request to transcribe a file, as OpenAI's API names them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from ...errors import UsageError
from ...escaping import quoted
from ...limits import HOTWORDS, KB
from ...runtime.hotwords import check_lengths
from ..api_error import ApiError

MISTRAL_PATH = "/v1/audio/transcriptions/realtime"
MOST_FIELDS = 2000  # hotwords are a field each
# They say nothing then
MAY_BE_EMPTY = ("context_bias", "keywords", "language", "languages", "model", "prompt")
_NAME = re.compile(r"([a-z_]+)(\[[a-z0-9_]*\])?")  # OpenAI's clients write lists as keywords[]
# Fields of OpenAI's that this model cannot follow, and why
_WITHOUT_SPEAKERS = "the model does not tell speakers apart; channels=split separates channels"
REFUSED = {
    "known_speaker_names": _WITHOUT_SPEAKERS,
    "known_speaker_references": _WITHOUT_SPEAKERS,
}


class Fields(BaseModel):
    """The fields besides the file."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(
        default=None, description="One of /v1/models; by default the one it has."
    )
    response_format: Literal["json", "text", "srt", "vtt", "verbose_json"] = Field(
        default="json",
        description="`diarized_json` is refused: the model does not tell speakers apart.",
    )
    stream: bool = Field(
        default=False,
        description="Send text as it is decoded, as server-sent events; with `json` only.",
    )
    timestamp_granularities: list[Literal["segment", "word"]] = Field(
        default=[], description="Of `verbose_json`; `segment` by default."
    )
    include: list[Literal["logprobs"]] = Field(
        default=[], description="`logprobs` of each token; with `json` only."
    )
    keywords: list[str] = Field(default=[], description="Words and phrases that are made likelier.")
    channels: Literal["mix", "left", "right", "split"] = Field(
        default="mix",
        description="An extension: `split` transcribes each channel on its own, as of a call.",
    )
    chunking_strategy: Literal["auto"] | None = Field(
        default=None, description="Changes nothing: the model hears a recording in one piece."
    )
    temperature: float = Field(
        default=0.0, ge=0.0, le=0.0, description="0: the model's likeliest text is the only one."
    )
    prompt: str | None = Field(
        default=None, max_length=0, description="Refused, as the model takes none; see `keywords`."
    )
    language: str | None = Field(
        default=None, description="Ignored, with a warning: the model detects the language."
    )
    languages: list[str] = Field(default=[], description="Ignored, as `language`.")
    diarize: bool | None = Field(
        default=None,
        description="false, of Mistral's clients, which are answered as Mistral does: the model, "
        "the text and `usage`, with `segments` if `timestamp_granularities` asks for them.",
    )
    context_bias: list[str] = Field(default=[], description="Of Mistral's clients: `keywords`.")

    @property
    def is_of_mistral(self) -> bool:
        """Return whether a client of Mistral's asks, which always says so."""
        return self.diarize is not None

    @property
    def hotwords(self) -> list[str]:
        """Return the words and phrases that are made likelier."""
        return [word for word in (*self.keywords, *self.context_bias) if word.strip()]

    @property
    def warnings(self) -> list[str]:
        """Return a sentence for each field that was taken and not followed."""
        given = [name for name in ("language", "languages") if getattr(self, name)]
        return [f"{name}: ignored, the model detects the language itself" for name in given]


LISTS = {
    name for name, field in Fields.model_fields.items() if get_origin(field.annotation) is list
}


def form_schema(models: Sequence[str] = ()) -> dict[str, Any]:
    """Return the OpenAPI schema of the form, of a server with models of these names."""
    schema = Fields.model_json_schema()
    binary = {"type": "string", "format": "binary", "description": "Of any format, sound or film."}
    properties = {"file": binary}
    for name, value in schema["properties"].items():
        if "anyOf" in value:  # a form has no null: fields are left out
            (one,) = (each for each in value.pop("anyOf") if each != {"type": "null"})
            value |= one
            del value["default"]
        if name == "model":
            value["enum"] = list(models)
        properties[f"{name}[]" if name in LISTS else name] = value
    return {
        "type": "object",
        "properties": properties,
        "required": ["file"],
        "additionalProperties": False,
    }


async def read_form(request: Request) -> FormData:
    """Return the form that a request has; files are spooled to temporary ones.

    Raises:
        ApiError: it has none, or one that cannot be read.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise ApiError(
            f"expected a body of multipart/form-data, got {quoted(kind) if kind else 'none'}"
        )
    limits = {"max_files": 1, "max_fields": MOST_FIELDS, "max_part_size": HOTWORDS + KB}
    try:
        return await request.form(**limits)
    except HTTPException as error:
        raise ApiError(f"the form cannot be read: {error.detail}") from error
    except (ValueError, UnicodeError) as error:
        raise ApiError("the form cannot be read: it is no multipart/form-data") from error


def parse_form(form: FormData) -> tuple[UploadFile, Fields]:
    """Return the file and the other fields of a form.

    Raises:
        ApiError: the file is missing, a field is unknown, or its value is one that it cannot have.
    """
    # Sort the fields by name
    file: UploadFile | None = None
    given = defaultdict[str, list[str]](list)
    for label, value in form.multi_items():
        found = _NAME.fullmatch(label)
        name = found[1] if found else label
        if isinstance(value, UploadFile) != (name == "file"):
            expected = "a file with its name" if name == "file" else "text, got a file"
            raise _refused(name, f"expected {expected}")
        if isinstance(value, UploadFile):
            file = value
        elif name in REFUSED:
            raise _refused(name, REFUSED[name])
        elif value.strip() or name not in MAY_BE_EMPTY:
            if given[name] and name not in LISTS:
                raise _refused(name, "expected once, got several")
            given[name].append(value)
        if found and found[2] and name not in LISTS:
            raise _refused(name, f"expected {_expected(name)}, got {quoted(label)}")
    if file is None:
        raise ApiError("file: missing; send the recording as a file", param="file")

    # Check what they say
    values = {name: texts if name in LISTS else texts[0] for name, texts in given.items()}
    if values.get("response_format") == "diarized_json":
        raise _refused("response_format", f"diarized_json: {_WITHOUT_SPEAKERS}")
    if "prompt" in values:
        raise _refused("prompt", "the model takes none; words that it should know are `keywords[]`")
    try:
        fields = Fields.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        if name not in Fields.model_fields:
            raise _refused(name, f"unknown; expected some of {', '.join(_names())}") from error
        got = f"got {quoted(first['input'])}"
        raise _refused(name, f"expected {_expected(name)}, {got}") from error
    _check(fields)
    return file, fields


def _check(fields: Fields) -> None:
    """Refuse keywords that are too long, and fields that exclude each other.

    Raises:
        ApiError: some are, or do.
    """
    for name, words in (("keywords", fields.keywords), ("context_bias", fields.context_bias)):
        try:
            check_lengths(words)
        except UsageError as error:
            raise _refused(name, str(error)) from error
    if fields.diarize:
        raise _refused("diarize", _WITHOUT_SPEAKERS)
    kind = fields.response_format
    if fields.is_of_mistral and (fields.stream or kind != "json"):
        name = "stream" if fields.stream else "response_format"
        raise _refused(
            name, f"not with diarize, of Mistral's clients, whose text comes live at {MISTRAL_PATH}"
        )
    if fields.timestamp_granularities and kind != "verbose_json" and not fields.is_of_mistral:
        raise _refused("timestamp_granularities", "belongs to response_format=verbose_json")
    for name, value in (("stream", fields.stream), ("include", fields.include)):
        if value and kind != "json":
            raise _refused(name, f"belongs to response_format=json, got {kind}")
        if value and fields.channels == "split":
            raise _refused(name, "channels=split has turns, which are known at the end only")


def _expected(name: str) -> str:
    """Return what a field may say, as messages put it."""
    values = form_schema()["properties"].get(f"{name}[]" if name in LISTS else name, {})
    values = values.get("items", values)
    if "enum" in values:
        return f"one of {', '.join(values['enum'])}"
    if "const" in values:
        return str(values["const"])
    return {
        "temperature": "0, as the model has no other",
        "stream": "true or false",
        "diarize": "false",
    }.get(name, "text")


def _names() -> list[str]:
    return ["file", *(f"{name}[]" if name in LISTS else name for name in Fields.model_fields)]


def _refused(name: str, reason: str) -> ApiError:
    return ApiError(f"{name}: {reason}", param=name)
