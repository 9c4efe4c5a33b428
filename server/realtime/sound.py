"""Sound as clients send it: raw samples of some encoding and rate, in pieces of any size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr

from ...errors import AudioError
from ...runtime.audio.container.encodings import floats_of, sample_bytes
from ...runtime.audio.samples import check_samples

LEAST_RATE, MOST_RATE = 8_000, 96_000  # Hz, where a client may choose


@dataclass(frozen=True, slots=True)
class SoundFormat:
    """The format of raw mono samples."""

    encoding: str  # one of `encodings.ENCODINGS`
    rate: int  # Hz


class SoundReader:
    """A reader of one stream: it carries what a piece has of a sample to the next one."""

    def __init__(self, form: SoundFormat, sample_rate: int):
        """Begin a stream.

        Args:
            form: of the sound that comes.
            sample_rate: the model's, in Hz.
        """
        self.form, self._rest = form, b""
        self._size = sample_bytes(form.encoding)
        self._resampler = None
        if form.rate != sample_rate:
            self._resampler = soxr.ResampleStream(form.rate, sample_rate, 1, dtype="float32")

    def read(self, content: bytes) -> np.ndarray:
        """Return the next samples, float32 [n] at the model's rate; the last ms may be held back.

        Raises:
            AudioError: some are not finite; all of this piece are left out.
        """
        content = self._rest + content
        whole = len(content) - len(content) % self._size
        self._rest = content[whole:]
        samples = check_samples(floats_of(self.form.encoding, content[:whole]))
        if self._resampler:
            return self._resampler.resample_chunk(samples)
        return samples

    def finish(self) -> np.ndarray:
        """Return the samples that were held back, float32 [n]; more may follow, as a new sound."""
        held = np.zeros(0, np.float32)
        if self._resampler:
            held = self._resampler.resample_chunk(held, last=True)
            self._resampler.clear()
        return held

    def require_whole(self) -> None:
        """Forget the beginning of a sample with which the sound has ended.

        Raises:
            AudioError: there is one.
        """
        lost, self._rest = self._rest, b""
        if lost:
            raise AudioError(f"the sound ends inside a sample: {len(lost)} of {self._size} bytes")
