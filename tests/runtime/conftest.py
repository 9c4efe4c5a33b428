"""What tests of the runtime share."""

from __future__ import annotations

import pytest

from voxtral_onnx.runtime.stream import Stream


@pytest.fixture
def stream_of(monkeypatch):
    """A function that returns the stream of a transcript, if that is begun from now on."""
    opened, init = [], Stream.__init__

    def recorded(self, *arguments, **options):
        init(self, *arguments, **options)
        opened.append(self)

    monkeypatch.setattr(Stream, "__init__", recorded)
    return lambda transcript: next(each for each in opened if each.writer is transcript.writer)
