"""Find where in a file a recording begins: by a mark that nothing else has, or by its frames."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import numpy as np

from .kinds import HEAD_BYTES, has_mpeg_frames
from .tags import TAIL_BYTES, behind_tags, id3_bytes
from .view import PIECE_BYTES, View
from .walks import UNIT_HEAD, behind_units, unit_bytes, units_at

# First bytes of a recording after another one, each with what must follow, so long that bytes of
# sound are never like them. The formats are those of kinds._SOUND
_MARKS = (
    rb"fLaC[\0\x80]\0\0\x22|OggS\0\x02\0{8}|#!AMR(?:-WB)?\n|caff\0\x01\0\0desc",
    rb"R(?:IFF|F64).{4}WAVE(?:fmt |ds64|JUNK|bext|LIST)|BW64.{4}WAVE|RIFX.{4}WAVE",
    rb"RIFF.{4}(?:AVI LIST|CDXAfmt )|FORM.{4}(?:AIF[FC]|8SVX|16SV|MAUD)",
    rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0",
    rb"\.snd\0\0[\0-\x04].{5}\0\0\0[\x01-\x1b]\0",
    rb"\0\0\0.ftyp[ -~]{4}\0|\x1aE\xdf\xa3[\x80-\xbf\x01].{0,7}\x42[\x82\x86\xf2\xf3\xf7]",
    rb"0&\xb2u\x8ef\xcf\x11\xa6\xd9|FLV\x01[\x01\x04\x05]\0\0\0\x09|nut/multimedia container",
    rb"TTA[12][\x01-\x03]\0|MAC [^\0]\x0f|tBaK\x01.\0\0|MPCK(?:SH|RG|EI)|ajkg[\0-\x03]",
    rb"wvpk.{4}[\x02-\x10]\x04|DSD \x1c\0{7}|\.RMF\0\0\0[\x10-\x20]|NIST_1A\n   1024",
    rb"Creative Voice File\x1a|Extended Instrument: |PVF1\n\d|\.SoX[\x1c-\xff]\0\0\0",
    rb" paf\0\0\0\0\0\0\0[\0\1]|fap \0\0\0\0[\0\1]\0\0\0",
    rb"\x64\xa3[\1-\4]\0..[\0-\xff][\x45-\x48]|\0[\1-\4]\xa3\x64[\x45-\x48]",
    rb"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02|\xb7\xd8\0\x20\x37\x49\xda\x11",
    rb"\0\0\0\0\x01\xbc\0.{7}\xe1\xe2",
)
MARK = re.compile(b"|".join(_MARKS), re.DOTALL)
# Shorter ones, for places where a recording is expected to begin
_SHORT_MARK = re.compile(
    rb"(?:RIFF|RF64|BW64|RIFX)....WAVE|\.snd\0\0|\x1aE\xdf\xa3|#!AMR|\0\0..ftyp|"
    rb"[FC]WS[\x04-\x2b]|.{4}\xf8\x72\x6f[\xba\xbb]|\x72\xf8\x1f\x4e|MP\+[\x07\x17\x27]",
    re.DOTALL,
)
# Bytes that may begin a frame, to be examined; TS and M2TS by their second and third packets
_FRAME = re.compile(
    rb"\xff[\xe2-\xff]|\x0b\x77|\x56[\xe0-\xff]|\x7f\xfe\x80\x01|\0\0\x01\xba|ID3[\2-\4]|"
    rb"G(?=.{187}G.{187}G)|G(?=.{191}G.{191}G)",
    re.DOTALL,
)
# First bytes of what a pattern matches, each with those that may be second. In most of a file no
# pattern has to be tried
_PAIRS = {
    MARK: (
        *(b"fLa", b"Og", b"#!", b"ca", b"RIF", b"BW", b"FOL", b"ri", b".sRS", b"\0\0\1\2\3\4"),
        *(b"\x1aE", b"0&", b"nu", b"TT", b"MAP", b"tB", b"aj", b"wv", b"DS", b"NI", b"Cr", b"Ex"),
        *(b"PV", b" p", b"\x64\xa3", b"\x06\x0e", b"\xb7\xd8"),
    ),
    _FRAME: (
        *(b"\xff" + bytes(range(0xE2, 0x100)), b"\x56" + bytes(range(0xE0, 0x100))),
        *(b"\x0b\x77", b"\x7f\xfe", b"\0\0", b"ID", b"G" + bytes(range(0x100))),
    ),
}
_SYNC = ord("G")  # of packets of MPEG-TS, which are tried only where two follow each other
_DENSE = 1 / 32  # of all bytes, from which share on the pattern alone is faster


def begins_at(view: View, at: int) -> bool:
    """Return whether a recording begins at an offset."""
    if at >= view.size:
        return False
    head = view.peek(at, 64)
    if MARK.match(head) or _SHORT_MARK.match(head) or units_at(view, at):
        return True
    tags = id3_bytes(view.rest(at))
    head = view.peek(at + tags, HEAD_BYTES)
    return has_mpeg_frames(head) or bool(tags and units_at(view, at + tags))


def ends_in_units(view: View) -> bool:
    """Return whether a file ends in a run of units of one kind, such as frames."""
    start = max(0, view.size - TAIL_BYTES)
    for found in _FRAME.finditer(view.peek(start, TAIL_BYTES)):
        for place in (start + found.start() - 4, start + found.start()):
            kind = units_at(view, place) if place >= 0 else None
            if kind and behind_tags(view, behind_units(view, place, kind)) >= view.size:
                return True
    return False


def next_mark(view: View, at: int) -> int:
    """Return the first offset from `at` on where a recording begins with a mark, or the end."""
    return _next(view, at, MARK)


def next_start(view: View, at: int) -> int:
    """Return the first offset from `at` on where a recording begins, or the end."""
    return min(_next(view, at, MARK), _next(view, at, _FRAME))


def _next(view: View, at: int, pattern: re.Pattern[bytes]) -> int:
    kept = b""
    while at < view.size and (piece := view.peek(at, PIECE_BYTES)):
        data = kept + piece
        for found in find_all(pattern, data):
            place = at - len(kept) + found.start()
            if pattern is MARK:
                return place
            mark, first = found[0], found.start()
            if mark == b"G":  # an M2TS has a time before it
                place = place if units_at(view, place) else place - 4
            elif mark[0] in (0x0B, 0x56, 0xFF):  # short marks, which often occur by chance
                behind = first + unit_bytes(data[first : first + UNIT_HEAD])
                if behind == first or data[behind : behind + 1] not in (mark[:1], b""):
                    continue
            if place >= 0 and (begins_at if mark[:3] == b"ID3" else units_at)(view, place):
                return place
        kept, at = data[-600:], at + len(piece)
    return view.size


def find_all(pattern: re.Pattern[bytes], data: bytes) -> Iterator[re.Match[bytes]]:
    """Yield the matches of MARK or _FRAME as `pattern.finditer`, in a tenth of its time."""
    # Look up both bytes of all pairs at once: of those that begin at even offsets, then at odd ones
    values, table = np.frombuffer(data, np.uint8), _table(pattern)
    places = [
        2 * np.flatnonzero(table.take(values[odd : len(data) - (len(data) - odd) % 2].view("<u2")))
        + odd
        for odd in (0, 1)
    ]
    found = np.sort(np.concatenate(places))
    packets = [values.take(found + size, mode="clip") == _SYNC for size in (188, 192)]
    found = found[(values[found] != _SYNC) | packets[0] | packets[1]]
    if len(found) > _DENSE * len(data):
        yield from pattern.finditer(data)
        return

    # Try the pattern there
    end = 0
    for place in found.tolist():
        if place >= end and (match := pattern.match(data, place)):
            yield match
            end = match.end()


@cache
def _table(pattern: re.Pattern[bytes]) -> np.ndarray:
    """Return bool [65536] by first byte + 256 * second byte: whether a match may begin so."""
    table = np.zeros((256, 256), bool)
    for first, *seconds in _PAIRS[pattern]:
        table[seconds, first] = True
    return table.reshape(-1)
