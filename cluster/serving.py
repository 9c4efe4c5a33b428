"""Run the application of `serve` in replicas until it is told to end, as the plain server does."""

# Packages that have an environment of their own, see make test-ray
# pyright: reportMissingImports=false
from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from threading import Event
from time import monotonic, sleep
from types import FrameType
from typing import Any

from ..errors import DeviceError, UsageError
from ..server.guard.access import ApiKeys
from ..server.serving import listen
from .archive import plan_workers
from .rows import Failure
from .session import HERE, connected, ray
from .streams import GRACE_SECONDS, HAS_HAPROXY, Settings, application, serve

NAME = "voxtral-onnx"  # of the application
ANYWHERE = ("0.0.0.0", "::")
LOOK_SECONDS = 2.0  # between looks at whether it is there
ENDING_SECONDS = 30.0  # that Ray itself needs in the end, beyond the drain
_OUR_ERROR = re.compile(r"voxtral_onnx\.errors\.(\w+): (.*)")


def serve_streams(
    settings: Callable[..., Settings],
    keys: ApiKeys,
    device: str,
    threads: int | None,
    replicas: tuple[int, int] | None,
    address: str | None,
    listening: tuple[str, int],
    *,
    on_plan: Callable[[str], None],
    on_ready: Callable[[int], None],
) -> None:
    """Serve until interrupted; then clients are told to move, and recordings end.

    Args:
        settings: of replicas, called with the device, its threads and the number of replicas.
        keys: of the API.
        device: auto, cpu or cuda.
        threads: of each replica; None for a share of its machine's cores.
        replicas: the least and the most; None for one on each device of the cluster.
        address: of the cluster; None for one on this machine, which ends with this.
        listening: address to listen on, on each machine that has a replica, and port; 0 for a
            free one of this machine.
        on_plan: called with the replicas, in words.
        on_ready: called with the port once connections are accepted.

    Raises:
        DeviceError: there is no cluster, Ray Serve runs on it already, or it has ended.
        UsageError: the port cannot be listened on, or `replicas` needs other options.
        VoxtralOnnxError: a replica cannot open the model.
    """
    host, port = listening
    if HAS_HAPROXY and host not in ANYWHERE:
        raise UsageError(
            f"--host {host}: Ray's HAProxy ($RAY_SERVE_ENABLE_HA_PROXY) listens on all addresses; "
            "say --host 0.0.0.0, and give a key"
        )
    if address and port == 0:
        raise UsageError("--port 0: all machines of a cluster listen on the same; name one")
    if not address:
        with listen(host, port) as free:
            port = free.getsockname()[1]
    stdout = sys.stdout
    with connected(address or HERE):  # which keeps quiet whatever writes to stdout
        if serve.status().proxies:
            raise DeviceError(
                f"Ray: Serve runs on the cluster at {address} already; deploy a configuration "
                "beside what it serves (serve deploy FILE), or end it first (serve shutdown)"
            )

        # One for each device, or as many as are asked for
        workers = plan_workers(device, threads)
        least, most = replicas or (workers.count, workers.count)
        if least > workers.count and not address:
            raise UsageError(
                f"--replicas {least}: this machine has room for {workers.count}, each with "
                f"{workers.each}; use fewer, or fewer --threads"
            )
        made = settings(
            device="cuda" if workers.num_gpus else "cpu",
            threads=workers.threads,
            num_cpus=workers.num_cpus,
            min_replicas=least,
            max_replicas=most,
        )
        deployed = application(made, keys)
        count = str(least) if least == most else f"{least} to {most}"
        on_plan(f"{count} replica{'s' * (most > 1)}, each with {workers.each}")

        # Serve
        serve.start(http_options={"host": host, "port": port})
        try:
            _deploy(deployed)
            with redirect_stdout(stdout):
                on_ready(port)
            number = _until_signal()
            _end(made.drain)
        finally:
            if address:  # otherwise all of Ray ends
                serve.shutdown()
    signal.raise_signal(number)


def _deploy(deployed: Any) -> None:
    """Start replicas, and wait until they take requests.

    Raises:
        VoxtralOnnxError: they cannot be started; that of a replica, if it told one.
    """
    try:
        serve.run(deployed, name=NAME, route_prefix="/")
    except RuntimeError as error:
        told = [str(error)]
        if found := serve.status().applications.get(NAME):
            told += [found.message, *(each.message for each in found.deployments.values())]
        if ours := _OUR_ERROR.search("\n".join(told)):
            raise Failure(ours[1], 0, ours[2]).error() from error
        last = told[-1].strip().splitlines()[-1:] or [""]
        raise DeviceError(f"Ray: the replicas cannot be started: {last[0]}") from error


def _until_signal() -> int:
    """Wait for SIGINT or SIGTERM, and return which it was; another one has its usual effect.

    Raises:
        DeviceError: the application has ended.
    """
    got, numbers = Event(), list[int]()

    def take(number: int, frame: FrameType | None) -> None:
        numbers.append(number)
        got.set()

    former = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not got.wait(LOOK_SECONDS):
            _require_there()
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    return numbers[0]


def _require_there() -> None:
    """Look whether the application is deployed.

    Raises:
        DeviceError: it is not.
    """
    try:
        lost = "" if NAME in serve.status().applications else "somebody has deleted it"
    except (ray.exceptions.RayError, serve.exceptions.RayServeException) as error:
        lost = " ".join(str(error).split())[:200]
    if lost:
        raise DeviceError(f"Ray: the application {NAME} has ended ({lost}); start serve again")


def _end(drain_seconds: float) -> None:
    """Let Ray end the replicas, each when its clients have moved or the time is over."""
    serve.delete(NAME, _blocking=False)
    ends_at = monotonic() + drain_seconds + GRACE_SECONDS + ENDING_SECONDS
    while NAME in serve.status().applications and monotonic() < ends_at:
        sleep(0.2)
