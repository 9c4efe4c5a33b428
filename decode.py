"""Untrusted JSON and TOML, read within a byte limit and decoded once into typed values.

A type states the bounds of one value (`Annotated[int, Meta(ge=1)]`), and a `__post_init__` states
what several values must agree on. Nothing that did not pass here is used as a number, a name or a
path.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

T = TypeVar("T")

_SHA256 = r"\A[0-9a-f]{64}\Z"
_RELATIVE = (
    r"\A(?!.*(?:\A|/)\.{0,2}(?:/|\Z))"
    r"[^\x00-\x1f\x7f-\x9f:\\\u2028-\u202e\u2066-\u2069]+\Z"
)

Count = Annotated[int, Meta(ge=0, lt=1 << 53)]  # JavaScript's exact integers
Size = Annotated[int, Meta(ge=1, le=1 << 24)]  # length of one axis of a tensor
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Sentence = Annotated[str, Meta(max_length=1000)]
Sha256 = Annotated[str, Meta(pattern=_SHA256)]
# A file's name below a folder, on every system: no `..`, no drive, no NTFS stream, no character
# that a terminal or a shell interprets
RelativeName = Annotated[str, Meta(pattern=_RELATIVE, max_length=255)]
_WORDS = (  # that messages have in the place of a pattern
    (_SHA256, "a sha256 in hexadecimal digits"),
    (
        _RELATIVE,
        "a file below the folder: no '/' first, no '..', ':', '\\\\' or control characters",
    ),
)


def is_relative_name(name: str) -> bool:
    """Return whether a string is a `RelativeName`."""
    return len(name) <= 255 and re.search(_RELATIVE, name) is not None


def decode(kind: type[T], content: bytes, error: Callable[[str], Exception]) -> T:
    """Decode JSON into a type.

    Args:
        kind: the type, whose annotated bounds are checked.
        content: JSON in UTF-8.
        error: makes the exception to raise from the reason.

    Raises:
        Exception: the one that `error` makes; the content does not parse or does not fit the type.
    """
    return _checked(lambda: msgspec.json.decode(content, type=kind), error)


def decode_toml(kind: type[T], content: bytes, error: Callable[[str], Exception]) -> T:
    """Decode TOML into a type, with the arguments and errors of `decode`."""
    return _checked(lambda: msgspec.toml.decode(content, type=kind), error)


def convert(kind: type[T], values: object, error: Callable[[str], Exception]) -> T:
    """Convert plain values, such as parsed JSON, into a type, with the errors of `decode`."""
    return _checked(lambda: msgspec.convert(values, kind), error)


def _checked(make: Callable[[], T], error: Callable[[str], Exception]) -> T:
    try:
        return make()
    except RecursionError:
        raise error("nested too deeply") from None
    except (msgspec.MsgspecError, ValueError) as problem:
        reason = str(problem)
        for pattern, words in _WORDS:
            reason = reason.replace(f"`str` matching regex {pattern!r}", words)
        raise error(reason) from problem


def read_within(path: Path, limit: int, error: Callable[[str], Exception]) -> bytes:
    """Read a whole file of at most `limit` bytes.

    Args:
        path: an existing file.
        limit: bytes, one of those in limits.py.
        error: makes the exception to raise from the reason.

    Raises:
        FileNotFoundError: the file does not exist.
        Exception: the one that `error` makes; the file cannot be read or is larger.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as problem:
        raise error(f"cannot be read ({problem.strerror or problem})") from problem
    if len(content) > limit:
        raise error(f"expected at most {limit:,} bytes, found more")
    return content
