"""The application: the page, the API, and what a supervisor asks for, by what there is of them."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from .._version import __version__
from ..errors import VoxtralOnnxError
from .api_error import API, ApiError, answer_error
from .engines import Engines
from .guard.access import OPEN_PATHS, ApiKeys
from .guard.checks import NO_KEYS, guards
from .guard.request_limits import DEFAULT_LIMITS, RequestLimits
from .metrics import Health
from .names import names_of
from .page.site import Site
from .realtime.choice import AUTO
from .realtime.mistral import MistralRoute
from .realtime.refusals import BrowserRefusal
from .realtime.routes import Realtime
from .rest.transcriptions import OpenAIRest

MODEL_NAME = "voxtral-mini-4b-realtime"
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def build_app(
    engines: Engines | None = None,
    site: Site | None = None,
    *,
    model_name: str = MODEL_NAME,
    keys: ApiKeys = NO_KEYS,
    allowed_hosts: Sequence[str] = (),
    allowed_origins: Sequence[str] = (),
    limits: RequestLimits = DEFAULT_LIMITS,
    dialect: str = AUTO,
    lack: str | None = None,
) -> FastAPI:
    """Return an ASGI application.

    Args:
        engines: for the API, which is left out without; the caller closes them.
        site: the page, which is left out without.
        model_name: what clients of the API call the model.
        keys: who may use the API; without any, everybody who can reach it. The page is for all.
        allowed_hosts: names, besides this computer's own, that Host headers may have.
        allowed_origins: pages of other origins, whose scripts may use the API.
        limits: on each request.
        dialect: of clients at /v1/realtime, openai, vllm, or auto.
        lack: why there is no API, if there should be one.

    Raises:
        UsageError: a host or an origin is not valid.
    """
    open_paths = OPEN_PATHS | (site.paths if site else set())
    app = FastAPI(
        title="voxtral-onnx",
        version=__version__,
        description="Speech to text on this server's own device, as OpenAI's API asks for it.",
        docs_url=None,  # a page that loads its scripts from another site
        redoc_url=None,
        middleware=guards(
            keys=keys,
            open_paths=open_paths,
            allowed_hosts=allowed_hosts,
            allowed_origins=allowed_origins,
            limits=limits,
            refuse_browser=BrowserRefusal(dialect) if engines else None,
        ),
    )
    for kind in (HTTPException, ApiError, VoxtralOnnxError, OSError, Exception):
        app.add_exception_handler(kind, answer_error)
    routers = [Health(engines, lack).router]
    if engines:
        routers.append(OpenAIRest(engines, model_name).router)
        names = names_of(model_name)
        routers.append(Realtime(engines, names, dialect).router)
        routers.append(MistralRoute(engines, names).router)
    for router in routers:
        app.include_router(router)

    # What else clients of the API ask for
    async def refuse(request: Request) -> Response:
        if not engines:
            reason = lack or "serve was started with --page-only"
            raise ApiError(f"there is no API here: {reason}", status=503 if lack else 404)
        path = request.url.path
        allowed = {
            method
            for router in routers
            for route in router.routes
            if isinstance(route, APIRoute) and route.path_regex.match(path)
            for method in route.methods or ()
        }
        if allowed:
            headers = {"Allow": ", ".join(sorted(allowed))}
            raise HTTPException(405, f"{path}: expected {headers['Allow']}", headers)
        raise ApiError(f"{path}: no such route", status=404)

    app.add_route(f"{API}{{path:path}}", refuse, METHODS, include_in_schema=False)
    if site:
        app.router.routes.extend(site.routes)
    return app
