"""The options that `serve` alone has; those that it shares are in `options`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from .options import DEVICE, MODEL, _flag, _value
from .values import address, batch_size, engine, limits_of, realtime_dialect, replicas

SAFETY = "Safety"

PageOnly = Annotated[bool, _flag(None, "--page-only", "Serve the page alone.")]
ApiOnly = Annotated[bool, _flag(None, "--api-only", "Serve the API alone.")]
ServedPrecisions = Annotated[
    str | None,
    _value(
        MODEL,
        "--precision",
        "NAMES",
        "First for the API, all for browsers.",
        False,
    ),
]
ModelName = Annotated[
    str | None,
    _value(
        MODEL,
        "--model-name",
        "NAME",
        "What clients call the model.",
        False,
    ),
]
RealtimeDialect = Annotated[
    str,
    _value(
        MODEL,
        "--realtime-dialect",
        "NAME",
        "Of /v1/realtime: auto, openai, vllm.",
        False,
        parser=realtime_dialect,
    ),
]
ServedDevices = Annotated[
    str,
    _value(
        DEVICE,
        "--device",
        "NAMES",
        "Of the API, such as cpu or cuda:0,cuda:1.",
    ),
]
Slots = Annotated[
    Any,
    _value(
        DEVICE,
        "--slots",
        "N",
        "Recordings and streams at a time.",
        parser=batch_size,
    ),
]
Tick = Annotated[
    int,
    _value(DEVICE, "--tick", "MS", "80, or 160 for more live streams."),
]
ServedEngine = Annotated[
    str,
    _value(
        DEVICE, "--engine", "NAME", "local, or ray: replicas on a cluster.", False, parser=engine
    ),
]
Replicas = Annotated[
    Any,
    _value(
        DEVICE,
        "--replicas",
        "N",
        "Of ray; 2-8: as many as streams need.",
        False,
        parser=replicas,
    ),
]
Wyoming = Annotated[
    Any,
    _value(
        None,
        "--wyoming",
        "[HOST:]PORT",
        "Serve Home Assistant's protocol too, by custom at 10300.",
        default=False,
        parser=address,
    ),
]
Drain = Annotated[
    float,
    _value(None, "--drain", "SECONDS", "To finish recordings at the end.", min=0),
]
ApiKey = Annotated[
    list[str] | None,
    _value(SAFETY, "--api-key", "KEY", "A key of the API; repeatable."),
]
ApiKeyFile = Annotated[
    Path | None,
    _value(SAFETY, "--api-key-file", "FILE", "Keys, one a line; also in $VOXTRAL_ONNX_API_KEYS."),
]
Insecure = Annotated[bool, _flag(SAFETY, "--insecure", "Need no key, even in a network.")]
AllowedOrigins = Annotated[
    list[str] | None,
    _value(SAFETY, "--allowed-origin", "URL", "A site whose pages may use it."),
]
Limits = Annotated[
    Any,
    _value(
        SAFETY,
        "--limits",
        "NAMES=N",
        "On requests; by default body=512 (MB), audio=4,total=6 (hours), header=10,idle=60 "
        "(seconds), requests=16 (at once).",
        default=False,
        parser=limits_of,
    ),
]
