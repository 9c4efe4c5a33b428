"""The bench command measures each precision, and its numbers agree."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from support.commands import CLIP

from voxtral_onnx.errors import UsageError
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime import bench


@pytest.fixture(scope="module")
def rows(tiny_artifact):
    """Two precisions with details, on a short clip."""
    return list(
        bench.bench(
            tiny_artifact, CLIP, precisions=["q4", "fp32"], repeat=2, details=True, threads=1
        )
    )


def test_a_row_each(rows):
    assert [(row.precision, row.device, row.threads) for row in rows] == [
        ("q4", "cpu", 1),
        ("fp32", "cpu", 1),
    ]


def test_numbers_agree(rows, tiny_artifact):
    rules = Manifest.read(tiny_artifact).streaming
    for row in rows:
        seconds = (row.encode_ms + row.decode_ms) / 1000
        assert row.audio_seconds == soundfile.info(CLIP).duration
        assert row.delay_ms == 480
        # The silence before is run once, and not timed
        padding = 1 + rules.right_pad_tokens + row.delay_ms // 80
        assert row.steps == padding + np.ceil(row.audio_seconds / 0.08) - 1
        assert row.tokens_per_second * seconds == pytest.approx(row.steps)
        assert row.rtf * row.audio_seconds == pytest.approx(seconds)
        assert len(row.runs) == 2
        assert seconds == pytest.approx(
            min(run.encode_ms + run.decode_ms for run in row.runs) / 1000
        )


def test_details(rows, tiny_artifact):
    manifest = Manifest.read(tiny_artifact)
    for row in rows:
        details = row.details
        assert details.load_seconds > 0
        assert details.first_step_seconds > 0
        assert (
            0 < details.loaded_memory <= details.load_peak_memory * 1.01 <= row.peak_memory * 1.02
        )
        for window in (details.empty_window, details.full_window):
            for latency in (window.encoder, window.encoder_chunk, window.decoder):
                assert 0 < latency.min <= latency.p50 <= latency.p95
                assert bench.MIN_CALLS <= latency.calls <= bench.CALLS
        files = manifest.precisions[row.precision].decoder.data
        assert details.decoder_bytes == sum((tiny_artifact / file).stat().st_size for file in files)
        seconds = details.empty_window.decoder.min / 1000
        assert details.bandwidth_share * details.read_bytes_per_second * seconds == pytest.approx(
            details.decoder_bytes
        )


def test_memory_is_each_precisions_own(tiny_artifact, rows):
    """The process of a result row holds one precision.

    It holds nothing of this process, in which torch is loaded.
    """
    assert all(0 < row.peak_memory < 300 << 20 for row in rows)


def test_the_clip_is_speech_of_its_length():
    clip = bench.sample_clip(16000)
    assert len(clip) == 15.95 * 16000
    assert np.array_equal(clip, bench.sample_clip(16000))
    first = soundfile.read(CLIP, dtype="float32")[0]
    assert np.array_equal(clip[: len(first)], first)
    long = bench.sample_clip(16000, 60)
    assert len(long) == 60 * 16000
    assert np.array_equal(long[: len(clip)], clip)


def test_filled_caches_are_read(tiny_artifact):
    """With the window full, what the caches hold changes the embeddings.

    With it empty it does not.
    """
    from voxtral_onnx import Transcriber

    def encode(position, value):
        cache = transcriber.model.encoder.new_cache()
        for buffer in cache.buffers:
            buffer.write(np.full(buffer.shape, value, buffer.dtype))
        cache.position = position
        return transcriber.model.encoder.encode(cache, bench._silence(transcriber, 1))

    with Transcriber(tiny_artifact, precision="fp32") as transcriber:
        capacity = transcriber.model.encoder.spec.capacity
        assert np.array_equal(encode(0, 0.0), encode(0, 0.5))
        assert not np.allclose(encode(capacity, 0.0), encode(capacity, 0.5), atol=1e-3)


def test_table(tiny_artifact, run):
    result = run("bench", tiny_artifact, CLIP, "--repeat", 1)
    assert result.code == 0
    header, rule, row = result.out.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (header, rule, row)]
    assert cells[0] == ["Path", "Encode ms", "Decode ms", "RTF", "Tokens/s", "Memory"]
    assert cells[2][0] == "q4f16 cpu"
    assert cells[2][5].endswith(" MB")
    assert "q4f16: the fastest of 1 runs over 2.17 s of audio" in result.err


def test_json(tiny_artifact, run):
    result = run("bench", tiny_artifact, "--precision", "q8", "--repeat", 1, "--json", CLIP)
    assert result.code == 0
    report = json.loads(result.out)
    assert {"cpu", "cores", "memory", "packages", "load_average"} <= report["machine"].keys()
    assert [row["precision"] for row in report["results"]] == ["q8"]
    assert report["results"][0]["details"]["full_window"]["decoder"]["p50"] > 0


def test_verbose_and_all(artifact, run):
    result = run(
        "bench", artifact, CLIP, "--precision", "all", "--repeat", 1, "--verbose", "--context", 256
    )
    assert result.code == 0
    assert "q4f16 cpu: decoder, 1 token" in result.out
    assert "of weights at" in result.out


def test_refusals(tiny_artifact, run, tmp_path):
    run("bench", tiny_artifact, "--precision", "q5").assert_refused(
        2, "precision: the artifact has q4f16"
    )
    run("bench", tiny_artifact, tmp_path / "none.wav").assert_refused(6, "no such file")
    run("bench", tiny_artifact, "-").assert_refused(2, "audio: expected a file")
    run("bench", tiny_artifact, CLIP, "--context", 3).assert_refused(
        2, "context: expected at least 64"
    )
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16000)
    run("bench", tiny_artifact, tmp_path / "empty.wav").assert_refused(6, "empty")
    run("bench", tmp_path).assert_refused(4, "not an exported artifact")
    for count in (0, 1001):
        run("bench", tiny_artifact, CLIP, "--repeat", count).assert_misused("--repeat")
        with pytest.raises(UsageError, match="repeat: expected 1 to 1000"):
            next(bench.bench(tiny_artifact, CLIP, repeat=count))
