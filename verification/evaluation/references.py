"""Recordings and their reference texts, read from a folder, a table or lines of JSON.

    FOLDER          each NAME.wav (or .mp3 …) with its text in NAME.txt beside it
    data.tsv        columns under a first line of names: path or file or audio, and text or sentence
    data.jsonl      an object a line, with the same keys, or audio_filepath for the path

Paths are relative to the table.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ...decode import decode, read_within
from ...errors import UsageError, VoxtralOnnxError
from ...limits import REFERENCE, REFERENCES
from ...runtime.audio.find import find_audio

_PATHS = ("path", "file", "audio", "audio_filepath", "file_name")
_TEXTS = ("text", "sentence", "transcription")


@dataclass(frozen=True, slots=True)
class Reference:
    """A recording and the text that is spoken in it."""

    path: Path
    text: str
    failure: VoxtralOnnxError | None = None  # what keeps the text beside it from being read


class _Line(msgspec.Struct):
    """A line of a .jsonl file; keys that are not listed here are ignored."""

    path: str | None = None
    file: str | None = None
    audio: str | None = None
    audio_filepath: str | None = None
    file_name: str | None = None
    text: str | None = None
    sentence: str | None = None
    transcription: str | None = None


def read_references(data: Path) -> tuple[list[Reference], list[Path]]:
    """Read the recordings of a folder in the order of their names, or of a table in its order.

    Returns:
        the recordings with a text, and the audio files of a folder that have none beside them.

    Raises:
        UsageError: the folder or table does not exist, no recording has a text, or a line of the
            table lacks a path or a text.
    """
    if data.is_dir():
        found, lacking = _read_folder(data)
    elif data.suffix.lower() in (".tsv", ".jsonl"):
        found, lacking = _read_table(data), []
    else:
        raise UsageError(
            f"{data}: expected a folder of recordings with .txt files beside them, a .tsv or a "
            f".jsonl, found {'another file' if data.exists() else 'nothing'}"
        )
    if not found:
        raise UsageError(f"{data}: no recording with a text")
    return found, lacking


def _read_folder(folder: Path) -> tuple[list[Reference], list[Path]]:
    found, lacking = [], []
    for path in map(Path, find_audio([str(folder)])):
        text = path.with_suffix(".txt")
        if text.is_file():
            try:
                found.append(Reference(path, read_text(text)))
            except UsageError as error:
                found.append(Reference(path, "", error))
        else:
            lacking.append(path)
    return found, lacking


def read_text(path: Path) -> str:
    """Read the text beside a recording, without the space around it.

    Raises:
        UsageError: it cannot be read, is too long, or no UTF-8.
    """
    return _read(path, REFERENCE).strip()


def _read_table(table: Path) -> list[Reference]:
    rows = _rows_of_tsv if table.suffix.lower() == ".tsv" else _rows_of_jsonl
    found = []
    for number, path, text in rows(table):
        if not path or text is None:
            missing = f"none of {', '.join(_TEXTS if path else _PATHS)}"
            raise UsageError(f"{table}: line {number}: expected a path and a text, found {missing}")
        found.append(Reference(table.parent / path, text))
    return found


def _rows_of_tsv(table: Path) -> Iterator[tuple[int, str | None, str | None]]:
    reader = csv.DictReader(
        io.StringIO(_read(table, REFERENCES)), delimiter="\t", quoting=csv.QUOTE_NONE
    )
    names = reader.fieldnames or []
    path = next((name for name in _PATHS if name in names), None)
    text = next((name for name in _TEXTS if name in names), None)
    if path is None or text is None:
        raise UsageError(
            f"{table}: expected a first line with the names of its columns, one of "
            f"{', '.join(_PATHS)} and one of {', '.join(_TEXTS)}, found {', '.join(names[:5])!r}"
        )
    for row in reader:
        yield reader.line_num, row[path], row[text]


def _rows_of_jsonl(table: Path) -> Iterator[tuple[int, str | None, str | None]]:
    for number, line in enumerate(_read(table, REFERENCES).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{table}: line {number}"
        row = decode(
            _Line, line.encode(), lambda reason, where=where: UsageError(f"{where}: {reason}")
        )
        path = next((value for name in _PATHS if (value := getattr(row, name))), None)
        text = next((value for name in _TEXTS if (value := getattr(row, name)) is not None), None)
        yield number, path, text


def _read(path: Path, limit: int) -> str:
    try:
        content = read_within(path, limit, lambda reason: UsageError(f"{path}: {reason}"))
        return content.decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: expected UTF-8, found {error.reason} at {error.start}"
        ) from error
