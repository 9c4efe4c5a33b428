"""Samples of a pipe as they come, raw or behind the header of a WAV."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import RawIOBase

import numpy as np
import soxr

from ....errors import AudioError, UsageError
from ..samples import check_channels, check_rate
from .kinds import HEAD_BYTES, describe, has_mpeg_frames, is_sound
from .parts import UNKNOWN_BYTES

READ_BYTES = 1 << 16  # at most in one read, which returns what is there
TOLD_BYTES = 64  # from which on text is told from samples
MOST_CHUNK = 1 << 20  # bytes of a chunk of a WAV before its sound


def _expand_mulaw(values: np.ndarray) -> np.ndarray:
    """float32 of G.711's mu-law codes."""
    codes = ~values
    steps = ((codes & 15).astype(np.int32) << 3) + 132 << (codes >> 4 & 7).astype(np.int32)
    return np.where(codes & 128, 132 - steps, steps - 132).astype(np.float32) / (1 << 15)


def _expand_alaw(values: np.ndarray) -> np.ndarray:
    """float32 of G.711's A-law codes."""
    codes = values ^ 0x55
    steps, power = (codes & 15).astype(np.int32) * 16 + 8, (codes >> 4 & 7).astype(np.int32)
    steps = np.where(power > 0, steps + 256 << np.maximum(power, 1) - 1, steps)
    return np.where(codes & 128, steps, -steps).astype(np.float32) / (1 << 15)


def _from_24_bits(values: np.ndarray) -> np.ndarray:
    """float32 of [n, 3] bytes."""
    wide = np.zeros((len(values), 4), np.uint8)
    wide[:, 1:] = values
    return wide.view("<i4")[:, 0].astype(np.float32) / np.float32(1 << 31)


def _from_integers(bits: int, zero: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: (values.astype(np.float32) - zero) / np.float32(1 << bits - 1)


def _from_floats(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


# By name: the type of a sample, and what makes floats of them
_FORMATS: dict[str, tuple[np.dtype, Callable[[np.ndarray], np.ndarray]]] = {
    "s16le": (np.dtype("<i2"), _from_integers(16)),
    "f32le": (np.dtype("<f4"), _from_floats),
    "mulaw": (np.dtype("u1"), _expand_mulaw),
    "alaw": (np.dtype("u1"), _expand_alaw),
    # Only WAVs have these
    "u8": (np.dtype("u1"), _from_integers(8, 128)),
    "s24le": (np.dtype(("u1", 3)), _from_24_bits),
    "s32le": (np.dtype("<i4"), _from_integers(32)),
    "f64le": (np.dtype("<f8"), _from_floats),
}
_SHORT_MARKS = (b"\xff", b"G", b"\x0b\x77", b"\x7f\xfe", b"\0\0\1")  # which samples have too
RAW_FORMATS = ("s16le", "f32le", "mulaw", "alaw")
_OF_WAV = {  # by format code and bits
    **{(1, 8): "u8", (1, 16): "s16le", (1, 24): "s24le", (1, 32): "s32le"},
    **{(3, 32): "f32le", (3, 64): "f64le", (6, 8): "alaw", (7, 8): "mulaw"},
}


@dataclass(frozen=True, slots=True)
class _Pipe:
    """What comes, and in which form."""

    format: str
    rate: int
    channels: int = 1
    num_bytes: int | None = None  # of the sound; None where it goes on to the end


def check_raw(raw_format: str, rate: int) -> None:
    """Refuse a form of samples that is none.

    Raises:
        UsageError: an unknown format or rate.
    """
    if raw_format not in RAW_FORMATS:
        raise UsageError(f"sample format: expected one of {list(RAW_FORMATS)}, got {raw_format!r}")
    check_rate("rate", rate, UsageError)


def raw_blocks(
    file: RawIOBase, raw_format: str, rate: int, sample_rate: int
) -> Iterator[np.ndarray]:
    """Mono samples of a pipe as they come, at the model's rate.

    Args:
        file: unbuffered; raw mono samples, or a WAV, whose header then says what they are.
        raw_format: of RAW_FORMATS.
        rate: of the samples, in Hz.
        sample_rate: the model's.

    Raises:
        AudioError: no samples; damage; it ends inside a sample, and all whole ones were given.
        UsageError: an unknown format or rate.
    """
    check_raw(raw_format, rate)
    return _blocks(file, _Pipe(raw_format, rate), sample_rate)


def _blocks(file: RawIOBase, pipe: _Pipe, sample_rate: int) -> Iterator[np.ndarray]:
    data = _take(file, b"", TOLD_BYTES)
    if data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE":
        pipe, data = _wav_header(file, data[12:])
    else:
        if data.startswith(_SHORT_MARKS):
            data = _take(file, data, HEAD_BYTES)
        _require_samples(data, pipe.format)
    resample = None
    if pipe.rate != sample_rate:
        resample = soxr.ResampleStream(pipe.rate, sample_rate, 1, dtype="float32")
    dtype, to_float = _FORMATS[pipe.format]
    frame_bytes, left, rest = dtype.itemsize * pipe.channels, pipe.num_bytes, b""
    is_empty, behind = True, b""
    while data or left != 0:
        data = data or file.read(READ_BYTES)
        if not data:
            break
        is_empty = False
        if left is not None:
            data, behind = data[:left], data[left:]
            left -= len(data)
        data = rest + data
        whole = len(data) - len(data) % frame_bytes
        samples, rest = to_float(np.frombuffer(data[:whole], dtype)), data[whole:]
        mono = samples.reshape(-1, pipe.channels).mean(1) if pipe.channels > 1 else samples
        yield mono if resample is None else resample.resample_chunk(mono)
        data = b""
    if resample is not None:
        yield resample.resample_chunk(np.zeros(0, np.float32), last=True)
    if rest:
        raise AudioError(
            f"the input ended inside a sample: {len(rest)} of {frame_bytes} bytes ({pipe.format})"
        )
    if left:
        raise AudioError(f"the input is cut off: its header promises {left:,} bytes more")
    if is_empty:
        raise AudioError("standard input: a WAV without samples")
    if pipe.num_bytes is not None and _more_follows(file, behind, pipe.num_bytes % 2):
        raise AudioError(
            "the input goes on behind the length that its header promises, and only so much was "
            "heard; pipe it into: voxtral-onnx transcribe -"
        )


def _more_follows(file: RawIOBase, data: bytes, padding: int) -> bool:
    """Return whether sound follows that of a WAV: chunks of anything else, and tags, are none."""
    data = _take(file, data, padding + HEAD_BYTES)
    data = data[padding:] if data[:padding] == bytes(padding) else data
    while len(data := _take(file, data, HEAD_BYTES)) >= 8:
        name, count = data[:4], int.from_bytes(data[4:8], "little")
        is_other = is_sound(data) and not data.startswith((*_SHORT_MARKS, b"ID3"))
        if name == b"data" or is_other or has_mpeg_frames(data):
            return True
        if not re.fullmatch(rb"[ -~]{4}", name):
            return False
        skipped, data = min(len(data), 8 + count + count % 2), data[8 + count + count % 2 :]
        left = 8 + count + count % 2 - skipped
        while left and (piece := file.read(min(left, READ_BYTES))):
            left -= len(piece)
    return False


def _take(file: RawIOBase, data: bytes, size: int) -> bytes:
    """Return a beginning of so many bytes, or all there is."""
    while len(data) < size and (piece := file.read(size - len(data))):
        data += piece
    return data


def _require_samples(head: bytes, raw_format: str) -> None:
    """Refuse what is no stream of raw samples.

    Raises:
        AudioError: another kind of sound, text, or nothing.
    """
    expected = f"standard input: expected raw {raw_format} samples or a WAV, got"
    if found := describe(head):
        raise AudioError(f"{expected} {found}")
    if is_sound(head) and (not head.startswith(_SHORT_MARKS) or has_mpeg_frames(head)):
        raise AudioError(
            f"{expected} another format of sound; pipe it into: voxtral-onnx transcribe -"
        )


def _wav_header(file: RawIOBase, data: bytes) -> tuple[_Pipe, bytes]:
    """Read a WAV up to its samples, of which some are returned.

    Args:
        file: where it goes on.
        data: what is read already, from its first chunk on.

    Raises:
        AudioError: it ends, or is of a kind that cannot be read as it comes.
    """
    kind, wide = (0, 0, 0, 0), None
    while True:
        if len(data := _take(file, data, 8)) < 8:
            raise AudioError("standard input: a WAV that ends inside its header")
        name, count, data = data[:4], int.from_bytes(data[4:8], "little"), data[8:]
        if name == b"data":
            break
        if count > MOST_CHUNK:
            raise AudioError("standard input: a WAV whose header is damaged")
        data = _take(file, data, count + count % 2)
        body, data = data[:count], data[count + count % 2 :]
        if name == b"fmt " and len(body) >= 16:
            code, channels, rate, bits = (
                int.from_bytes(body[at : at + size], "little")
                for at, size in ((0, 2), (2, 2), (4, 4), (14, 2))
            )
            if code == 0xFFFE:  # the code stands further behind
                code = int.from_bytes(body[24:26], "little")
            kind = code, bits, rate, channels
        elif name == b"ds64":
            wide = int.from_bytes(body[8:16], "little")
    code, bits, rate, channels = kind
    if (code, bits) not in _OF_WAV:
        raise AudioError(
            f"standard input: a WAV of kind {code} with {bits} bits is not read as it comes; pipe "
            "it into: voxtral-onnx transcribe -"
        )
    check_rate("standard input", rate)
    check_channels("standard input", channels)
    if count == 0xFFFFFFFF and wide is not None:
        count = wide
    # Written to a pipe: nobody went back to say how long it is
    is_unknown = count == 0 or count >= UNKNOWN_BYTES
    return _Pipe(_OF_WAV[code, bits], rate, channels, None if is_unknown else count), data
