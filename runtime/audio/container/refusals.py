"""Refuse to take for raw samples what its first bytes say is something else."""

from __future__ import annotations

import re
from io import BytesIO

from ....errors import AudioError
from .kinds import HEAD_BYTES, describe, is_sound
from .starts import begins_at
from .view import View
from .walks import units_at

LOOKED_BYTES = 4 * HEAD_BYTES  # which hold three of the largest frames
_MARK_BYTES = 64  # in which marks stand; what is_sound finds further behind, sound has by chance
# What samples begin with as well: frames must follow
_SHORT_MARKS = (b"\xff", b"G", b"\x0b\x77", b"\x7f\xfe", b"\0\0\1", b"ID3")
_LONG_FRAMES = (b"\x0b\x77", b"\x7f\xfe\x80\x01", b"\0\0\1\xba")
# Of formats that no recording behind another one is looked for in
_MARKS = re.compile(
    rb"\x80\0.{4,1024}?\(c\)CRI|\xf8\x72\x4e\x1f|MATLAB 5|.{65}FSSD.{59}HCOM|ASF\0|STRM|KVAG|MMMD|"
    rb"\0\nSMJPEG|\xc0\xde\xc2|ALawSound|SOUND(?: SAM|\x1a)|2BIT|LM8953|qoaf|[Ee][Aa]3[\1-\4]|"
    rb"ID3[\2-\4][\0-\x10][\0-\xf0][\0-\x7f]{4}|TWIN9|NSV[fs]|\x02dss|#!SILK|"
    rb".{4}\x01\0{3}\x01\0\0\0\0\0\0\0\x0b\0\0\0samplerate|"
    rb".{4}\0\0\0\x01\0{3}\x01\0\0\0\0\0\0\0\x0bsamplerate",
    re.DOTALL,
)
# Of what is no sound, marks of two bytes, without what comes next
_BY_CHANCE = re.compile(rb"MZ(?!.{0,1024}PE\0\0)|\x1f\x8b(?!\x08)", re.DOTALL | re.IGNORECASE)


def bytes_to_tell(head: bytes) -> int:
    """Return how many of the first bytes tell what they are, by HEAD_BYTES of them."""
    return LOOKED_BYTES if head.startswith(_LONG_FRAMES) else HEAD_BYTES


def require_raw(head: bytes, expected: str, advice: str) -> None:
    """Refuse what is no raw samples; of samples, even of silence and noise, nothing is refused.

    Args:
        head: the first bytes, `bytes_to_tell` or all.
        expected: the beginning of the sentence, up to what was found.
        advice: what to do with another format of sound.

    Raises:
        AudioError: text, pictures and the like, another format of sound, or nothing.
    """
    if (found := describe(head)) and not _is_chance(head, found):
        raise AudioError(f"{expected} {found}")
    if is_recording(head):
        raise AudioError(f"{expected} another format of sound; {advice}")


def _is_chance(head: bytes, found: str) -> bool:
    """Return whether samples may be taken for this: G.711 with an offset is letters throughout."""
    if found in ("text", "JSON"):
        return re.search(rb'[\s"]', head) is None
    return _BY_CHANCE.match(head) is not None


def is_recording(head: bytes) -> bool:
    """Return whether a recording in some format begins so, which samples never do by chance."""
    if _MARKS.match(head):
        return True
    view = View(BytesIO(head), 0, len(head))
    kind = units_at(view, 0)
    if kind == "flash" or head.startswith(b"G"):  # the mark of a tag is a few zeros
        return head.startswith(b"FLV\1") or (kind == "ts" and _has_packets(head, 188))
    if kind == "m2ts":
        return _has_packets(head[4:], 192)
    if head.startswith(b"\xff") and len(head) >= HEAD_BYTES:  # in which three frames begin
        return kind is not None
    is_marked = not head.startswith(_SHORT_MARKS) and is_sound(head[:_MARK_BYTES])
    return is_marked or begins_at(view, 0)


def _has_packets(head: bytes, size: int) -> bool:
    """Return whether packets of MPEG-TS are counted, as a tone or an offset of samples is not."""
    marks = {head[at : at + 4] for at in range(0, 8 * size, size)}
    are_few = head.count(b"G") < len(head) / 32
    return len(marks) > 4 and are_few and all(mark[3:] and mark[3] & 0x30 for mark in marks)
