"""What tests of live speech share: engines of *tiny*."""

from __future__ import annotations

import pytest

from voxtral_onnx import Engine, Transcriber
from voxtral_onnx.server.engines import Engines


@pytest.fixture(scope="module")
def engines(tiny_artifact):
    """One engine in float32 on the CPU, with four streams."""
    with (
        Transcriber(tiny_artifact, device="cpu", precision="fp32") as transcriber,
        Engine(transcriber, slots=4, context=8192, most_streams=4) as engine,
    ):
        engines = Engines([engine])
        yield engines
        engines.close()
