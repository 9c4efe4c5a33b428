"""Recordings within a file, found from its bytes, whatever its header says of its length.

A file may hold several recordings, one after the other: joined files, chained Ogg. Headers of
files that were streamed, or whose writer was killed, have sizes of 0, of all ones, or of some time
before the end. Decoders believe the header of the first recording; here each becomes a file of its
own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from io import BufferedReader
from typing import BinaryIO, Literal

import numpy as np

from .ogg import ogg_part
from .starts import begins_at, ends_in_units, next_mark, next_start
from .tags import ASF_DATA, behind_tags, id3_bytes
from .view import View
from .walks import AMR, AMR_BYTES, PROGRAM_END, UNIT_HEAD, behind_units, unit_bytes, units_at

# From this size on a header does not know the length: a WAV written to a pipe has about this much
UNKNOWN_BYTES = 0x7FFFFFFF - (1 << 16)
TRIED_BYTES = 1 << 18  # examined to tell samples from anything else
# First bytes of tags that follow sound
TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN", b"<?x")
MOST_PARTS = 10_000  # in a file; each takes a header


@dataclass(frozen=True, slots=True)
class Part:
    """A recording within a file.

    `share` is the fraction of the declared bytes that is there. `damage` lists places in seconds
    and what is wrong there.
    """

    view: View
    end: int  # offset in the file
    share: float = 1.0
    damage: tuple[tuple[float, str], ...] = ()
    sound_end: int = field(default=0)  # offset in the view, after which there is no sound
    sound_at: int = 0  # offset in the view of the chunk that holds the sound
    next_data: bool = False  # another chunk of sound follows at `end`
    num_tracks: int = 1  # of audio, where the format tells their number
    loss: str = ""  # a sentence on what else is not heard


def find_parts(file: BinaryIO) -> list[Part]:
    """Return the recordings of a file, in turn; bytes after the last one are not sound."""
    size, start = file.seek(0, 2), 0
    whole, parts, heard = View(file, 0, size), list[Part](), list[int]()
    while len(parts) < MOST_PARTS:
        part = _part_at(file, whole, start, size, heard)
        parts.append(part)
        if part.next_data:  # the same recording goes on in a chunk of its own
            heard.append(start + part.sound_at)
            continue
        heard = []
        start = behind_tags(whole, part.end)
        if whole.peek(start, 1) == b"\0" and begins_at(whole, start + 1):  # padding of an odd size
            start += 1
        if not begins_at(whole, start):
            break
    return parts


def _part_at(file: BinaryIO, whole: View, start: int, size: int, heard: list[int]) -> Part:
    """Return the recording that begins at an offset, or the next chunk of one.

    Args:
        file: all of it.
        whole: a view of it.
        start: the offset.
        size: of the file, in bytes.
        heard: offsets of the sound chunks that earlier parts hold.
    """
    head = whole.peek(start, 40)

    # Formats whose header declares the length of the sound
    if match := _CHUNKED.match(head):
        return _chunked(file, whole, start, size, _LAYOUTS[match.lastindex or 1], heard)
    if head.startswith(b".snd"):
        return _au(file, whole, start, size)
    if head.startswith(b"OggS"):
        view = View(file, start, size)
        end, damage, num_tracks = ogg_part(BufferedReader(view, 1 << 16))
        view = View(file, start, start + end)
        return Part(view, start + end, damage=damage, sound_end=end, num_tracks=num_tracks)

    # Formats whose end is found by their structure, or by the next recording
    end, loss = size, ""
    if head[4:8] == b"ftyp":
        end = _end_of_boxes(whole, start, size, _mp4_box, b"ftyp", (b"moov",))
    elif head.startswith(b"\x1aE\xdf\xa3"):
        end = _end_of_boxes(whole, start, size, _ebml_box, b"\x1aE\xdf\xa3", (_SEGMENT,))
    elif head.startswith(_ASF):
        end = _end_of_boxes(whole, start, size, _asf_box, _ASF, (ASF_DATA,))
    elif head.startswith(b"RIFF"):
        end = _end_of_boxes(whole, start, size, _riff_box, b"RIFF", (b"RIFF",))
    elif head.startswith(b"TTA1"):
        end = _end_of_tta(whole, start)
    elif kind := units_at(whole, at := start + id3_bytes(whole.rest(start))):
        end = _end_of_units(whole, at, kind)
    elif head.startswith(b"fLaC"):
        end = next_start(whole, at + 8)
    else:
        end = next_mark(whole, at + 8)
        if ends_in_units(View(file, start, end)):
            loss = "it ends in frames of another recording, which are not heard"
    return Part(View(file, start, end), end, sound_end=end - start, loss=loss)


# Formats made of chunks, of which one holds the sound


@dataclass(frozen=True, slots=True)
class _Layout:
    """The layout of a format's chunks; WAV, AIFF, CAF and Wave64 differ here in nothing else."""

    first: int  # offset of the first chunk
    id_bytes: int
    size_bytes: int
    order: Literal["big", "little"]  # of bytes in a number
    align: int
    data: bytes  # the id of the chunk that holds the sound
    counts_header: bool = False  # whether a chunk's size includes its header


_WAVE64 = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_CHUNKED = re.compile(
    rb"((?:RIFF|RF64|BW64)....WAVE)|(RIFX....WAVE)|(FORM....AIF[FC])|(caff\x00\x01)|"
    rb"(riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00.{8}wave)",
    re.DOTALL,
)
_LAYOUTS = {
    1: _Layout(12, 4, 4, "little", 2, b"data"),
    2: _Layout(12, 4, 4, "big", 2, b"data"),
    3: _Layout(12, 4, 4, "big", 2, b"SSND"),
    4: _Layout(8, 4, 8, "big", 1, b"data"),
    5: _Layout(40, 16, 8, "little", 8, b"data" + _WAVE64, counts_header=True),
}


def _chunked(
    file: BinaryIO, whole: View, start: int, size: int, layout: _Layout, heard: list[int]
) -> Part:
    """Return a recording made of chunks, from its first sound chunk that is not in `heard`."""
    # Find the chunk of sound
    head = layout.id_bytes + layout.size_bytes
    at, sample = start + layout.first, b""
    wide: int | None = None  # offset of the size of the sound in an RF64
    while True:
        name, count = _chunk(whole, at, layout)
        if name == layout.data and at not in heard:
            break
        body = at + head
        if name in (b"fmt ", b"COMM", b"desc") or name.startswith(b"fmt "):
            sample = whole.peek(body, 40)
        elif name == b"ds64":
            wide = body + 8
        if len(name) < layout.id_bytes or count < 0 or body + count > size:  # no sound in it
            return Part(View(file, start, size), size, sound_end=size - start)
        at = body + count + -count % layout.align

    # Compare its size with the bytes that follow
    body, held = at + head, size - at - head
    all_ones = (1 << 8 * layout.size_bytes) - 1
    field_at, field_bytes = at + layout.id_bytes, layout.size_bytes
    if wide is not None and count == 0xFFFFFFFF:
        count, field_at, field_bytes = int.from_bytes(whole.peek(wide, 8), "little"), wide, 8
    is_unknown = count in (all_ones, -1) or (count > held and count >= UNKNOWN_BYTES)
    behind = body + count + -count % layout.align
    share, next_data, loss = 1.0, False, ""
    if is_unknown or count > held:
        share = 1.0 if is_unknown or not held else held / count
        data_end = end = size
    else:
        data_end, end = body + count, _behind_chunks(whole, behind, size, layout)
        next_data = _chunk(whole, end, layout)[0] == layout.data
        if next_data and layout is _LAYOUTS[4]:  # libsndfile does not find it
            next_data, loss = False, "a second chunk of sound in it is not heard"
        if (not next_data and not loss and end <= behind < size) and (
            count <= 0 or _continues(whole, data_end, size, sample, layout)
        ):
            data_end = end = size  # its writer was killed, or could not seek back to the header

    # Correct the header in a view
    patches = {at - start: b"junk" for at in heard}  # decoders read the first chunk of sound only
    if data_end - body != count:
        value = data_end - body + head * layout.counts_header
        value = min(value, (1 << 8 * field_bytes) - 1)
        patches[field_at - start] = value.to_bytes(field_bytes, layout.order)
    view = View(file, start, end, patches)
    sound_end = data_end - start
    return Part(view, end, share, (), sound_end, at - start, next_data, loss=loss)


def _chunk(whole: View, at: int, layout: _Layout) -> tuple[bytes, int]:
    """Return a chunk's id and its size without the header; -1 if the size is not there."""
    head = whole.peek(at, layout.id_bytes + layout.size_bytes)
    name, field = head[: layout.id_bytes], head[layout.id_bytes :]
    is_signed = layout.size_bytes == 8
    count = int.from_bytes(field, layout.order, signed=is_signed)
    if layout.counts_header:
        count = max(-1, count - len(head))
    return name, count if len(field) == layout.size_bytes else -1


def _behind_chunks(whole: View, at: int, size: int, layout: _Layout) -> int:
    """Return the offset where the chunks after the sound end, or another one of sound begins."""
    while at < size:
        name, count = _chunk(whole, at, layout)
        ending = at + layout.id_bytes + layout.size_bytes + count
        is_name = re.fullmatch(rb"[ -~]{4}.*", name, re.DOTALL) and len(name) == layout.id_bytes
        if not is_name or name == layout.data or begins_at(whole, at) or count < 0 or ending > size:
            break
        at = ending + -count % layout.align
    return min(at, size)


def _continues(whole: View, at: int, size: int, sample: bytes, layout: _Layout) -> bool:
    """Return whether samples go on after the end that the header declares.

    Neighbouring samples are alike; neighbouring values of padding, tags and other data are not.

    Args:
        whole: the file.
        at: the declared end.
        size: of the file, in bytes.
        sample: the beginning of the chunk that describes the samples.
        layout: of the format.
    """
    data = whole.peek(at, min(TRIED_BYTES, size - at))
    is_none = not data.strip(b"\0") or data.startswith(TAGS)
    if is_none or begins_at(whole, at) or begins_at(whole, at + 1):
        return False
    if layout.data == b"SSND":
        channels, bits = int.from_bytes(sample[:2], "big"), int.from_bytes(sample[6:8], "big")
    elif layout.order == "big" and layout.size_bytes == 8:
        channels, bits = (int.from_bytes(sample[n : n + 4], "big") for n in (24, 28))
    else:
        order = layout.order
        channels, bits = (int.from_bytes(sample[n : n + 2], order) for n in (2, 14))
    width = bits // 8
    if not 1 <= width <= 8 or not 1 <= channels <= 1024 or len(data) < 8 * width * channels:
        return False
    return are_alike(data, width, channels)


def are_alike(data: bytes, width: int, channels: int) -> bool:
    """Return whether neighbouring samples of `width` bytes are alike, as those of sound are."""
    # Only their most significant byte shows it: the first or the last, by the order of bytes
    rows = np.frombuffer(data, np.uint8)[: len(data) // (width * channels) * width * channels]
    bytes_of = rows.reshape(-1, channels, width)
    for column in {0, width - 1}:
        # Modulo 256, so that it does not matter whether samples are signed
        steps = np.abs(np.diff(bytes_of[..., column].astype(np.int16), axis=0))
        if np.minimum(steps, 256 - steps).mean() < 48:  # 64 for unrelated bytes
            return True
    return False


def _au(file: BinaryIO, whole: View, start: int, size: int) -> Part:
    """Return a recording of the format AU, whose header has 24 bytes or more."""
    head = whole.peek(start, 24)
    body, count, encoding = (int.from_bytes(head[n : n + 4], "big") for n in (4, 8, 12))
    held, end, share = size - start - body, size, 1.0
    widths = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}
    if count < UNKNOWN_BYTES:
        width = widths.get(encoding, 0)
        # The same values as in a WAV's format chunk, for _continues
        sample = b"\0\0" + head[22:24][::-1] + bytes(10) + (8 * width).to_bytes(2, "little")
        if count > held > 0:
            share = held / count
        elif count and not _continues(whole, start + body + count, size, sample, _LAYOUTS[1]):
            end = start + body + count
    patches = {8: (end - start - body).to_bytes(4, "big")} if 0 <= held < 0xFFFFFFFF else {}
    return Part(View(file, start, end, patches), end, share, sound_end=end - start)


# Formats made of units or boxes


_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_SEGMENT = b"\x18\x53\x80\x67"


def _end_of_units(whole: View, at: int, kind: str) -> int:
    """Return the offset where another recording follows a run of units, or the end of the file.

    Other bytes between units are damage, and belong to the run.
    """
    first = at
    while (at := behind_units(whole, at, kind)) < whole.size:
        if whole.peek(at, 4) == PROGRAM_END:
            at += 4
        if begins_at(whole, behind := behind_tags(whole, at)):
            at = behind
            break
        if kind == "wavpack":  # FFmpeg does not pass its damage, and what follows is heard alone
            return next_mark(whole, _last_unit(whole, first, at) + 4)
        at = next_start(whole, at)
        if units_at(whole, at) != kind:
            break
    # AMR frames are hard to tell: bytes of another recording may pass for them
    return min(at, next_start(whole, first + AMR_BYTES)) if kind in AMR else at


def _last_unit(whole: View, at: int, end: int) -> int:
    """Return where the last unit begins of those that follow each other up to an end."""
    while (size := unit_bytes(whole.peek(at, UNIT_HEAD))) and at + size < end:
        at += size
    return at


def _end_of_tta(whole: View, at: int) -> int:
    """Return the offset where the frames of a TTA file end, by the table of their sizes."""
    head = whole.peek(at, 22)
    rate, samples = (int.from_bytes(head[n : n + 4], "little") for n in (10, 14))
    count = -(-samples // max(1, 256 * rate // 245))
    table = whole.peek(at + 22, 4 * min(count, whole.size))
    sizes = np.frombuffer(table[: len(table) // 4 * 4], "<u4")
    return min(whole.size, at + 22 + 4 * count + 4 + int(sizes.sum(dtype=np.uint64)))


def _end_of_boxes(whole, start, size, box, first: bytes, needed: tuple[bytes, ...]) -> int:
    """Return the offset where a file made of boxes ends and another recording begins.

    It is where the first box's name comes again after all that are needed, or the end of the file.

    Args:
        whole: the file.
        start: offset of the first box.
        size: of the file, in bytes.
        box: a function that returns the name of the box at an offset, and the offset of its end.
        first: the name of the first box.
        needed: the names of boxes without which a recording is not complete.
    """
    at, seen = start, set[bytes]()
    for _ in range(1_000_000):
        if at >= size:
            break
        name, end = box(whole, at, size)
        if seen.issuperset(needed) and (name == first or begins_at(whole, at)):
            return at
        if name is None or end <= at:
            break
        seen.add(name)
        at = end
    return size


def _riff_box(whole: View, at: int, size: int) -> tuple[bytes | None, int]:
    """Return the name and the end of a RIFF box; only the first box of a long AVI is named AVI."""
    head = whole.peek(at, 12)
    if head[:4] != b"RIFF" or head[8:] not in (b"AVI ", b"AVIX", b"CDXA"):
        return None, size
    count = int.from_bytes(head[4:8], "little")
    name = b"AVIX" if head[8:] == b"AVIX" else b"RIFF"
    is_unknown = not 4 < count < 0xFFFFFFFF
    return name, size if is_unknown else at + 8 + count + count % 2


def _mp4_box(whole: View, at: int, size: int) -> tuple[bytes | None, int]:
    """Return the name and the end of an MP4 box; None for the name if there is none."""
    head = whole.peek(at, 16)
    count, name = int.from_bytes(head[:4], "big"), head[4:8]
    if count == 1:
        count = int.from_bytes(head[8:], "big")
    return (name, at + count if count else size) if len(name) == 4 else (None, size)


def _asf_box(whole: View, at: int, size: int) -> tuple[bytes | None, int]:
    """Return the id and the end of an ASF object; None for the id if there is none."""
    head = whole.peek(at, 24)
    return (head[:16], at + int.from_bytes(head[16:], "little")) if len(head) == 24 else (None, 0)


def _ebml_box(whole: View, at: int, size: int) -> tuple[bytes | None, int]:
    """Return the id and the end of an EBML element with an id of 4 bytes, as at the top level."""
    head = whole.peek(at, 12)
    if len(head) < 5 or not 0x10 <= head[0] < 0x20 or not head[4]:
        return (head[:1], at + 2 + head[1] - 0x80) if head[:1] == b"\xec" else (None, size)
    width = 9 - head[4].bit_length()
    mask = (1 << 7 * width) - 1
    count = int.from_bytes(head[4 : 4 + width], "big") & mask
    return head[:4], size if count == mask else at + 4 + width + count
