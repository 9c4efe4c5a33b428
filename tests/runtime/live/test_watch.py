"""A live stream that falls behind is told apart from one that is fed faster than speech."""

from __future__ import annotations

import pytest

from voxtral_onnx.runtime.live.metrics import StreamMetrics
from voxtral_onnx.runtime.live.watch import BEHIND_SECONDS, Watch

BEHIND = f"more than {BEHIND_SECONDS:.0f} s behind: this machine is slower than the speech"


@pytest.mark.parametrize(
    ("pace", "works", "is_said"),
    [
        (1, [0.5] * 60, True),  # of a second's speech, half is transcribed within it
        (1, [1.1] * 60, False),
        (20, [5.0] * 60, False),  # a file, piped faster than anyone speaks
        (20, [0.8] * 60, True),  # as fast as it may come, it would have come too late
        (1, [1.0] * 10 + [0.0] * 5 + [2.0] * 10, False),  # another program had the processor
        (1, [1.0] * 10 + [0.0] * 5 + [0.9] * 10, True),
    ],
)
def test_behind_is_what_falls_behind_in_the_time_of_speech(pace, works, is_said):
    """Seconds of audio that come, and that are transcribed, in each second of the clock."""
    watch, metrics, said = Watch(16000), StreamMetrics(), []
    for second, work in enumerate(works):
        said += watch.inspect_pace(metrics, 1000.0 + second)
        metrics.captured += pace
        metrics.transcribed = min(metrics.captured, metrics.transcribed + work)
    assert [text.partition(";")[0] for text in said] == [BEHIND] * is_said
