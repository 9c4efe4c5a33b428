"""Saved streams: what loads goes on as the stream that was saved."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import soundfile
from support.commands import CLIP

from voxtral_onnx import Transcriber
from voxtral_onnx.assets import TINY_ARTIFACT
from voxtral_onnx.errors import ArtifactError

SPEECH = soundfile.read(CLIP, dtype="float32")[0]
BEFORE, AFTER = SPEECH[:8000], SPEECH[8000:24000]
NAME = "stream"
DIGEST_SIZE = hashlib.sha256().digest_size


def seeds() -> dict[str, bytes]:
    """A stream inside a word, and one that has ended."""
    return {"begun": _saved(is_finished=False), "finished": _saved(is_finished=True)}


def parse(data: bytes, folder: Path) -> None:
    """Load a saved stream, as it is and with a digest that fits."""
    body = data[:-DIGEST_SIZE]
    forged = body + hashlib.sha256(body).digest()
    loaded = _load(data, folder, is_forged=False), _load(forged, folder, is_forged=True)
    if not any(loaded):
        raise ArtifactError("neither is a saved stream")


def _load(data: bytes, folder: Path, *, is_forged: bool) -> bool:
    (folder / NAME).write_bytes(data)
    try:
        stream = _transcriber().load_stream(folder / NAME)
    except ArtifactError:
        return False
    for is_finished in (False, True):
        if data == _saved(is_finished=is_finished):
            tokens = stream.finish() if is_finished else stream.feed(AFTER)
            assert [token.token_id for token in tokens] == _next(is_finished)
            return True
    # Only who forges the digest too gets here; a stream of other numbers runs all the same
    assert is_forged, "a stream that nobody saved was loaded"
    if _first_lines(data) not in map(_first_lines, seeds().values()) and not stream.finished:
        stream.feed(AFTER[:2000])
    return True


def _first_lines(data: bytes) -> list[bytes]:
    return data.split(b"\n", 2)[:2]


@cache
def _transcriber() -> Transcriber:
    return Transcriber(TINY_ARTIFACT, "cpu", context=64)


@cache
def _saved(*, is_finished: bool) -> bytes:
    stream = _transcriber().stream()
    stream.feed(BEFORE)
    if is_finished:
        stream.finish()
    with TemporaryDirectory() as folder:
        stream.save(Path(folder) / NAME)
        return (Path(folder) / NAME).read_bytes()


@cache
def _next(is_finished: bool) -> list[int]:
    stream = _transcriber().stream()
    stream.feed(BEFORE)
    return [] if is_finished else [token.token_id for token in stream.feed(AFTER)]
