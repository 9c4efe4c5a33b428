"""A saved stream goes on as it was, or is refused: changed bytes are never other words."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re

import numpy as np
import pytest
from reference import toy

from voxtral_onnx import Transcriber
from voxtral_onnx.errors import ArtifactError, UsageError
from voxtral_onnx.limits import STREAM

NAME = "stream"
DIGEST_SIZE = 32


@pytest.fixture(scope="module")
def transcriber(toy_artifact):
    with Transcriber(toy_artifact, precision="fp32") as transcriber:
        yield transcriber


@pytest.fixture(scope="module")
def saved(transcriber, tmp_path_factory):
    """The bytes of a stream in the middle of its sound."""
    path = tmp_path_factory.mktemp("saved") / NAME
    stream = transcriber.stream()
    stream.feed(toy.babble(2.0))
    stream.save(path)
    return path.read_bytes()


@pytest.fixture
def refuse(transcriber, tmp_path):
    def refuse(content: bytes, words: str) -> None:
        (tmp_path / NAME).write_bytes(content)
        with pytest.raises(ArtifactError, match=words):
            transcriber.load_stream(tmp_path / NAME)

    return refuse


def sign(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def change(content: bytes, **numbers) -> bytes:
    """Forge a file with other numbers."""
    first, header, arrays = content[:-DIGEST_SIZE].split(b"\n", 2)
    values = json.loads(header)
    values["position"] |= numbers
    return sign(b"\n".join((first, json.dumps(values).encode(), arrays)))


def test_a_changed_byte_is_refused(saved, refuse):
    draw = random.Random(0)
    header = saved.index(b"\n", 30)
    for i in range(120):
        at = draw.randrange(header if i % 2 else len(saved))
        refuse(
            saved[:at] + bytes([saved[at] ^ 1 << draw.randrange(8)]) + saved[at + 1 :],
            f"{NAME}: not a saved stream ",
        )


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:20],
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content + b"\0",
        lambda content: sign(content[:-DIGEST_SIZE].split(b"\n")[0]),
        lambda content: sign(content[:-DIGEST_SIZE] + bytes(4)),
        lambda content: sign(content[: -DIGEST_SIZE - 4]),
        lambda content: sign(content[: content.index(b"\n") + 1] + b"[" * 100_000),
    ],
)
def test_other_lengths_are_refused(saved, refuse, damage):
    refuse(damage(saved), f"{NAME}: not a saved stream ")


def test_a_forged_digest_loads(transcriber, saved, tmp_path):
    (tmp_path / NAME).write_bytes(change(saved))
    transcriber.load_stream(tmp_path / NAME)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"num_samples": 32_001}, "its arrays are not those of a stream there"),
        ({"num_samples": 0}, "contradict each other"),
        ({"num_samples": 1 << 53}, "contradict each other"),
        ({"num_samples": -1}, "Expected `int` >= 0"),
        ({"num_samples": 1.5}, "Expected `int`"),
        ({"num_generated": 3}, "contradict each other"),
        ({"next_id": 1 << 20}, "contradict each other"),
        ({"blanks": 10_000}, "10000 blanks of"),
        ({"finished": True}, "its arrays are not those of a stream there"),
        ({"encoder": 1}, "contradict each other"),
        ({"encoder": 1 << 52, "decoder": 1 << 50}, "contradict each other"),
        ({"decoder": 0}, "contradict each other"),
        ({"pending": "61"}, "the begin of one character"),
        ({"pending": "zz"}, "matching regex"),
        ({"recent": [-1]}, "Expected `int` >= 0"),
        ({"recent": None}, "Expected `array`"),
    ],
)
def test_numbers_that_no_stream_has(saved, refuse, numbers, words):
    refuse(change(saved, **numbers), words)


@pytest.mark.parametrize(
    "forge",
    [
        lambda arrays: arrays[0].update(name="encoder_0"),
        lambda arrays: arrays[1].update(dtype="float16"),
        lambda arrays: arrays[1].update(dtype="object"),
        lambda arrays: arrays[1]["shape"].reverse(),
        lambda arrays: arrays[1].update(shape=[1 << 53] * 8),
        lambda arrays: arrays.pop(),
        lambda arrays: arrays.reverse(),
    ],
)
def test_arrays_that_no_stream_has(saved, refuse, forge):
    first, header, arrays = saved[:-DIGEST_SIZE].split(b"\n", 2)
    values = json.loads(header)
    forge(values["arrays"])
    refuse(sign(b"\n".join((first, json.dumps(values).encode(), arrays))), "not a saved stream")


def test_values_that_are_not_finite(saved, refuse):
    body = saved[: -DIGEST_SIZE - 4]
    refuse(sign(body + np.float32(np.nan).tobytes()), "values that are not finite")


def test_a_file_of_any_size_is_not_read(transcriber, saved, tmp_path):
    (tmp_path / NAME).write_bytes(saved)
    os.truncate(tmp_path / NAME, 1 << 40)
    with pytest.raises(ArtifactError, match=r"expected at most [0-9,]+ bytes, found more") as found:
        transcriber.load_stream(tmp_path / NAME)
    [most] = re.findall(r"at most ([0-9,]+) bytes", str(found.value))
    assert len(saved) < int(most.replace(",", "")) < 8 * len(saved) + STREAM


def test_a_stream_of_an_earlier_version(refuse, tmp_path):
    np.savez(tmp_path / "old.npz", state=np.array("{}"))
    refuse((tmp_path / "old.npz").read_bytes(), r"one of voxtral-onnx 0\.2 or older")


@pytest.mark.parametrize("delay", [80, 2400])
def test_streams_are_whole_wherever_they_are_saved(transcriber, tmp_path, delay):
    """Between any two feeds, before the first and behind the last."""
    samples, stream = toy.babble(2.0), transcriber.stream(delay)
    sizes, other = [0, 1, 39, 1240, 1280, 1281, 7, 9000, 40, 1239, 1, 5000], stream
    for part in np.split(samples, np.cumsum(sizes)):
        stream.save(tmp_path / NAME)
        other = transcriber.load_stream(tmp_path / NAME, delay)
        assert other.feed(part) == stream.feed(part)
    assert other.finish() == stream.finish()
    stream.save(tmp_path / NAME)
    assert transcriber.load_stream(tmp_path / NAME, delay).finish() == []


def test_a_stream_is_not_saved_within_a_feed(transcriber, tmp_path):
    stream = transcriber.stream()
    tokens = stream.iter_feed(toy.babble(1.0))
    next(tokens)
    with pytest.raises(UsageError, match="tokens of the last feed are still to come"):
        stream.save(tmp_path / NAME)
    assert list(tokens) and not list(tmp_path.iterdir())
    stream.save(tmp_path / NAME)
