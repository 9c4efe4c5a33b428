"""Standard input as a file that can be read from its beginning."""

from __future__ import annotations

import tempfile
from typing import BinaryIO

from soundfile import SoundFile

from .media import has_signature


def spool_stdin(sample_rate: int) -> tuple[BinaryIO, bool]:
    """Standard input as a seekable file, and whether it was raw.

    S16le at `sample_rate`, a WAV from here on.
    """
    import shutil
    import sys

    head = sys.stdin.buffer.read(12)
    spool = tempfile.TemporaryFile()  # noqa: SIM115, closed when the source is dropped
    if head.startswith((b"RIFF", b"RF64", b"fLaC", b"FORM", b"ID3")) or has_signature(head):
        spool.write(head)
        shutil.copyfileobj(sys.stdin.buffer, spool)
        spool.flush()
        return spool, False
    with SoundFile(spool, "w", sample_rate, 1, "PCM_16", format="WAV") as wav:
        rest = head
        while data := sys.stdin.buffer.read(1 << 20):
            whole = len(rest + data) // 2 * 2
            wav.buffer_write((rest + data)[:whole], dtype="int16")
            rest = (rest + data)[whole:]
        wav.buffer_write(rest[: len(rest) // 2 * 2], dtype="int16")
    spool.flush()
    return spool, True
