"""Open a file that a client has sent."""

from __future__ import annotations

from pathlib import Path
from threading import Event

from ...errors import DeviceError
from ...runtime.audio.files import AudioSource
from ..api_error import ApiError
from .untrusted import Decoders

NAME = "file"  # what messages call it; they do not tell where it lies


def open_upload(
    decoders: Decoders,
    path: Path,
    sample_rate: int,
    *,
    channels: str,
    most_seconds: float,
    closed: Event,
) -> AudioSource:
    """Open a file that a client has sent, in a process of its own, and read it once.

    Args:
        decoders: the processes.
        path: of the file.
        sample_rate: the model's, in Hz.
        channels: as for `open_audio`.
        most_seconds: of sound.
        closed: ends the reading when it is set, in another thread.

    Raises:
        AudioError: not readable, without sound, or its reading was ended.
        ApiError: the server lacks what it takes to read it.
        StorageError: there is no room for it in the folder of temporary files.
    """
    try:
        return decoders.open(
            path,
            sample_rate,
            name=NAME,
            channels=channels,
            most_seconds=most_seconds,
            closed=closed,
        )
    except DeviceError as error:
        raise ApiError(str(error), status=415, param="file", code="unsupported_format") from error
