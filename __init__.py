"""voxtral-onnx: export Voxtral Mini 4B Realtime to 4-bit ONNX and transcribe with onnxruntime.

    from voxtral_onnx import Transcriber

    with Transcriber("tiny") as transcriber:
        print(transcriber.transcribe("clip.wav").text)

`export`, `quantize` and `verify` need the extra `export` (torch, onnx); `Transcriber` needs
onnxruntime and NumPy only. All of them raise the classes of `errors`, whose messages say what was
expected, what was found and what to do.
"""

from __future__ import annotations

import logging
import os
from importlib import import_module
from typing import TYPE_CHECKING

from ._version import __version__

# Variables that turn off the usage reports of onnxruntime (on Linux and macOS) and of the hub's
# libraries. They are read once, when those libraries are imported, so they must be set before that;
# importing any module of this package runs this file first. Values that the user has set stay.
SILENCED = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")
for _name in SILENCED:
    os.environ.setdefault(_name, "1")

# The library logs to loggers below this one, and only programs that use it choose handlers
logging.getLogger(__name__).addHandler(logging.NullHandler())

if TYPE_CHECKING:
    from . import errors
    from .exporter.export import export
    from .exporter.quantize import quantize
    from .runtime.many import Engine
    from .runtime.stream import Stream
    from .runtime.transcriber import Transcriber
    from .runtime.transcript import Transcript
    from .verification.verify import verify

__all__ = [
    "Engine",
    "Stream",
    "Transcriber",
    "Transcript",
    "__version__",
    "errors",
    "export",
    "quantize",
    "verify",
]

_HOMES = {
    "export": ".exporter.export",
    "quantize": ".exporter.quantize",
    "verify": ".verification.verify",
    "Engine": ".runtime.many",
    "Stream": ".runtime.stream",
    "Transcriber": ".runtime.transcriber",
    "Transcript": ".runtime.transcript",
}


def __getattr__(name: str):
    """Import the heavy modules behind the public names on first use."""
    if name == "errors":
        return import_module(".errors", __name__)
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the module's names, with the public ones that `__getattr__` has not imported yet."""
    return sorted({*globals(), *__all__})
