"""Sound in containers that libsndfile does not read, MP4, Matroska and the like.

Decoded by PyAV at constant memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from math import inf
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ...errors import AudioError, DeviceError
from ...limits import LONGEST_SILENCE

if TYPE_CHECKING:
    import av

MEDIA_SUFFIXES = (
    *(
        ".m4a",
        ".m4b",
        ".mp4",
        ".m4v",
        ".mov",
        ".3gp",
        ".mkv",
        ".mka",
        ".webm",
        ".avi",
        ".flv",
        ".mpg",
        ".mpeg",
        ".mts",
    ),
    *(".m2ts", ".aac", ".ac3", ".amr", ".wma", ".wmv", ".wv"),
)
_SIGNATURES = (
    (4, b"ftyp"),
    (0, b"\x1aE\xdf\xa3"),
    (0, b"OggS"),
    (8, b"AVI "),
    (0, b"FLV\x01"),
    (0, b"#!AMR"),
    (0, b"0&\xb2u"),
)
# FFmpeg may take a file for nothing but a container that holds its sound itself, and open nothing
# else: playlists, concat scripts, session descriptions and patterns of names, whatever they call
# themselves, would have it read other files and call hosts
_FORMATS = (
    *("mov", "matroska", "avi", "flv", "mpeg", "mpegts", "asf", "ogg", "wv"),
    *("aac", "loas", "ac3", "eac3", "amr", "amrnb", "amrwb"),
)
# Time stamps are rounded; what is missing beyond this becomes silence, or all later times are wrong
HOLE_SECONDS = 0.1
MAX_HOLE_SECONDS = 3600.0  # a longer one is a time stamp that is wrong


def is_media(name: str, file: BinaryIO) -> bool:
    """Whether a file is one of those containers, by its first bytes or its name."""
    file.seek(0)
    return Path(name).suffix.lower() in MEDIA_SUFFIXES or has_signature(file.read(12))


def has_signature(head: bytes) -> bool:
    """Whether a file that begins with these 12 bytes is one of those containers."""
    return any(head.startswith(signature, at) for at, signature in _SIGNATURES)


class MediaFile:
    """The first audio track of a file, at its own rate, in the file's time.

    What the track leaves out is silence.
    """

    def __init__(self, name: str, file: BinaryIO):
        """Open a file and decode its first frame, which alone says rate and channels for certain.

        Raises:
            AudioError: not readable, or without sound.
            DeviceError: PyAV is not installed.
        """
        self._av, self.name = _import_av(name), name
        file.seek(0)
        try:
            self._container = self._av.open(
                _Reader(file), container_options=_restrictions(), metadata_errors="replace"
            )
        except (self._av.FFmpegError, OSError) as error:
            raise AudioError(f"{name}: not a readable media file ({_reason(error)})") from error
        self.num_tracks = len(self._container.streams.audio)
        if not self.num_tracks:
            kinds = (
                ", ".join(sorted({stream.type for stream in self._container.streams})) or "nothing"
            )
            self._container.close()
            raise AudioError(f"{name}: no sound: the file holds {kinds} and no audio track")
        track = self._container.streams.audio[0]
        if track.codec_context is None:
            self._container.close()
            raise AudioError(f"{name}: PyAV does not decode this kind of sound; convert it first")
        self.hole_seconds = 0.0  # made silent so far
        self._done = 0  # samples
        self._frames = self._container.decode(track)
        self.samplerate, self.channels = track.rate or 0, track.channels or 0
        self._first = self._next()
        if self._first is not None:
            self.samplerate = self._first.sample_rate
            self.channels = len(self._first.layout.channels)

    def __enter__(self) -> MediaFile:
        return self

    def __exit__(self, *error) -> None:
        self._container.close()

    @property
    def promised_seconds(self) -> float:
        """The length that the container gives the track, 0 where it gives none or an estimate."""
        track, container = self._container.streams.audio[0], self._container
        if track.start_time is None:
            return 0.0
        if track.duration is not None and track.time_base is not None:
            return float(track.duration * track.time_base)
        alone = len(container.streams) == 1 and container.duration is not None
        return container.duration / self._av.time_base if alone and container.duration else 0.0

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """float32 [size, channels], the last one shorter.

        Raises:
            AudioError: damaged, or another rate or number of channels from some frame on.
        """
        pieces, held = [], 0
        for piece in self._pieces():
            pieces.append(piece)
            held += len(piece)
            if held >= size:
                joined = np.concatenate(pieces)
                yield from (
                    joined[start : start + size] for start in range(0, held - held % size, size)
                )
                pieces, held = [joined[held - held % size :]], held % size
        if held:
            yield np.concatenate(pieces)

    def _pieces(self) -> Iterator[np.ndarray]:
        """float32 [n, channels] of a frame of the codec each, or of a second of silence at most."""
        to_float = self._av.AudioResampler(format="fltp")
        seconds_per_unit = 1 / self._av.time_base
        start = (self._container.start_time or 0) * seconds_per_unit
        end = (
            inf
            if self._container.duration is None
            else start + self._container.duration * seconds_per_unit
        )
        frame = self._first
        while frame is not None:
            at = self._done / self.samplerate
            if (frame.sample_rate, len(frame.layout.channels)) != (self.samplerate, self.channels):
                raise AudioError(
                    f"{self.name}: another rate or number of channels after {at:.1f} "
                    "s; convert it first"
                )
            hole = 0.0 if frame.time is None or frame.time > end else frame.time - start - at
            if HOLE_SECONDS < hole < MAX_HOLE_SECONDS:
                self.hole_seconds += hole
                if self.hole_seconds > LONGEST_SILENCE:
                    raise AudioError(
                        f"{self.name}: holds no sound for more than "
                        f"{LONGEST_SILENCE / 3600:g} h in all; convert it first"
                    )
                left = round(hole * self.samplerate)
                self._done += left
                while left:
                    yield np.zeros((min(left, self.samplerate), self.channels), np.float32)
                    left -= min(left, self.samplerate)
            for converted in to_float.resample(frame):
                self._done += converted.samples
                yield converted.to_ndarray().T
            frame = self._next()

    def _next(self) -> av.AudioFrame | None:
        try:
            return next(self._frames, None)
        except (self._av.FFmpegError, OSError) as error:
            at = self._done / self.samplerate if self._done else 0.0
            raise AudioError(f"{self.name}: damaged after {at:.1f} s ({_reason(error)})") from error


@cache
def _restrictions() -> dict[str, str]:
    """What FFmpeg may take a file for, open besides it, and decode to know what is in it.

    No pictures: one of a few kB can take gigabytes.
    """
    from av.codec.codec import Codec, UnknownCodecError, codecs_available

    codecs = []
    for name in sorted(codecs_available):
        with suppress(UnknownCodecError):  # one that only encodes
            if Codec(name, "r").type == "audio":
                codecs.append(name)
    return {
        "format_whitelist": ",".join(_FORMATS),
        "protocol_whitelist": "",
        "codec_whitelist": ",".join(codecs),
    }


class _Reader:
    """A file without a name, which FFmpeg would take for an address.

    To seek before the beginning is an answer, not an error, whose traceback PyAV would print.
    """

    def __init__(self, file: BinaryIO):
        self.read, self.tell, self._file = file.read, file.tell, file

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, OverflowError):
            return -1


def _import_av(name: str) -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise DeviceError(
            f"{name}: libsndfile does not read this format, and PyAV, which does, is not installed "
            f"({error}); run:\n"
            "  pip install 'voxtral-onnx[media]'"
        ) from error
    return av


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
