"""The application of `serve` in replicas of Ray Serve, each with a device of its own."""

# Packages that have an environment of their own, see make test-ray
# pyright: reportMissingImports=false
from __future__ import annotations

import asyncio
import os
import platform
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
from fastapi import FastAPI

from .._version import __version__
from ..errors import DeviceError, UsageError
from ..runtime.engine.sizes import MOST_AUTO
from ..runtime.many import Engine
from ..runtime.transcriber import Transcriber
from ..server.app import MODEL_NAME, build_app
from ..server.drain import LAST_SECONDS, Drain
from ..server.engines import Engines
from ..server.guard.access import VARIABLE, ApiKeys, read_keys
from ..server.guard.request_limits import RequestLimits
from ..server.log import logging_to_stderr
from ..server.realtime.choice import AUTO
from ..server.uploads.untrusted import MOST_SECONDS
from .session import ray

with warnings.catch_warnings():  # of packages that it is made of
    warnings.simplefilter("ignore", DeprecationWarning)
    from ray import serve as ray_serve

serve: Any = ray_serve
LOOK_SECONDS = 0.2  # between looks at whether Ray ends a replica
LEAST_MARGIN = 16  # connections that a replica takes beyond its slots, at least
UPSCALE_SECONDS = 10.0  # that streams must be too many for the replicas
LOOK_BACK_SECONDS = 15.0  # over which their number is averaged
TARGET = 0.75  # of a replica's slots, beyond which another one is started
GRACE_SECONDS = 15.0  # that Ray waits beyond a drain, before it kills a replica
HAS_HAPROXY = os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"  # it chooses replicas itself
ROUTER = "voxtral_onnx.cluster.router.FewestConnections"
MOST_STARTS = 3  # that may fail, of replicas of a new application


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a replica must know: the options of `serve`, and how many replicas there are."""

    model: str  # a folder at the same path everywhere, or a name that each replica finds
    model_name: str = MODEL_NAME
    precision: str | None = None
    offline: bool = False
    device: Literal["cpu", "cuda"]
    threads: int = 4
    num_cpus: int | None = None  # as Ray counts them; None for as many as threads
    slots: int | Literal["auto"] = "auto"
    most_streams: int | None = None  # even if they do not keep up; None for as many as do
    tick: int = 80
    context: int = 1024
    min_replicas: int = 1
    max_replicas: int = 1
    downscale_delay: float = 600.0  # seconds that replicas must be too many for the streams
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    realtime_dialect: str = AUTO
    limits: RequestLimits = RequestLimits()
    most_seconds: float = MOST_SECONDS  # of a recording
    drain: float = 30.0
    api_key_file: str | None = None
    insecure: bool = False
    version: str = __version__

    @property
    def most_connections(self) -> int:
        """Return how many connections a replica takes: those with a slot, and some without.

        The application tells those beyond its slots so. Beyond this number Ray lets them wait.
        """
        slots = MOST_AUTO[self.device] if self.slots == "auto" else int(self.slots)
        return slots + max(LEAST_MARGIN, slots // 4)

    def scaling(self) -> dict[str, Any]:
        """Return Ray's options for the number of replicas.

        Raises:
            UsageError: it is none, or nobody knows how many streams a replica takes.
        """
        least, most = self.min_replicas, self.max_replicas
        if not 1 <= least <= most:
            raise UsageError(f"replicas: expected 1 or more, or a range, got {least}-{most}")
        if least == most:
            return {"num_replicas": least}
        if self.slots == "auto" and self.device == "cuda":
            raise UsageError(
                "replicas: a range needs the number of streams that a replica takes; name it: "
                "--slots N (slots in a configuration)"
            )
        slots = MOST_AUTO["cpu"] if self.slots == "auto" else int(self.slots)
        return {
            "autoscaling_config": {
                "min_replicas": least,
                "max_replicas": most,
                "target_ongoing_requests": max(1.0, TARGET * slots),
                "upscale_delay_s": UPSCALE_SECONDS,
                "downscale_delay_s": self.downscale_delay,
                "look_back_period_s": LOOK_BACK_SECONDS,
            }
        }


class Streams:
    """A replica: the application of `serve` and its engine.

    Where Ray begins to end it, its clients are told to move, and it ends when they have, or when
    the time for that is over. Where the engine has failed, so does the replica's process, and Ray
    starts another one.
    """

    async def __init__(self, settings: Settings, keys: ApiKeys):
        """Load the model.

        Raises:
            DeviceError: another version is installed here, or as `Engine`.
            ArtifactError, StorageError, UsageError: as `Transcriber`.
        """
        if settings.version != __version__:
            raise DeviceError(
                f"{platform.node()}: voxtral-onnx {__version__} is installed, the application was "
                f"started with {settings.version}; install the same everywhere"
            )
        self._settings, self._keys, self._resources = settings, keys, ExitStack()
        self._is_ending = _ending()
        self._resources.enter_context(logging_to_stderr())
        self.engines = await asyncio.to_thread(self._open)
        self._drain = Drain(self.engines)
        self._watching = asyncio.create_task(self._watch())

    def _open(self) -> Engines:
        settings, stack = self._settings, self._resources
        options = {"precision": settings.precision, "offline": settings.offline}
        options |= {"device": settings.device, "context": settings.context}
        transcriber = Transcriber(settings.model, threads=settings.threads, **options)
        stack.enter_context(transcriber)
        engine = Engine(
            transcriber,
            slots=settings.slots,
            most_streams=settings.most_streams,
            tick_ms=settings.tick,
            context=settings.context,
        )
        stack.callback(engine.close, 0.0)
        engines = Engines([engine], most_seconds=settings.most_seconds)
        stack.callback(engines.close)
        return engines

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application; Ray calls it."""
        settings = self._settings
        return build_app(
            self.engines,
            model_name=settings.model_name,
            keys=self._keys,
            allowed_hosts=settings.allowed_hosts,
            allowed_origins=settings.allowed_origins,
            limits=settings.limits,
            dialect=settings.realtime_dialect,
        )

    async def _watch(self) -> None:
        """Begin to end when Ray does or the engine has failed, and wait until all has ended."""
        while not await self._drain.has_ended():
            if not self._drain.has_begun and (self.engines.failure or self._is_ending()):
                self._drain.begin(self._settings.drain)
            await asyncio.sleep(LOOK_SECONDS)
        if self.engines.failure:
            await asyncio.sleep(LAST_SECONDS)  # for the last messages
            os._exit(1)

    def __del__(self) -> None:
        """Close the engine; Ray calls it when no request is left."""
        with suppress(AttributeError):  # of a replica that was not made
            self._resources.close()


def _ending() -> Callable[[], bool]:
    """Return a function that tells whether Ray has begun to end this replica.

    Ray waits for a replica's requests to end and tells it nothing before, but keeps a mark.

    Raises:
        DeviceError: this version of Ray has none.
    """
    try:
        worker = ray._private.worker.global_worker
        replica = worker.actors[worker.actor_id]._replica_impl
        assert replica._shutting_down is False
    except (AttributeError, KeyError, AssertionError) as error:
        raise DeviceError(
            f"Ray {ray.__version__}: replicas of this version do not tell when they are about to "
            "end, so that clients would be cut off; use Ray 2.60"
        ) from error
    return lambda: replica._shutting_down


def application(settings: Settings, keys: ApiKeys) -> Any:
    """Return the application as Ray deploys it.

    Raises:
        UsageError: the number of replicas is none.
    """
    cpus = settings.threads if settings.num_cpus is None else settings.num_cpus
    most = settings.most_connections
    deployed = serve.deployment(serve.ingress()(Streams)).options(
        name="streams",
        ray_actor_options={"num_cpus": cpus, "num_gpus": int(settings.device == "cuda")},
        max_ongoing_requests=most,
        max_queued_requests=most,
        graceful_shutdown_timeout_s=settings.drain + LAST_SECONDS + GRACE_SECONDS,
        graceful_shutdown_wait_loop_s=LOOK_SECONDS,
        max_constructor_retry_count=MOST_STARTS,
        **({} if HAS_HAPROXY else {"request_router_config": {"request_router_class": ROUTER}}),
        **settings.scaling(),
    )
    return deployed.bind(settings, keys)


def app(args: dict[str, Any]) -> Any:
    """Return the application for a configuration of Ray Serve: `import_path` names this function.

    Keys come from the file `api_key_file`, and from the environment as for `serve`.

    Args:
        args: fields of `Settings`.

    Raises:
        UsageError: a field is unknown or missing, has a value that it cannot have, or there is no
            key and nobody has said that none is needed.
    """
    try:
        settings = msgspec.convert(args, Settings)
    except msgspec.ValidationError as error:
        raise UsageError(f"args: {error}") from error
    file = Path(settings.api_key_file) if settings.api_key_file else None
    keys = read_keys((), file, os.environ)
    if not (keys or settings.insecure):
        raise UsageError(
            f"args: everybody in the network could use this server; set api_key_file, or "
            f"${VARIABLE} where Ray runs, or insecure: true"
        )
    return application(settings, keys)
