"""A live stream becomes mono as it comes: nothing cancels, an offset goes, all else stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import soundfile
from support.commands import CLIP, SAMPLES

from voxtral_onnx.runtime.audio.following import ChannelFollower, OffsetFollower
from voxtral_onnx.runtime.audio.mixing import OffsetFilter

SPEECH, RATE = soundfile.read(CLIP, dtype="float32")
OTHER = soundfile.read(SAMPLES / "date-hibari.wav", dtype="float32")[0][: len(SPEECH)]
CLIPS = [soundfile.read(path, dtype="float32")[0] for path in sorted(SAMPLES.glob("*.wav"))]
FRAME = RATE // 50


def stacked(*channels: np.ndarray) -> np.ndarray:
    return np.stack(channels, 1).astype(np.float32)


def followed(
    make: Callable[[Callable[[str], None]], ChannelFollower | OffsetFollower],
    sound: np.ndarray,
    size: int = 999,
    held: int = 4 * FRAME,
) -> tuple[np.ndarray, list[str]]:
    """Return what comes of a sound in blocks, never later than `held` samples, and what is said.

    All blocks are in the same memory, one after the other, as a sound card's are.
    """
    notes, found, done = [], [], 0
    follower, memory = make(notes.append), np.zeros((size, *sound.shape[1:]), np.float32)
    for start in range(0, len(sound), size):
        block = memory[: len(sound) - start]
        block[:] = sound[start : start + size]
        found.append(follower.push(block).copy())
        done += len(block) - len(found[-1])
        assert 0 <= done < held + FRAME
    found.append(follower.finish())
    mono = np.concatenate(found)
    assert mono.dtype == np.float32 and mono.shape == sound.shape[:1]
    return mono, notes


def mixed(frames: np.ndarray, size: int = 999) -> tuple[np.ndarray, list[str]]:
    return followed(lambda say: ChannelFollower(RATE, frames.shape[1], say), frames, size)


def without_offset(samples: np.ndarray, size: int = 999) -> tuple[np.ndarray, list[str]]:
    return followed(lambda say: OffsetFollower(RATE, say), samples, size)


@pytest.mark.parametrize("size", [1, 320, 999, 100_000])
@pytest.mark.parametrize(
    "frames",
    [
        SPEECH[:, None],
        stacked(SPEECH, SPEECH),
        stacked(SPEECH, SPEECH / 3),
        stacked(SPEECH, OTHER),
        stacked(SPEECH, 0 * SPEECH),
        stacked(SPEECH, np.roll(SPEECH, 8)),  # microphones that are 17 cm apart
        stacked(*[SPEECH] + [0 * SPEECH] * 5),
        stacked(0 * SPEECH, 0 * SPEECH),
    ],
    ids=["mono", "same", "quieter", "others", "silent", "apart", "one of six", "silence"],
)
def test_channels_that_do_not_cancel_are_averaged(frames, size):
    found, notes = mixed(frames[: 20 * FRAME + 7] if size == 1 else frames, size)
    assert np.array_equal(found, frames.mean(1)[: len(found)]) and not notes


@pytest.mark.parametrize("size", [320, 999, 100_000])
@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_channels_that_cancel_lose_nothing(size, offset):
    one = SPEECH + np.float32(offset)
    found, notes = mixed(stacked(one, -one), size)
    lost = SPEECH[found != one]
    assert np.abs(lost).max(initial=0) < 0.01 * np.abs(SPEECH).max()
    [note] = notes
    assert note.startswith("channels cancel each other (opposite phase): channel 1 of 2 taken from")


def test_channels_that_come_to_cancel_lose_nothing():
    """From where they do, one is taken, be it after an hour."""
    begin = 50 * FRAME * 3
    together = np.tile(SPEECH, 3)[:begin]
    frames = np.concatenate((stacked(together, together), stacked(-SPEECH, 2 * SPEECH)))
    frames[begin:, 1] -= SPEECH
    found, notes = mixed(frames)
    assert np.array_equal(found[:begin], together)
    lost = found[begin:] != frames[begin:, 0]
    assert np.square(SPEECH[lost]).sum() < 1e-4 * np.square(SPEECH).sum()
    assert len(notes) == 1 and "taken from 3." in notes[0]


def test_a_channel_that_is_taken_is_left_where_the_sound_is_elsewhere():
    frames = np.concatenate((stacked(SPEECH, -SPEECH), stacked(0 * OTHER, OTHER)))
    found, notes = mixed(frames)
    lost = found[len(SPEECH) :] != OTHER / 2
    assert np.square(OTHER[lost]).sum() < 1e-4 * np.square(OTHER).sum()
    assert len(notes) == 2 and notes[1].startswith("what channel 2 has was lost: channels averaged")


def test_channels_cancel_up_to_the_last_frame():
    sound = SPEECH[FRAME * 20 :][: 2 * FRAME + 9]
    found, _ = mixed(stacked(sound, -sound))
    assert np.array_equal(found, sound)


@pytest.mark.parametrize("clip", CLIPS, ids=range(len(CLIPS)))
def test_sound_without_an_offset_comes_out_as_it_went_in(clip):
    for sound in (clip, clip / 30, clip[RATE // 2 :], (3 * clip).clip(-1, 1)):
        found, notes = without_offset(sound)
        assert np.array_equal(found, sound) and not notes


@pytest.mark.parametrize("size", [1, 320, 999, 100_000])
@pytest.mark.parametrize("offset", [0.02, -0.1, 0.5])
def test_an_offset_is_removed_from_the_beginning_on(size, offset):
    sound = (SPEECH / 2 + offset).astype(np.float32)[: 8000 if size == 1 else None]
    found, notes = without_offset(sound, size)
    expected = OffsetFilter(RATE, float(sound[: 4 * FRAME].mean(dtype=np.float64)))(sound)
    assert np.allclose(found, expected, atol=1e-6)
    assert notes == [f"constant offset of {offset:.2g} removed from 0.0 s on"]


def test_an_offset_that_begins_amid_speech_is_removed_within_a_second():
    sound = np.concatenate((np.tile(SPEECH, 3), np.tile(SPEECH / 2 + 0.1, 2))).astype(np.float32)
    found, notes = without_offset(sound)
    begin = 3 * len(SPEECH)
    assert np.array_equal(found[:begin], sound[:begin])
    assert abs(found[begin + 2 * RATE :].mean()) < 1e-3
    assert len(notes) == 1 and notes[0].startswith("constant offset of 0.1 removed from ")
