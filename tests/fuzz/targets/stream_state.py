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
from voxtral_onnx.runtime.stream import Stream
from voxtral_onnx.runtime.tokens import Token

SPEECH = soundfile.read(CLIP, dtype="float32")[0]
BEFORE, AFTER = SPEECH[:8000], SPEECH[8000:24000]
NAME = "stream"


def seeds() -> dict[str, bytes]:
    """Return a stream that has heard nothing, and the first lines of one inside a word."""
    return {"whole": _saved(is_begun=False), "lines": _lines(_saved(is_begun=True))}


def parse(data: bytes, folder: Path) -> None:
    """Load a saved stream: as it is, with a digest that fits, and first lines with good arrays."""
    begun = _saved(is_begun=True)
    forged = _sign(data[:-32]), _sign(data + begun[len(_lines(begun)) : -32])
    refusals = []
    for content in (data, *forged):
        (folder / NAME).write_bytes(content)
        try:
            stream = _transcriber().load_stream(folder / NAME)
        except ArtifactError as error:
            refusals.append(error)
            continue
        good = [begun for begun in (False, True) if content == _saved(is_begun=begun)]
        assert good or content in forged, "a stream that nobody saved was loaded"
        if good:
            assert stream.feed(AFTER) == _next(is_begun=good[0])
        elif not stream.finished:
            stream.feed(AFTER[:2000])  # other numbers that do not contradict each other run too
    if len(refusals) == 3:
        raise refusals[0]


def _sign(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def _lines(content: bytes) -> bytes:
    return b"\n".join(content.split(b"\n", 2)[:2]) + b"\n"


@cache
def _transcriber() -> Transcriber:
    return Transcriber(TINY_ARTIFACT, "cpu", context=64)


def _stream(*, is_begun: bool) -> Stream:
    stream = Stream(_transcriber().model, _transcriber().options)
    if is_begun:
        stream.feed(BEFORE)
    return stream


@cache
def _saved(*, is_begun: bool) -> bytes:
    with TemporaryDirectory() as folder:
        _stream(is_begun=is_begun).save(Path(folder) / NAME)
        return (Path(folder) / NAME).read_bytes()


@cache
def _next(*, is_begun: bool) -> list[Token]:
    return _stream(is_begun=is_begun).feed(AFTER)
