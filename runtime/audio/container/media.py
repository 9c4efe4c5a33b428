"""Decode audio in containers that libsndfile does not read, such as MP4 and Matroska.

PyAV does so at constant memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from math import inf
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ....errors import AudioError, DeviceError
from ....limits import LONGEST_SILENCE
from ..losses import Losses
from .flaws import find_flaws, is_part_of_frame
from .tags import CUT, FRAMED, avi_bytes, bare_size, behind_content, id3_bytes, is_cut
from .view import View

if TYPE_CHECKING:
    import av

MEDIA_SUFFIXES = (
    *(".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".mka", ".webm", ".avi", ".flv"),
    *(".mpg", ".mpeg", ".mts", ".m2ts", ".aac", ".ac3", ".amr", ".wma", ".wmv", ".wv"),
)
# The only formats that FFmpeg may recognise: containers that hold their sound themselves, and that
# their bytes tell. Playlists, concat scripts, session descriptions and patterns of names would make
# it read other files and contact hosts; formats without a header would take any bytes for sound
_FORMATS = (
    *("aa", "aac", "ac3", "adx", "aea", "aiff", "amr", "amrnb", "amrwb", "ape", "asf", "ast"),
    *("au", "avi", "avr", "bonk", "caf", "dhav", "dsf", "dss", "dts", "dtshd", "dv", "eac3"),
    *("epaf", "flac", "flv", "gxf", "hcom", "iff", "ircam", "ivr", "kux", "loas", "matroska"),
    *("mlp", "mmf", "mov", "mp3", "mpc", "mpc8", "mpeg", "mpegts", "mtaf", "mxf", "nistsphere"),
    *("nsv", "nut", "nuv", "ogg", "oma", "osq", "paf", "pva", "pvf", "qcp", "qoa", "rka", "rm"),
    *("rso", "shn", "smjpeg", "sol", "sox", "spdif", "swf", "tak", "tta", "truehd", "ty", "voc"),
    *("vqf", "w64", "wav", "wavarc", "wsd", "wtv", "wv", "wve", "xa", "xwma"),
)
# Formats whose header holds the length; FFmpeg estimates that of others from bytes and bit rate
_PROMISING = {"mov", "matroska", "avi", "asf", "flac", "tta", "ape", "flv", "rm", "adx", "mxf"}
# Formats that consist of packets, one after the other, and of tags
_BARE = {"aac", "ac3", "dts", "eac3", "flac", "mp3", "ogg"}
_LONG_AS_ANY = {"matroska", "asf", "flv"}  # the header holds the length of the longest track
_CLOCKLESS = _BARE | {"rm"}  # recorders of these formats cannot pause, so a gap is a loss
_COUNTED = _BARE - {"flac", "ogg"}  # FFmpeg counts packets for their time stamps
# Codecs whose frames have a checksum; unless it is checked, damaged frames become noise
_CHECKED = {"flac", "wavpack", "tta", "ape", "tak"}
# Time stamps are rounded; a longer gap between two becomes silence, to keep later times right
HOLE_SECONDS = 0.1
MAX_HOLE_SECONDS = 3600.0  # a longer gap is a wrong time stamp
SHORT_SECONDS = 1.0  # containers round their length, and last pictures have one of their own
ZERO_SECONDS = 1.0  # of zeros at the end are padding; more were to be sound
NEAR_SECONDS = 1.0  # packets of several tracks are not quite in the order of their time
END_SECONDS = 0.1  # codecs add or leave out a frame or two
SILENT_SWING = 2.0**-15  # between the lowest and the highest sample: the last bit of 16
MOST_FAILURES = 16  # to find a packet at one place of the file
MOST_BETWEEN = 2048  # bytes of an MP3 that are in no packet, such as its first frame, a header


class MediaFile:
    """A decoder of an audio track with PyAV, in which gaps between time stamps become silence.

    The track is the file's default or its first, unless that is silent and another one is not.
    Damaged packets are passed over.
    """

    def __init__(self, name: str, view: View, losses: Losses, *, starts_at_zero: bool = False):
        """Open a file and decode its first frame, the one reliable source of rate and channels.

        Args:
            name: of the file, for messages.
            view: the file's bytes.
            losses: a record of what cannot be decoded.
            starts_at_zero: whether what precedes the first time stamp is lost, and becomes silence.

        Raises:
            AudioError: not readable, or without sound.
            DeviceError: PyAV is not installed.
        """
        self._av, self.name, self._view, self._losses = _import_av(name), name, view, losses

        # Open the container, and choose a track
        self._container = self._opened()
        if not self._container.streams.audio:
            kinds = (
                ", ".join(sorted({stream.type for stream in self._container.streams})) or "nothing"
            )
            self._container.close()
            raise AudioError(f"{name}: no sound: the file holds {kinds} and no audio track")
        number, self.track = self._choose_track()
        self._track = track = self._container.streams.audio[number]
        if track.codec_context is None:
            self._container.close()
            raise AudioError(
                f"{name}: the sound is of a kind that PyAV does not decode; convert it first"
            )
        if track.codec_context.name in _CHECKED:
            track.codec_context.options = {"err_detect": "crccheck+explode"}

        # Begin to decode
        self._starts_at_zero = starts_at_zero
        self._format = self._container.format.name.partition(",")[0]
        self.hole_seconds = 0.0  # seconds of silence in place of gaps, once all is read
        self._gaps: list[tuple[float, float]] = []  # (where, how long) in seconds
        self._done = 0.0  # seconds of sound given out so far
        self._last: Any = None  # packet
        self._reached: dict[int, int] = {}  # by number of a track, in units of its time base
        self._bytes = 0  # of all packets decoded so far
        self._is_broken = False  # something between the last frame and the next is lost
        self._pending: tuple[float, str] | None = None  # (seconds, reason) of unrecorded damage
        self.samplerate, self.channels = track.rate or 0, track.channels or 0
        self._frames = self._decoded()
        self._first = next(self._frames, None)
        if self._first is not None:
            self.samplerate = self._first.sample_rate
            self.channels = len(self._first.layout.channels)

    def close(self) -> None:
        """Close the container."""
        self._container.close()

    def _opened(self) -> Any:
        """Return the container, opened from the beginning of the file."""
        self._view.seek(0)
        try:
            return self._av.open(
                self._view, container_options=_restrictions(), metadata_errors="replace"
            )
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise AudioError(
                f"{self.name}: not a readable audio file ({_reason(error)}); convert it first: "
                "ffmpeg -i IN -ar 16000 -ac 1 OUT.wav"
            ) from error

    def _choose_track(self) -> tuple[int, str]:
        """Return the number of the audio track to decode, and a note if there are several."""
        tracks, default = self._container.streams.audio, self._av.stream.Disposition.default
        count = len(tracks)
        if count == 1:
            return 0, ""
        first = next((n for n, track in enumerate(tracks) if track.disposition & default), 0)
        others = [number for number in range(count) if number != first]
        self._container.close()  # looking at a track moves the place in the file
        try:
            return self._heard_track(first, others, count)
        finally:
            self._container = self._opened()

    def _heard_track(self, first: int, others: list[int], count: int) -> tuple[int, str]:
        """Return the track `first`, or another one if `first` is silent, and a note."""
        if self._has_sound(first) or not (heard := list(filter(self._has_sound, others))):
            which = f"audio track {first + 1} of {count}, its default" if first else ""
            return first, which or f"the first of {count} audio tracks"
        return heard[0], f"audio track {heard[0] + 1} of {count}: track {first + 1} is silent"

    def _has_sound(self, number: int) -> bool:
        """Return whether an audio track has sound; it is read until there is some."""
        lowest, highest = inf, -inf
        with self._opened() as container:
            track = container.streams.audio[number]
            if track.codec_context is None:
                return False
            to_float = self._av.AudioResampler(format="fltp")
            packets = container.demux(track)
            while True:
                try:
                    packet = next(packets, None)
                    frames = packet.decode() if packet else []
                except (self._av.FFmpegError, OSError, ValueError, IndexError):
                    if packets.gi_frame is None:  # the demuxer has ended with the error
                        return False
                    continue
                if packet is None:
                    return False
                for frame in frames:
                    for converted in to_float.resample(frame):
                        values = converted.to_ndarray()
                        lowest = min(lowest, float(values.min()))
                        highest = max(highest, float(values.max()))
                if highest - lowest > SILENT_SWING:
                    return True

    @property
    def is_compressed(self) -> bool:
        """Return whether the track is anything but samples, which FLAC's are too."""
        return not self._track.codec_context.name.startswith(("pcm", "flac"))

    @property
    def promised_seconds(self) -> float:
        """Return the length that the container declares; 0 for none or an estimate."""
        track, container = self._track, self._container
        if self._format == "mp3":
            return _xing_frames(self._view) / self.samplerate if self.samplerate else 0.0
        if track.start_time is None or self._format not in _PROMISING:
            return 0.0
        if self._format == "adx" and self.samplerate:
            return int.from_bytes(self._view.peek(12, 4), "big") / self.samplerate
        if self._format == "avi" and not avi_bytes(self._view)[1]:  # written to a pipe
            return 0.0
        if track.duration is not None and track.time_base is not None:
            return float(track.duration * track.time_base)
        alone = len(container.streams) == 1 and container.duration is not None
        return container.duration / self._av.time_base if alone and container.duration else 0.0

    def pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the rate in Hz and float32 [n, channels] of a frame, or of up to 1 s of silence."""
        seconds_per_unit = 1 / self._av.time_base
        start = (self._container.start_time or 0) * seconds_per_unit
        end = (
            inf
            if self._container.duration is None
            else start + self._container.duration * seconds_per_unit
        )
        if self._starts_at_zero:
            start = 0.0
        elif self._format == "wv" and self._first is not None:  # whose first block may be lost
            start = self._first.time or 0.0

        # Frame by frame, fill the gap before it, and convert it
        frame, to_float, kind = self._first, self._av.AudioResampler(format="fltp"), None
        while frame is not None:
            rate, channels = frame.sample_rate, frame.layout.nb_channels
            if kind != (kind := (rate, frame.layout.name, frame.format.name)):
                to_float = self._av.AudioResampler(format="fltp")
            hole = 0.0 if frame.time is None else frame.time - start - self._done
            if self._format in _COUNTED:  # counted: a gap only after damage
                hole = hole if self._is_broken and rate == self.samplerate else 0.0
            elif frame.time is not None and frame.time > end and self._format not in _BARE:
                hole = 0.0
            if (0.001 if self._is_broken else HOLE_SECONDS) < hole < MAX_HOLE_SECONDS:
                if not self._is_broken:
                    self._make_silent(hole)
                left = round(hole * rate)
                self._done += left / rate
                while left:
                    yield rate, np.zeros((min(left, rate), channels), np.float32)
                    left -= min(left, rate)
            self._is_broken = False
            for converted in to_float.resample(frame):
                self._done += converted.samples / rate
                samples = np.empty((channels, converted.samples), np.float32)
                for row, plane in zip(samples, converted.planes, strict=True):
                    row[:] = np.frombuffer(plane, np.float32, len(row))
                yield rate, samples.T
            frame = next(self._frames, None)
        self._judge_gaps(start)
        self._judge_end()

    def _make_silent(self, seconds: float) -> None:
        """Note a gap that becomes silence.

        Raises:
            AudioError: the file has more silence of this kind than any recording.
        """
        self._gaps.append((self._done, seconds))
        if sum(gap for _, gap in self._gaps) > LONGEST_SILENCE:
            raise AudioError(
                f"{self.name}: holds no sound for more than "
                f"{LONGEST_SILENCE / 3600:g} h in all; convert it first"
            )

    def _judge_gaps(self, start: float) -> None:
        """Tell gaps that damage has made, which are losses, from what was never recorded.

        Args:
            start: what the file's clock says at its beginning, in seconds.
        """
        flaws = list[float]()
        if self._gaps and self._format not in _CLOCKLESS:
            found = find_flaws(self._av, self._opened, self._view.size)
            flaws = [seconds - start for seconds in found]
        for at, seconds in self._gaps:
            end = at + seconds + NEAR_SECONDS
            if self._format in _CLOCKLESS or any(at - NEAR_SECONDS < x < end for x in flaws):
                self._losses.damage(at, "sound is missing", seconds)
            else:
                self.hole_seconds += seconds

    def _decoded(self) -> Iterator[av.AudioFrame]:
        """Yield the frames of all packets that can be decoded, noting damage."""
        for packet in self._packets():
            self._last = packet if packet.size else self._last
            try:
                frames: list[Any] = list(packet.decode())
            except (self._av.FFmpegError, OSError, ValueError) as error:
                at = self._done
                if packet.pts is not None and packet.time_base is not None and self._done == 0:
                    at = max(0.0, float(packet.pts * packet.time_base))
                self._pending = self._pending or (at, _reason(error))
                continue
            self._bytes += packet.size
            # After damage, a packet of FLAC has several frames and the next one's time stamp
            if self._format == "flac" and len(frames) > 1:
                for frame in frames:
                    frame.pts = None
            if frames and self._pending is not None:
                self._losses.damage(*self._pending)
                self._pending, self._is_broken = None, True
            yield from frames

    def _packets(self) -> Iterator[Any]:
        """Yield the packets of the track, passing over what lies between them."""
        failures, reached, wanted = 0, -1, self._track.index
        while True:
            try:
                for packet in self._container.demux(*self._container.streams):
                    number, start = packet.stream_index, packet.pts
                    if start is not None:
                        units = start + (packet.duration or 0)
                        self._reached[number] = max(self._reached.get(number, 0), units)
                    if number == wanted:
                        yield packet
                return
            except (self._av.FFmpegError, OSError, ValueError) as error:
                if self._pending is None:
                    self._pending = self._done, _reason(error)
                if self._view.reached == reached and (failures := failures + 1) > MOST_FAILURES:
                    return
                reached = self._view.reached

    def _judge_end(self) -> None:
        """Record what is lost at the end of the file, or was not recognised as packets."""
        codec, last, promised = self._track.codec_context.name, self._last, self.promised_seconds
        is_part = self._format not in FRAMED and last and is_part_of_frame(codec, bytes(last))
        if is_part or is_cut(self._view, self._format, self._track.id):
            self._losses.say(CUT)
        if not promised and self._done and (self._say_zeros() or self._say_short()):
            return
        is_whole = bool(promised) and self._done > promised - END_SECONDS
        unread = bare_size(self._view) - self._bytes if self._format in _BARE else 0
        is_nothing = self._first is None
        if is_whole or (self._format in _BARE and unread <= MOST_BETWEEN and not is_nothing):
            return
        if self._pending is not None:
            self._losses.damage(*self._pending)
        elif self._format == "mp3" and not self._losses:
            self._losses.say(f"{unread:,} bytes in it are damaged, and not heard")

    def _say_short(self) -> bool:
        """Record that a file ends before any of its tracks is as long as its header promises."""
        units = self._container.duration if self._format in _LONG_AS_ANY else None
        start = self._container.start_time or 0
        streams, seconds = self._container.streams, [0.0]
        for number, reached in self._reached.items():
            if (time_base := streams[number].time_base) is not None:
                seconds.append(float(reached * time_base))
        missing = (start + (units or 0)) / self._av.time_base - max(seconds)
        if missing > SHORT_SECONDS:
            self._losses.say(
                f"cut off: the last {missing:.1f} s that its header promises are not there"
            )
        return missing > SHORT_SECONDS

    def _say_zeros(self) -> bool:
        """Record that the file ends in zeros where sound should be, as after a crash."""
        view, last = self._view, self._last
        end = behind_content(view)
        if last and last.pos and "pcm" in self._track.codec_context.name:  # whose silence is zeros
            end = max(end, last.pos + last.size)
        seconds = (view.size - end) * self._done / max(1, end)
        if seconds > ZERO_SECONDS:
            self._losses.say(
                f"cut off: its last {view.size - end:,} bytes are zeros, which would hold "
                f"{seconds:.1f} s"
            )
        return seconds > ZERO_SECONDS


def _xing_frames(view: View) -> int:
    """Return the number of samples that the Xing header of an MP3 declares; 0 without one."""
    head = view.peek(id3_bytes(view), 256)
    at = max(head.find(b"Xing"), head.find(b"Info"))
    if not 4 < at < 64 or not head[at + 7] & 1:
        return 0
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    frames = int.from_bytes(head[at + 8 : at + 12], "big")
    padding = head[at + 141 : at + 144] if head[at + 7] & 15 == 15 else b""  # of 12 bits each
    added = int.from_bytes(padding, "big")
    samples = frames * (1152 if version == 3 else 576) - (added >> 12) - (added & 4095)
    return max(0, samples) if layer == 1 else 0


@cache
def _restrictions() -> dict[str, str]:
    """Return FFmpeg's options that restrict formats, protocols and codecs to those of sound.

    Pictures are left out, because one of a few kB can take gigabytes of memory.
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
