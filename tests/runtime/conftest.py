"""What tests of the runtime share."""

from __future__ import annotations

import pytest
from support.devices import Imitation
from support.recordings import transcriber_on

from voxtral_onnx.runtime.device.cpu import Cpu
from voxtral_onnx.runtime.stream import Stream


@pytest.fixture(scope="module", params=[Cpu, Imitation])
def toy(request, toy_artifact):
    """The toy model in float32 on the CPU, and on a device that imitates CUDA's ways."""
    with (
        pytest.MonkeyPatch.context() as patch,
        transcriber_on(request.param(), patch, toy_artifact, precision="fp32") as found,
    ):
        yield found


@pytest.fixture
def stream_of(monkeypatch):
    """A function that returns the stream of a transcript, if that is begun from now on."""
    opened, init = [], Stream.__init__

    def recorded(self, *arguments, **options):
        init(self, *arguments, **options)
        opened.append(self)

    monkeypatch.setattr(Stream, "__init__", recorded)
    return lambda transcript: next(each for each in opened if each.writer is transcript.writer)
