"""Take arrays, lists and tensors for samples, and check samples, rates and channels."""

from __future__ import annotations

from array import array as plain_array
from collections.abc import Iterable, Iterator
from numbers import Real
from typing import Any

import numpy as np

from ...errors import AudioError, VoxtralOnnxError
from ...escaping import described, one_line, quoted
from ...limits import FASTEST_RATE, LARGEST_SAMPLE, MOST_CHANNELS, SLOWEST_RATE
from .losses import Losses

# Integers whose full scale is that of their type; samples in wider ones have another scale
INTEGER_BITS = (8, 16, 32)
MOST_KINDS = 3  # types that a message names
LONGEST_REASON = 120  # characters that a message quotes of another library's error


def check_rate(what: str, rate: int, error: type[VoxtralOnnxError] = AudioError) -> None:
    """Refuse a sample rate out of range.

    Raises:
        error: it is not from SLOWEST_RATE to FASTEST_RATE Hz.
    """
    if not SLOWEST_RATE <= rate <= FASTEST_RATE:
        raise error(f"{what}: expected {SLOWEST_RATE} to {FASTEST_RATE} Hz, got {quoted(rate)}")


def check_channels(what: str, channels: int, error: type[VoxtralOnnxError] = AudioError) -> None:
    """Refuse a number of channels out of range.

    Raises:
        error: it is not from 1 to MOST_CHANNELS.
    """
    if not 1 <= channels <= MOST_CHANNELS:
        raise error(f"{what}: expected 1 to {MOST_CHANNELS} channels, got {channels}")


def check_samples(samples: Any, advice: str = "") -> np.ndarray:
    """Return an array, a list of numbers or a tensor as float32 [n], copied only if need be.

    Args:
        samples: floats [n] with full scale 1.
        advice: the end of a message for another shape or type: what to do then.

    Raises:
        AudioError: another shape, an integer type, or a value that is no sound.
    """
    values = as_array(samples)
    if values is None:
        raise AudioError(
            f"samples: expected float [n] with full scale 1, got {described(samples)}{advice}"
        )
    if values.ndim != 1 or values.dtype.kind != "f":
        advice = advice or "; average the channels and divide integers by their full scale"
        raise AudioError(
            f"samples: expected float [n] with full scale 1, got {_shape(values)}{advice}"
        )
    bad = np.flatnonzero(are_damaged(values))
    if len(bad):
        what, more = describe_damage(float(values[bad[0]])), len(bad) - 1
        others = f", and {more} more are damaged" if more else ""
        raise AudioError(f"samples: sample {bad[0]} {what}{others}: the recording is damaged")
    return values.astype(np.float32, copy=False)


def as_array(values: Any) -> np.ndarray | None:
    """Return an array, a list or tuple of numbers, or another library's tensor as an array.

    None for anything else. No values are copied that need not be.

    Raises:
        AudioError: its values cannot be read: ragged lists, a GPU's tensor, masked values.
    """
    if isinstance(values, type):
        return None

    # Ask its library for the values
    is_masked = np.ma.isMaskedArray(values) and bool(np.ma.getmaskarray(values).any())
    try:
        if is_masked:
            raise ValueError("some are masked")
        if hasattr(values, "detach") and hasattr(values, "numpy"):  # PyTorch, gradients
            values = values.detach()
        if isinstance(values, np.ndarray | list | tuple | memoryview | plain_array) or hasattr(
            values, "__array__"
        ):
            found = np.asarray(values)
        elif hasattr(values, "__dlpack__"):
            found = np.from_dlpack(values)
        elif hasattr(values, "numpy"):
            found = np.asarray(values.numpy())
        else:
            return None
    except Exception as error:  # each library raises its own
        if isinstance(values, list | tuple):
            raise _not_numbers(values) from error
        reason = one_line(str(error))[:LONGEST_REASON]
        raise AudioError(
            f"samples: cannot be read from {described(values)} ({reason}); give a NumPy array, "
            "for a GPU's tensor tensor.cpu()"
        ) from error

    # Refuse what is not numbers
    if isinstance(values, list | tuple) and found.dtype.kind in "OSUV":
        raise _not_numbers(values)
    return None if found.ndim == 0 and found.dtype.kind == "O" else found


class ArraySound:
    """A recording in memory, which is read as the `Frames` of a file are."""

    # Properties of files, which arrays do not have
    raw, losses, num_parts, track, hole_seconds = None, (), 1, "", 0.0

    def __init__(self, samples: Any, rate: Any):
        """Take a copy of float or integer samples [n], [n, channels] or [channels, n].

        Raises:
            AudioError: no such array, one whose channels are ambiguous, or a rate out of range.
        """
        values = as_array(samples)
        if values is None:
            raise AudioError(
                f"samples: expected an array or a list of numbers, got {described(samples)}"
            )
        bits = 8 * values.dtype.itemsize
        if values.dtype.kind not in "fiu" or (
            values.dtype.kind != "f" and bits > max(INTEGER_BITS)
        ):
            raise AudioError(
                f"samples: expected float, or integers of 8, 16 or 32 bits, got {_shape(values)}"
            )
        self.samplerate = as_rate(rate)
        self._values = _frames(values).copy()
        self.channels = self._values.shape[1]
        self.bits = None if values.dtype.kind == "f" else bits  # of integers; None for floats
        if not self.bits:
            bad = np.argwhere(are_damaged(self._values))
            if len(bad):
                what = describe_damage(float(self._values[tuple(bad[0])]))
                at = bad[0][0] / self.samplerate
                raise AudioError(f"the sample at {at:.2f} s {what}: the recording is damaged")

    def blocks(self, seconds: float) -> Iterator[np.ndarray]:
        """Yield float32 [n, channels], full scale 1, of so many seconds, the last shorter."""
        size = int(seconds * self.samplerate)
        for start in range(0, len(self._values), size):
            block = self._values[start : start + size]
            if self.bits:
                block = block / 2.0 ** (self.bits - 1)
                block -= float(self._values.dtype.kind == "u")  # silence is half of full scale
            yield block.astype(np.float32)


def as_rate(rate: Any) -> int:
    """Return a sample rate in Hz as an int, given as a number of any library.

    Raises:
        AudioError: not a whole number, or out of range.
    """
    value: Any = rate.item() if is_number(rate) and hasattr(rate, "item") else rate
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise AudioError(f"rate: expected whole Hz, got {described(value)}")
    check_rate("rate", int(value))
    return int(value)


def is_number(value: Any) -> bool:
    """Return whether a value is one number, or an array without axes."""
    return isinstance(value, Real) or (
        not isinstance(value, type)
        and hasattr(value, "item")
        and getattr(value, "shape", None) is not None
        and len(value.shape) == 0
    )


def cut(pieces: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Yield pieces, [n, channels], as blocks of `size`, the last one shorter.

    A block that lies within a piece is a view of it.
    """
    held, count = list[np.ndarray](), 0
    for piece in pieces:
        start = 0
        while count + len(piece) - start >= size:
            end = start + size - count
            yield np.concatenate([*held, piece[start:end]]) if held else piece[start:end]
            held, count, start = [], 0, end
        if start < len(piece):
            held.append(piece[start:])
            count += len(piece) - start
    if held:
        yield np.concatenate(held)


def are_damaged(samples: np.ndarray) -> np.ndarray:
    """Return bool of the samples' shape: which are not finite, or larger than any recording's."""
    # Compared as float64, as float16 does not hold the bound; not a number compares as False
    return ~(np.abs(samples) <= np.float64(LARGEST_SAMPLE))


def silence_damage(
    frames: np.ndarray, rate: int, at: float, losses: Losses
) -> tuple[np.ndarray, int]:
    """Return float32 [n, channels] in which damaged frames are silent, and their number.

    Args:
        frames: float32 [n, channels].
        rate: of the frames, in Hz.
        at: seconds before them.
        losses: a record of the damage.
    """
    # The extremes tell at once; not a number is an extreme, and compares as False
    if len(frames) and frames.max() <= LARGEST_SAMPLE and frames.min() >= -LARGEST_SAMPLE:
        return frames, 0
    damaged = are_damaged(frames)
    bad: np.ndarray = np.any(damaged, axis=1)
    if not bad.any():
        return frames, 0
    row, channel = map(int, np.argwhere(damaged)[0])
    what = describe_damage(float(frames[row, channel]))
    losses.damage(at + row / rate, f"a sample {what}", bad.sum() / rate)
    return np.where(bad[:, None], np.float32(0), frames), int(bad.sum())


def describe_damage(sample: float) -> str:
    """Return in words what is wrong with a damaged sample."""
    if np.isfinite(sample):
        return f"is {sample:g}, where full scale is 1"
    return "is not a finite number"


def _frames(values: np.ndarray) -> np.ndarray:
    """Return [n, channels] for [n] or axes in either order: channels are few, samples are many.

    Raises:
        AudioError: other axes, or two of which both may be channels, or neither.
    """
    if values.ndim == 1:
        return values[:, None]
    if values.ndim == 2 and values.size == 0:
        return values.reshape(0, 1)
    if values.ndim == 2:
        are_few = [count <= MOST_CHANNELS for count in values.shape]
        if 1 in values.shape:
            are_few = [values.shape[0] == 1, values.shape[0] != 1]
        if are_few[0] != are_few[1]:
            return values.T if are_few[0] else values
    raise AudioError(
        f"samples: expected [n], [n, channels] or [channels, n] with 1 to {MOST_CHANNELS} channels "
        f"and more samples than that, got {_shape(values)}"
    )


def _shape(values: np.ndarray) -> str:
    """Return the type and shape of an array, for messages."""
    kind = {"U": "text", "S": "bytes", "V": "records"}.get(values.dtype.kind)
    if values.dtype.kind == "O":
        kind = f"objects ({_kinds(values.flat)})"
    return f"{kind or values.dtype} {list(values.shape)}"


def _not_numbers(values: list[Any] | tuple[Any, ...]) -> AudioError:
    return AudioError(
        "samples: expected numbers, or rows of them of one length, got a "
        f"{type(values).__name__} of {_kinds(values)}"
    )


def _kinds(values: Iterable[Any]) -> str:
    """Return the names of the first few types of values."""
    names = dict.fromkeys(type(each).__qualname__ for each in values)
    return ", ".join(list(names)[:MOST_KINDS])
