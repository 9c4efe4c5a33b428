"""How many slots there are is said, once, where it is not what was asked for."""

from __future__ import annotations

import pytest

from voxtral_onnx.runtime.engine import sizes
from voxtral_onnx.runtime.engine.encoding import MOST_CACHES
from voxtral_onnx.runtime.memory import buffer_bytes
from voxtral_onnx.runtime.transcriber import Transcriber


@pytest.fixture(scope="module")
def model(tiny_artifact):
    with Transcriber(tiny_artifact, "cpu", precision="q4", batch_size=2) as transcriber:
        yield transcriber.model


@pytest.fixture
def has_room_for(model, monkeypatch):
    """Let so many slots, of the share that is theirs, fit into the memory."""

    def has_room_for(count: int) -> None:
        slots = count * buffer_bytes(model.decoder.spec, 4) / sizes.SHARES[1][0]
        free = MOST_CACHES * buffer_bytes(model.grid.spec, 4) + int(slots) + 100
        monkeypatch.setattr(sizes, "available_memory", lambda: free)

    return has_room_for


def test_what_was_asked_for_needs_no_note(model, has_room_for):
    has_room_for(5)
    [size] = sizes.slot_sizes(model, 5, notes := [])
    assert (size.count, notes) == (5, [])


def test_fewer_are_said_once(model, has_room_for):
    has_room_for(3)
    notes: list[str] = []
    for _ in range(2):
        [size] = sizes.slot_sizes(model, 5, notes)
        assert size.count == 3
    assert notes == ["batch size: 3 together (as many as fit into memory, not 5)"]


def test_what_auto_takes_is_said(model, has_room_for):
    has_room_for(4)
    sizes.slot_sizes(model, None, notes := [])
    assert notes == ["batch size: 4 together (chosen by auto)"]
