"""Recognition of files by their first bytes."""

from __future__ import annotations

import re

import numpy as np

HEAD_BYTES = 4096  # enough to recognise a file
AMR_MARK = re.compile(rb"#!AMR(?:-WB)?\n")
# First bytes of audio and video files; an ID3 tag stands before MP3, FLAC and others
_SOUND = re.compile(
    rb"RIFF|RIFX|RF64|BW64|FORM|fLaC|OggS|ID3|caff|\.snd|riff\x2e\x91\xcf\x11|#!AMR|NIST_1A|"
    rb"Creative Voice File|MAC |TTA1|wvpk|tBaK|MPCK|MP\+|ajkg|DSD |\.RMF|FLV\x01|\x1aE\xdf\xa3|"
    rb"0&\xb2u\x8ef\xcf\x11|\x00\x00\x01[\xba\xb3]|\x0b\x77|\x7f\xfe\x80\x01|"
    rb".{4}(?:ftyp|moov|mdat|wide|skip|free|styp|pnot)|"
    rb"G.{187}G|.{4}G.{191}G|"
    rb"\xff[\xe2-\xe7\xf0-\xff]",
    re.DOTALL,
)
_OTHERS = (
    (rb"\s*(?:<!DOCTYPE html|<html|<head|<body)", "an HTML page"),
    (rb"\s*<\?xml|\s*<svg", "XML"),
    (rb"%PDF-", "a PDF"),
    (rb"PK\x03\x04", "a ZIP archive"),
    (rb"\x1f\x8b|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ", "an archive"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP|BM.{4}\x00\x00\x00\x00", "a picture"),
    (rb"\x7fELF|MZ.{56}|\xcf\xfa\xed\xfe", "a program"),
    (rb"SQLite format 3", "a database"),
    (rb"\x00\x05\x16\x07", "what macOS keeps beside a file (AppleDouble)"),
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file itself (git lfs pull)"),
    (rb"#EXTM3U|\[playlist\]|ffconcat", "a playlist"),
    (rb'\s*(?:\{\s*["}]|\[\s*[\[{"\]\d])', "JSON"),
)
# Patterns, in both orders of bytes, DTS in 16 and in 14 bits too; their first 4 bytes stand for
# themselves. Source: IEC 61937-1, ETSI TS 102 114
_BURSTS = {
    "S/PDIF": (b"\x72\xf8\x1f\x4e", b"\xf8\x72\x4e\x1f"),
    "DTS": (
        *(b"\x7f\xfe\x80\x01", b"\xfe\x7f\x01\x80"),
        *(b"\x1f\xff\xe8\x00\x07", b"\xff\x1f\x00\xe8.\x07"),
    ),
}
LEAST_BURST = 96  # bytes; the shortest frame of DTS
_TEXT_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\x1b"))


def is_sound(head: bytes) -> bool:
    """Return whether a file's first bytes are those of an audio or video format."""
    return _SOUND.match(head) is not None and describe(head) is None


def describe(head: bytes) -> str | None:
    """Return what a file without sound is, in words; None if its first bytes do not tell.

    Args:
        head: its first HEAD_BYTES bytes, or all.
    """
    if not head:
        return "nothing: 0 bytes"
    for pattern, words in _OTHERS:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE) and (
            words != "JSON" or is_text(head)
        ):
            return words
    if is_text(head) and not head.startswith((b"NIST_1A", b"#!AMR")):
        return "text"
    return None


def is_text(head: bytes) -> bool:
    """Return whether bytes are text in UTF-8 or UTF-16, as neither samples nor silence are."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and len(head) > 3:
        controls = head[3::2] if head[0] == 0xFF else head[2::2]
        return not any(controls)
    if len(set(head)) < 3 or head.translate(None, _TEXT_CONTROLS) != head:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4 and error.start > 0  # cut inside a character
    return True


def has_mpeg_frames(head: bytes) -> bool:
    """Return whether bytes begin with two frames of MPEG audio or AAC, or packets of MPEG-TS."""
    if head[:1] == b"G":
        return len(head) > 376 and head[188] == head[376] == head[0]
    size = frame_bytes(head) if head[:1] == b"\xff" else 0
    return size > 6 and head[size : size + 1] == b"\xff" and head[size + 1 : size + 2] == head[1:2]


def compressed_inside(data: bytes) -> str | None:
    """Return what kind of compressed sound stands where samples should, None for samples.

    Recordings of a digital output, and CDs with surround sound, have it under a header of 16 bits.
    """
    for kind, patterns in _BURSTS.items():
        starts = sorted(
            found.start()
            for pattern in patterns
            if pattern[:4] in data  # which is told in a fraction of the time
            for found in re.finditer(pattern, data, re.DOTALL)
        )
        for first, second, third in zip(starts, starts[1:], starts[2:], strict=False):
            if second - first == third - second >= LEAST_BURST:
                return kind
    swapped = np.frombuffer(data[: len(data) // 2 * 2], "<u2").byteswap().tobytes()
    return "AC-3" if _has_ac3(data) or _has_ac3(swapped) else None


def _has_ac3(data: bytes) -> bool:
    """Return whether three frames of AC-3 follow each other somewhere."""
    mark, first = b"\x0b\x77", -1
    while (first := data.find(mark, first + 1)) >= 0:
        at, count = first, 0
        while data[at : at + 2] == mark and (size := frame_bytes(data[at : at + 8])) > 6:
            at, count = at + size, count + 1
            if count == 3:
                return True
    return False


def frame_bytes(head: bytes) -> int:
    """Return the bytes that the header of an MPEG audio, AAC or AC-3 frame declares; 0 for none."""
    if len(head) < 8:
        return 0
    if head[:2] == b"\x0b\x77":
        if head[5] >> 3 > 10:  # E-AC-3
            return 2 * ((head[2] & 7) << 8 | head[3]) + 2
        hz, index = head[4] >> 6, head[4] & 63
        if hz == 3 or index > 37:
            return 0
        words = _AC3_RATES[index // 2] * 96000 // (48000, 44100, 32000)[hz]
        return 2 * (words + (index & 1 if hz == 1 else 0))
    if head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return 0
    if head[1] & 0xF6 == 0xF0:  # ADTS
        size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    else:
        version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
        rates = _BIT_RATES.get((version == 3, layer))
        index, hz = head[2] >> 4, head[2] >> 2 & 3
        if rates is None or version == 1 or not 0 < index < 15 or hz == 3:
            return 0
        rate = (44100, 48000, 32000)[hz] >> (3 - version if version else 2)
        slots = 12 if layer == 1 else 72 if layer == 3 and version != 3 else 144
        size = slots * rates[index - 1] * 1000 // rate + (head[2] >> 1 & 1)
        size *= 4 if layer == 1 else 1
    return size


# Kilobits per second. Source: ETSI TS 102 366
_AC3_RATES = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)
_AC3_RATES += (448, 512, 576, 640)
# Kilobits per second, by whether it is MPEG-1 and by layer. Source: ISO/IEC 11172-3, 13818-3
_LOW = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_BIT_RATES = {
    (True, 1): tuple(range(32, 449, 32)),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): _LOW,
    (False, 3): _LOW,
}
