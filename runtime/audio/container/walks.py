"""Follow the units of formats that have no container, from one to the next, to their end.

Frames of MPEG audio, AAC, AC-3, DTS and AMR, blocks of WavPack, packets of MPEG-TS, packs of
MPEG-PS and tags of FLV each declare their length: where no other follows, the recording ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .kinds import AMR_MARK, frame_bytes
from .view import PIECE_BYTES, View

UNIT_HEAD = 28  # bytes that hold the length of a unit, and whether it is the first
FOLLOWED = 3  # units in a row, which do not occur by chance
MANY_FOLLOWED = 8  # the same for units whose mark is a byte or so

PROGRAM_END = b"\0\0\x01\xb9"  # after the last pack of MPEG-PS
_PACK = 0xBA
_FLASH_HEADER = 13  # bytes

_AMR = (13, 14, 16, 18, 20, 21, 27, 32, 6)  # bytes of a frame by mode. Source: RFC 4867
_AMR_WB = (18, 24, 33, 37, 41, 47, 51, 59, 61, 6)
_NO_SOUND = (14, 15)  # modes: a lost frame, and no data


def _of_frames(mark: bytes, mask: int) -> Callable[[bytes], int]:
    """Return a function that measures frames by their first two bytes, the second one masked."""

    def measure(head: bytes) -> int:
        is_one = head[:1] == mark[:1] and len(head) > 1 and head[1] & mask == mark[1] & mask
        return frame_bytes(head) if is_one else 0

    return measure


def _mpeg(head: bytes) -> int:
    return frame_bytes(head) if head[:1] == b"\xff" and head[1:2] and head[1] & 6 else 0


def _latm(head: bytes) -> int:
    if len(head) < 3 or head[0] != 0x56 or head[1] & 0xE0 != 0xE0:
        return 0
    return 3 + ((head[1] & 31) << 8 | head[2])


def _dts(head: bytes) -> int:
    if not head.startswith(b"\x7f\xfe\x80\x01") or len(head) < 8:
        return 0
    return 1 + ((head[5] & 3) << 12 | head[6] << 4 | head[7] >> 4)


def _wavpack(head: bytes) -> int:
    is_one = re.match(rb"wvpk.{4}[\x02-\x10]\x04", head, re.DOTALL)
    return 8 + int.from_bytes(head[4:8], "little") if is_one else 0


def _is_first_wavpack(head: bytes) -> bool:
    """Return whether a block of WavPack has the first samples of a recording."""
    at, count, flags = (int.from_bytes(head[n : n + 4], "little") for n in (16, 20, 24))
    return at == 0 and head[10:11] == b"\0" and count > 0 and bool(flags & 0x800)


def _program(head: bytes) -> int:
    if not head.startswith(b"\0\0\1") or len(head) < 14 or head[3] <= PROGRAM_END[3]:
        return 0
    if head[3] == _PACK:
        return 14 + (head[13] & 7) if head[4] & 0xC0 == 0x40 else 12
    return 6 + int.from_bytes(head[4:6], "big")


def _flash(head: bytes) -> int:
    if head[:1] not in (b"\x08", b"\x09", b"\x12") or head[8:11] != bytes(3):
        return 0
    return 15 + int.from_bytes(head[1:4], "big")


def _of_amr(sizes: tuple[int, ...]) -> Callable[[bytes], int]:
    """Return a function that measures AMR frames, whose sizes depend on their mode."""

    def measure(head: bytes) -> int:
        mode = head[0] >> 3 & 15
        if head[0] & 0x83 or not (mode < len(sizes) or mode in _NO_SOUND):
            return 0
        return sizes[mode] if mode < len(sizes) else 1

    return measure


_UNITS: dict[str, Callable[[bytes], int]] = {
    "adts": _of_frames(b"\xff\xf0", 0xF6),
    "mpeg": _mpeg,
    "ac3": _of_frames(b"\x0b\x77", 0xFF),
    "latm": _latm,
    "dts": _dts,
    "wavpack": _wavpack,
    "program": _program,
    "flash": _flash,
}
# The kinds of units that begin with a byte; no other byte begins one
_BEGUN_BY = {
    **{b"\xff": ("adts", "mpeg"), b"\x0b": ("ac3",), b"\x56": ("latm",), b"\x7f": ("dts",)},
    **{b"w": ("wavpack",), b"\0": ("program",)},
    **dict.fromkeys((b"\x08", b"\x09", b"\x12"), ("flash",)),
}
AMR = {"amr": _of_amr(_AMR), "amr-wb": _of_amr(_AMR_WB)}
AMR_BYTES = len(b"#!AMR\n")  # length of the mark at the beginning
_PACKETS = {"ts": (188, 0), "m2ts": (192, 4)}  # size, and where their mark stands


def units_at(view: View, at: int) -> str | None:
    """Return the kind of units of which several in a row begin at an offset; None for none."""
    head = view.peek(at, UNIT_HEAD)
    if mark := AMR_MARK.match(head):
        return "amr-wb" if b"WB" in mark[0] else "amr"
    if head.startswith(b"FLV\x01"):
        return "flash"
    for kind, (size, before) in _PACKETS.items():
        if head[before : before + 1] == b"G" and all(
            view.peek(at + before + n * size, 1) == b"G" for n in range(1, MANY_FOLLOWED)
        ):
            return kind
    for kind in _BEGUN_BY.get(head[:1], ()):
        place, count, measure = at, 0, _UNITS[kind]
        least = MANY_FOLLOWED if kind == "latm" else FOLLOWED
        while count < least and place < view.size:
            unit = view.peek(place, UNIT_HEAD)
            size = measure(unit)
            if size < 4 or (unit[:1] == b"\xff" and unit[:2] != head[:2]):
                break
            place, count = place + size, count + 1
        # One unit is enough if its mark is long; for FLV's shorter mark only at the end of a file
        is_alone = kind == "wavpack" or (kind == "flash" and place >= view.size)
        if count >= least or (count and is_alone):
            return kind
    return None


def unit_bytes(head: bytes) -> int:
    """Return the bytes that the unit with this head declares; 0 if it is none."""
    for kind in _BEGUN_BY.get(head[:1], ()):
        if size := _UNITS[kind](head):
            return size
    return 0


def behind_units(view: View, at: int, kind: str) -> int:
    """Return the offset where a run of units of a kind ends, at most the end of the file."""
    at += _header_bytes(view.peek(at, UNIT_HEAD))
    if kind in _PACKETS:
        return _behind_packets(view, at, *_PACKETS[kind])
    measure, clock, first = (_UNITS | AMR)[kind], b"", at
    while at < view.size:
        data, place = view.peek(at, PIECE_BYTES), 0
        is_last = at + len(data) >= view.size
        while place < len(data) - (0 if is_last else UNIT_HEAD):
            head = data[place : place + UNIT_HEAD]
            size = measure(head)
            is_next = kind == "wavpack" and at + place > first and _is_first_wavpack(head)
            if not size or is_next:
                return at + place
            if kind == "program" and data[place + 3] == _PACK:
                last, clock = clock, data[place + 4 : place + 9]
                if clock < last or (
                    last and last[0] >> 6 != clock[0] >> 6
                ):  # the clock goes back: another recording
                    return at + place
            place += size
        at += place
    return view.size


def _header_bytes(head: bytes) -> int:
    """Return the bytes of a header before the first unit; 0 for none."""
    if head.startswith(b"FLV\x01"):
        return _FLASH_HEADER
    mark = AMR_MARK.match(head)
    return mark.end() if mark else 0


def _behind_packets(view: View, at: int, size: int, before: int) -> int:
    """Return the offset where packets of MPEG-TS do not follow each other any more."""
    while at < view.size:
        data = view.peek(at, PIECE_BYTES // size * size)
        marks = data[before::size]
        count = len(marks) - len(marks.lstrip(b"G"))
        if count < len(marks):
            return at + count * size
        at += len(data)
    return view.size
