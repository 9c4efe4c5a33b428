"""The options that `serve` alone has; those that it shares are in `options`."""

from __future__ import annotations

from typing import Annotated, Any

from .options import DEVICE, MODEL, _flag, _value
from .values import batch_size

PageOnly = Annotated[bool, _flag(None, "--page-only", "Serve the page alone; load no model here.")]
ApiOnly = Annotated[bool, _flag(None, "--api-only", "Serve the API alone, without the page.")]
ServedPrecisions = Annotated[
    str | None,
    _value(
        MODEL,
        "--precision",
        "NAMES",
        "Number formats, with commas: the API runs the first, browsers take from all.",
        "those it has",
    ),
]
ModelName = Annotated[
    str | None,
    _value(
        MODEL,
        "--model-name",
        "NAME",
        "What clients of the API call the model; whisper-1 works too.",
        "the artifact's",
    ),
]
ServedDevices = Annotated[
    str,
    _value(
        DEVICE,
        "--device",
        "NAMES",
        "Devices of the API, with commas: auto, cpu, cuda or cuda:0,cuda:1.",
    ),
]
Slots = Annotated[
    Any,
    _value(
        DEVICE,
        "--slots",
        "N",
        "Recordings and streams decoded together on a device; [b]auto[/]: as many as suit.",
        parser=batch_size,
    ),
]
Tick = Annotated[
    int,
    _value(DEVICE, "--tick", "MS", "80, or 160: more live streams, with text 40 ms later."),
]
Drain = Annotated[
    float,
    _value(None, "--drain", "SECONDS", "When told to end, finish recordings for this long.", min=0),
]
