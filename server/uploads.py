"""Open a file that a client has sent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Event

from ..errors import AudioError, DeviceError
from ..runtime.audio.files import AudioSource, open_audio
from .api_error import ApiError

NAME = "file"  # what messages call it; they do not tell where it lies


def open_upload(
    path: Path, sample_rate: int, *, channels: str = "mix", closed: Event | None = None
) -> AudioSource:
    """Open a file that a client has sent, and read it once.

    Args:
        path: of the file; it must stay until its source is no longer used.
        sample_rate: the model's, in Hz.
        channels: as for `open_audio`.
        closed: ends the reading when it is set, in another thread.

    Raises:
        AudioError: not readable, without sound, or its reading was ended.
        ApiError: the server lacks what it takes to read it.
        StorageError: there is no room for it in the folder of temporary files.
    """
    try:
        source = open_audio(path, sample_rate, channels=channels, closed=closed)
    except AudioError as error:
        raise AudioError(str(error).replace(str(path), NAME)) from error
    except DeviceError as error:
        message = str(error).replace(str(path), NAME)
        raise ApiError(message, status=415, param="file", code="unsupported_format") from error
    parts = tuple(replace(part, name=NAME) for part in source.parts)
    return replace(source, name=NAME, parts=parts)
