"""Samples from a pipe as they arrive, raw or after the header of a WAV."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import RawIOBase

import numpy as np

from ....errors import AudioError, UsageError
from ..losses import Losses
from ..samples import check_channels, check_rate, silence_damage
from .encodings import floats_of, sample_bytes
from .kinds import HEAD_BYTES, describe, is_sound
from .parts import TAGS, UNKNOWN_BYTES, are_alike
from .refusals import bytes_to_tell, is_recording, require_raw

READ_BYTES = 1 << 16  # at most in one read, which returns what has arrived
MOST_CHUNK = 1 << 20  # bytes of a WAV's chunk before its sound, or of an unknown chunk after it
_LARGE_CHUNKS = (b"LIST", b"JUNK", b"junk", b"PAD ", b"FLLR", b"id3 ", b"ID3 ", b"_PMX", b"iXML")


RAW_FORMATS = ("s16le", "f32le", "mulaw", "alaw")
_OF_WAV = {  # by format code and bits
    **{(1, 8): "u8", (1, 16): "s16le", (1, 24): "s24le", (1, 32): "s32le"},
    **{(3, 32): "f32le", (3, 64): "f64le", (6, 8): "alaw", (7, 8): "mulaw"},
}


@dataclass(frozen=True, slots=True)
class _Form:
    """The format of incoming samples, and how many bytes of them a header declares."""

    format: str
    rate: int
    channels: int = 1
    num_bytes: int | None = None  # declared by a header; None: up to the end of the input
    num_zeros: int = 0  # bytes of silence already taken from the input, to be given out first

    @property
    def frame_bytes(self) -> int:
        """Return the bytes of one sample of all channels."""
        return sample_bytes(self.format) * self.channels

    def frames(self, data: bytes) -> np.ndarray:
        """Convert bytes that are whole frames to float32 [n, channels]."""
        return floats_of(self.format, data).reshape(-1, self.channels)


class _Source:
    """A pipe whose next bytes can be looked at before they are taken."""

    def __init__(self, file: RawIOBase):
        self._file, self._data = file, b""

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes without taking them; fewer at the end."""
        while len(self._data) < size and (piece := self._file.read(size - len(self._data))):
            self._data += piece
        return self._data[:size]

    def take(self, size: int) -> bytes:
        """Take and return the next `size` bytes; fewer at the end."""
        data = self.peek(size)
        self._data = self._data[size:]
        return data

    def skip(self, size: int) -> None:
        """Take and drop the next `size` bytes."""
        while size > 0 and (piece := self.take(min(size, READ_BYTES))):
            size -= len(piece)

    def read(self, size: int, most: int | None = None) -> bytes:
        """Take and return all whole pieces that have arrived, one at least; none at the end.

        Args:
            size: of a piece, in bytes.
            most: bytes to return at most; None for all.
        """
        while len(self._data) < size and (piece := self._file.read(READ_BYTES)):
            self._data += piece
        there = len(self._data) if most is None else min(len(self._data), most)
        return self.take(there - there % size)


def check_raw(raw_format: str, rate: int) -> None:
    """Refuse a sample format or a rate that is not supported.

    Raises:
        UsageError: an unknown format, or a rate out of range.
    """
    if raw_format not in RAW_FORMATS:
        raise UsageError(f"sample format: expected one of {list(RAW_FORMATS)}, got {raw_format!r}")
    check_rate("rate", rate, UsageError)


def raw_pieces(
    file: RawIOBase, raw_format: str, rate: int, losses: Losses, say: Callable[[str], None]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the rate in Hz and float32 [n, channels] as they arrive; damage becomes silence.

    Args:
        file: an unbuffered pipe of raw mono samples, or of WAVs, whose headers describe them.
        raw_format: of raw samples, one of RAW_FORMATS.
        rate: of raw samples, in Hz.
        losses: a record of what cannot be heard.
        say: called with notes for the user, as they come up.

    Raises:
        AudioError: it does not begin as samples, or is a WAV that cannot be read from a pipe.
    """
    source, form = _Source(file), _Form(raw_format, rate)
    heard: _Form | None = _first_form(source, form)
    seconds = 0.0
    while heard is not None:
        for frames in _frames(source, heard, losses):
            was_whole = not losses
            frames = silence_damage(frames, heard.rate, seconds, losses)[0]
            if losses and was_whole:
                say(f"{losses.sentences[0]}; it is passed over")
            yield heard.rate, frames
            seconds += len(frames) / heard.rate
        heard = _next_form(source, heard, losses, say)


def _frames(source: _Source, form: _Form, losses: Losses) -> Iterator[np.ndarray]:
    """Yield float32 [n, channels] as they arrive, up to the declared length.

    An incomplete frame at the end of that length is left in the source.
    """
    size, left = form.frame_bytes, form.num_bytes
    for start in range(0, form.num_zeros, READ_BYTES * size):
        yield form.frames(bytes(min(READ_BYTES * size, form.num_zeros - start)))
    while (left is None or left >= size) and (data := source.read(size, left)):
        left = None if left is None else left - len(data)
        yield form.frames(data)
    if left is None:
        if rest := source.take(size):
            losses.say(f"it ends inside a sample: {len(rest)} of {size} bytes ({form.format})")
    elif left >= size:
        more = left - len(source.take(size))
        losses.say(f"cut off: its header promises {more:,} bytes more")


def _first_form(source: _Source, form: _Form) -> _Form:
    """Return the format of the input: that of a WAV's header, or else `form`.

    Raises:
        AudioError: the input is neither a WAV nor samples.
    """
    head = source.peek(HEAD_BYTES)
    if _is_wav(head):
        return _wav_header(source)
    head = source.peek(bytes_to_tell(head))
    expected = f"standard input: expected raw {form.format} samples or a WAV, got"
    require_raw(head, expected, "pipe it into: voxtral-onnx transcribe -")
    return form


def _next_form(
    source: _Source, form: _Form, losses: Losses, say: Callable[[str], None]
) -> _Form | None:
    """Return the format of the sound after a WAV's declared length; None if there is none."""
    if form.num_bytes is None:
        return None

    # Look for another recording, after chunks and tags of this one
    rest = form.num_bytes % form.frame_bytes  # bytes of the declared length that are no whole frame
    between = rest + (form.num_bytes % 2 if source.peek(rest + 1)[rest:] == b"\0" else 0)
    while (head := source.peek(between + HEAD_BYTES)[between:]) and (size := _extra_bytes(head)):
        source.skip(between + size)
        rest = between = 0
    try:
        if _is_wav(head):
            source.skip(between)
            return _wav_header(source)
        if head.startswith(b"data") and len(head) >= 8:
            source.skip(between + 8)
            return replace(form, num_bytes=_promised(int.from_bytes(head[4:8], "little")))
    except AudioError as error:
        losses.say(f"what follows the first recording is not heard ({error})")
        return None
    if is_recording(head):
        losses.say(
            "a recording of another format follows, and is not heard; pipe both into: "
            "voxtral-onnx transcribe -"
        )
        return None

    # Look for more of the same samples, whose number the header did not know
    zeros = 0
    size = READ_BYTES // form.frame_bytes * form.frame_bytes
    while len(data := source.peek(size)) == size and not any(data):
        zeros += size
        source.skip(size)
    behind = data[between:]
    is_none = describe(behind) is not None or behind.startswith(TAGS) or not any(behind)
    if not is_none and _are_samples(data, form):
        say("the input goes on after the length that its header promises: it is heard to its end")
        return replace(form, num_bytes=None, num_zeros=zeros)
    if rest and len(data) <= rest:
        size = form.frame_bytes
        losses.say(f"it ends inside a sample: {rest} of {size} bytes ({form.format})")
    elif any(behind) and not behind.startswith(TAGS):
        say(f"what follows the sound is no sound: {describe(behind) or 'no known format'}")
    return None


def _is_wav(head: bytes) -> bool:
    return head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE"


def _extra_bytes(head: bytes) -> int:
    """Return the bytes of the chunk or tag that begins here; 0 for none, or a chunk of sound."""
    if head.startswith(b"ID3") and len(head) >= 10:
        return 10 + sum((value & 0x7F) << 7 * (3 - n) for n, value in enumerate(head[6:10]))
    name, count = head[:4], int.from_bytes(head[4:8], "little")
    if not re.fullmatch(rb"[ -~]{4}", name) or len(head) < 8 or name == b"data":
        return 0
    if is_sound(head) or (count > MOST_CHUNK and name not in _LARGE_CHUNKS):
        return 0
    return 8 + count + count % 2


def _are_samples(data: bytes, form: _Form) -> bool:
    """Return whether bytes are more samples: neighbours are alike, as 16-bit integers."""
    data = data[: len(data) - len(data) % form.frame_bytes]
    samples = np.nan_to_num(form.frames(data), nan=0, posinf=0, neginf=0).clip(-1, 1)
    return are_alike((samples * 32767).astype("<i2").tobytes(), 2, form.channels)


def _wav_header(source: _Source) -> _Form:
    """Read the header of a WAV up to its samples, and return their format.

    Raises:
        AudioError: it ends early, is damaged, or is of a kind that cannot be read from a pipe.
    """
    # Read chunks until that of the sound
    source.skip(12)
    kind, wide = (0, 0, 0, 0), None
    while True:
        if len(head := source.take(8)) < 8:
            raise AudioError("standard input: a WAV that ends inside its header")
        name, count = head[:4], int.from_bytes(head[4:], "little")
        if name == b"data":
            break
        if count > MOST_CHUNK:
            raise AudioError("standard input: a WAV whose header is damaged")
        body = source.take(count + count % 2)[:count]
        if name == b"fmt " and len(body) >= 16:
            code, channels, rate, bits = (
                int.from_bytes(body[at : at + size], "little")
                for at, size in ((0, 2), (2, 2), (4, 4), (14, 2))
            )
            if code == 0xFFFE:  # the code of an extensible format stands further on
                code = int.from_bytes(body[24:26], "little")
            kind = code, bits, rate, channels
        elif name == b"ds64":
            wide = int.from_bytes(body[8:16], "little")

    # Refuse formats that cannot be read from a pipe
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
    return _Form(_OF_WAV[code, bits], rate, channels, _promised(count))


def _promised(count: int) -> int | None:
    """Return how many bytes of sound a header declares; None if it was written to a pipe.

    The writer of such a header could not seek back to fill in the length.
    """
    return None if count == 0 or count >= UNKNOWN_BYTES else count
