"""Find silence by energy, in samples that come in order, however long they go on.

A frame of 20 ms is silent if its level is low *for its neighbourhood*, the 15 seconds on either
side: near the noise of its pauses, or far below its speech. So nothing depends on how loud a
recording is, and steady noise without speech is silence. Only sound from 300 Hz on counts, because
hum, rumble and a constant offset are below it and speech always reaches above.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

FRAMES_PER_SECOND = 50
NEIGHBOURHOOD_SECONDS = 15  # on either side
LOWEST_HERTZ = 300
QUIETEST = -90.0  # dBFS: nothing below is speech or noise
# Of the levels of a neighbourhood: its noise has pauses of 1.5 s in 30 s, its speech as much
NOISE_PERCENTILE, SPEECH_PERCENTILE = 5, 95
# Decibels above the noise up to which it is silent: a share of the distance to the speech
SHARE, LEAST_ABOVE, MOST_ABOVE = 0.3, 5.0, 9.0
FAR_BELOW_SPEECH = 35.0  # decibels; silent however much lower the noise is
SMOOTHED_FRAMES = 3


class SilenceFinder:
    """A finder of silence in one recording; its memory is that of 32 seconds of levels.

    Its findings do not depend on how the samples are divided into blocks.
    """

    def __init__(self, sample_rate: int):
        self.frame = sample_rate // FRAMES_PER_SECOND  # samples
        self._window = np.hanning(self.frame + 1)[:-1].astype(np.float32)
        self._lowest = -(-LOWEST_HERTZ // FRAMES_PER_SECOND)  # the first bin that counts
        self._rest: list[np.ndarray] = []  # less than a second
        self._num_rest = 0  # samples
        self._powers = np.zeros(SMOOTHED_FRAMES - 1, np.float32)  # of the last frames
        # Levels of each second, from the neighbourhood of the next to be judged on
        self._levels: deque[np.ndarray] = deque()
        self._next = 0  # index in `_levels` of the second to be judged next

    def push(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Take the next samples, float32 [n], and judge as many frames as have a neighbourhood.

        Yields:
            bool [50], which of the next second's frames are silent.
        """
        second = self.frame * FRAMES_PER_SECOND
        while self._num_rest + len(samples) >= second:
            head, samples = np.split(samples, [second - self._num_rest])
            whole = np.concatenate((*self._rest, head))
            self._rest, self._num_rest = [], 0
            self._levels.append(self._measure(whole))
            if len(self._levels) > self._next + NEIGHBOURHOOD_SECONDS:
                yield self._judge()
        self._rest.append(samples.copy())  # as the caller may use its buffer again
        self._num_rest += len(samples)

    def finish(self) -> Iterator[np.ndarray]:
        """Judge the frames that are left; those of a part of a frame are none.

        Yields:
            as `push`; the last array may be shorter.
        """
        rest = np.concatenate((*self._rest, np.zeros(0, np.float32)))
        if whole := len(rest) - len(rest) % self.frame:
            self._levels.append(self._measure(rest[:whole]))
        self._rest, self._num_rest = [], 0
        while self._next < len(self._levels):
            yield self._judge()

    def _measure(self, samples: np.ndarray) -> np.ndarray:
        """Return the levels of whole frames in dBFS, smoothed over SMOOTHED_FRAMES."""
        spectra = np.fft.rfft(samples.reshape(-1, self.frame) * self._window)[:, self._lowest :]
        powers = (spectra.real**2 + spectra.imag**2).sum(1)
        powers *= 2 / (self.frame * float(np.square(self._window).sum()))
        powers = np.concatenate((self._powers, powers))
        self._powers = powers[-(SMOOTHED_FRAMES - 1) :]
        smoothed = np.convolve(powers, np.full(SMOOTHED_FRAMES, 1 / SMOOTHED_FRAMES), "valid")
        return np.maximum(10 * np.log10(smoothed + 1e-12), QUIETEST)

    def _judge(self) -> np.ndarray:
        levels = np.concatenate(self._levels)
        noise, speech = np.percentile(levels, (NOISE_PERCENTILE, SPEECH_PERCENTILE))
        above = min(MOST_ABOVE, max(LEAST_ABOVE, SHARE * (speech - noise)))
        is_silent = self._levels[self._next] <= max(noise + above, speech - FAR_BELOW_SPEECH)
        if self._next < NEIGHBOURHOOD_SECONDS:
            self._next += 1
        else:
            self._levels.popleft()
        return is_silent
