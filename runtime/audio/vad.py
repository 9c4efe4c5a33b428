"""Leave out words that were written where nobody spoke.

The model encodes all audio, and its tokens are those of a run without this filter. Then a segment
becomes blanks if there is no speech within its reach. So nothing inside speech can change, and the
reach is wide: a word that is kept by mistake costs less than one that is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ...errors import ArtifactError
from ...manifest import Manifest
from ..device.base import SILENT, import_onnxruntime
from ..text.segments import LONGEST_WORD_SECONDS

if TYPE_CHECKING:
    import onnxruntime

    from ..tokens import Token
    from .files import AudioSource

ENERGY = "energy"  # the detector that needs no model
PRE_ROLL_SECONDS = 0.24  # before a sound, which count as speech
HANG_OVER_SECONDS = 0.4  # and after it, as consonants at the ends of words are faint


class Detector(Protocol):
    """A detector of speech, which scores the frames of one stream in order."""

    frame: int  # samples
    threshold: float  # a score of this much begins speech
    neg_threshold: float  # and one below this ends it

    def score(self, samples: np.ndarray) -> float:
        """Return how much the next frame, float32 [frame], is like speech."""
        ...


class Energy:
    """A detector whose score is the level of a frame above the noise, in decibels.

    The noise is the quietest tenth of a second of the last MEMORY_SECONDS.

    Sound that is loud and steady for longer than that becomes noise; speech has gaps. At the
    beginning nothing is known of the noise, and everything that can be heard counts as speech.
    """

    threshold, neg_threshold = 6.0, 3.0  # steady noise reaches 2
    QUIETEST = -80.0  # dBFS: nothing below is speech or noise
    MEMORY_SECONDS = 6

    def __init__(self, sample_rate: int, learning_seconds: int = MEMORY_SECONDS):
        """Begin a stream.

        Args:
            sample_rate: of its samples, in Hz.
            learning_seconds: for which nothing is known of the noise.
        """
        self.frame = sample_rate // 50  # 20 ms
        self._powers = deque[float](maxlen=5)
        self._minima = deque[float](maxlen=self.MEMORY_SECONDS)  # least power of each second
        self._minimum, self._frames, self._learning = np.inf, 0, 50 * learning_seconds

    def score(self, samples: np.ndarray) -> float:
        """Return the level of the next frame, float32 [frame], above the noise, in decibels."""
        power = float(np.mean(np.square(samples)))
        self._powers.append(power)
        self._minimum = min(self._minimum, sum(self._powers) / len(self._powers))
        self._frames += 1
        if self._frames % 50 == 0:
            self._minima.append(self._minimum)
            self._minimum = np.inf
        is_known = self._frames >= self._learning
        noise = min(*self._minima, self._minimum) if is_known else 0.0
        return _decibels(power, self.QUIETEST) - _decibels(noise, self.QUIETEST)


def _decibels(power: float, least: float) -> float:
    return max(least, 10 * float(np.log10(power + 1e-12)))


class Silero:
    """A detector that runs Silero's model, version 5 or 6.

    Its score is the probability of speech in 512 samples, after the 64 before them.

    Source: github.com/snakers4/silero-vad, `OnnxWrapper` and `get_speech_timestamps`.
    """

    frame, threshold, neg_threshold = 512, 0.5, 0.35
    CONTEXT = 64  # samples
    STATE = (2, 1, 128)
    INPUTS, OUTPUTS = ["input", "sr", "state"], ["output", "stateN"]

    def __init__(self, session: onnxruntime.InferenceSession, sample_rate: int):
        self._session, self._rate = session, np.array(sample_rate, np.int64)
        self._context = np.zeros(self.CONTEXT, np.float32)
        self._state = np.zeros(self.STATE, np.float32)

    @classmethod
    def load(cls, path: Path) -> onnxruntime.InferenceSession:
        """Load the model's session, which several streams share.

        Raises:
            ArtifactError: the file is not such a model.
        """
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        # The model is too small for threads to help
        options.intra_op_num_threads = 1
        options.log_severity_level = SILENT
        try:
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions share no narrower base
            raise ArtifactError(f"{path}: onnxruntime cannot load it ({error})") from error
        found = [
            sorted(arg.name for arg in args)
            for args in (session.get_inputs(), session.get_outputs())
        ]
        if found != [cls.INPUTS, cls.OUTPUTS]:
            raise ArtifactError(
                f"{path}: expected Silero's voice activity detector, version 5 or 6, with inputs "
                f"{cls.INPUTS} and outputs {cls.OUTPUTS}, got {found[0]} and {found[1]}"
            )
        return session

    def score(self, samples: np.ndarray) -> float:
        """Return the probability of speech in the next frame, float32 [512]."""
        feeds = {
            "input": np.concatenate((self._context, samples))[None],
            "state": self._state,
            "sr": self._rate,
        }
        output, self._state = self._session.run(self.OUTPUTS, feeds)
        self._context = samples[-self.CONTEXT :]
        return float(np.asarray(output).item())


class SpeechFilter:
    """A filter of one stream: it takes the audio, then lets the tokens with speech pass."""

    def __init__(self, detector: Detector, manifest: Manifest, num_delay_tokens: int):
        """Begin a stream.

        Args:
            detector: scores its audio.
            manifest: of the model's artifact.
            num_delay_tokens: the delay of the stream; a token waits for it anyway, so the filter
                looks as far ahead.
        """
        self._detector = detector
        self._ids = manifest.tokens
        self._rate = manifest.config.audio.sample_rate
        delay = num_delay_tokens * manifest.config.audio.samples_per_token
        self._pre_roll, self._hang_over = (
            int(s * self._rate) for s in (PRE_ROLL_SECONDS, HANG_OVER_SECONDS)
        )
        self._ahead = min(self._pre_roll, delay)
        self._behind = int(LONGEST_WORD_SECONDS * self._rate) + self._hang_over
        self._rest = np.zeros(0, np.float32)  # less than a frame
        # Stretches of speech: the first sample, and the one after the last
        self._spans: deque[list[int]] = deque()
        self._num_samples = 0  # in whole frames
        self._is_open = False
        self._speech_end = -self._hang_over
        self._quiet = 0  # samples without speech, before the last speech
        self._passes: bool | None = None  # whether the current segment has speech
        self.left_out = 0  # segments

    @property
    def seconds(self) -> float:
        """Return the seconds of audio pushed."""
        return self._num_samples / self._rate

    @property
    def quiet_seconds(self) -> float:
        """Return the seconds of audio outside speech, its pre-roll and its hang-over."""
        return (
            self._quiet + max(0, self._num_samples - self._speech_end - self._hang_over)
        ) / self._rate

    def summary(self) -> dict[str, float]:
        """Return the seconds without speech and the segments left out, by name."""
        return {"quiet_seconds": round(self.quiet_seconds, 3), "left_out": self.left_out}

    def push(self, samples: np.ndarray) -> None:
        """Take the next samples, before the tokens that follow from them."""
        samples_left = np.concatenate((self._rest, samples))
        size = self._detector.frame
        whole = len(samples_left) - len(samples_left) % size
        for at in range(0, whole, size):
            self._judge(self._detector.score(samples_left[at : at + size]))
        self._rest = samples_left[whole:].copy()

    def _judge(self, score: float) -> None:
        """Count the next frame as speech or not, by its score."""
        first = self._num_samples
        self._num_samples += self._detector.frame
        self._is_open = score >= (
            self._detector.neg_threshold if self._is_open else self._detector.threshold
        )
        if not self._is_open:
            return
        self._quiet += max(0, first - self._pre_roll - self._speech_end - self._hang_over)
        if self._spans and self._spans[-1][1] == first:
            self._spans[-1][1] = self._num_samples
        else:
            self._spans.append([first, self._num_samples])
        self._speech_end = self._num_samples

    def filter(self, tokens: Iterator[Token]) -> Iterator[Token]:
        """Yield the tokens, with blanks in place of segments that have no speech."""
        return map(self.filter_token, tokens)

    def filter_token(self, token: Token) -> Token:
        """Return the next token, or a blank if its segment has no speech."""
        is_text = token.token_id >= self._ids.first_text
        if token.token_id == self._ids.streaming_word or (is_text and self._passes is None):
            self._passes = self._has_speech(token.end)
            self.left_out += not self._passes
        if self._passes is False and (is_text or token.token_id == self._ids.streaming_word):
            return replace(token, token_id=self._ids.streaming_pad, text="")
        return token

    def _has_speech(self, end: float) -> bool:
        """Return whether speech is within reach of a segment's end; ends come in rising order."""
        sample = round(end * self._rate)
        first, last = sample - self._behind, sample + self._ahead
        while self._spans and self._spans[0][1] <= first:
            self._spans.popleft()
        size = self._detector.frame  # one frame of a span that begins within reach must end there
        return bool(self._spans) and self._spans[0][0] + size <= last


def filtered_blocks(
    source: AudioSource, speech_filter: SpeechFilter | None
) -> Iterator[np.ndarray]:
    """Yield the blocks of a source, pushing each to the filter first."""
    for block in source.blocks():
        if speech_filter:
            speech_filter.push(block)
        yield block


def detectors(vad: str | Path, sample_rate: int) -> Callable[[], Detector]:
    """Return a function that makes the detector of a stream: `energy`, or Silero by its path.

    Raises:
        ArtifactError: the path is not such a model.
    """
    if str(vad) == ENERGY:
        return lambda: Energy(sample_rate)
    session = Silero.load(Path(vad))
    return lambda: Silero(session, sample_rate)
