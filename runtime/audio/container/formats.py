"""Open audio by its bytes, whatever its file name, with libsndfile or PyAV.

libsndfile comes first, and PyAV reads what libsndfile refuses or does not read to its end. MP3 goes
to PyAV where it is installed: libmpg123, which libsndfile has for it, believes the first header of
joined files, and writes lines of its own to stderr.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import soxr
from soundfile import LibsndfileError, SoundFile

from ....errors import AudioError, DeviceError, UsageError
from ..losses import Losses
from ..samples import check_channels, check_rate, cut, silence_damage
from .foreign import without_foreign_lines
from .kinds import HEAD_BYTES, compressed_inside, describe
from .media import END_SECONDS, MediaFile
from .parts import Part, find_parts
from .tags import CUT, has_frames, id3_bytes, is_cut
from .view import View

RAW_SUBTYPES = {"s16le": "PCM_16", "f32le": "FLOAT", "mulaw": "ULAW", "alaw": "ALAW"}
MOST_DAMAGED = 1.0  # seconds by which damage alone may make a recording shorter
READ_FRAMES = 1 << 16  # that libsndfile reads at a time
BURST_BYTES = 1 << 20  # among which compressed sound may begin, behind silence
LOOKED_BYTES = 1 << 17  # of samples, which are searched for compressed sound
CHUNK_HEAD = 24  # bytes at most, before samples
MOST_UNREAD = 2048  # bytes at the end that may be an incomplete sample or block
LONGEST_PROMISE = 1e8  # seconds; a header with more does not know the length


@dataclass(frozen=True, slots=True)
class RawSound:
    """The sample format of a file without a header."""

    encoding: str  # a key of RAW_SUBTYPES
    rate: int = 16000  # Hz
    channels: int = 1

    def __post_init__(self):
        if self.encoding not in RAW_SUBTYPES:
            raise UsageError(
                f"raw: expected one of {', '.join(RAW_SUBTYPES)}, got {self.encoding!r}"
            )
        check_rate("rate", self.rate, UsageError)
        check_channels("raw channels", self.channels, UsageError)

    def __str__(self) -> str:
        channels = f"{self.channels} channels" if self.channels > 1 else "1 channel"
        return f"raw {self.encoding}, {self.rate} Hz, {channels}"


class Decoder(Protocol):
    """A decoder of one recording, which is read once."""

    samplerate: int
    channels: int

    @property
    def promised_seconds(self) -> float:
        """Return the length that the recording's header promises; 0 if it does not know."""
        ...

    def pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the rate in Hz and float32 [n, channels], piece by piece."""
        ...

    def close(self) -> None:
        """Close the decoder."""
        ...


class SndFile:
    """A decoder with libsndfile, and with PyAV from the place where libsndfile gives up."""

    def __init__(self, name: str, part: Part, losses: Losses, raw: RawSound | None = None):
        """Open a recording of a file.

        Raises:
            LibsndfileError, OSError: libsndfile cannot read it.
        """
        self.name, self._part, self._losses = name, part, losses
        self._is_raw = raw is not None
        options = {}
        if raw:
            options = {
                "format": "RAW",
                "subtype": RAW_SUBTYPES[raw.encoding],
                "endian": "LITTLE",
                "samplerate": raw.rate,
                "channels": raw.channels,
            }
        part.view.seek(0)
        # libsndfile calls the view's methods for every 8 kB, each time with the interpreter's lock
        self._descriptor = part.view.descriptor()
        file: Any = part.view if self._descriptor is None else self._descriptor
        try:
            with without_foreign_lines(_may_be_mpeg(part.view)):
                self._file = SoundFile(file, closefd=False, **options)
        except BaseException:
            self._close_descriptor()
            raise
        self.samplerate, self.channels = self._file.samplerate, self._file.channels

    def close(self) -> None:
        """Close the decoder."""
        self._file.close()
        self._close_descriptor()

    def _close_descriptor(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _tell(self) -> int:
        """Return the offset in the view up to which libsndfile has read."""
        if self._descriptor is None:
            return self._part.view.tell()
        return os.lseek(self._descriptor, 0, os.SEEK_CUR)

    @property
    def promised_seconds(self) -> float:
        """Return the length that the header promises; 0 if it does not know."""
        seconds = self._file.frames / self.samplerate
        return seconds if seconds < LONGEST_PROMISE else 0.0

    def pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the rate in Hz and float32 [n, channels], piece by piece."""
        done, reason, view, is_skipping = 0, "", self._part.view, False
        lines = list[bytes]()
        while True:
            # Before an error, libsndfile returns what it has read, but not how much: the rest stays
            # NaN. Asked for more frames than it knows of, it reads on and returns none
            wanted = min(READ_FRAMES, self._file.frames - done)
            if wanted <= 0:
                break
            frames = np.full((wanted, self.channels), np.nan, np.float32)
            try:
                with without_foreign_lines(self._file.format == "MP3") as lines:
                    count = len(self._file.read(out=frames))
            except LibsndfileError as error:
                missing = np.flatnonzero(np.isnan(frames[:, 0]))
                count, reason = int(missing[0]) if len(missing) else wanted, _reason(error)
            if count and is_skipping:
                self._losses.damage(done / self.samplerate, "no valid frame is there")
            if count:
                yield self.samplerate, frames[:count]
            done += count
            is_skipping = any(b"resync" in line for line in lines)
            if reason or not count:
                break

        # Tell whether the file was read to its end
        if self._file.format in ("MP3", "VOC") and is_cut(view, self._file.format.lower()):
            self._losses.say(CUT)
        is_whole = done >= self._file.frames  # False if their number is unknown
        if is_whole or not self.promised_seconds:
            reason = ""  # an end whose place was unknown is no error
        unread = (self._part.sound_end or view.size) - self._tell()
        if self._file.format == "OGG" or self._is_raw:
            unread = 0  # Ogg was checked page by page, and raw samples are counted
        elif self._file.format in ("FLAC", "MP3") and not has_frames(view, self._tell()):
            unread = 0  # tags, padding, junk
        elif unread <= MOST_UNREAD and self._file.format not in ("FLAC", "MP3"):
            unread = 0

        # Continue with PyAV
        if reason or unread > 0:
            yield from self._rest(done, reason, unread)

    def _rest(self, done: int, reason: str, unread: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield what PyAV reads after `done` frames, or record what is lost."""
        at = done / self.samplerate
        try:
            media = MediaFile(self.name, self._part.view, self._losses, starts_at_zero=True)
        except (AudioError, DeviceError) as error:
            how = f"; PyAV may read more: {PIP}" if isinstance(error, DeviceError) else ""
            if reason:
                self._losses.damage(at, reason)
            self._losses.say(f"nothing is read after {self._losses.offset + at:.1f} s{how}")
            return
        position = 0.0
        try:
            for rate, frames in media.pieces():
                left = round((at - position) * rate)
                position += len(frames) / rate
                if left < len(frames):
                    yield rate, frames[max(0, left) :]
        finally:
            media.close()
        if reason and not self._losses:
            self._losses.damage(at, reason)


PIP = "pip install 'voxtral-onnx[media]'"


class Sound:
    """The audio of a file, at the rate and with the channels of its first recording."""

    def __init__(self, name: str, file: Path | BinaryIO, raw: RawSound | None = None):
        """Open the first recording of a file, by its bytes alone.

        Libraries give names a meaning: an address for FFmpeg, a format or a pipe for libsndfile. So
        `name` is for messages only.

        Raises:
            AudioError: not readable, or without sound.
            DeviceError: what it takes to read it is not installed.
        """
        self.name, self.losses = name, Losses()
        self._file = _reopened(name, file)
        try:
            self._begin(self._file, raw)
        except BaseException:
            self._file.close()
            raise

    def _begin(self, file: BinaryIO, raw: RawSound | None) -> None:
        self._raw, self.heard = raw, 0  # heard: frames without damage so far
        self.parts = _raw_parts(file) if raw else find_parts(file)
        self._first = self._open(self.parts[0])
        self.samplerate, self.channels = self._first.samplerate, self._first.channels
        self.hole_seconds = 0.0
        num_tracks = max(part.num_tracks for part in self.parts)
        self.track = f"the first of {num_tracks} audio tracks" if num_tracks > 1 else ""
        if isinstance(self._first, MediaFile):
            self.track = self._first.track
        try:
            check_rate(self.name, self.samplerate)
            check_channels(self.name, self.channels)
        except AudioError:
            self._first.close()
            raise

    def __enter__(self) -> Sound:
        return self

    def __exit__(self, *error) -> None:
        self._first.close()
        self._file.close()

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Yield float32 [size, channels], the last one shorter.

        Raises:
            AudioError: nothing in the file can be heard.
        """
        yield from cut(self._alike(), size)
        if not self.heard and self.losses:
            raise AudioError(f"{self.name}: nothing can be heard: " + self.losses.sentences[0])
        if self._raw and (rest := self.parts[0].view.size % self._frame_bytes):
            self.losses.say(f"it ends inside a sample: {rest} of {self._frame_bytes} bytes")

    @property
    def _frame_bytes(self) -> int:
        """Return the bytes of one raw sample of all channels."""
        width = {"s16le": 2, "f32le": 4}.get(self._raw.encoding, 1) if self._raw else 1
        return width * self.channels

    def _alike(self) -> Iterator[np.ndarray]:
        """Yield float32 [n, channels] of all recordings, at one rate and number of channels."""
        resample, resampled, done = None, 0, 0.0
        for rate, frames in self._pieces():
            check_rate(self.name, rate)
            check_channels(self.name, frames.shape[1])
            if rate != resampled and resample is not None:
                yield resample.resample_chunk(np.zeros((0, self.channels), np.float32), last=True)
                resample = None
            at = done - self.losses.offset
            frames, num_bad = silence_damage(frames, rate, at, self.losses)
            self.heard += len(frames) - num_bad
            done += len(frames) / rate
            if frames.shape[1] != self.channels:
                frames = np.repeat(frames.mean(1, keepdims=True), self.channels, 1)
            if rate != self.samplerate:
                if resample is None:
                    resample, resampled = (
                        soxr.ResampleStream(rate, self.samplerate, self.channels, dtype="float32"),
                        rate,
                    )
                frames = resample.resample_chunk(np.ascontiguousarray(frames))
            yield frames
        if resample is not None:
            yield resample.resample_chunk(np.zeros((0, self.channels), np.float32), last=True)

    def _pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the rate in Hz and float32 [n, channels] of all recordings in turn."""
        done = 0.0
        for number, part in enumerate(self.parts):
            # Record what is known of the recording's damage
            self.losses.offset = done
            for at, what in part.damage:
                self.losses.damage(at, what)
            if part.loss:
                self.losses.say(part.loss)

            # Open and decode it
            try:
                decoder = self._open(part) if number else self._first
            except (AudioError, DeviceError) as error:
                self.losses.say(f"what follows {done:.1f} s cannot be read ({error})")
                return
            seconds = 0.0
            try:
                for rate, frames in decoder.pieces():
                    yield rate, frames
                    seconds += len(frames) / rate
                promised = decoder.promised_seconds / part.share
            finally:
                decoder.close()

            # Compare its length with the header's
            if isinstance(decoder, MediaFile):
                self.hole_seconds += decoder.hole_seconds
            # Damage, which is recorded, may have made it shorter
            allowed = MOST_DAMAGED if self.losses else END_SECONDS
            if promised > seconds + allowed and not part.damage:
                self.losses.say(
                    f"cut off: the header promises {promised:.1f} s, the file holds {seconds:.1f} s"
                )
            done += seconds

    def _open(self, part: Part) -> Decoder:
        """Return the decoder that suits the bytes of a recording."""
        if self._raw:
            return SndFile(self.name, part, self.losses, self._raw)
        if part.damage or part.num_tracks > 1 or _may_be_mpeg(part.view):
            with suppress(AudioError, DeviceError):  # libsndfile may read it instead
                has_gaps = bool(part.damage)
                return MediaFile(self.name, part.view, self.losses, starts_at_zero=has_gaps)
        try:
            if kind := compressed_inside(_first_samples(part)):
                return self._open_compressed(part, kind)
            return SndFile(self.name, part, self.losses)
        except (LibsndfileError, OSError) as error:
            found = describe(part.view.peek(0, HEAD_BYTES))
            if found is None:
                return MediaFile(self.name, part.view, self.losses)
            raise AudioError(f"{self.name}: not a readable audio file: this is {found}") from error

    def _open_compressed(self, part: Part, kind: str) -> MediaFile:
        """Open what a header of samples hides, which would be heard as noise."""
        media = MediaFile(self.name, part.view, self.losses)
        if media.is_compressed:
            return media
        media.close()
        raise AudioError(
            f"{self.name}: holds {kind} where its header promises samples, and PyAV does not "
            "unpack it; convert it first"
        )


def _reopened(name: str, file: Path | BinaryIO) -> BinaryIO:
    """Return an unbuffered file on the same content, which may be closed."""
    try:
        if isinstance(file, Path):
            return FileIO(file)
        return file if isinstance(file, BytesIO) else FileIO(os.dup(file.fileno()))
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({error.strerror or error})") from error


def _first_samples(part: Part) -> bytes:
    """Return about the first samples of a recording, if they are of 16 bits, behind silence."""
    data = b""
    with suppress(LibsndfileError):
        for piece in _beginning(part):
            data = (data + piece).lstrip(b"\0")
            if len(data) >= LOOKED_BYTES:
                break
    return data[:LOOKED_BYTES]


def _beginning(part: Part) -> Iterator[bytes]:
    """Yield the first samples of a recording, if they are of 16 bits, piece by piece."""
    view = part.view
    if view.peek(id3_bytes(view), 4) != b"fLaC":
        at = part.sound_at + CHUNK_HEAD
        for start in range(at, at + BURST_BYTES, LOOKED_BYTES):
            yield view.peek(start, LOOKED_BYTES)
        return
    view.seek(0)
    file: Any = view
    with SoundFile(file) as sound:
        frames = LOOKED_BYTES // 2 // sound.channels
        for _ in range(0, BURST_BYTES // 4, frames):
            yield sound.read(frames, "int16").tobytes()


def _raw_parts(file: BinaryIO) -> list[Part]:
    """Return a file without a header as its one recording."""
    size = file.seek(0, 2)
    return [Part(View(file, 0, size), size, sound_end=size)]


def _may_be_mpeg(view: View) -> bool:
    """Return whether a file begins as a frame of MP3 or another MPEG audio format."""
    head = view.peek(id3_bytes(view), 2)
    return len(head) == 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0


def _reason(error: LibsndfileError | OSError) -> str:
    text = error.error_string if isinstance(error, LibsndfileError) else str(error)
    return text.rstrip(".") or "it cannot be decoded"


def require_file(path: Path) -> None:
    """Require a path to be a file, a pipe or a device that is not empty.

    Raises:
        AudioError: it does not exist, cannot be read, is a folder, or has 0 bytes.
    """
    try:
        found = path.stat() if path.exists() else None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"{path}: cannot be read ({reason})") from error
    if found is None:
        raise AudioError(f"{path}: no such file")
    if stat.S_ISDIR(found.st_mode):
        raise AudioError(f"{path}: cannot be read (Is a directory)")
    if stat.S_ISREG(found.st_mode) and found.st_size == 0:
        raise AudioError(f"{path}: not a readable audio file: it has 0 bytes")


def refuse_address(name: str) -> None:
    """Refuse a web address, because recordings are not downloaded.

    Raises:
        AudioError: the name is an address, and no file has it.
    """
    if re.match(r"[a-z][a-z0-9+.-]+://", name, re.IGNORECASE) and not Path(name).exists():
        raise AudioError(
            f"{name}: an address, and recordings are not downloaded; get it first, as with "
            "`curl -LO` or `yt-dlp -x`, or pipe it into: voxtral-onnx transcribe -"
        )
