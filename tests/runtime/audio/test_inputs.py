"""What callers give as audio: taken for what it is, or refused by its type in a sentence."""

from __future__ import annotations

import array
import io
import mmap
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from support.commands import CLIP

from voxtral_onnx.errors import AudioError, StorageError
from voxtral_onnx.runtime.audio.files import open_audio

RATE = 16000
SAMPLES = np.asarray(soundfile.read(CLIP, dtype="float32")[0])
CONTENT = CLIP.read_bytes()
STEREO = np.stack((SAMPLES, SAMPLES / 2), 1)


def read(audio) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.float32), *open_audio(audio, RATE).blocks()])


class Tensor:
    """What other libraries' arrays have, one way each."""

    def __init__(self, **methods):
        for name, method in methods.items():
            setattr(self, name, method)


class OnDlpack:
    def __dlpack__(self, **options):
        return SAMPLES.__dlpack__(**options)

    def __dlpack_device__(self):
        return SAMPLES.__dlpack_device__()


class OnArray:
    def __array__(self, dtype=None, copy=None):
        return SAMPLES


class OnGpu:
    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. " + 1000 * "x")


class HalfFile(io.RawIOBase):
    """A pipe, which gives what it has and cannot be sought."""

    def __init__(self):
        self.pieces = [CONTENT[:1000], CONTENT[1000:]]

    def read(self, size=-1):
        return self.pieces.pop(0) if self.pieces else b""


def read_only() -> np.ndarray:
    return np.frombuffer(SAMPLES.tobytes(), np.float32)


@pytest.mark.parametrize(
    "audio",
    [
        SAMPLES.astype(np.float64),
        SAMPLES.astype(">f4"),
        SAMPLES.astype(np.longdouble),
        read_only(),
        np.repeat(SAMPLES, 3)[::3],
        SAMPLES[::-1].copy()[::-1],
        SAMPLES.tolist(),
        tuple(SAMPLES),
        array.array("f", SAMPLES),
        memoryview(SAMPLES),  # pyright: ignore[reportArgumentType]
        torch.from_numpy(SAMPLES.copy()),
        torch.from_numpy(SAMPLES.copy()).requires_grad_(),
        np.ma.MaskedArray(SAMPLES, mask=False),
        OnArray(),
        OnDlpack(),
        Tensor(numpy=lambda: SAMPLES),
        (SAMPLES, RATE),
        [RATE, SAMPLES],
        (SAMPLES, np.array(16000)),
        (np.float64(16000), SAMPLES.tolist()),
        {"array": SAMPLES, "sampling_rate": RATE, "path": "elsewhere.wav"},
        (SAMPLES[:, None], RATE),
        (torch.from_numpy(SAMPLES.copy())[None], RATE),
    ],
    ids=lambda audio: type(audio).__name__,
)
def test_samples_of_any_library(audio):
    assert np.array_equal(read(audio), SAMPLES)


@pytest.mark.parametrize(
    "audio",
    [
        str(CLIP),
        CLIP,
        CONTENT,
        bytearray(CONTENT),
        memoryview(CONTENT),
        io.BytesIO(CONTENT),
        HalfFile(),
        {"bytes": CONTENT, "path": None},
        {"bytes": None, "path": str(CLIP)},
    ],
    ids=lambda audio: type(audio).__name__,
)
def test_content_of_a_file(audio):
    assert np.array_equal(read(audio), SAMPLES)


def test_a_file_is_read_whole_and_left_where_it_was(tmp_path):
    with CLIP.open("rb") as file:
        file.seek(7)
        assert np.array_equal(read(file), SAMPLES)
        assert file.tell() == 7
        assert open_audio(file, RATE).name == str(CLIP)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert np.array_equal(read(mapped), SAMPLES)


def test_half_precision_is_taken():
    assert np.allclose(read(SAMPLES.astype(np.float16)), SAMPLES, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32])
def test_integers_with_a_rate_are_divided_by_their_full_scale(dtype):
    info = np.iinfo(dtype)
    middle = 0.0 if info.min else (info.max + 1) / 2
    full = (info.max + 1) - middle
    values = np.clip(np.round(SAMPLES.astype(np.float64) * full + middle), info.min, info.max)
    source = open_audio((values.astype(dtype), RATE), RATE)
    assert source.notes == (f"integers of {info.bits} bits, divided by their full scale",)
    assert np.allclose(read((values.astype(dtype), RATE)), SAMPLES, atol=1.5 / full)


@pytest.mark.parametrize("audio", [(STEREO, RATE), (RATE, STEREO.T), (STEREO.T.tolist(), RATE)])
def test_channels_are_the_short_axis(audio):
    assert np.allclose(read(audio), STEREO.mean(1), atol=1e-6)
    assert open_audio(audio, RATE).notes == ("2 channels averaged",)


def test_another_rate_is_resampled_as_a_file_is(tmp_path):
    path, values = tmp_path / "a.wav", STEREO[::2]
    soundfile.write(path, values, RATE // 2, "FLOAT")
    assert np.array_equal(read((values, RATE // 2)), read(path))
    assert open_audio((values, RATE // 2), RATE).notes == open_audio(path, RATE).notes


@pytest.mark.parametrize(
    "audio", [[], np.zeros(0), (np.zeros(0, np.int16), RATE), (np.zeros((0, 2)), RATE)]
)
def test_nothing_is_no_sound_and_no_error(audio):
    assert len(read(audio)) == 0


def test_later_changes_are_not_seen_and_none_are_made():
    for given in (SAMPLES.copy(), STEREO.copy()):
        source = open_audio(given if given.ndim == 1 else (given, RATE), RATE)
        expected = np.concatenate(list(source.blocks()))
        assert np.array_equal(given, SAMPLES if given.ndim == 1 else STEREO)
        given[:] = 0
        assert np.array_equal(np.concatenate(list(source.blocks())), expected)


REFUSED = {
    "none": (None, "got None"),
    "number": (3, "got int 3"),
    "number of NumPy": (np.float32(3), "float32 []"),
    "dict": ({"array": SAMPLES}, "got dict"),
    "generator": ((x for x in SAMPLES), "got generator"),
    "class": (io.BytesIO, "got type"),
    "object": (object(), "got object"),
    "paths": (["a.wav", "b.wav"], "transcribe_many takes several"),
    "integers": (np.zeros(4, np.int16), "got int16 [4]; give (samples, rate)"),
    "list of integers": ([1, 2, 3, 4], "got int64 [4]; give (samples, rate)"),
    "flags": (np.zeros(4, bool), "got bool [4]"),
    "complex": (np.zeros(4, complex), "got complex128 [4]"),
    "objects": (np.array([None, 1.0, 2.0]), "got objects (NoneType, float) [3]"),
    "objects with a rate": ((np.array([None, 1.0]), RATE), "got objects (NoneType, float) [2]"),
    "texts": (np.array(["a", "b"]), "expected float [n] with full scale 1, got text [2]"),
    "texts with a rate": ((np.array(["a", "b"]), RATE), "8, 16 or 32 bits, got text [2]"),
    "bytes of NumPy": (np.array([b"a"]), "got bytes [1]"),
    "records": (np.zeros(3, [("a", "f4")]), "got records [3]"),
    "text with a rate": (("a string", RATE), "an array or a list of numbers, got 'a string'"),
    "path with a rate": ((CLIP, RATE), "an array or a list of numbers, got PosixPath '"),
    "list with a text": (([1.0, "a"], RATE), "of them of one length, got a list of float, str"),
    "rows with a text": ([[1.0], ["a"]], "of them of one length, got a list of list"),
    "list of dicts": ([{"a": 1}], "of them of one length, got a list of dict"),
    "dict of texts": ({"array": ["a"], "sampling_rate": RATE}, "got a list of str"),
    "rate of text": ((SAMPLES, "16000"), "rate: expected whole Hz, got str '16000'"),
    "rate of nothing": ((SAMPLES, None), "rate: expected whole Hz, got None"),
    "three": ((SAMPLES, RATE, 1), "of one length, got a tuple of ndarray, int"),
    "axes": (STEREO, "2]; give (samples, rate)"),
    "no axis": (np.array(0.5), "got float64 []"),
    "ragged": ([[0.1], [0.2, 0.3], [0.4]], "rows of them of one length, got a list of list"),
    "masked": (np.ma.MaskedArray(SAMPLES, mask=SAMPLES > 0), "some are masked"),
    "device": (OnGpu(), "cuda:0 device type tensor"),
    "not a number": (np.array([0, np.nan, 1, np.nan]), "sample 1 is not a finite number, and 1 m"),
    "far out": (np.array([0, 1e300]), "sample 1 is 1e+300, where full scale is 1"),
    "far out with a rate": ((np.array([0, 1e300]), RATE), "sample at 0.00 s is"),
    "wide integers": ((np.zeros(9, np.int64), RATE), "8, 16 or 32 bits, got int64 [9]"),
    "complex with a rate": ((np.zeros(9, complex), RATE), "got complex128 [9]"),
    "three axes": ((np.zeros((1, 2, 900)), RATE), "got float64 [1, 2, 900]"),
    "either axis": ((np.zeros((2, 50)), RATE), "got float64 [2, 50]"),
    "neither axis": ((np.zeros((80, 3000)), RATE), "got float64 [80, 3000]"),
    "path and rate": (("a.wav", RATE), "an array or a list of numbers, got str 'a.wav'"),
    "dict and rate": (({}, RATE), "an array or a list of numbers, got dict"),
    "slow": ((SAMPLES, 0), "rate: expected 1000 to 768000 Hz, got 0"),
    "between": ((SAMPLES, Fraction(3, 2)), "rate: expected whole Hz, got Fraction 3/2"),
    "no rate": ((SAMPLES, float("nan")), "rate: expected whole Hz, got float nan"),
    "flag as rate": ((SAMPLES, True), "rate: expected whole Hz, got bool True"),
    "huge rate": ((SAMPLES, 10**5000), "rate: expected 1000 to 768000 Hz, got a number"),
    "empty name": ("", "got ''"),
    "no name": ("a\0b", "got 'a\\x00b'"),
    "content as text": ("UklGR" * 80_000, "400,000 bytes); the content of a file is given as"),
    "empty bytes": (b"", "bytes: not a readable audio file: it has 0 bytes"),
    "bytes of a page": (b"<html>" * 100, "bytes: not a readable audio file"),
    "file of text": (io.StringIO("text"), "gives str; open it in binary mode"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_audio(name):
    audio, words = REFUSED[name]
    with pytest.raises(AudioError) as refused:
        read(audio)
    assert words in str(refused.value) and len(str(refused.value)) < 300


def test_files_that_cannot_be_read():
    closed = io.BytesIO(CONTENT)
    closed.close()
    with pytest.raises(AudioError, match=r"file': cannot be read .*closed"):
        read(closed)
    with pytest.raises(AudioError, match="gives nothing yet"):
        read(Tensor(read=lambda size: None))


def test_content_needs_a_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(StorageError, match="bytes: there is no folder for temporary files"):
        read(CONTENT)
    assert np.array_equal(read((SAMPLES, RATE)), SAMPLES), "samples need none"


def test_a_path_of_a_class_of_its_own():
    class Own:
        def __fspath__(self):
            return str(CLIP)

    assert open_audio(Own(), RATE).name == str(CLIP)
    assert open_audio(Path(CLIP), RATE).name == str(CLIP)
