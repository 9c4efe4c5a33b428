"""Find the files that make up a GGUF: one, or the byte shards that `split` cut it into."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ....errors import CheckpointError

MAGIC = b"GGUF"  # a GGUF's first bytes
SPLIT_IN_TWO = (
    "a model that llama.cpp has split in two, the decoder and an mmproj file with the encoder: in "
    "the decoder the gains of one delay stand in the place of the network that computes them for "
    "every delay, so the model cannot be put together again; take a GGUF that holds it whole, or "
    "the original checkpoint"
)


def is_gguf(name: str) -> bool:
    """Return whether a file is called a GGUF, in capitals or not."""
    return name.lower().endswith(".gguf")


def is_mmproj(name: str) -> bool:
    """Return whether a file is called like the encoder of a model that llama.cpp has split."""
    return is_gguf(name) and "mmproj" in name.lower()


def find(source: Path) -> list[Path]:
    """Return the files that make up a GGUF, in order.

    The list is empty where a folder has no GGUF or the source does not exist.

    Args:
        source: the file; or the first of the shards that `split` cut it into (shard-aa, shard-ab …
            or shard-00 …), their folder, or a pattern that matches them.

    Raises:
        CheckpointError: the file is no GGUF, there are several, or a shard is missing.
    """
    # List the candidates
    is_pattern = not source.exists() and any(sign in source.name for sign in "*?[")
    if is_pattern:
        files = sorted(source.parent.glob(source.name))
    elif source.exists():
        folder = source if source.is_dir() else source.parent
        try:
            files = sorted(path for path in folder.iterdir() if path.is_file())
        except OSError as error:
            raise CheckpointError(
                f"{folder}: cannot be read ({error.strerror or error})"
            ) from error
    else:
        return []

    # Exactly one of them begins a GGUF, and shards follow it by name
    firsts = [path for path in ([source] if source.is_file() else files) if _head(path) == MAGIC]
    if len(firsts) == 1:
        first, sizes = firsts[0], {path.name: path.stat().st_size for path in files}
        return [
            first.with_name(name) for name in order_shards(first.name, sizes, str(first.parent))
        ]

    # Report anything else, but not a folder without a GGUF
    if firsts:
        names = [path.name for path in firsts]
        is_split = len(names) == 2 and any(map(is_mmproj, names))
        several = f"several GGUFs: {', '.join(names)}; name one of them"
        raise CheckpointError(f"{source}: {SPLIT_IN_TWO if is_split else several}")
    named = [source] if source.is_file() else files
    if empty := [path for path in named if is_gguf(path.name) and not any(_head(path))]:
        raise CheckpointError(
            f"{empty[0]}: expected a GGUF, its first bytes are {_head(empty[0])!r}: a download "
            "that has not come to its end; download it again"
        )
    if source.is_file():
        raise CheckpointError(
            f"{source}: expected a checkpoint folder or a GGUF, found a file that begins with "
            f"{_head(source)!r}; if it is a shard of a GGUF, name the first shard"
        )
    if is_pattern:
        raise CheckpointError(
            f"{source}: {len(files)} files, none of which begins like a GGUF; add the first shard"
        )
    return []


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


def order_shards(first: str, sizes: Mapping[str, int], place: str) -> list[str]:
    """Return the names of a GGUF's shards: the first, and each that follows it without a gap.

    Args:
        first: the name of the first shard; a name that `split` does not give to one is a whole
            file.
        sizes: bytes of this file and of those beside it, by name.
        place: their folder or repository, for messages.

    Raises:
        CheckpointError: a shard is missing between others, or has another size.
    """
    if (name := first_shard(first)) is None:
        return [first]
    stem, suffix = name
    found = [first]
    while stem + (suffix := _next(suffix)) in sizes:
        found.append(stem + suffix)
    alike = re.compile(
        re.escape(stem) + ("[a-z]" if suffix.isalpha() else "[0-9]") + f"{{{len(suffix)}}}"
    )
    if stray := sorted(other for other in sizes.keys() - set(found) if alike.fullmatch(other)):
        raise CheckpointError(
            f"{place}/{first}: expected the shard {stem}{suffix} after {found[-1]}, found "
            f"{stray[0]}; download the missing one"
        )
    for shard in found[1:]:
        size, expected = sizes[shard], sizes[first]
        if size > expected or (size < expected and shard != found[-1]):
            raise CheckpointError(
                f"{place}/{shard}: expected a shard of {expected:,} bytes like {first}, found "
                f"{size:,}: incomplete or out of order; download it again"
            )
    return found


def begins_shards(name: str, names: Collection[str]) -> bool:
    """Return whether a file is the first of several shards, judged by their names."""
    first = first_shard(name)
    return first is not None and first[0] + _next(first[1]) in names


def first_shard(name: str) -> tuple[str, str] | None:
    """Return stem and suffix of a name that `split` gives to its first file, None for another."""
    match = re.fullmatch(r"(.*?)(aa+|0+[01]?)", name)
    return (match[1], match[2]) if match and len(match[2]) > 1 else None


def shard_after(files: Sequence[Path]) -> str | None:
    """Return the name that the shard after these would have; None if they are a whole file."""
    if (first := first_shard(files[0].name)) is None:
        return None
    stem, suffix = first
    for _ in files:
        suffix = _next(suffix)
    return stem + suffix


def _next(suffix: str) -> str:
    digits = "0123456789" if suffix.isdigit() else "abcdefghijklmnopqrstuvwxyz"
    number = 0
    for digit in suffix:
        number = number * len(digits) + digits.index(digit)
    following = ""
    for _ in suffix:
        number, digit = divmod(number + (not following), len(digits))
        following = digits[digit] + following
    return following
