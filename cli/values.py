"""Parse the values of options: sizes, numbers, names separated by commas."""

from __future__ import annotations

import re
from pathlib import Path
from typing import overload

from typer import BadParameter

from ..errors import UsageError
from ..escaping import quoted
from ..limits import MOST_STREAMS

# What `serve` takes of a request: a body in MB, hours of audio and in all, seconds for headers and
# without anything sent or taken, and requests at once of a client
REQUEST_LIMITS = {"body": 512.0, "audio": 4, "total": 6, "header": 10, "idle": 60, "requests": 16}
MOST_PORT = 65_535
ENGINES = ("local", "ray")
REALTIME_DIALECTS = ("auto", "openai", "vllm")
UNITS = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
}


def parse_size(text: str) -> int:
    """Return the bytes of a size such as 512MiB, 2GB or 1000000.

    Raises:
        UsageError: the text is not a size, or less than 1 MiB.
    """
    number = text.strip().lower().rstrip("kmgib")
    unit = text.strip().lower()[len(number) :]
    try:
        size = int(float(number) * UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise UsageError(
            f"size: expected a number with B, KB, MB, GB, KiB, MiB or GiB, got {quoted(text)}"
        ) from None
    if size < 1 << 20:
        raise UsageError(f"size: expected at least 1MiB, got {quoted(text)}")
    return size


def batch_size(value: int | str) -> int | str:
    """Return a number of files that are decoded together, or `auto`; typer calls it.

    Raises:
        BadParameter: neither.
    """
    text = str(value).strip()
    if text == "auto":
        return text
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= MOST_STREAMS:
        raise BadParameter(f"expected 1 to {MOST_STREAMS}, or auto, got {quoted(text)}")
    return int(text)


def engine(text: str) -> str:
    """Return the name of what transcribes files; typer calls it.

    Raises:
        BadParameter: there is none of that name.
    """
    if text not in ENGINES:
        raise BadParameter(f"expected {' or '.join(ENGINES)}, got {quoted(text)}")
    return text


def replicas(text: str | tuple[int, int]) -> tuple[int, int]:
    """Return the least and the most replicas that `N` or `N-M` names; typer calls it.

    Raises:
        BadParameter: it names none.
    """
    if isinstance(text, tuple):
        return text
    found = re.fullmatch("([0-9]{1,4})(?:-([0-9]{1,4}))?", text.strip())
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= least <= most:
        raise BadParameter(f"expected a number from 1 on, or a range as 2-8, got {quoted(text)}")
    return least, most


def output_folder(text: str | Path) -> str | Path:
    """Return a folder for outputs, or the address of one, such as s3://…; typer calls it."""
    return text if isinstance(text, str) and "://" in text else Path(text)


def parse_numbers(what: str, text: str, *, last: int) -> list[int]:
    """Return the numbers of a list such as 0,2,4-6, in rising order; `all` is 0 to `last`.

    Args:
        what: what the numbers are, for messages.
        text: the list.
        last: the largest number that is allowed.

    Raises:
        UsageError: another form, or a number above `last`.
    """
    if text.strip() == "all":
        return list(range(last + 1))
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,3})\s*(?:-\s*([0-9]{1,3})\s*)?", part)
        begin, end = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if begin > end:
            raise UsageError(
                f"{what}: expected numbers from 0 to {last} with commas, as 0,2,4-{last}, or all, "
                f"got {text!r}"
            )
        if end > last:
            raise UsageError(f"{what}: expected some of 0 to {last}, got {end}")
        found |= set(range(begin, end + 1))
    return sorted(found)


@overload
def split_names(text: str) -> list[str]: ...
@overload
def split_names(text: str | None) -> list[str] | None: ...
def split_names(text: str | None) -> list[str] | None:
    """Return the names that commas separate; None for None."""
    return None if text is None else [name.strip() for name in text.split(",")]


def realtime_dialect(text: str) -> str:
    """Return the name of a dialect of live speech, or `auto`; typer calls it.

    Raises:
        BadParameter: neither.
    """
    if text not in REALTIME_DIALECTS:
        raise BadParameter(f"expected {', '.join(REALTIME_DIALECTS)}, got {quoted(text)}")
    return text


def address(text: str | tuple[str, int]) -> tuple[str, int]:
    """Return the host and the port that `[HOST:]PORT` names; typer calls it.

    Raises:
        BadParameter: it is none.
    """
    if isinstance(text, tuple):
        return text
    found = re.fullmatch(r"(?:(\[[0-9a-fA-F:.]+\]|[^:\[\]]+):)?([0-9]{1,5})", text)
    if not found or int(found[2]) > MOST_PORT:
        raise BadParameter(f"expected a port such as 10300, or HOST:PORT, got {quoted(text)}")
    return (found[1] or "127.0.0.1").strip("[]"), int(found[2])


def limits_of(text: str | dict[str, float]) -> dict[str, float]:
    """Return the limits on requests that a text like `body=512,idle=60` names; typer calls it.

    Raises:
        BadParameter: a name is unknown, or a number is none, not positive or not finite.
    """
    if isinstance(text, dict):
        return text
    found = dict(REQUEST_LIMITS)
    for each in filter(None, text.split(",")):
        name, _, number = (part.strip() for part in each.partition("="))
        if name not in found:
            raise BadParameter(f"expected names of {', '.join(found)}, got {quoted(each)}")
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", number) or not float(number):
            raise BadParameter(f"{name}: expected a number above 0, got {quoted(number)}")
        found[name] = float(number)
    if found["requests"] < 1:
        raise BadParameter("requests: expected at least 1")
    return found
