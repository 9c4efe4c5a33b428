"""The silence before the audio is computed once for all runs, and a kept state is never another."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from support.commands import CLIP, TEXT

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime import starts
from voxtral_onnx.runtime.encoder import Encoder
from voxtral_onnx.runtime.stream import silent_start

DELAY = 6  # tokens


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """The folder of kept states, of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = platformdirs.user_cache_path("voxtral-onnx") / "silences"
    assert folder.is_relative_to(tmp_path)
    return folder


@pytest.fixture
def open_tiny(tiny_artifact):
    def open_tiny(precision: str = "q4", **options) -> Transcriber:
        return Transcriber(tiny_artifact, "cpu", precision=precision, **options)

    return open_tiny


@pytest.fixture
def encoded(monkeypatch):
    """The tokens of each call of the encoder."""
    calls, encode = [], Encoder.encode

    def counted(self, cache, samples):
        calls.append(len(samples) // 1280)
        return encode(self, cache, samples)

    monkeypatch.setattr(Encoder, "encode", counted)
    return calls


def begin(transcriber: Transcriber, *, is_live: bool = False) -> dict[str, np.ndarray]:
    """Return the arrays of the state with which a stream begins."""
    model = transcriber.model
    return dict(silent_start(model, DELAY, None if is_live else model.grid).arrays)


def kept(cache: Path) -> Path:
    [path] = cache.iterdir()
    return path


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes()
        for name in one
    )


@pytest.mark.parametrize("precision", ["q4", "q4f16"])
@pytest.mark.parametrize("is_live", [False, True])
def test_the_next_run_begins_bit_for_bit_where_the_first_began(
    open_tiny, encoded, precision, is_live
):
    with open_tiny(precision) as transcriber:
        first = begin(transcriber, is_live=is_live)
    assert encoded
    encoded.clear()
    with open_tiny(precision) as transcriber:
        assert same(begin(transcriber, is_live=is_live), first) and not encoded
        assert transcriber.notes == ()


def test_the_tokens_are_those_without_a_kept_state(open_tiny, cache, encoded):
    def tokens() -> list:
        with open_tiny() as transcriber:
            found = []
            transcript = transcriber.transcribe(CLIP, on_token=found.append)
            assert transcript.text.strip() == TEXT
            return found

    first = tokens()
    calls = encoded.copy()
    assert tokens() == first and sum(encoded) < 2 * sum(calls)
    kept(cache)


def test_the_number_of_threads_makes_no_other_state(open_tiny, cache):
    found = []
    for threads in (1, 2):
        with open_tiny(threads=threads) as transcriber:
            found.append(begin(transcriber))
        kept(cache).unlink()
    assert same(*found)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content + b"\0",
        lambda content: content[:9000] + bytes([content[9000] ^ 1]) + content[9001:],
        lambda content: content[:-40_000] + bytes([content[-40_000] ^ 64]) + content[-39_999:],
    ],
)
def test_a_damaged_state_is_computed_again(open_tiny, cache, encoded, damage):
    with open_tiny() as transcriber:
        first = begin(transcriber)
    path = kept(cache)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    encoded.clear()
    with open_tiny() as transcriber:
        assert same(begin(transcriber), first) and encoded
        assert "is computed again" in transcriber.notes[0] and len(transcriber.notes) == 1
    assert kept(cache).read_bytes() == whole


def test_a_stream_that_was_saved_is_no_silence(open_tiny, cache):
    with open_tiny() as transcriber:
        first = begin(transcriber, is_live=True)
    path = kept(cache)
    with open_tiny() as transcriber:
        stream = transcriber.stream()
        stream.feed(np.full(16000, 0.1, np.float32))
        stream.save(path)
    with open_tiny() as transcriber:
        assert same(begin(transcriber, is_live=True), first)
        assert "saved with another artifact" in transcriber.notes[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(starts, "_processor", lambda: "another"),
        lambda patch: patch.setattr(np, "__version__", "1.0"),
        lambda patch: patch.setattr(starts, "__version__", "0.0"),
        lambda patch: patch.setattr(starts.import_onnxruntime(), "__version__", "1.99.0"),
    ],
)
def test_what_computes_otherwise_keeps_its_own(open_tiny, cache, monkeypatch, encoded, change):
    with open_tiny() as transcriber:
        begin(transcriber)
    change(monkeypatch)
    encoded.clear()
    with open_tiny() as transcriber:
        begin(transcriber)
    assert encoded and len(list(cache.iterdir())) == 2


def test_each_precision_delay_and_context_keeps_its_own(open_tiny, cache):
    for options in ({}, {"precision": "q4f16"}, {"context": 64}, {"delay_ms": 80}):
        with open_tiny(**options) as transcriber:
            silent_start(transcriber.model, transcriber.num_delay_tokens, transcriber.model.grid)
    assert len(list(cache.iterdir())) == 4


def test_a_folder_that_cannot_be_written_is_noted(open_tiny, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with open_tiny() as transcriber:
        assert transcriber.transcribe(CLIP).text.strip() == TEXT
        [note] = [note for note in transcriber.notes if "silence" in note]
        assert "cannot be kept" in note and str(tmp_path / "file") in note
        transcriber.transcribe(CLIP)
        transcriber.stream(delay_ms=80)
        assert [each for each in transcriber.notes if "silence" in each] == [note]


def test_those_not_used_for_longest_go(open_tiny, cache, monkeypatch):
    monkeypatch.setattr(starts, "MOST_KEPT", 2)
    with open_tiny() as transcriber:
        begin(transcriber)
    first = kept(cache)
    os.utime(first, (1e9, 1e9))
    with open_tiny(delay_ms=80) as transcriber:
        transcriber.stream()
    [second] = {*cache.iterdir()} - {first}
    os.utime(second, (2e9, 2e9))
    with open_tiny() as transcriber:
        begin(transcriber)  # is used, so that the other one is older
    os.utime(second, (1e9, 1e9))
    with open_tiny(delay_ms=160) as transcriber:
        transcriber.stream()
    left = {*cache.iterdir()}
    assert first in left and second not in left and len(left) == 2
