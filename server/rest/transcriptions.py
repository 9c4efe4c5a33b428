"""OpenAI's REST API for transcription: files become text, at once or as it is decoded."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ...escaping import one_line, quoted
from ...runtime.audio.files import AudioSource
from ...runtime.text.captions import render
from ...runtime.tokens import Token
from ...runtime.transcript import Transcript
from ..api_error import HEADERS, ApiError, refusal_of
from ..engines import Engines, Work
from ..names import names_of
from .answers import (
    Delta,
    Done,
    MistralTranscription,
    Transcription,
    VerboseTranscription,
    json_of,
    logprobs,
    of_mistral,
    usage,
    verbose,
)
from .form import Fields, form_schema, parse_form, read_form

WARNINGS = "Voxtral-Warnings"  # a header, because not all formats have a place for them
GONE = 499  # the status of an answer that nobody takes, as nginx logs it
ALIVE_SECONDS = 15.0  # between two signs of life while no text comes, for proxies
ALIVE = b": working\n\n"
Result = TypeVar("Result")

_ERROR_EXAMPLE = ApiError("file: missing; send the recording as a file", param="file").body
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return how OpenAPI describes errors."""
    content = {"application/json": {"schema": _ERROR_SCHEMA, "example": _ERROR_EXAMPLE}}
    texts = {
        400: "The request says what the model cannot do, or its file is no sound",
        404: "There is no such model",
        415: "The server lacks what it takes to read the file",
        503: "The server is about to end, or its device has failed",
    }
    return {status: {"description": texts[status], "content": content} for status in statuses}


def _schema(answer: type[BaseModel]) -> dict[str, Any]:
    schema = answer.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)  # they are those of other answers
    return schema


_EVENT = {
    "type": "string",
    "contentMediaType": "application/json",
    "contentSchema": {"oneOf": [_schema(Delta), _schema(Done), _ERROR_SCHEMA]},
}
_TEXT = "what is the weather like tomorrow"
_EXAMPLES = {
    "application/json": {"example": {"text": _TEXT, "usage": {"type": "duration", "seconds": 2.1}}},
    "text/plain": {"schema": {"type": "string"}, "example": f"{_TEXT}\n"},
    "text/event-stream": {
        "schema": {"type": "object", "required": ["data"], "properties": {"data": _EVENT}},
        "example": 'data: {"type": "transcript.text.delta", "delta": "what"}\n\n',
    },
}
_ANSWER: dict[str, Any] = {
    "description": "The transcript, as `response_format` and `stream` ask for it",
    "model": Transcription | VerboseTranscription | MistralTranscription,
    "content": _EXAMPLES,
    "headers": {
        WARNINGS: {
            "description": "What of the request or the recording was left out",
            "schema": {"type": "string"},
        }
    },
}


class OpenAIRest:
    """The routes /v1/audio/transcriptions and /v1/models, as OpenAI's clients call them."""

    def __init__(self, engines: Engines, model_name: str):
        """Make the routes.

        Args:
            engines: that transcribe.
            model_name: what clients call the model; it has other names too.
        """
        self.engines, self.model_name, self._created = engines, model_name, int(time.time())
        self.names = names_of(model_name)
        self.router = APIRouter(prefix="/v1", tags=["OpenAI"])
        add = self.router.add_api_route
        add("/models", self.list_models, summary="List the model", response_model=None)
        add(
            "/models/{model:path}",
            self.retrieve_model,
            summary="Describe the model",
            responses=_errors(404),
            response_model=None,
        )
        form = {"multipart/form-data": {"schema": form_schema(self.names)}}
        add(
            "/audio/transcriptions",
            self.transcribe,
            methods=["POST"],
            summary="Transcribe a recording",
            responses={200: _ANSWER, **_errors(400, 404, 415, 503)},
            openapi_extra={"requestBody": {"required": True, "content": form}},
            response_model=None,
        )

    async def list_models(self) -> Response:
        """Return the model by its name; it answers to those of OpenAI's too."""
        return JSONResponse(
            {"object": "list", "data": [self._described(self.model_name)]}, headers=HEADERS
        )

    async def retrieve_model(self, model: str) -> Response:
        """Return the model, by any of its names."""
        self._require_model(model)
        return JSONResponse(self._described(model), headers=HEADERS)

    def _described(self, name: str) -> dict[str, Any]:
        fields = {"id": name, "object": "model", "created": self._created}
        return {**fields, "owned_by": "voxtral-onnx", "root": self.model_name}

    def _require_model(self, name: str) -> None:
        """Refuse names of other models.

        Raises:
            ApiError: it is one.
        """
        if name not in self.names:
            known = ", ".join(self.names)
            message = f"model {quoted(name)}: expected one of {known}"
            raise ApiError(message, status=404, param="model", code="model_not_found")

    async def transcribe(self, request: Request) -> Response:
        """Transcribe a recording.

        The model hears a recording in one piece, of any length and language. What it cannot do is
        refused; `language` is ignored, and `Voxtral-Warnings` says so.
        """
        engines = self.engines
        engines.require_ready()
        try:
            form = await read_form(request)
        except ClientDisconnect:
            return Response(status_code=GONE)
        try:
            return await self._answer(request, *parse_form(form))
        finally:
            await form.close()

    async def _answer(self, request: Request, file: UploadFile, fields: Fields) -> Response:
        """Return the answer to a request with this file and these fields."""
        # Begin
        if fields.model is not None:
            self._require_model(fields.model)

        def make(transcript: Transcript, tokens: list[Token]) -> str | dict[str, Any]:
            return self._result(fields, transcript, tokens)

        work = self.engines.begin(
            file.file,
            make,
            channels=fields.channels,
            hotwords=fields.hotwords,
            is_prompt=fields.stream,
        )

        # Answer when it is read, or when it is done; stop if the client leaves before
        is_streamed = False
        try:
            source = await _while_there(request, work.opened())
            if source is None:
                return Response(status_code=GONE)
            headers = _headers(_warnings(fields, source))
            if is_streamed := fields.stream:
                return EventStream(work, self._events(work, fields), headers)
            result = await _while_there(request, work.finish())
        finally:
            if not is_streamed:
                work.stop()
        if result is None:
            return Response(status_code=GONE)
        if isinstance(result, str):
            return PlainTextResponse(result, headers=headers)
        return JSONResponse(result, headers=headers)

    def _result(
        self, fields: Fields, transcript: Transcript, tokens: Sequence[Token]
    ) -> str | dict[str, Any]:
        """Return a transcript as it is asked for: plain text, or a JSON object."""
        warnings = _warnings(fields, transcript.source)
        if fields.is_of_mistral:
            name = fields.model or self.model_name
            granularities = fields.timestamp_granularities
            return json_of(of_mistral(transcript, name, granularities, warnings))
        if fields.response_format == "verbose_json":
            return json_of(verbose(transcript, fields.timestamp_granularities, warnings))
        if fields.response_format != "json":
            kind = "txt" if fields.response_format == "text" else fields.response_format
            return render(transcript, kind)
        kind = Done if fields.stream else Transcription
        asked = bool(fields.include)
        answer = kind(
            text=transcript.text,
            usage=usage(transcript.duration),
            logprobs=logprobs(tokens, self.engines.tokenizer) if asked else None,
            warnings=warnings or None,
        )
        return json_of(answer)

    async def _events(self, work: Work[Any], fields: Fields) -> AsyncIterator[bytes]:
        """Yield server-sent events with the text as it is decoded, then one with all of it."""
        # Send what each token adds
        sent, held = "", list[Token]()

        def delta(text: str) -> bytes:
            asked = bool(fields.include)
            event = Delta(
                delta=text, logprobs=logprobs(held, self.engines.tokenizer) if asked else None
            )
            held.clear()
            return _event(json_of(event))

        try:
            async for token in work.tokens(ALIVE_SECONDS):
                if token is None:
                    yield ALIVE
                    continue
                held.append(token)
                text = token.text if sent else token.text.removeprefix(" ")
                if text:
                    sent += text
                    yield delta(text)

            # Send all of it
            done = work.result
            assert done and done["text"].startswith(sent)
            if rest := done["text"][len(sent) :]:  # a character that the model has not completed
                yield delta(rest)
            yield _event(done)
        except Exception as error:
            yield _event(refusal_of(error).body)


class EventStream(StreamingResponse):
    """A response of server-sent events, whose work stops when its client leaves."""

    def __init__(self, work: Work[Any], events: AsyncIterator[bytes], headers: Mapping[str, str]):
        super().__init__(events, 200, headers, "text/event-stream")
        self.work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, and stop the work even where that fails."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.work.stop()


async def _while_there(request: Request, awaited: Coroutine[Any, Any, Result]) -> Result | None:
    """Return what is awaited; None if the client has left before."""

    async def leaves() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    found, gone = asyncio.create_task(awaited), asyncio.create_task(leaves())
    try:
        await asyncio.wait({found, gone}, return_when=asyncio.FIRST_COMPLETED)
        return found.result() if found.done() else None
    finally:
        found.cancel()
        gone.cancel()


def _warnings(fields: Fields, source: AudioSource) -> list[str]:
    """Return what of a request and of its recording was left out."""
    return [*fields.warnings, *(f"file: {loss}" for loss in source.losses)]


def _headers(warnings: Sequence[str]) -> dict[str, str]:
    said = "; ".join(map(one_line, warnings)).encode("ascii", "backslashreplace").decode()
    return {**HEADERS, **({WARNINGS: said} if said else {})}


def _event(values: dict[str, Any]) -> bytes:
    """Return a server-sent event; OpenAI's clients look for its type inside."""
    return f"data: {json.dumps(values, ensure_ascii=False)}\n\n".encode()
