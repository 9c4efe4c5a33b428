"""The encoder's inputs, made ahead in threads, are those of a stream with the same grid."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from support.devices import Imitation
from support.recordings import babble, transcriber_on

from voxtral_onnx.errors import AudioError
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.device.cpu import Cpu
from voxtral_onnx.runtime.encoder import Encoder
from voxtral_onnx.runtime.engine.sound import CHUNKS_AHEAD, Sound
from voxtral_onnx.runtime.stream import Stream
from voxtral_onnx.runtime.writer import StreamOptions


@pytest.fixture(scope="module", params=[Cpu, Imitation])
def model(request, toy_artifact):
    with (
        pytest.MonkeyPatch.context() as patch,
        transcriber_on(request.param(), patch, toy_artifact, precision="fp32") as found,
    ):
        yield found.model


@pytest.mark.parametrize("delay", [1, 6, 30])
@pytest.mark.parametrize("length", [0, 1, 1279, 1280, 20_480, 81_920, 144_001])
def test_chunks_are_the_calls_of_a_stream(model, monkeypatch, length, delay):
    """Mel frames, angles, and how many tokens of each call are taken."""
    calls = []

    def noted(encoder, cache, samples):
        features = encoder.mel.run({"audio": samples[None]})
        angles = cache.positions(features.shape[2] // 2)
        cache.advance(features.shape[2] // 2)
        size = features.shape[2] // (2 * cache.spec.rows_per_token)
        calls.append((features, angles["cos"], angles["sin"], size))
        return np.zeros((size, model.manifest.config.decoder.hidden_size), np.float32)

    source = open_audio(babble(length), 16000)
    samples = np.concatenate([np.zeros(0, np.float32), *source.blocks()])
    monkeypatch.setattr(Encoder, "encode", noted)
    stream = Stream(model, StreamOptions(delay), grid=model.grid)
    taken = [len(each) for each in fed(stream, samples)]
    sound = Sound(model, source, delay)
    chunks = list(sound._made())
    silent = sum(end <= model.grid.first for end in np.cumsum(taken))  # calls before all audio
    assert [chunk.tokens for chunk in chunks] == taken[silent:]
    for chunk, (features, cos, sin, _) in zip(chunks, calls[silent:], strict=True):
        assert np.array_equal(chunk.feeds["input_features"], features)
        assert np.array_equal(chunk.feeds["cos"], cos)
        assert np.array_equal(chunk.feeds["sin"], sin)


def fed(stream, samples):
    """Yield the audio embeddings of a stream that is fed in two parts."""
    for part in (samples[:17_000], samples[17_000:]):
        stream._take(part)
        yield from stream._encode()
    yield from stream._encode_tail()


def test_threads_make_chunks_a_few_ahead(model):
    told, pool = [], ThreadPoolExecutor(1)
    sound = Sound(model, open_audio(babble(1_000_000), 16000), 6)
    heard, ended = [], []
    sound.on_samples, sound.on_end = heard.append, lambda: ended.append(True)
    tokens = 0
    assert not sound.is_ready
    while not sound.is_read:
        sound.read_ahead(pool, lambda: told.append(True))
        pool.submit(lambda: None).result()
        assert len(sound._ready) <= CHUNKS_AHEAD
        while chunk := sound.take():
            tokens += chunk.tokens
    assert sound.take() is None and sound.is_ready
    assert model.grid.first + tokens == 32 + -(-1_000_000 // 1280) + 6 + 11 - 1
    assert np.array_equal(np.concatenate(heard), babble(1_000_000)) and ended == [True]
    assert told
    pool.shutdown()


def test_what_reading_raises_comes_after_the_chunks_before_it(model):
    def blocks():
        yield babble(400_000)
        yield np.full(10, np.nan, np.float32)

    class Broken:
        duration = 100.0

        def blocks(self):
            return blocks()

    pool = ThreadPoolExecutor(1)
    sound = Sound(model, Broken(), 6)  # pyright: ignore[reportArgumentType]: it has all it takes
    taken = 0
    with pytest.raises(AudioError, match="not a finite number"):
        while True:
            sound.read_ahead(pool, lambda: None)
            pool.submit(lambda: None).result()
            chunk = sound.take()
            assert chunk
            taken += chunk.tokens
    assert taken >= 400_000 // 1280 - model.grid.chunk
    pool.shutdown()


def test_calls_end_where_the_grid_says(model):
    sound = Sound(model, open_audio(babble(1_000_000), 16000), 6)
    ends = np.cumsum([model.grid.first, *(chunk.tokens for chunk in sound._made())]).tolist()
    assert all(end == model.grid.next_end(first) for first, end in pairwise(ends[:-1]))
