"""Decoding of strangers' files, each in a process of its own, with limits.

libsndfile and FFmpeg are large, written in C, and read bytes that a stranger has chosen. So they
run in a process (`decoder`) that can be lost: a file that crashes it, fills its memory or never
ends costs that file alone. Starting one takes 0.2 s, so one that has loaded the decoders waits for
the next file. WAV goes there too, as libsndfile reads it; samples without a header, which need no
parser, do not.

A decoder's answer is not trusted either: each of its parts is bounded. The samples are kept in a
temporary file without a name, 230 MB an hour at 16 kHz, so that they can be read repeatedly and
take no memory; they are the same as those that `open_audio` would give.
"""

from __future__ import annotations

import logging
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import IO

import msgspec
import numpy as np

from ...decode import decode
from ...errors import AudioError, DeviceError, StorageError, VoxtralOnnxError
from ...runtime.audio.files import AudioSource, too_long
from ...runtime.audio.mixing import Mix
from .decoder import END_OF_TRACK, HEADER, REFUSAL, SAMPLES, Header, Refusal, Request, Track

log = logging.getLogger(__name__)

MOST_SECONDS = 4 * 3600.0  # of sound in a file
# A decoder with all its buffers takes 0.1 GB; one of 64 channels at 768 kHz, the most, nearly 1 GB
MEMORY_BYTES = 1 << 30
# Four hours in MP3, read five times as split stereo is, take about four minutes of an old core
CPU_SECONDS = 900
WALL_SECONDS = 1800.0
# Variables that a decoder needs to start; all others may hold secrets
KEPT_VARIABLES = (
    *("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "TEMP", "TMP"),
    *("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONNOUSERSITE", "VIRTUAL_ENV"),
    *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "USERPROFILE", "APPDATA"),
)
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_COMMAND = (sys.executable, "-P", "-m", f"{__package__}.decoder")
_MOST_TEXT = 1 << 20  # bytes of a header or a refusal
_MOST_SAMPLES = 1 << 24  # bytes of samples at a time
_ERRORS: dict[str, type[VoxtralOnnxError]] = {
    kind.__name__: kind for kind in (AudioError, DeviceError, StorageError)
}
_ENDING_SECONDS = 5.0  # for a process that has closed its output
_LOOK_SECONDS = 0.1  # between looks at the time, and at whether anybody still waits


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """The most that decoding one file may take; on Windows the wall time alone is held."""

    memory_bytes: int = MEMORY_BYTES  # held on Linux
    cpu_seconds: int = CPU_SECONDS
    wall_seconds: float = WALL_SECONDS


class Decoders:
    """A factory of decoding processes, one for each file, of which one waits for the next file."""

    def __init__(
        self, limits: DecodeLimits = DecodeLimits(), most: int | None = None, *, spare: bool = True
    ):
        """Start a process that waits.

        Args:
            limits: on each file.
            most: files that are decoded at once, the others wait; None for one on each core.
            spare: whether a process waits for the next file.
        """
        self._limits, self._is_spare_kept = limits, spare
        self._places = threading.Semaphore(most or os.cpu_count() or 1)
        self._lock = threading.Lock()
        self._is_closed = False
        self._spare = _start() if spare else None

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process that waits; files that are being decoded are read to their end."""
        with self._lock:
            self._is_closed = True
            spare, self._spare = self._spare, None
        if spare:
            _end(spare)

    def open(
        self,
        path: Path,
        rate: int,
        *,
        name: str | None = None,
        channels: str = "mix",
        gain: str = "none",
        most_seconds: float = MOST_SECONDS,
        closed: Event | None = None,
    ) -> AudioSource:
        """Decode a stranger's file, and return its sound; it blocks, so call it in a thread.

        Args:
            path: a regular file, which is read while this runs and never changed.
            rate: the model's, in Hz.
            name: of the file, for messages; None for that of the path.
            channels: see `open_audio`.
            gain: see `open_audio`.
            most_seconds: of sound, over all channels if they are split.
            closed: ends the decoding when it is set, in another thread.

        Raises:
            AudioError: see `open_audio`; a limit was reached, or the decoder ended.
            DeviceError: see `open_audio`.
            StorageError: the samples find no room in the folder of temporary files.
        """
        name = path.name if name is None else name
        _require_file(path, name)
        request = Request(
            str(path.absolute()),
            name,
            rate,
            channels,
            gain,
            most_seconds,
            self._limits.memory_bytes,
            self._limits.cpu_seconds,
        )
        while not self._places.acquire(timeout=_LOOK_SECONDS):
            if closed and closed.is_set():
                raise _unread(name)
        try:
            return self._decode(request, closed or Event())
        finally:
            self._places.release()

    def _decode(self, request: Request, closed: Event) -> AudioSource:
        """Decode a file in a process, which has ended when this returns."""
        process = self._asked(request)
        watch = _Watch(process, self._limits.wall_seconds, closed)
        try:
            assert process.stdout
            with tempfile.TemporaryFile() as kept:
                header, ends = _received(process.stdout, kept, request)
                return _source(header, ends, kept, request)
        except EOFError:
            with suppress(subprocess.TimeoutExpired):  # it is ending
                process.wait(_ENDING_SECONDS)
            watch.stop()
            _end(process)
            raise self._failure(request.name, process.returncode, watch) from None
        except StorageError:
            raise
        except OSError as error:
            folder, reason = tempfile.gettempdir(), error.strerror or error
            raise StorageError(
                f"{folder}: the sound of {request.name} does not fit there, where it is kept while "
                f"it is read ({reason}); set TMPDIR to a folder with more room"
            ) from error
        finally:
            watch.stop()
            _end(process)

    def _asked(self, request: Request) -> subprocess.Popen[bytes]:
        """Return a process that decodes a file, and start the next one that waits."""
        with self._lock:
            process, self._spare = self._spare, None
        line = msgspec.json.encode(request) + b"\n"
        if process is None or not _ask(process, line):  # one that waited may have been killed
            process = _start()
            _ask(process, line)
        with self._lock:
            if self._is_spare_kept and not self._is_closed and self._spare is None:
                self._spare = _start()
        return process

    def _failure(self, name: str, status: int, watch: _Watch) -> AudioError:
        """Return the error for a process that ended before the file's end."""
        if watch.reason == "closed":
            return _unread(name)
        if watch.reason == "time":
            return AudioError(
                f"{name}: decoding took longer than {self._limits.wall_seconds:g} s, the most that "
                "a file gets; convert it first: ffmpeg -i IN -ar 16000 -ac 1 OUT.wav"
            )
        if os.name == "posix" and status == -signal.SIGXCPU:
            return AudioError(
                f"{name}: decoding took more than {self._limits.cpu_seconds} s of processor time, "
                "the most that a file gets; convert it first: ffmpeg -i IN -ar 16000 -ac 1 OUT.wav"
            )
        how = f"exit {status}"
        if status < 0:
            with suppress(ValueError):
                how = signal.Signals(-status).name
        log.error("a decoder ended before its file's end (%s)", how)
        return AudioError(f"{name}: cannot be decoded: its decoder ended ({how})")


class KeptSamples:
    """Mono samples in a temporary file, which is mapped into memory."""

    def __init__(self, values: np.ndarray, rate: int):
        """Take float32 [n] at a rate in Hz."""
        self._values, self.samplerate = values, rate

    def blocks(self, seconds: float) -> Iterator[np.ndarray]:
        """Yield float32 [n, 1] of so many seconds each, the last one shorter."""
        size = int(seconds * self.samplerate)
        for start in range(0, len(self._values), size):
            yield np.array(self._values[start : start + size, None], np.float32)


class _Watch:
    """A thread that kills a process when its time is over, or when nobody waits for it."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float, closed: Event):
        self.reason = ""
        self._process, self._closed, self._ended = process, closed, Event()
        self._until = time.monotonic() + seconds
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            if self._closed.is_set() or time.monotonic() >= self._until:
                self.reason = "closed" if self._closed.is_set() else "time"
                self._process.kill()
                return

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()


def _start() -> subprocess.Popen[bytes]:
    """Start a decoder, which inherits nothing but its pipes and what it needs to start."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return subprocess.Popen(
        _COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**kept, **_ONE_THREAD},
        start_new_session=True,  # Ctrl-C is for the server, which then ends it
    )


def _require_file(path: Path, name: str) -> None:
    """Refuse what is no file with content, in messages without the path, which is the server's.

    Raises:
        AudioError: it does not exist, is a folder, a pipe or a device, or has 0 bytes.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"{name}: cannot be read ({reason})") from error
    if not stat.S_ISREG(found.st_mode):
        raise AudioError(f"{name}: cannot be read (not a regular file)")
    if not found.st_size:
        raise AudioError(f"{name}: not a readable audio file: it has 0 bytes")


def _ask(process: subprocess.Popen[bytes], line: bytes) -> bool:
    """Send a process its file; return False, and end it, if it does not live."""
    assert process.stdin
    try:
        process.stdin.write(line)
        process.stdin.close()
    except OSError:
        _end(process)
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, wait for it so that no zombie is left, and close its pipes.

    One that has answered ends by itself in a moment, and how it ended is of no interest any more.
    """
    if process.poll() is None:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with suppress(OSError):
                pipe.close()


def _received(answers: IO[bytes], kept: IO[bytes], request: Request) -> tuple[Header, list[int]]:
    """Write the samples that a process sends into a file.

    Returns:
        The header, and the end of each track in samples.

    Raises:
        EOFError: the process ended before the file's end.
        OSError: the samples cannot be written.
        VoxtralOnnxError: the process refuses the file, or does not answer as it should.
    """
    header, ends, done, most = None, list[int](), 0, 0
    while header is None or len(ends) < len(header.tracks):
        head = _read(answers, 5)
        kind, size = head[:1], int.from_bytes(head[1:], "little")
        if size > (_MOST_SAMPLES if kind == SAMPLES else _MOST_TEXT):
            raise _nonsense(request)
        content = _read(answers, size)
        if kind == REFUSAL:
            raise _refusal(content, request)
        if kind == HEADER and header is None:
            header = decode(Header, content, lambda reason: _nonsense(request))
            # All channels of a split recording, and their mix; a resampler may add some
            most = int((2 * request.most_seconds + 1) * request.rate)
        elif kind == SAMPLES and header and size % 4 == 0:
            done += size // 4
            if done > most:
                raise too_long(request.name, request.most_seconds)
            kept.write(content)
        elif kind == END_OF_TRACK and header:
            ends.append(done)
        else:
            raise _nonsense(request)
    kept.flush()
    return header, ends


def _read(answers: IO[bytes], size: int) -> bytes:
    content = answers.read(size)
    if len(content) < size:
        raise EOFError
    return content


def _refusal(content: bytes, request: Request) -> VoxtralOnnxError:
    """Return the error that a process has sent."""
    refusal = decode(Refusal, content, lambda reason: _nonsense(request))
    if refusal.kind == "MemoryError":
        return AudioError(
            f"{request.name}: decoding took more than {request.memory_bytes >> 20:,} MB of memory, "
            "the most that a file gets; convert it first: ffmpeg -i IN -ar 16000 -ac 1 OUT.wav"
        )
    return _ERRORS.get(refusal.kind, AudioError)(refusal.message)


def _nonsense(request: Request) -> AudioError:
    return AudioError(f"{request.name}: cannot be decoded: its decoder gave no proper answer")


def _unread(name: str) -> AudioError:
    return AudioError(f"{name}: was not read to its end")


def _source(header: Header, ends: list[int], kept: IO[bytes], request: Request) -> AudioSource:
    """Return the recording that a process has decoded.

    Raises:
        AudioError: there is none.
    """
    if not header.tracks or header.num_channels < 1:
        raise _nonsense(request)
    # The map holds the file, which has no name, once it is closed
    samples = np.memmap(kept, "<f4", "r") if ends[-1] else np.zeros(0, "<f4")

    def made(track: Track, start: int, end: int, parts: tuple[AudioSource, ...]) -> AudioSource:
        return AudioSource(
            request.name,
            track.duration,
            tuple(track.notes),
            tuple(track.losses),
            KeptSamples(samples[start:end], request.rate),
            request.rate,
            Mix((0,)),
            track.channel,
            header.num_channels,
            parts,
        )

    starts = [0, *ends[:-1]]
    parts = [
        made(track, start, end, ())
        for track, start, end in zip(header.tracks[1:], starts[1:], ends[1:], strict=True)
    ]
    return made(header.tracks[0], starts[0], ends[0], tuple(parts))
