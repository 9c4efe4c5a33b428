"""Graphs without weights are filled with random ones elsewhere, and the result loads and runs."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from voxtral_onnx import Transcriber
from voxtral_onnx.assets import TINY

pytest.importorskip("onnx_ir")  # exports need it

BENCH = Path(__file__).parents[2] / "bench"


def skeleton(*arguments: str | Path) -> None:
    """Run a command of bench/skeleton.py in a process of its own, as it replaces functions."""
    subprocess.run(
        [sys.executable, BENCH / "skeleton.py", *map(str, arguments)],
        check=True,
        capture_output=True,
    )


def test_filled_skeletons_run_and_silent_ones_write_blanks(tmp_path):
    empty, filled, silent = (tmp_path / name for name in ("empty", "filled", "silent"))
    skeleton("make", TINY, empty, "--precision", "q4")
    assert not list(empty.glob("onnx/*_data*"))
    skeleton("fill", empty, filled)
    skeleton("silence", filled, silent)

    samples = (0.1 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    for folder in (filled, silent):
        tokens = []
        with Transcriber(folder, "cpu", precision="q4") as transcriber:
            transcriber.transcribe(samples, on_token=tokens.append).token_ids  # noqa: B018, decodes
            blank = transcriber.manifest.tokens.streaming_pad
        assert all(math.isfinite(token.logprob) for token in tokens)
        if folder == silent:
            assert {token.token_id for token in tokens} == {blank}
