"""The server's routes for supervisors: whether it lives, whether it is ready, its figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import PlainTextResponse, Response

from .api_error import HEADERS

if TYPE_CHECKING:
    from .engines import Engines

# Seconds of work for a second of audio; beyond 1 a device does not keep up with speech
RTF_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Counters:
    """The sums over all requests of a server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "voxtral_requests",
            "Recordings by how they ended: ok, refused, failed, or stopped as the client left",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in ("ok", "refused", "failed", "stopped"):
            self.requests.labels(outcome)
        self.audio_seconds = self._counter("audio_seconds", "Audio transcribed")
        self.tokens = self._counter("tokens", "Tokens decoded, one each 80 ms")
        self.guards = self._counter("guards", "Blanks that the blank guard has replaced")
        self.rtf = Histogram(
            "voxtral_rtf",
            "Seconds from when a recording was read until its text was whole, for each of its own",
            buckets=RTF_BUCKETS,
            registry=self.registry,
        )

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"voxtral_{name}", text, registry=self.registry)


class EngineFigures:
    """A collector of what the engines know when they are asked."""

    def __init__(self, engines: Engines):
        self.engines = engines

    def collect(self) -> Iterator[Metric]:
        """Yield the figures, of each device."""
        engines, running = self.engines, self.engines.num_running
        yield GaugeMetricFamily("voxtral_requests_running", "Recordings being decoded", running)
        yield GaugeMetricFamily(
            "voxtral_requests_waiting",
            "Recordings being read, or waiting for that",
            max(0, engines.num_open - running),
        )

        # One value for each device
        found = [(each.transcriber.device_name, each, each.metrics) for each in engines.engines]
        for name, text, field in (
            ("streams", "Live streams open", "streams"),
            ("capacity", "Live streams that may be open", "capacity"),
        ):
            gauge = GaugeMetricFamily(f"voxtral_{name}", text, labels=["device"])
            for device, _, figures in found:
                gauge.add_metric([device], getattr(figures, field))
            yield gauge
        up = GaugeMetricFamily("voxtral_up", "1, or 0 if the engine has failed", labels=["device"])
        ticks = GaugeMetricFamily(
            "voxtral_tick_seconds",
            "From when a tick of live streams was due until its tokens were decoded",
            labels=["device", "quantile"],
        )
        for device, engine, figures in found:
            up.add_metric([device], float(engine.failure is None))
            ticks.add_metric([device, "0.5"], figures.tick_p50)
            ticks.add_metric([device, "0.99"], figures.tick_p99)
        yield from (up, ticks)
        for name, text, field in (
            ("ticks", "Ticks of live streams", "ticks"),
            ("late_ticks", "Ticks that took longer than one lasts", "late_ticks"),
            ("decoder_steps", "Calls of the decoder", "steps"),
            ("decode_seconds", "Time in the decoder", "decode_seconds"),
            ("encode_seconds", "Time in the encoder, for live streams", "encode_seconds"),
        ):
            counter = CounterMetricFamily(f"voxtral_{name}", text, labels=["device"])
            for device, _, figures in found:
                counter.add_metric([device], getattr(figures, field))
            yield counter


class Health:
    """The routes /health, /ready and /metrics."""

    def __init__(self, engines: Engines | None, lack: str | None = None):
        """Make the routes.

        Args:
            engines: of the server; None if it sends the page alone.
            lack: why there are none, if there should be.
        """
        self.engines, self.lack = engines, lack
        if engines:
            engines.counters.registry.register(EngineFigures(engines))
            ProcessCollector(registry=engines.counters.registry)  # of Linux alone
        self.router = APIRouter(tags=["server"])
        add, plain = self.router.add_api_route, PlainTextResponse
        busy: dict[int | str, Any] = {
            503: {"description": "Not now", "content": {"text/plain": {}}}
        }
        add("/health", self.health, summary="Whether it lives", response_class=plain)
        add(
            "/ready",
            self.ready,
            summary="Whether it takes recordings",
            response_class=plain,
            responses=busy,
        )
        if engines:
            add("/metrics", self.metrics, summary="Figures for Prometheus", response_class=plain)

    async def health(self) -> Response:
        """Return ok, for as long as the process answers."""
        return PlainTextResponse("ok\n", headers=HEADERS)

    async def ready(self) -> Response:
        """Return status 503 when an engine has failed, or when the server is about to end."""
        engines, reason = self.engines, self.lack
        if engines:
            reason = engines.failure or (
                "the server is about to end" if engines.is_draining else ""
            )
        return PlainTextResponse(f"{reason or 'ok'}\n", 503 if reason else 200, HEADERS)

    async def metrics(self) -> Response:
        """Return all figures in Prometheus' text format."""
        assert self.engines
        content = generate_latest(self.engines.counters.registry)
        return Response(content, headers=HEADERS, media_type=CONTENT_TYPE_PLAIN_0_0_4)
