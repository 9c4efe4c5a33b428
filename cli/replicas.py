"""Serve by Ray: replicas on this machine or a cluster, and what of `serve` they cannot do."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .clusters import check_device, model_elsewhere, to_install
from .packages import require_extra
from .serving import Served, announce, name_of, request_limits
from .terminal import info
from .values import REQUEST_LIMITS

if TYPE_CHECKING:
    from ..server.guard.access import ApiKeys


def serve_replicas(
    asked: Served, keys: ApiKeys, replicas: tuple[int, int] | None, address: str | None
) -> None:
    """Serve the API in replicas of Ray, until Ctrl-C.

    Args:
        asked: what is served.
        keys: of the API.
        replicas: the least and the most; None for one on each device of the cluster.
        address: of the cluster; None for one on this machine, which ends with this.

    Raises:
        UsageError: something is asked for that replicas cannot do.
        VoxtralOnnxError: they cannot be started, or Ray has ended.
    """
    check_fit(asked)
    with require_extra("--engine ray", to_install("ray", "serve")):
        from ..cluster.serving import serve_streams
        from ..cluster.streams import Settings

    # All that a replica must know; the number of them depends on the cluster
    model = model_elsewhere(asked.artifact)
    name = asked.model_name or name_of(Path(model))
    settings = partial(
        Settings,
        model=model,
        model_name=name,
        precision=asked.precisions[0] if asked.precisions else None,
        offline=asked.offline,
        slots=asked.engine["slots"],
        tick=asked.engine["tick_ms"],
        context=asked.engine["context"],
        allowed_hosts=tuple(asked.allowed_hosts),
        allowed_origins=tuple(asked.allowed_origins),
        realtime_dialect=asked.dialect,
        limits=request_limits(asked.limits),
        most_seconds=asked.most_seconds,
        drain=asked.drain,
    )

    # Serve it
    shown = {"https": False, "model": name, "page": False, "opens": False}
    serve_streams(
        settings,
        keys,
        asked.devices[0],
        asked.threads,
        replicas,
        address,
        (asked.host, asked.port),
        on_plan=lambda plan: info(f"Ray: {plan}"),
        on_ready=partial(announce, asked.host, **shown),
    )


def check_fit(asked: Served) -> None:
    """Refuse what replicas cannot do.

    Raises:
        UsageError: it is asked for.
    """
    reasons = {
        "--page-only": not asked.has_api and "replicas serve the API",
        "--wyoming": asked.wyoming
        and "Ray passes on HTTP and WebSockets alone; run a plain serve for Home Assistant",
        "--https": asked.https
        and "Ray's proxies speak http; let what stands before them, such "
        "as an ingress, speak https",
        "--allow-artifacts": asked.allowed_artifacts and "replicas serve no page",
        "--limits header": asked.limits["header"] != REQUEST_LIMITS["header"]
        and "Ray's proxies read headers; set such a limit in what stands before them",
    }
    for option, reason in reasons.items():
        if reason:
            raise UsageError(f"{option}: not with --engine ray: {reason}")
    check_device(",".join(asked.devices))
