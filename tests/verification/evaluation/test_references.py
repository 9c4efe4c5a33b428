"""Recordings and texts out of folders and tables, or a sentence that says what is wrong."""

from __future__ import annotations

import json
import shutil

import pytest
from support.commands import CLIP

from voxtral_onnx.errors import UsageError
from voxtral_onnx.limits import REFERENCE
from voxtral_onnx.verification.evaluation.references import Reference, read_references


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.wav", "sub/a.wav", "alone.wav"):
        shutil.copyfile(CLIP, tmp_path / name)
    (tmp_path / "b.txt").write_text("\ufeffgrüße \n", encoding="utf-8")
    (tmp_path / "sub/a.txt").write_text("two")
    return tmp_path


def test_a_folder(folder):
    found, lacking = read_references(folder)
    expected = [Reference(folder / "b.wav", "grüße"), Reference(folder / "sub/a.wav", "two")]
    assert found == expected and lacking == [folder / "alone.wav"]


@pytest.mark.parametrize(
    ("content", "words"), [(b"gr\xfc\xdfe", "expected UTF-8"), (b"a" * (REFERENCE + 1), "at most ")]
)
def test_a_text_that_cannot_be_read_is_its_recordings_failure(content, words, folder):
    (folder / "b.txt").write_bytes(content)
    (bad, good), _ = read_references(folder)
    assert (bad.path, good.text, good.failure) == (folder / "b.wav", "two", None)
    assert f"{folder / 'b.txt'}: " in str(bad.failure) and words in str(bad.failure)


@pytest.mark.parametrize(
    "text",
    [
        'path\ttext\nb.wav\tone\nsub/a.wav\tsay "two"\n',
        'client_id\tpath\tsentence\n0\tb.wav\tone\n1\tsub/a.wav\tsay "two"\n',
    ],
)
def test_a_table_of_columns(text, folder):
    (folder / "data.tsv").write_text(text)
    assert read_references(folder / "data.tsv") == (
        [Reference(folder / "b.wav", "one"), Reference(folder / "sub/a.wav", 'say "two"')],
        [],
    )


@pytest.mark.parametrize("keys", [("audio_filepath", "text"), ("file_name", "transcription")])
def test_lines_of_json(keys, folder):
    rows = [{keys[0]: "b.wav", keys[1]: "one", "duration": 1.5}, {keys[0]: "/x.wav", keys[1]: ""}]
    (folder / "data.jsonl").write_text("\n".join([json.dumps(rows[0]), "", json.dumps(rows[1])]))
    found, _ = read_references(folder / "data.jsonl")
    assert [(str(row.path), row.text) for row in found] == [
        (str(folder / "b.wav"), "one"),
        ("/x.wav", ""),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.csv", "", "expected a folder of recordings .* found another file"),
        ("none.tsv", None, "found nothing|no such file"),
        ("data.tsv", "", "expected a first line"),
        ("data.tsv", "b.wav\tone\n", "expected a first line with the names of its columns"),
        ("data.tsv", "path\ttext\n", "no recording with a text"),
        ("data.tsv", "path\ttext\nb.wav\n", "line 2: expected a path and a text"),
        ("data.jsonl", "{", "line 1: "),
        ("data.jsonl", '{"text": "one"}', "line 1: expected a path and a text, found none of path"),
        ("data.jsonl", '{"path": "a.wav"}', "found none of text, sentence"),
        ("data.jsonl", '{"path": 3, "text": ""}', r"line 1: Expected `str | null`, got `int`"),
        ("data.jsonl", b"\xff", "expected UTF-8"),
    ],
)
def test_what_is_wrong_is_said(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=message):
        read_references(tmp_path / name)
