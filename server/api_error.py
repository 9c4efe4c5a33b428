"""Errors of the API, in the shape that clients of OpenAI's API read."""

from __future__ import annotations

import logging
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ..errors import AudioError, StorageError, UsageError
from ..escaping import one_line

log = logging.getLogger(__name__)

API = "/v1/"  # below it errors are JSON
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
RETRY_SECONDS = 5  # after which clients may try again


class ApiError(Exception):
    """An answer with an error instead of what was asked for."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    @property
    def body(self) -> dict[str, Any]:
        """Return the JSON object that says it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        fields = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": fields}

    def answer(self) -> JSONResponse:
        """Return the response that says it."""
        retry = {"Retry-After": str(RETRY_SECONDS)} if self.status in (429, 503) else {}
        return JSONResponse(self.body, self.status, {**HEADERS, **retry})


def refusal_of(error: Exception) -> ApiError:
    """Return what to tell a client of an error; of a fault of ours nothing but that there is one.

    The log has the rest.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, AudioError):
        return ApiError(one_line(str(error)), param="file", code="invalid_audio")
    if isinstance(error, UsageError):
        return ApiError(one_line(str(error)))
    is_lack = isinstance(error, StorageError | OSError)
    trace = None if is_lack else error
    log.error("a request failed: %s: %s", type(error).__name__, error, exc_info=trace)
    if is_lack:
        return ApiError("the server has no room for the file; try again later", status=503)
    return ApiError("the server failed; its log says why", status=500, code="internal_error")


async def answer_error(request: Request, error: Exception) -> Response:
    """Return the answer to a request that has raised an error."""
    if isinstance(error, HTTPException):
        if not request.url.path.startswith(API):
            return PlainTextResponse(error.detail, error.status_code, error.headers)
        refusal = ApiError(error.detail, status=error.status_code)
        answer = refusal.answer()
        answer.headers.update(error.headers or {})
        return answer
    return refusal_of(error).answer()
