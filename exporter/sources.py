"""Remember which files each artifact was exported from.

An artifact's fingerprint is that of the first row of each tensor, so that it is read in an instant.
Whether every weight is still the one that was exported, sizes and times of the checkpoint's files
tell. They are kept in the user's cache folder, as no two machines have the same; where none are
known, the fingerprint has to do. Copies of a checkpoint give the same artifact, so that one may
have several sources.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from ..decode import Sha256, decode, read_within
from ..errors import StorageError
from ..files import atomic_write, lock, user_folder
from ..limits import STATE
from ..manifest import FILE_NAME

MOST_REMEMBERED = 64  # artifacts, the latest ones
MOST_SOURCES = 4  # of each, likewise
# Size, and modification time in nanoseconds, of each of a checkpoint's files, by name
Stamps = Mapping[str, tuple[int, int]]


class _Memory(Struct):
    """The content of `exports.json`: hashes of the sources' stamps, by that of the manifest."""

    exports: Annotated[
        dict[Sha256, Annotated[list[Sha256], Meta(max_length=MOST_SOURCES)]],
        Meta(max_length=MOST_REMEMBERED),
    ]


def remember_source(folder: Path, stamps: Stamps) -> None:
    """Remember which files a finished artifact was exported from; do nothing where that fails."""
    key, source = _key(folder), _hash(stamps)
    try:
        path = _file()
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path.with_suffix(".lock")):  # else exports at the same time forget each other's
            known = _remembered()
            others = [other for other in known.pop(key, []) if other != source]
            sources = [*others, source][-MOST_SOURCES:]
            kept = dict([*known.items(), (key, sources)][-MOST_REMEMBERED:])
            atomic_write(path, json.dumps({"exports": kept}).encode())
    except (OSError, StorageError):
        return


def may_be_source(folder: Path, stamps: Stamps) -> bool:
    """Return whether an artifact was exported from these files, or none are known here."""
    known = _remembered().get(_key(folder), [])
    return not known or _hash(stamps) in known


def _remembered() -> dict[str, list[str]]:
    try:
        return decode(_Memory, read_within(_file(), STATE, ValueError), ValueError).exports
    except (OSError, ValueError, StorageError):
        return {}


def _key(folder: Path) -> str:
    return hashlib.sha256((folder / FILE_NAME).read_bytes()).hexdigest()


def _hash(stamps: Stamps) -> str:
    return hashlib.sha256(json.dumps(stamps, sort_keys=True).encode()).hexdigest()


def _file() -> Path:
    return user_folder("cache") / "exports.json"
