"""Open GGUF files, whole or cut into byte shards, as lazy tensors.

    "GGUF", version, number of tensors, number of keys
    keys and values
    name, shape, type, offset of each tensor
    data

The `gguf` package's reader maps one whole file, so it can neither read shards nor report what is
wrong with a damaged header; its arithmetic for the block types is what `Tensor.rows` uses here.
The naming schemes of GGUF files are in names.py. Source: ggml's `docs/gguf.md`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from ...errors import CheckpointError
from ...escaping import quoted
from ...limits import GGUF_HEADER
from ...quant.gguf import BLOCK_SIZE
from ...quant.gguf import TYPES as KEPT_TYPES
from ...quant.kept import StoredBlocks
from .tensors import BF16, F16, F32, Encoding, Span, Tensor, map_file

# Hyperparameters as JSON; without this key they are the released model's
CONFIG = "voxtral_onnx.config"
_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_ALIGNMENT_KEY, _ALIGNMENT = "general.alignment", 32  # bytes, where the key is absent
_MAX_TEXT = 1 << 20  # bytes of one string; a longer one means a damaged file
_MOST_ENTRIES = 1 << 14  # tensors, and keys; more mean a damaged file
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_UINT32, _TEXT, _ARRAY = 4, 8, 9


_KEPT = {name: StoredBlocks(bits, BLOCK_SIZE) for bits, name in KEPT_TYPES.items()}


def _blocks(name: str, block_size: int, block_bytes: int) -> Encoding:
    def decode(stored: np.ndarray) -> np.ndarray:
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        return dequantize(stored, GGMLQuantizationType[name])

    return Encoding(name, block_size, block_bytes, decode, _KEPT.get(name))


TYPES = {  # by number in ggml's enum ggml_type
    0: F32,
    1: F16,
    2: _blocks("Q4_0", 32, 18),
    3: _blocks("Q4_1", 32, 20),
    6: _blocks("Q5_0", 32, 22),
    7: _blocks("Q5_1", 32, 24),
    8: _blocks("Q8_0", 32, 34),
    12: _blocks("Q4_K", 256, 144),
    13: _blocks("Q5_K", 256, 176),
    14: _blocks("Q6_K", 256, 210),
    30: BF16,
}


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
    elif source.is_dir():
        files = sorted(path for path in source.iterdir() if path.is_file())
    elif source.is_file():
        files = sorted(path for path in source.parent.iterdir() if path.is_file())
    else:
        return []

    # Exactly one of them begins a GGUF, and shards follow it by name
    firsts = [path for path in ([source] if source.is_file() else files) if _head(path) == _MAGIC]
    if len(firsts) == 1:
        first, sizes = firsts[0], {path.name: path.stat().st_size for path in files}
        return [
            first.with_name(name) for name in order_shards(first.name, sizes, str(first.parent))
        ]

    # Report anything else, but not a folder without a GGUF
    if firsts:
        raise CheckpointError(
            f"{source}: several GGUFs: {', '.join(path.name for path in firsts)}; name one of them"
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
            return file.read(len(_MAGIC))
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


def open_gguf(files: Sequence[Path]) -> tuple[dict[str, Tensor], dict[str, str | int | float]]:
    """Open a GGUF: return its tensors by name, and its metadata without the lists.

    Args:
        files: the whole file, or all of its shards in order.

    Raises:
        CheckpointError: the file is damaged, truncated, of another version, or has a type that is
            not supported.
        StorageError: this process may not map that much memory.
    """
    # Check the first bytes
    if empty := [path for path in files if not path.stat().st_size]:
        raise CheckpointError(
            f"{empty[0]}: expected a part of a GGUF, the file has 0 bytes; download it again"
        )
    whole = Span(tuple(map_file(path) for path in files))
    header = _Header(str(files[0]), whole)
    header.take(len(_MAGIC))
    if (version := header.number("I")) not in _VERSIONS:
        raise CheckpointError(
            f"{files[0]}: expected GGUF version 2 or 3, got {version}; convert it anew"
        )

    # Read the keys and values
    num_tensors, num_keys = header.count(), header.count()
    metadata = {}
    for _ in range(num_keys):
        key = header.text()
        if key in metadata:
            raise CheckpointError(f"{files[0]}: the key {key} appears twice; convert it anew")
        kind = header.number("I")
        if key == _ALIGNMENT_KEY and kind != _UINT32:
            raise CheckpointError(
                f"{files[0]}: {key}: expected an unsigned number of 32 bits, got kind {kind}; "
                "convert it anew"
            )
        metadata[key] = header.value(kind)
    if metadata.get("split.count", 1) != 1:
        raise CheckpointError(
            f"{files[0]}: one of {metadata['split.count']} GGUFs that hold a model together; merge "
            "them first: llama-gguf-split --merge FIRST OUT"
        )

    # Read the names, shapes, types and offsets of the tensors
    entries = [_read_entry(header) for _ in range(num_tensors)]
    alignment = metadata.get(_ALIGNMENT_KEY, _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise CheckpointError(
            f"{files[0]}: {_ALIGNMENT_KEY}: expected a power of two, got {quoted(alignment)}"
        )
    begin = base = _aligned(header.at, alignment)

    # Find their bytes, which follow each other in the header's order, as ggml requires
    tensors, end = {}, base
    for name, shape, encoding, offset in entries:
        if name in tensors:
            raise CheckpointError(f"{files[0]}: {name} appears twice; convert it anew")
        if base + offset != begin:
            raise CheckpointError(
                f"{files[0]}: {name}: expected its values from byte {begin - base:,} of the data "
                f"on, got {offset:,}; convert it anew"
            )
        end = begin + encoding.num_bytes(shape)
        if end > whole.size:
            raise CheckpointError(_too_short(files, f"{name} ends at byte {end:,}", whole.size))
        tensors[name] = Tensor(name, shape, encoding, whole.part(begin, end))
        begin = _aligned(end, alignment)
    if len(files) > 1 and end <= whole.size - whole.pieces[-1].size:
        raise CheckpointError(
            f"{files[-1]}: not a shard of {files[0]}, which ends at byte {end:,} before it"
        )
    return tensors, {key: value for key, value in metadata.items() if value is not None}


def _read_entry(header: _Header) -> tuple[str, tuple[int, ...], Encoding, int]:
    name = header.text()
    num_axes = header.number("I")
    if not 1 <= num_axes <= 4:
        raise CheckpointError(
            f"{header.name}: {name}: expected 1 to 4 axes, got {num_axes}; download it again"
        )
    shape = tuple(header.number("Q") for _ in range(num_axes))[::-1]
    if 0 in shape:
        raise CheckpointError(f"{header.name}: {name} {list(shape)}: empty; convert it anew")
    number, offset = header.number("I"), header.number("Q")
    if number not in TYPES:
        known = ", ".join(encoding.name for encoding in TYPES.values())
        raise CheckpointError(
            f"{header.name}: {name}: expected one of the types {known}, got type {number}"
        )
    encoding = TYPES[number]
    if shape[-1] % encoding.block_size or (len(shape) == 1 and encoding.block_size > 1):
        raise CheckpointError(
            f"{header.name}: {name} {list(shape)}: expected rows in whole blocks of "
            f"{encoding.name} ({encoding.block_size} values each), and vectors as floats"
        )
    return name, shape, encoding, offset


def _aligned(place: int, alignment: int) -> int:
    return -(-place // alignment) * alignment


def _too_short(files: Sequence[Path], what: str, size: int) -> str:
    if first := first_shard(files[0].name):
        suffix = first[1]
        for _ in files:
            suffix = _next(suffix)
        missing = f"{first[0]}{suffix} is missing, or {files[-1].name} is cut; get it"
        return f"{files[0]}: {what}, its {len(files)} shards have {size:,}: {missing}"
    return f"{files[0]}: truncated: {what}, the file has {size:,}; download it again"


class _Header:
    """A cursor that reads a GGUF's header field by field."""

    def __init__(self, name: str, whole: Span):
        self.name, self.whole, self.at = name, whole, 0
        self.content = whole.read(0, min(whole.size, GGUF_HEADER)).tobytes()

    def take(self, size: int) -> bytes:
        start = self.at
        self.skip(size)
        return self.content[start : self.at]

    def skip(self, size: int) -> None:
        """Skip some bytes."""
        if size > len(self.content) - self.at:
            raise self._ends()
        self.at += size

    def number(self, form: str):
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]

    def count(self) -> int:
        """Read the number of tensors or keys."""
        if (count := self.number("Q")) > _MOST_ENTRIES:
            raise CheckpointError(
                f"{self.name}: {count:,} tensors or keys in its header: damaged; download it again"
            )
        return count

    def text(self) -> str:
        size = self.number("Q")
        if size > _MAX_TEXT:
            raise CheckpointError(
                f"{self.name}: a name of {size:,} bytes in its header: damaged; download it again"
            )
        try:
            return self.take(size).decode()
        except UnicodeDecodeError as error:
            raise CheckpointError(
                f"{self.name}: damaged header ({error}); download it again"
            ) from error

    def value(self, kind: int) -> str | int | float | None:
        """Read a scalar or a string; skip a list and return None."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if inner in _SCALARS:
                self.skip(count * struct.calcsize(f"<{_SCALARS[inner]}"))
                return None
            if inner == _TEXT:
                self.skip_texts(count)
                return None
            kind = inner
        raise CheckpointError(
            f"{self.name}: unknown kind of metadata {kind}: damaged; download it again"
        )

    def skip_texts(self, count: int) -> None:
        """Skip a list of strings, fast, as a vocabulary has hundreds of thousands."""
        at, read = self.at, struct.Struct("<Q").unpack_from
        try:
            for _ in range(count):
                at += 8 + read(self.content, at)[0]
        except (struct.error, OverflowError):  # an offset beyond the header
            raise self._ends() from None
        self.skip(at - self.at)

    def _ends(self) -> CheckpointError:
        if len(self.content) == GGUF_HEADER:
            reason = f"at most {GGUF_HEADER:,} bytes, found more: damaged"
            return CheckpointError(f"{self.name}: expected a header of {reason}; download it again")
        return CheckpointError(
            f"{self.name}: truncated or damaged: its header ends beyond the {self.whole.size:,} "
            "bytes that there are; download it again"
        )
