"""Read audio from a pipe as mono samples at the model's rate, as it arrives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import RawIOBase
from itertools import groupby

import numpy as np
import soxr

from ...errors import AudioError
from .container.raw import check_raw, raw_pieces
from .following import ChannelFollower, ScaleGuard
from .losses import Losses


def raw_blocks(
    file: RawIOBase,
    raw_format: str,
    rate: int,
    sample_rate: int,
    say: Callable[[str], None] = lambda note: None,
) -> Iterator[np.ndarray]:
    """Return mono float32 [n] of a pipe at the model's rate, block by block as they arrive.

    Args:
        file: an unbuffered pipe of raw mono samples, or of WAVs, whose headers describe them.
        raw_format: of raw samples, one of RAW_FORMATS.
        rate: of raw samples, in Hz.
        sample_rate: the model's, in Hz.
        say: called with notes for the user, as they come up.

    Raises:
        AudioError: no samples, or floats whose full scale is not 1; or some of the sound could not
            be heard, after all that could.
        UsageError: an unknown format or rate.
    """
    check_raw(raw_format, rate)
    losses = Losses()
    pieces = raw_pieces(file, raw_format, rate, losses, say)
    return _blocks(pieces, losses, sample_rate, say)


def _blocks(
    pieces: Iterator[tuple[int, np.ndarray]],
    losses: Losses,
    sample_rate: int,
    say: Callable[[str], None],
) -> Iterator[np.ndarray]:
    """Yield mono float32 [n] at the model's rate, and raise if there were losses."""
    is_empty, done = True, 0
    # Recordings of one rate and number of channels are mixed as one
    for (rate, channels), alike in groupby(pieces, lambda piece: (piece[0], piece[1].shape[1])):
        is_empty, mixer = False, ChannelFollower(rate, channels, say, done / sample_rate)
        guard = ScaleGuard(rate, channels)
        resample = None
        if rate != sample_rate:
            resample = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
        for _, frames in alike:
            mono = mixer.push(guard.push(frames))
            mono = mono if resample is None else resample.resample_chunk(mono)
            done += len(mono)
            yield mono
        mono = np.concatenate((mixer.push(guard.finish()), mixer.finish()))
        mono = mono if resample is None else resample.resample_chunk(mono, last=True)
        if len(mono):
            done += len(mono)
            yield mono
    if losses:
        raise AudioError(f"standard input: {'; '.join(losses.sentences)}")
    if is_empty:
        raise AudioError("standard input: a WAV without samples")
