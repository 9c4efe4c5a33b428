"""Frames that have no container around them, and the tags that stand before and behind them."""

from __future__ import annotations

import re

from .kinds import HEAD_BYTES, has_mpeg_frames
from .view import PIECE_BYTES, View


def has_frames(view: View, at: int) -> bool:
    """Return whether frames of FLAC or MPEG audio stand anywhere behind an offset."""
    mark = _flac_mark(view)
    pattern = mark or re.compile(rb"\xff[\xe2-\xff]")
    kept = b""
    while at < view.size and (piece := view.peek(at, PIECE_BYTES)):
        data = kept + piece
        for found in pattern.finditer(data):
            if mark or has_mpeg_frames(data[found.start() : found.start() + HEAD_BYTES]):
                return True
        kept, at = data[-HEAD_BYTES:], at + len(piece)
    return False


def _flac_mark(view: View) -> re.Pattern[bytes] | None:
    """Return how every frame of a FLAC begins: in another way in each file."""
    at = id3_bytes(view)
    if view.peek(at, 4) != b"fLaC":
        return None
    at += 4
    while len(head := view.peek(at, 4)) == 4:
        at += 4 + int.from_bytes(head[1:], "big")
        if head[0] & 0x80:
            break
    frame = view.peek(at, 4)
    if len(frame) < 4 or frame[0] != 0xFF:
        return None
    # The fourth byte says also how the channels are joined, which changes from frame to frame
    last = b"".join(re.escape(bytes([high << 4 | frame[3] & 15])) for high in range(11))
    return re.compile(re.escape(frame[:3]) + b"[" + last + b"]", re.DOTALL)


def id3_bytes(view: View) -> int:
    """Return the bytes of the ID3 tags that a file begins with."""
    at = 0
    while (head := view.peek(at, 10)).startswith(b"ID3") and len(head) == 10:
        count = 0
        for value in head[6:]:
            count = count << 7 | value & 0x7F
        at += 10 + count + 10 * bool(head[5] & 0x10)
    return min(at, view.size)


def bare_size(view: View) -> int:
    """Return the bytes of a file without its tags and the padding at its end."""
    end = view.size
    while end > 0:
        before = end
        if view.peek(end - 128, 3) == b"TAG":
            end -= 128
        elif (foot := view.peek(end - 32, 32)).startswith(b"APETAGEX"):
            count = int.from_bytes(foot[12:16], "little")
            end -= count + 32 * bool(foot[23] & 0x80)
        elif (foot := view.peek(end - 10, 10)).startswith(b"3DI"):
            end -= 20 + sum((value & 0x7F) << 7 * (3 - n) for n, value in enumerate(foot[6:]))
        elif (foot := view.peek(end - 15, 15)).endswith(b"LYRICS200") and foot[:6].isdigit():
            end -= 15 + int(foot[:6])
        else:
            while end > 0 and not view.peek(max(0, end - 4096), min(4096, end)).strip(b"\0"):
                end -= min(4096, end)
            tail = view.peek(max(0, end - 4096), min(4096, end))
            end -= len(tail) - len(tail.rstrip(b"\0"))
        if end == before:
            break
    return max(0, end - id3_bytes(view))
