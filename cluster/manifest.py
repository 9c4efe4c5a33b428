"""List the recordings of an archive: a Parquet file with a row for each, which Ray reads."""

# Packages that have an environment of their own, see make test-ray
# pyright: reportMissingImports=false
from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ..errors import AudioError, UsageError, VoxtralOnnxError
from ..runtime.audio.find import SUFFIXES, find_audio
from .place import is_address, open_system, reason

SCHEMA = pa.schema([("id", pa.string()), ("path", pa.string()), ("size", pa.int64())])
LONGEST_STEM = 60  # characters of a recording's name in its id
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,199}")  # a file's name on every system


def list_recordings(
    inputs: Sequence[str],
    on_failure: Callable[[str, VoxtralOnnxError], None],
    on_others: Callable[[list[str]], None],
) -> pa.Table:
    """Return a row for each recording that inputs name, with SCHEMA, in order of their paths.

    An id is made of the recording's name and of a hash of its path relative to the folder that
    holds all inputs, so it stays the same when recordings are added there, and when all are moved.

    Args:
        inputs: files, folders, patterns and addresses of buckets' folders and files; and lists of
            them: Parquet files with a column `path`, and perhaps `id` and `size`.
        on_failure: called with an input that cannot be searched or named, and with the error.
        on_others: called with the files of folders that may hold sound and have no known suffix.

    Raises:
        UsageError: standard input is named, ids are no names or not unique, or a list has no paths.
        AudioError: a list cannot be read.
    """
    # Tell lists, buckets and what is here apart
    if "-" in inputs:
        raise UsageError("standard input: Ray's workers cannot read it; name a file")
    lists = [name for name in inputs if PurePosixPath(name).suffix.lower() == ".parquet"]
    buckets = [name for name in inputs if is_address(name) and name not in lists]

    # Find the recordings
    rows: dict[str, tuple[str | None, int]] = {}  # id and bytes of each recording, by its path
    roots = [*buckets]
    for name in lists:
        rows |= (listed := _read_list(name))
        roots += listed
    for name in buckets:
        rows |= {path: (None, size) for path, size in _below(name, on_failure)}
    here = [name for name in inputs if name not in lists and name not in buckets]
    roots += [os.path.abspath(name) for name in here]  # noqa: PTH100, which keeps links
    for path in find_audio(here, on_failure, on_others):
        whole = os.path.abspath(path)  # noqa: PTH100
        try:
            whole.encode()
        except UnicodeEncodeError:
            on_failure(path, AudioError(f"{path}: its name is not UTF-8; rename it"))
        else:
            rows[whole] = (None, _size(whole))

    # Name them
    root = _common(roots)
    ids = [given or _id(path, root) for path, (given, _) in rows.items()]
    if len(set(map(str.casefold, ids))) < len(ids):
        raise UsageError("ids: expected one for each recording, got some twice")
    sizes = [size for _, size in rows.values()]
    table = pa.table([ids, list(rows), sizes], schema=SCHEMA)
    return table.sort_by("path")


def dealt(table: pa.Table, batch: int) -> pa.Table:
    """Return the rows in an order in which batches of so many hold about the same number of bytes.

    Batches that take longest come first, and so do the longest recordings of each.
    """
    order = table.sort_by([("size", "descending"), ("path", "ascending")])
    num_batches = -(-len(order) // batch)
    rows = [row for first in range(num_batches) for row in range(first, len(order), num_batches)]
    return order.take(pa.array(rows, pa.int64()))


def to_parquet(table: pa.Table) -> bytes:
    """Return the content of a Parquet file with a table."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def _read_list(name: str) -> dict[str, tuple[str | None, int]]:
    """Return the id, if it has one, and the bytes of each recording in a Parquet file, by its path.

    Paths that are relative are so to the folder of the list. Without a column `size`, that of
    recordings in buckets is not asked for, which would take a request for each.
    """
    # Read it
    system, path = open_system(name)
    try:
        with system.open_input_file(path) as file:
            table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise AudioError(f"{name}: not a readable list of recordings ({reason(error)})") from error

    # Check its values
    if "path" not in table.column_names:
        raise UsageError(f"{name}: expected a column path, got {', '.join(table.column_names)}")
    none: list[Any] = [None] * len(table)
    paths, ids, sizes = (
        table[column].to_pylist() if column in table.column_names else none
        for column in ("path", "id", "size")
    )
    for path, given in zip(paths, ids, strict=True):
        if not isinstance(path, str) or not path:
            raise UsageError(f"{name}: column path: expected text, got {path!r}")
        if given is not None and not (isinstance(given, str) and _ID.fullmatch(given)):
            raise UsageError(
                f"{name}: column id: expected a name of letters, digits, . _ ~ -, got {given!r}"
            )

    # Complete the paths
    folder = name.rpartition("/")[0] if is_address(name) else str(Path(name).absolute().parent)
    whole = [path if is_address(path) else os.path.join(folder, path) for path in paths]  # noqa: PTH118
    return {
        path: (given, size if isinstance(size, int) else _size(path))
        for path, given, size in zip(whole, ids, sizes, strict=True)
    }


def _below(name: str, on_failure: Callable[[str, VoxtralOnnxError], None]) -> list[tuple[str, int]]:
    """Return the address and the bytes of each recording below a bucket's folder, or of one."""
    system, path = open_system(name)
    start, _, query = name.partition("?")
    head = start.removesuffix("/").removesuffix(path.rstrip("/"))
    ending = f"?{query}" if query else ""
    try:
        at = system.get_file_info(path)
        found = (
            [at]
            if at.type == fs.FileType.File
            else system.get_file_info(fs.FileSelector(path, recursive=True))
        )
    except (OSError, pa.ArrowException) as error:
        on_failure(name, AudioError(f"{start}: cannot be searched ({reason(error)})"))
        return []
    audio = [
        (f"{head}{each.path}{ending}", each.size)
        for each in found
        if each.type == fs.FileType.File
        and (each is at or f".{each.extension.lower()}" in SUFFIXES)
    ]
    if not audio:
        on_failure(name, AudioError(f"{start}: a folder without audio files"))
    return audio


def _size(path: str) -> int:
    """Return the bytes of a recording here; 0 if they are unknown, and opening it says why."""
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):
        return 0


def _common(roots: Sequence[str]) -> str:
    """Return the folder that holds all inputs; nothing if none does."""
    plain = [root.partition("?")[0] if is_address(root) else root for root in roots]
    if len({is_address(root) for root in plain}) > 1:
        return ""
    try:
        common = os.path.commonpath(plain)
    except ValueError:  # relative and absolute ones, or two drives
        return ""
    is_file = len(set(plain)) == 1 and PurePosixPath(common).suffix
    return os.path.dirname(common) if is_file else common  # noqa: PTH120


def _id(path: str, root: str) -> str:
    """Return the id of a recording: the beginning of its name, and a hash of its relative path."""
    plain = path.partition("?")[0] if is_address(path) else path
    relative = os.path.relpath(plain, root) if root else plain
    digest = hashlib.sha256(relative.encode()).hexdigest()[:16]
    stem = re.sub("[^A-Za-z0-9._-]+", "-", PurePosixPath(plain).stem).strip("-._")
    return f"{stem[:LONGEST_STEM]}-{digest}" if stem else digest
