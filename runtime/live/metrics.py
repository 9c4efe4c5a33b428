"""Up-to-date figures of a live stream."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

RECENT_STEPS = 4096  # tokens whose latency the metrics keep, 5.5 minutes


@dataclass(slots=True)
class StreamMetrics:
    """Up-to-date figures of a live stream: how much audio, how late, how much work."""

    captured: float = 0.0  # seconds of audio
    transcribed: float = 0.0  # seconds of audio that the model has taken
    level: float = 0.0  # peak of the last block, full scale 1
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_STEPS))
    encode_seconds: float = 0.0  # in the encoder, mel frames included
    decode_seconds: float = 0.0  # in the decoder
    is_paused: bool = False

    @property
    def backlog(self) -> float:
        """Return the seconds of audio that the model has not taken yet."""
        return self.captured - self.transcribed

    @property
    def rtf(self) -> float:
        """Return the real-time factor: seconds of work per second of audio."""
        return self.share(self.encode_seconds + self.decode_seconds)

    def share(self, seconds: float) -> float:
        """Return some seconds of work per second of transcribed audio."""
        return seconds / self.transcribed if self.transcribed else 0.0

    def percentile(self, percent: float) -> float:
        """Return a percentile of the recent latencies, in seconds.

        The latency of a token is the time from the arrival of the last sample that it depends on
        until it is decoded.
        """
        return float(np.percentile(list(self.latencies), percent)) if self.latencies else 0.0

    def summary(self) -> dict[str, float]:
        """Return the figures as JSON has them: duration in seconds, the rest as the names say."""
        latencies = {f"latency_p{p}_ms": round(1000 * self.percentile(p), 1) for p in (50, 95, 99)}
        parts = {"encode_ms": self.encode_seconds, "decode_ms": self.decode_seconds}
        return {
            "duration": round(self.captured, 3),
            "rtf": round(self.rtf, 4),
            **{name: round(1000 * seconds, 1) for name, seconds in parts.items()},
            **latencies,
        }

    def __str__(self) -> str:
        p50, p95, p99 = (1000 * self.percentile(p) for p in (50, 95, 99))
        paused = "PAUSED, " if self.is_paused else ""
        return (
            f"{paused}{self.captured:.1f} s of audio, {self.backlog:.1f} s behind, latency p50 "
            f"{p50:.0f}, p95 {p95:.0f}, p99 {p99:.0f} ms, RTF {self.rtf:.3f} (encoder "
            f"{self.share(self.encode_seconds):.3f}, decoder {self.share(self.decode_seconds):.3f})"
        )
