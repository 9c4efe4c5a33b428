"""Check Ogg files page by page: where recordings end, and which pages are damaged or missing.

Decoders pass over a damaged page silently. Source: RFC 3533.
"""

from __future__ import annotations

import zlib
from io import BufferedReader

FIRST, LAST = 2, 4  # flags of a page
MOST_LOST = 64  # missing pages after the headers; if more are missing, they never existed
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def ogg_part(file: BufferedReader) -> tuple[int, tuple[tuple[float, str], ...], int]:
    """Return where the first recording ends, its damage, and how many audio tracks it has.

    Args:
        file: at the beginning of a page.

    Returns:
        The offset of its end in bytes; the seconds and reasons of damage; the number of tracks.
    """
    at, damage = 0, list[tuple[float, str]]()
    rates: dict[bytes, int] = {}  # granules per second, by serial number of an audio track
    numbers: dict[bytes, int] = {}  # of the last page, by serial number
    open_ends, time, begun, end = set[bytes](), 0.0, False, 0
    while True:
        # Find the next page
        page = _page_at(file, at)
        if page is None:  # damaged, or not Ogg any more
            following = _next_page(file, at + 1)
            if following is None:
                file.seek(at)
                if file.read(4) == b"OggS" and (open_ends or not begun):
                    damage.append((time, "it ends inside a page"))
                break
            at = following
            continue

        # Follow the beginning and the end of tracks
        serial, flags, body = page[14:18], page[5], page[27 + page[26] :]
        if flags & FIRST:
            if begun:
                break
            open_ends.add(serial)
            if rate := _rate(body):
                rates[serial] = rate
        else:
            begun = True

        # Count pages, and read the time
        number = int.from_bytes(page[18:22], "little")
        granule = int.from_bytes(page[6:14], "little", signed=True)
        gap = number - numbers.get(serial, number - 1) - 1
        # A recording of a radio stream has its headers, and then pages from any time on
        is_joined_late = time == 0 and gap > MOST_LOST
        if gap and serial in rates and not is_joined_late:
            damage.append((time, f"{gap:,} pages are missing" if gap > 1 else "a page is missing"))
        numbers[serial] = number
        if flags & LAST:
            open_ends.discard(serial)
        if serial in rates and 0 < granule < 1 << 48:
            time = granule / rates[serial]
        at += len(page)
        end = at
    return end or at, tuple(damage), len(rates)


def _page_at(file: BufferedReader, at: int) -> bytes | None:
    """Return the page at an offset if it is complete and its checksum is right, else None."""
    file.seek(at)
    head = file.read(27)
    if len(head) < 27 or not head.startswith(b"OggS\0"):
        return None
    sizes = file.read(head[26])
    body = file.read(sum(sizes))
    if len(sizes) < head[26] or len(body) < sum(sizes):
        return None
    whole = head + sizes + body
    expected = int.from_bytes(head[22:26], "little")
    return whole if _checksum(whole[:22] + bytes(4) + whole[26:]) == expected else None


def _next_page(file: BufferedReader, at: int) -> int | None:
    """Return the offset of the next valid page from `at` on; None if there is none."""
    kept = b""
    file.seek(at)
    while piece := file.read(1 << 16):
        data, found = kept + piece, -1
        while (found := data.find(b"OggS\0", found + 1)) >= 0:
            place = at - len(kept) + found
            if _page_at(file, place):
                return place
        at += len(piece)
        kept = data[-4:]
        file.seek(at)
    return None


def _checksum(page: bytes) -> int:
    """Return the checksum of Ogg: zlib's CRC-32 with bits in the other order, not inverted."""
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def _rate(header: bytes) -> int | None:
    """Return the granules per second of an audio track, from its first page; None for others."""
    if header.startswith(b"\x01vorbis"):
        return int.from_bytes(header[12:16], "little") or None
    if header.startswith(b"OpusHead"):
        return 48000
    if header.startswith(b"\x7fFLAC"):
        return int.from_bytes(header[27:30], "big") >> 4 or None
    if header.startswith(b"Speex"):
        return int.from_bytes(header[36:40], "little") or None
    return None
