"""Make a row of each transcript, keep it as a file of its own, and gather all into one table."""

# Packages that have an environment of their own, see make test-ray
# pyright: reportMissingImports=false
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from .. import errors
from ..errors import AudioError, DeviceError, VoxtralOnnxError
from ..escaping import readable
from ..runtime.text.captions import render
from ..runtime.transcript import Transcript
from .place import Place

# Folders of an archive's outputs. A row with text is kept; one without is made again by the next
# run; what an attempt leaves tells the next one what was at hand when its process ended
ROWS, FAILED, ATTEMPTS = "work/rows", "work/failed", "work/attempts"
TABLES = {"jsonl": "transcripts.jsonl", "parquet": "transcripts.parquet"}
READERS = 16  # threads that read rows; one in a bucket takes some 20 ms
GATHERED = 1024  # rows at a time
Item = TypeVar("Item")

_TOKEN = pa.struct([("token_id", pa.int64()), ("text", pa.string()), ("logprob", pa.float64())])
_SEGMENT = pa.struct(
    [
        ("id", pa.int64()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("text", pa.string()),
        ("avg_logprob", pa.float64()),
        ("channel", pa.int64()),
        ("alternatives", pa.list_(pa.list_(_TOKEN))),
    ]
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("text", pa.string()),
        ("duration", pa.float64()),
        ("segments", pa.list_(_SEGMENT)),
        ("info", pa.string()),  # JSON
        (
            "error",
            pa.struct([("name", pa.string()), ("code", pa.int64()), ("message", pa.string())]),
        ),
    ]
)


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as a row holds it."""

    name: str  # of its class in errors.py
    code: int  # that the command line exits with for it
    message: str

    @classmethod
    def of(cls, error: BaseException, path: str = "") -> Failure:
        """Return the failure for an error, whose message names a recording if one is given."""
        message = " ".join(str(error).split("\n")) or type(error).__name__
        kind = next((each for each in type(error).__mro__ if hasattr(errors, each.__name__)), None)
        if kind is None:
            kind = DeviceError if isinstance(error, MemoryError) else VoxtralOnnxError
            message = f"{type(error).__name__}: {message}"
        if path and path not in message:
            message = f"{path}: {message}"
        return cls(kind.__name__, kind.exit_code, readable(message))

    def error(self) -> VoxtralOnnxError:
        """Return it as the error that it was."""
        kind = getattr(errors, self.name, VoxtralOnnxError)
        return kind(self.message)


def text_row(name: str, path: str, transcript: Transcript) -> dict[str, Any]:
    """Return the row of a transcript, of which what is left is decoded.

    Where part of the recording could not be heard, it has an error beside the text.
    """
    values = json.loads(render(transcript, "json"))
    losses = transcript.losses
    lost = AudioError(f"{path}: {'; '.join(losses)}") if losses else None
    return {
        "id": name,
        "path": path,
        "sha256": hashlib.sha256(values["text"].encode()).hexdigest(),
        "text": values["text"],
        "duration": values["duration"],
        "segments": values["segments"],
        "info": values["info"],
        "error": asdict(Failure.of(lost)) if lost else None,
    }


def failed_row(name: str, path: str, failure: Failure) -> dict[str, Any]:
    """Return the row of a recording that could not be transcribed."""
    row = dict.fromkeys(SCHEMA.names)
    return row | {"id": name, "path": path, "error": asdict(failure)}


def to_json(row: dict[str, Any]) -> bytes:
    """Return a row as a line of JSON."""
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def gather(place: Place, names: Iterable[str], format: str) -> list[Failure]:
    """Write the table of an archive, with a row for each recording in the order of `names`.

    Returns:
        the failures in it.

    Raises:
        StorageError: a row is missing or cannot be read, or the table cannot be written.
    """
    failures = list[Failure]()

    def told(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            if row["error"]:
                failures.append(Failure(**row["error"]))
            yield row

    with place.writing(TABLES[format]) as file:
        rows = told(_read(place, names))
        if format == "parquet":
            _write_parquet(rows, file)
        else:
            file.writelines(map(to_json, rows))
    return failures


def _read(place: Place, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of recordings, whose names are their ids."""
    done = place.names(ROWS)

    def read(name: str) -> dict[str, Any]:
        file = f"{name}.json"
        return json.loads(place.read(f"{ROWS if file in done else FAILED}/{file}"))

    with ThreadPoolExecutor(READERS) as threads:
        for some in _some(names):
            yield from threads.map(read, some)


def _some(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield items, GATHERED of them at a time."""
    left = iter(items)
    while some := list(islice(left, GATHERED)):
        yield some


def _write_parquet(rows: Iterator[dict[str, Any]], file: BinaryIO) -> None:
    with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        for some in _some(rows):
            flat = [row | {"info": row["info"] and json.dumps(row["info"])} for row in some]
            writer.write_table(pa.Table.from_pylist(flat, SCHEMA))
