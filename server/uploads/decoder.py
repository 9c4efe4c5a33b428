"""The program of the process that decodes one stranger's file, for `untrusted`.

It loads the decoders, waits for one request on standard input, a line of JSON, and answers on
standard output with frames: a byte for the kind, four for the length, little-endian, and content.

    H  the header, a `Header` in JSON, once the whole file was read and measured
    S  float32 samples of a track, little-endian; the tracks of the header come one after the other
    T  the end of a track
    E  an error, a `Refusal` in JSON, after which nothing comes

What is decoded can take over this process. So it can write no file, open no socket and start no
program, has bounds on memory, on processor time and on open files, and none of the server's
sockets, variables and keys. Not all systems have all of that; `_limit` and `seccomp` say which.
"""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

import msgspec

HEADER, SAMPLES, END_OF_TRACK, REFUSAL = b"H", b"S", b"T", b"E"
MOST_DESCRIPTORS = 64  # a decoder needs about ten


class Request(msgspec.Struct, frozen=True):
    """A file to decode, and how."""

    path: str
    name: str  # of the file, for messages
    rate: int  # Hz, of the samples to send
    channels: str
    gain: str
    most_seconds: float  # of sound, over all channels if they are split
    memory_bytes: int  # that may be taken besides what the decoders take when they are loaded
    cpu_seconds: int


class Track(msgspec.Struct, frozen=True):
    """A recording as it is transcribed: its mix, or one of its channels."""

    duration: float
    notes: list[str]
    losses: list[str]
    channel: int | None


class Header(msgspec.Struct, frozen=True):
    """A recording, whose first track is its mix and whose other ones are its split channels."""

    num_channels: int
    tracks: list[Track]


class Refusal(msgspec.Struct, frozen=True):
    """An error, by the name of its class."""

    kind: str
    message: str


def main() -> None:
    """Decode the one file that standard input names."""
    # What libraries print must not come among the frames
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)

    _load()
    line = sys.stdin.buffer.readline()
    if not line:
        return  # the server has ended, or needs no decoder
    request = msgspec.json.decode(line, type=Request)
    try:
        _decode(request, answers)
        answers.close()
    except BrokenPipeError:
        os._exit(1)  # nobody takes the samples


def _load() -> None:
    """Load the decoders, which takes most of the time before the first sample."""
    import importlib
    from contextlib import suppress

    from ...runtime.audio import files  # noqa: F401

    with suppress(ImportError):  # whoever needs it reports that
        importlib.import_module("av")


def _limit(request: Request) -> None:
    """Take away from this process what decoding does not need.

    Raises:
        DeviceError: the system does not do its part.
    """
    from .seccomp import wall_off

    wall_off()
    try:
        import resource
    except ImportError:  # Windows, where the server bounds the time alone
        return

    def at_most(what: int, value: int, grace: int = 0) -> None:
        hard = resource.getrlimit(what)[1]
        last = value + grace if hard == resource.RLIM_INFINITY else min(value + grace, hard)
        resource.setrlimit(what, (min(value, last), last))

    if sys.platform == "linux":  # others do not tell what is taken already, or do not hold it
        with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
            file.write("1000")  # short of memory, the system ends this process, not the server
        with open("/proc/self/statm") as file:  # noqa: PTH123
            taken = int(file.read().split()[0]) * resource.getpagesize()
        at_most(resource.RLIMIT_AS, taken + request.memory_bytes)
    at_most(resource.RLIMIT_CPU, request.cpu_seconds, grace=1)  # its signal tells the reason
    at_most(resource.RLIMIT_FSIZE, 0)
    at_most(resource.RLIMIT_CORE, 0)  # which would hold the sound
    at_most(resource.RLIMIT_NOFILE, MOST_DESCRIPTORS)


def _decode(request: Request, answers: BinaryIO) -> None:
    """Send a file's header and samples, or the reason why there are none."""
    from ...errors import VoxtralOnnxError

    try:
        _limit(request)
        _send_sound(request, answers)
    except VoxtralOnnxError as error:
        _send(answers, REFUSAL, msgspec.json.encode(Refusal(type(error).__name__, str(error))))
    except MemoryError:
        _send(answers, REFUSAL, msgspec.json.encode(Refusal("MemoryError", "")))


def _send_sound(request: Request, answers: BinaryIO) -> None:
    """Send a file's header and samples.

    Raises:
        VoxtralOnnxError: see `open_audio`; or its channels are too much sound together.
    """
    from pathlib import Path

    from ...runtime.audio.files import open_audio, too_long

    # Read and measure it
    source = open_audio(
        Path(request.path),
        request.rate,
        channels=request.channels,
        gain=request.gain,
        name=request.name,
        most_seconds=request.most_seconds,
    )
    if source.duration * len(source.parts) > request.most_seconds:
        raise too_long(request.name, request.most_seconds)

    # Send the header, then each track
    tracks = (source, *source.parts)
    described = [
        Track(each.duration, list(each.notes), list(each.losses), each.channel) for each in tracks
    ]
    _send(answers, HEADER, msgspec.json.encode(Header(source.num_channels, described)))
    for track in tracks:
        for block in track.blocks():
            _send(answers, SAMPLES, block.astype("<f4").tobytes())
        _send(answers, END_OF_TRACK, b"")


def _send(answers: BinaryIO, kind: bytes, content: bytes) -> None:
    answers.write(kind + len(content).to_bytes(4, "little"))
    answers.write(content)
    answers.flush()


if __name__ == "__main__":
    main()
