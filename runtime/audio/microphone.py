"""Record from microphones, through PortAudio."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr

from ...errors import AudioError, DeviceError
from .samples import check_rate

BLOCK_SECONDS = 0.02  # of audio in each block of PortAudio
# Silence at the beginning of a pause: the longest delay and word, so that all words are written
PAUSE_SECONDS = 3.2
GONE_SECONDS = 5.0  # without a block, until the device counts as removed


@dataclass(frozen=True, slots=True)
class InputDevice:
    """A device that can record."""

    index: int
    name: str
    channels: int
    rate: float  # Hz it prefers
    is_default: bool


def import_sounddevice() -> Any:
    """Import and return the module sounddevice.

    Raises:
        DeviceError: it or the PortAudio library is missing.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: the library itself
        raise DeviceError(
            f"microphones need sounddevice and PortAudio ({error}); run:\n"
            "  pip install 'voxtral-onnx[mic]'   # and on Debian: apt-get install libportaudio2"
        ) from error
    return sounddevice


def input_devices() -> list[InputDevice]:
    """Return all devices that can record.

    Raises:
        DeviceError: sounddevice or PortAudio is missing.
    """
    sounddevice = import_sounddevice()
    default = sounddevice.default.device[0]
    return [
        InputDevice(
            i,
            device["name"],
            device["max_input_channels"],
            device["default_samplerate"],
            i == default,
        )
        for i, device in enumerate(sounddevice.query_devices())
        if device["max_input_channels"] > 0
    ]


class Microphone:
    """A device that records; iterating yields float32 [n] at the model's rate, of channel 1.

    `overflows` counts the times that PortAudio lost audio because it was not taken in time. While
    `is_paused`, which another thread may set, what is recorded is dropped: a pause begins with
    PAUSE_SECONDS of silence, and then yields nothing.
    """

    def __init__(self, device: str | int | None, sample_rate: int):
        """Open a device by its number or a part of its name; None for the system's default.

        If it refuses the model's rate, it records at its own, `rate`, and is resampled.

        Raises:
            DeviceError: there is none, or none of that name, or it cannot be opened.
        """
        sounddevice = import_sounddevice()
        self.overflows, self._blocks = 0, queue.SimpleQueue[np.ndarray]()
        self.is_paused, self.dropped_seconds = False, 0.0

        # Find the device, and open it at the model's rate or at its own
        try:
            found = sounddevice.query_devices(device, "input")
            self.name, self.rate = found["name"], sample_rate
            options = {
                "device": found["index"],
                "channels": 1,
                "dtype": "float32",
                "callback": self._take,
            }
            try:
                sounddevice.check_input_settings(
                    found["index"], channels=1, dtype="float32", samplerate=float(sample_rate)
                )
            except sounddevice.PortAudioError:
                self.rate = int(found["default_samplerate"])
                check_rate(self.name, self.rate, DeviceError)
            blocksize = int(BLOCK_SECONDS * self.rate)
            self._stream = sounddevice.InputStream(
                samplerate=self.rate, blocksize=blocksize, **options
            )
        except (ValueError, sounddevice.PortAudioError) as error:
            names = ", ".join(f"{d.index} {d.name}" for d in input_devices()) or "none"
            wanted = "the default microphone" if device is None else f"microphone {device!r}"
            raise DeviceError(
                f"{wanted}: cannot be opened ({error}); there are: {names}"
            ) from error

        # Convert to the model's rate
        self._resample = (
            None
            if self.rate == sample_rate
            else soxr.ResampleStream(self.rate, sample_rate, 1, "float32")
        )

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield blocks, float32 [n] at the model's rate, as they are recorded.

        Raises:
            AudioError: the device has stopped.
        """
        self._stream.start()
        is_gone, silence = False, 0  # samples since the pause began
        try:
            while True:
                try:
                    block = self._blocks.get(timeout=GONE_SECONDS)
                except queue.Empty:
                    is_gone = True
                    raise AudioError(
                        f"{self.name}: the microphone has stopped; is it still connected?"
                    ) from None
                if self.is_paused:
                    self.dropped_seconds += len(block) / self.rate
                    silence += len(block)
                    if silence > PAUSE_SECONDS * self.rate:
                        continue
                    block = np.zeros_like(block)
                else:
                    silence = 0
                yield block if self._resample is None else self._resample.resample_chunk(block)
        finally:
            if not is_gone:  # closing a device that is gone may never return
                self._stream.close()

    def _take(self, samples: np.ndarray, frames: int, time: Any, status: Any) -> None:
        """Queue a block; PortAudio calls this on a thread of its own."""
        self.overflows += bool(status.input_overflow)
        self._blocks.put(samples[:, 0].copy())
