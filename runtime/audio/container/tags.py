"""Formats of frames without a container, and the tags before and after the frames."""

from __future__ import annotations

import re

from .kinds import HEAD_BYTES, frame_bytes, has_mpeg_frames
from .view import PIECE_BYTES, View
from .walks import UNIT_HEAD, unit_bytes

TAIL_BYTES = 1 << 16  # at the end of a file, in which frames are followed
CUT = "it ends inside a frame: it may be cut off"
FRAMED = ("aac", "ac3", "eac3", "mp3")  # FFmpeg's names of formats that hold frames alone
NUT_INDEX = b"NX\xdd\x67\x2f\x23\xe6\x4e"  # at the end of a NUT. Source: libavformat/nut.h
ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
FOLLOWED = 3  # frames in a row, which do not occur by chance


def has_frames(view: View, at: int) -> bool:
    """Return whether frames of FLAC or MPEG audio occur anywhere after an offset."""
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
    """Return a pattern for the first bytes of a FLAC file's frames; None for another format."""
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
    # The fourth byte also tells how the channels are coded, which changes from frame to frame
    last = b"".join(re.escape(bytes([high << 4 | frame[3] & 15])) for high in range(11))
    return re.compile(re.escape(frame[:3]) + b"[" + last + b"]", re.DOTALL)


def id3_bytes(view: View) -> int:
    """Return the bytes of the ID3 tags at the beginning of a file."""
    at = 0
    while (head := view.peek(at, 10)).startswith(b"ID3") and len(head) == 10:
        count = 0
        for value in head[6:]:
            count = count << 7 | value & 0x7F
        at += 10 + count + 10 * bool(head[5] & 0x10)
    return min(at, view.size)


def behind_tags(view: View, at: int) -> int:
    """Return the offset after the tags that follow a recording."""
    while head := view.peek(at, 32):
        if head.startswith(b"TAG"):
            at += 128
        elif head.startswith(b"APETAGEX") and len(head) == 32:
            at += int.from_bytes(head[12:16], "little") + 32 * bool(head[23] & 0x20)
        else:
            break
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
            end = behind_content(view, end)
        if end == before:
            break
    return max(0, end - id3_bytes(view))


def is_cut(view: View, kind: str, track: int = 0) -> bool:
    """Return whether a file ends inside a frame, a packet, or what else holds its sound.

    Args:
        view: its bytes.
        kind: FFmpeg's name of the format; False for any that is not named here.
        track: the packet identifier of the audio stream in an MPEG-TS.
    """
    # Packets, each of which declares its size
    if kind == "mpegts":
        return _is_ts_cut(view, track)
    if kind == "flv":
        at = 13
        while (head := view.peek(at, 4)) and head[0] in (8, 9, 18) and len(head) == 4:
            at += 15 + int.from_bytes(head[1:], "big")
        return at - 4 > view.size  # the number behind the last may be left out
    if kind == "nut":
        return _is_nut_cut(view)
    if kind == "avi":
        return sum(avi_bytes(view)) > view.size
    if kind == "asf":
        return _is_asf_cut(view)
    if kind == "wv":
        at = 0
        while size := unit_bytes(view.peek(at, UNIT_HEAD)):
            at += size
        return at > view.size
    if kind == "voc":
        return _is_voc_cut(view)

    # Frames: follow a run of them to the end of the file
    if kind not in FRAMED:
        return False
    end = id3_bytes(view) + bare_size(view)
    start = max(0, end - TAIL_BYTES)
    data, mark = view.peek(start, end - start), b"\x0b\x77" if "ac3" in kind else b"\xff"
    first = -1
    while (first := data.find(mark, first + 1)) >= 0:
        at, count = first, 0
        while (size := frame_bytes(data[at : at + 8])) > 6:
            if data[at + 1] != data[first + 1]:
                break
            at, count = at + size, count + 1
        if count < FOLLOWED:
            continue
        if at <= len(data):
            rest = data[at:]
            return 0 < len(rest) < 8 and rest[:1] == mark[:1]
        # Zeros at the end of the last frame look like padding
        missing = at - len(data)
        behind = view.peek(end, missing)
        return len(behind) < missing or bool(behind.strip(b"\0"))
    return False


def _is_nut_cut(view: View) -> bool:
    """Return whether a NUT has no index, the distance to which stands before its last 4 bytes."""
    content = behind_content(view)
    for end in range(content, min(content + 4, view.size) + 1):  # which may be zeros as padding is
        distance = int.from_bytes(view.peek(end - 12, 8), "big")
        if view.peek(end - distance, 8) == NUT_INDEX:
            return False
    return True


def behind_content(view: View, end: int | None = None) -> int:
    """Return where the zeros begin that a file ends in, or its bytes up to an end."""
    end = view.size if end is None else end
    while end > 0:
        start = max(0, end - PIECE_BYTES)
        if held := view.peek(start, end - start).rstrip(b"\0"):
            return start + len(held)
        end = start
    return 0


def avi_bytes(view: View) -> tuple[int, int]:
    """Return where an AVI's packets begin, and how many bytes they take; 0 where it is not said."""
    at = 12
    while len(head := view.peek(at, 12)) == 12:
        count = int.from_bytes(head[4:8], "little")
        if head[:4] == b"LIST" and head[8:] == b"movi":
            return at + 8, count if 4 < count < 1 << 31 else 0
        at += 8 + count + count % 2
    return at, 0


def _is_asf_cut(view: View) -> bool:
    """Return whether the object that holds an ASF's packets is not all there."""
    at = 0
    while len(head := view.peek(at, 24)) == 24:
        count = int.from_bytes(head[16:], "little")
        if head[:16] == ASF_DATA:
            return 50 < count < 1 << 62 and at + count > view.size  # less: it was a broadcast
        at += max(24, count)
    return False


def _is_voc_cut(view: View) -> bool:
    """Return whether a file of Creative ends inside a block."""
    at = int.from_bytes(view.peek(20, 2), "little")
    while (head := view.peek(at, 4)) and head[0]:
        at += 4 + int.from_bytes(head[1:], "little")
    return at > view.size


def _is_ts_cut(view: View, track: int) -> bool:
    """Return whether the last packet of an MPEG-TS, or its last block of sound, is incomplete."""
    for size, before in ((188, 0), (192, 4)):
        if all(view.peek(before + n * size, 1) == b"G" for n in range(FOLLOWED)):
            break
    else:
        return False
    end = view.size - view.size % size
    if view.peek(end + before, 1) == b"G":
        return True
    held = 0
    for at in range(end - size, max(-1, end - PIECE_BYTES), -size):
        packet = view.peek(at + before, 188)
        if packet[:1] != b"G" or (packet[1] & 31) << 8 | packet[2] != track:
            continue
        begin = 4 + (packet[4] + 1) * bool(packet[3] & 0x20)
        payload = packet[begin:] if packet[3] & 0x10 else b""
        held += len(payload)
        if packet[1] & 0x40:  # where a block begins
            promised = int.from_bytes(payload[4:6], "big")
            return payload[:3] == b"\0\0\1" and promised > 0 and held < promised + 6
    return False
