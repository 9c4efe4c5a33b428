"""Shipped graphs are what a trace gives, and exports of them are those of a trace."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from voxtral_onnx import export
from voxtral_onnx.config import RELEASED
from voxtral_onnx.errors import DeviceError
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint, resolve_source
from voxtral_onnx.exporter.checkpoint.tekken import read_tekken
from voxtral_onnx.exporter.graph import ready
from voxtral_onnx.exporter.plan import plan_export
from voxtral_onnx.manifest import Tokens

ROOT = Path(__file__).parents[3]
MAKE = ROOT / "scripts" / "make_graphs.py"
MODELS = ("released", "tiny")
PRECISIONS = ("q4f16", "q4", "q8", "fp16", "fp32")
FAMILIES = ("native", "transformers_js")


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def released(pad: int = 32) -> Tokens:
    return Tokens(1, 2, pad, 33, 1000)


def test_a_trace_gives_every_shipped_byte(tmp_path):
    made_with = ready.read_facts(ready.FOLDER / "released" / ready.FACTS).packages
    here = {name: version(name) for name in made_with}
    if here != made_with:
        pytest.skip(f"the graphs were traced with {made_with}, this is {here}")
    subprocess.run([sys.executable, MAKE, tmp_path], check=True, capture_output=True)
    for model in MODELS:
        assert contents(ready.FOLDER / model) == contents(tmp_path / model)


def test_they_are_found_by_configuration_and_blank():
    tiny = open_checkpoint(resolve_source("tiny"))
    tokens, _ = read_tekken(tiny.tokenizer, tiny.config, tiny.card.trained_delays_ms)
    for config, of_model, name in (
        (RELEASED, released(), "released"),
        (tiny.config, tokens, "tiny"),
    ):
        found = ready.find_ready(config, of_model)
        assert found and found.folder.name == name
    assert ready.find_ready(RELEASED, released(pad=31)) is None
    wider = replace(RELEASED, encoder=replace(RELEASED.encoder, sliding_window=751))
    assert ready.find_ready(wider, released()) is None


def test_other_graphs_are_planned_as_traced(toy_checkpoint, tmp_path):
    shipped = plan_export("tiny", tmp_path / "a", precisions=PRECISIONS, families=FAMILIES)
    assert not shipped.traced and "torch" not in shipped.facts.packages
    portable = plan_export("tiny", tmp_path / "a", families=("portable",))
    assert portable.traced == (
        "onnx/portable_encoder_q4f16.onnx", "onnx/portable_decoder_q4f16.onnx",
    )  # fmt: skip
    assert "torch" in portable.facts.packages
    assert len(plan_export("tiny", tmp_path / "a", trace=True).traced) == 4
    assert len(plan_export(toy_checkpoint, tmp_path / "a").traced) == 4


def test_tiny_is_the_same_traced_or_shipped(tmp_path, traces):
    precisions = ("q4f16", "q8", "fp32")  # each kind of weights, both types of activations
    options: dict[str, Any] = {"precisions": precisions, "families": FAMILIES}
    before = len(traces.names)
    shipped = export("tiny", tmp_path / "shipped", **options)
    assert len(traces.names) == before
    traced = export("tiny", tmp_path / "traced", **options, trace=True)
    paged = sum("f" in name and name != "fp32" for name in precisions)  # of float16
    assert len(traces.names) == before + len(precisions) * 6 + paged
    assert contents(shipped) == contents(traced)


def test_a_small_twin_is_the_same_traced_or_shipped(toy_checkpoint, tmp_path, monkeypatch):
    """A shape that is not shipped, with graphs made for it: more key-value heads, odd sizes."""
    spec = spec_from_file_location("make_graphs", MAKE)
    assert spec and spec.loader
    make_graphs = module_from_spec(spec)
    spec.loader.exec_module(make_graphs)
    monkeypatch.setattr(make_graphs, "FAMILY_NAMES", ("native",))
    toy = open_checkpoint(toy_checkpoint)
    tokens, _ = read_tekken(toy.tokenizer, toy.config, toy.card.trained_delays_ms)
    options: dict[str, Any] = {"precisions": ("q4f16",)}
    traced = export(toy_checkpoint, tmp_path / "traced", **options)
    make_graphs.write(tmp_path / "ready" / "toy", toy.config, tokens)
    monkeypatch.setattr(ready, "FOLDER", tmp_path / "ready")
    ready.shipped.cache_clear()
    try:
        assert not plan_export(toy_checkpoint, tmp_path / "shipped", **options).traced
        shipped = export(toy_checkpoint, tmp_path / "shipped", **options)
    finally:
        ready.shipped.cache_clear()
    assert contents(shipped) == contents(traced)


def test_without_the_tracer_nothing_is_written(toy_checkpoint, tmp_path, monkeypatch):
    from voxtral_onnx.exporter import packages

    monkeypatch.setattr(packages, "missing", lambda names: [*names])
    export("tiny", tmp_path / "tiny")
    with pytest.raises(DeviceError, match=r"encoder_q4f16.onnx.*needs torch, onnxscript") as error:
        export(toy_checkpoint, tmp_path / "toy")
    assert "voxtral-onnx[cpu,export,trace]" in str(error.value)
    assert not (tmp_path / "toy").exists()
