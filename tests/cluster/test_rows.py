"""Rows of transcripts, and the table of all."""

# Packages that have an environment of their own, see make test-ray
# pyright: reportMissingImports=false
from __future__ import annotations

import io
import json

import pytest
from support.commands import CLIP, TEXT

from voxtral_onnx.errors import AudioError, StorageError

pytestmark = pytest.mark.ray


@pytest.fixture
def place(tmp_path):
    from voxtral_onnx.cluster.place import Place

    return Place(str(tmp_path))


@pytest.fixture
def rows(tiny_artifact, place):
    """Two rows as workers leave them: of a text with alternatives, and of a failure."""
    from voxtral_onnx import Transcriber
    from voxtral_onnx.cluster.rows import FAILED, ROWS, Failure, failed_row, text_row, to_json

    with Transcriber(tiny_artifact, alternatives=2) as transcriber:
        good = text_row("good", str(CLIP), transcriber.transcribe(CLIP))
    bad = failed_row("bad", "b.wav", Failure.of(AudioError("no sound"), "b.wav"))
    place.write(f"{ROWS}/good.json", to_json(good))
    place.write(f"{FAILED}/bad.json", to_json(bad))
    return [good, bad]


def test_the_table_as_lines(place, rows):
    from voxtral_onnx.cluster.rows import gather

    failures = gather(place, ["good", "bad"], "jsonl")
    lines = place.read("transcripts.jsonl").decode().splitlines()
    assert list(map(json.loads, lines)) == rows
    assert rows[0]["text"] == TEXT and rows[0]["error"] is None
    assert rows[1]["error"] == {"name": "AudioError", "code": 6, "message": "b.wav: no sound"}
    assert [str(each.error()) for each in failures] == ["b.wav: no sound"]


def test_the_table_as_parquet(place, rows):
    import pyarrow.parquet as pq

    from voxtral_onnx.cluster.rows import gather

    gather(place, ["bad", "good"], "parquet")
    table = pq.read_table(io.BytesIO(place.read("transcripts.parquet"))).to_pylist()
    assert [row["id"] for row in table] == ["bad", "good"]
    good, bad = table[1], table[0]
    assert json.loads(good["info"]) == rows[0]["info"]
    assert [each["text"] for each in good["segments"]] == [
        each["text"] for each in rows[0]["segments"]
    ]
    assert good["segments"][0]["alternatives"] == rows[0]["segments"][0]["alternatives"]
    assert bad["text"] is None and bad["error"]["code"] == 6


def test_a_row_that_is_missing_is_an_error(place, rows):
    """Never a table that lacks a recording."""
    from voxtral_onnx.cluster.rows import gather

    with pytest.raises(StorageError, match=r"lost\.json: cannot be read"):
        gather(place, ["good", "lost"], "jsonl")
    assert not place.has("transcripts.jsonl")
