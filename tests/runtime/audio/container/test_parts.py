"""Where the sound of a file ends is asked of the file, not of its header."""

from __future__ import annotations

import struct
import sys

import numpy as np
import pytest
import soxr
from support.sounds import RATE, SAMPLES, decoded, encoded

from voxtral_onnx.runtime.audio.files import AudioSource, open_audio

JUNK = np.random.default_rng(0).bytes(50_000)
SPARE = struct.pack("<IIII", 2000, 3032, 1, 0xA0000000) + bytes(8)
APE = b"APETAGEX" + SPARE + JUNK[:3000] + b"APETAGEX" + SPARE[:15] + b"\x80" + bytes(8)
WITHOUT_SIZES = ("wav", "wav24", "wav8", "float", "w64", "aiff", "au", "caf", "rf64")


@pytest.fixture
def opened(tmp_path):
    def opened(content: bytes) -> tuple[AudioSource, np.ndarray]:
        (tmp_path / "sound").write_bytes(content)
        source = open_audio(tmp_path / "sound", RATE)
        return source, np.concatenate(list(source.blocks()))

    return opened


@pytest.fixture(params=[True, False], ids=["pyav", "no-pyav"])
def with_pyav(request, monkeypatch):
    if not request.param:
        monkeypatch.setitem(sys.modules, "av", None)
    return request.param


def with_size(kind: str, content: bytes, size: int) -> bytes:
    """Return a file whose sound has another size in its header."""
    mark, width, order, behind = {
        "w64": (b"data\xf3\xac", 8, "little", 16),
        "aiff": (b"SSND", 4, "big", 4),
        "au": (b".snd", 4, "big", 8),
        "caf": (b"data", 8, "big", 4),
        "rf64": (b"ds64", 8, "little", 16),
    }.get(kind, (b"data", 4, "little", 4))
    at = content.index(mark) + behind
    field = (size % (1 << 8 * width)).to_bytes(width, "big" if order == "big" else "little")
    return content[:at] + field + content[at + width :]


@pytest.mark.parametrize("kind", WITHOUT_SIZES)
@pytest.mark.parametrize("size", [0, -1, 10_000], ids=["zero", "all-ones", "of-before"])
def test_sizes_that_nobody_went_back_to(kind, size, opened, with_pyav):
    """A recorder that died, or wrote to a pipe; or went back to the header, and then died."""
    content = encoded(kind)
    source, samples = opened(with_size(kind, content, size))
    assert source.losses == source.notes == ()
    assert np.array_equal(samples, decoded(content))


@pytest.mark.parametrize("kind", [*WITHOUT_SIZES, "flac", "ogg", "opus"])
def test_joined_recordings(kind, opened, with_pyav):
    first, second = encoded(kind), encoded(kind, SAMPLES[::-1].copy())
    source, samples = opened(first + second)
    assert (source.losses, source.notes) == ((), ("2 recordings, one after the other",))
    assert np.array_equal(samples, np.concatenate((decoded(first), decoded(second))))


@pytest.mark.parametrize("kinds", [("ogg", "opus"), ("flac", "wav"), ("wav", "aiff")])
def test_joined_recordings_of_two_kinds(kinds, opened):
    parts = [encoded(kind) for kind in kinds]
    assert np.array_equal(opened(b"".join(parts))[1], np.concatenate([*map(decoded, parts)]))


def test_mp3_before_and_behind_another_kind(opened):
    mp3, tag = encoded("mp3"), b"ID3\4\0\0\0\0\0\x0a" + bytes(10)
    for kind in ("wav", "wav24", "aiff", "ogg", "flac"):
        content = encoded(kind)
        for joined in (mp3 + content, content + mp3, content + tag + mp3):
            source, samples = opened(joined)
            assert (source.losses, source.notes) == ((), ("2 recordings, one after the other",))
            assert abs(len(samples) - 2 * len(SAMPLES)) < 3000


@pytest.mark.parametrize("kind", ["ogg", "opus", "flac", "wav"])
def test_a_link_of_another_rate_and_number_of_channels(kind, opened):
    other = soxr.resample(SAMPLES, RATE, 48000, quality="VHQ")
    first, second = encoded(kind), encoded(kind, np.stack((other, other), 1), 48000)
    source, samples = opened(first + second)
    expected = soxr.resample(decoded(second).mean(1), 48000, RATE)
    assert source.losses == ()
    assert np.array_equal(samples[: len(SAMPLES)], decoded(first))
    rest = samples[len(SAMPLES) :]
    assert abs(len(rest) - len(expected)) <= 1
    assert np.abs(rest[: len(expected)] - expected[: len(rest)]).max() < 1e-3


def test_joined_mp3s(opened):
    """The first header counts only the first one's frames."""
    first, second = encoded("mp3"), encoded("mp3", SAMPLES[::-1].copy())
    source, samples = opened(first + second)
    assert source.losses == source.notes == ()
    for part, start in ((decoded(first), 0), (decoded(second), len(SAMPLES))):
        # Encoders pad their frames; the second's padding stands between
        best = max(
            float(np.corrcoef(part[2000:30000], samples[at + 2000 :][:28000])[0, 1])
            for at in range(start, start + 2500)
        )
        assert best > 0.999


def test_joined_mp3s_without_pyav(opened, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    source, samples = opened(encoded("mp3") * 2)
    assert np.allclose(samples[:30000], decoded(encoded("mp3"))[:30000], atol=1e-4)
    assert source.losses == (
        "nothing is read after 2.2 s; PyAV may read more: pip install 'voxtral-onnx[media]'",
    )


@pytest.mark.parametrize("kind", [*WITHOUT_SIZES, "flac", "ogg", "opus", "mp3"])
@pytest.mark.parametrize(
    "behind", [bytes(20_000), JUNK, b"TAG" + bytes(125), APE], ids=["zeros", "junk", "id3v1", "ape"]
)
def test_what_is_no_sound_is_no_loss(kind, behind, opened, with_pyav):
    content = encoded(kind)
    source, samples = opened(content + behind)
    assert source.losses == source.notes == ()
    expected = decoded(content)
    if kind == "mp3":  # padding of the last frame, where the header's length is off
        assert len(samples) - len(expected) in range(1152)
        assert np.allclose(samples[: len(expected)], expected, atol=1e-5)
    else:
        assert np.array_equal(samples, expected)


@pytest.mark.parametrize("kind", ["wav", "wav24", "wav8", "float", "rf64", "w64", "aiff", "au"])
def test_what_is_cut_off_is_a_loss(kind, opened):
    content = encoded(kind)
    source, samples = opened(content[: len(content) // 2])
    assert source.losses == ("cut off: the header promises 2.2 s, the file holds 1.1 s",)
    assert np.array_equal(samples, decoded(content)[: len(samples)])


def test_a_flac_that_does_not_know_its_length(opened):
    content = bytearray(encoded("flac"))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    source, samples = opened(content)
    assert source.losses == () and np.array_equal(samples, decoded(encoded("flac")))


def test_a_flac_longer_than_it_says(opened, with_pyav):
    content = bytearray(encoded("flac"))
    content[22:26] = (10_000).to_bytes(4, "big")
    source, samples = opened(content)
    assert bool(source.losses) != with_pyav
    assert np.array_equal(samples, decoded(encoded("flac"))[: 34_800 if with_pyav else 10_000])


def test_a_length_that_is_an_estimate_is_no_promise(opened):
    """A VBR MP3 whose first frame, which has its length and no sound, is gone."""
    content = encoded("mp3")
    second = next(
        at for at in range(10, 2000) if content[at : at + 2] == content[:2] and content[at + 2] != 0
    )
    source, _ = opened(content[second:])
    assert source.losses == ()


@pytest.mark.parametrize("kind", ["wav", "w64", "aiff", "caf", "wav24"])
@pytest.mark.parametrize("size", [None, 0], ids=["sizes", "no-size"])
def test_sound_in_two_chunks(kind, size, opened, with_pyav):
    content = encoded(kind)
    mark = b"SSND" if kind == "aiff" else b"data"
    again = content[content.index(mark) :]
    if size == 0:
        again = with_size(kind, again, 0)
    source, samples = opened(content + again)
    if kind == "caf":
        assert source.losses == ("a second chunk of sound in it is not heard",)
        return
    assert source.losses == ()
    assert np.array_equal(samples, np.tile(decoded(content), 2))
