"""Pages of Ogg: recordings behind each other, and pages that are damaged."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from support.sounds import RATE, SAMPLES, encoded

from voxtral_onnx.runtime.audio.container.ogg import ogg_part
from voxtral_onnx.runtime.audio.files import open_audio

LONG = np.tile(SAMPLES, 4)


def pages(content: bytes | bytearray) -> list[int]:
    found, at = [], -1
    while (at := content.find(b"OggS\0", at + 1)) >= 0:
        found.append(at)
    return found


@pytest.mark.parametrize("kind", ["ogg", "opus"])
def test_whole_recordings(kind):
    content = encoded(kind)
    for behind in (b"", content, b"TAG" + bytes(125)):
        assert ogg_part(io.BufferedReader(io.BytesIO(content + behind))) == (len(content), (), 1)


@pytest.mark.parametrize("kind", ["ogg", "opus"])
def test_a_damaged_page_is_a_loss(kind, tmp_path):
    """Decoders pass over it, and later words come early."""
    content = bytearray(encoded(kind, LONG))
    starts = pages(content)
    middle = starts[len(starts) // 2]
    content[middle + 200] ^= 0xFF
    _, [(at, reason)], _ = ogg_part(io.BufferedReader(io.BytesIO(content)))
    assert reason == "a page is missing" and 0 < at < len(LONG) / RATE
    (tmp_path / "a").write_bytes(content)
    source = open_audio(tmp_path / "a", RATE)
    assert source.losses[0].startswith(f"damaged at {at:.1f} s (a page is missing), ")
    assert source.duration == pytest.approx(len(LONG) / RATE, abs=0.1)
    tail = np.concatenate(list(source.blocks()))[-len(SAMPLES) :]
    assert np.corrcoef(tail[-20000:-2000], LONG[-20000:-2000])[0, 1] > 0.9


@pytest.mark.parametrize("kind", ["ogg", "opus"])
def test_the_first_of_two_tracks(kind, tmp_path):
    first, second = encoded(kind), encoded(kind, SAMPLES[::-1].copy())
    starts, others = [*pages(first), len(first)], [*pages(second), len(second)]
    paged = [first[a:b] for a, b in itertools.pairwise(starts)]
    other = [second[a:b] for a, b in itertools.pairwise(others)]
    (tmp_path / "a").write_bytes(b"".join([paged[0], other[0], *paged[1:], *other[1:]]))
    source = open_audio(tmp_path / "a", RATE)
    assert source.notes[0] == "the first of 2 audio tracks"
    assert source.losses == ()
    assert np.corrcoef(np.concatenate(list(source.blocks()))[:30000], SAMPLES[:30000])[0, 1] > 0.9


@pytest.mark.parametrize("kind", ["ogg", "opus"])
def test_the_last_page_may_be_cut(kind, tmp_path):
    content = encoded(kind, LONG)
    (tmp_path / "a").write_bytes(content[:-50])
    [loss] = open_audio(tmp_path / "a", RATE).losses
    assert "it ends inside a page" in loss
