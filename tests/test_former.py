"""Artifacts of manifest format 1 run, are verified and compared.

Where they are written anew they become artifacts of format 2.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import copy_artifact
from support.commands import CLIP, TEXT
from support.former import NETWORK, to_format_1

from voxtral_onnx import export, quantize
from voxtral_onnx.exporter.output import UNFINISHED, Record
from voxtral_onnx.manifest import FILE_NAME, Manifest
from voxtral_onnx.verification.diff import diff

GOLDEN = Path(__file__).parent / "golden" / "manifest_1.json"


@pytest.fixture
def former(artifact):
    """q4f16 alone."""
    return to_format_1(artifact)


def test_a_manifest_that_format_1_had_is_read(former, tmp_path):
    shutil.copyfile(GOLDEN, tmp_path / FILE_NAME)
    golden, made = Manifest.read(tmp_path), Manifest.read(former)
    assert (golden.format, golden.fingerprint, golden.config) == (1, made.fingerprint, made.config)
    assert golden.files.keys() == made.files.keys() and NETWORK in made.files
    written, ours = (json.loads((folder / FILE_NAME).read_bytes()) for folder in (tmp_path, former))
    assert written.keys() == ours.keys()
    for role in ("encoder", "decoder"):
        assert (
            written["precisions"]["q4f16"][role].keys() == ours["precisions"]["q4f16"][role].keys()
        )


def test_it_runs_and_is_judged(former, tiny_artifact, run, tmp_path):
    assert run("transcribe", "-m", former, CLIP).out == TEXT + "\n"
    result = run("inspect", "--check", former)
    assert "checked: sizes, graphs, hashes" in result.out and "format 1" in result.out
    assert run("verify", former, "--rungs", "0,1").code == 0
    found = diff(former, copy_artifact(tiny_artifact, tmp_path / "fresh"))
    graphs = "encoder, decoder"
    assert found.facts == {
        "format": (1, 2),
        "precisions.q4f16.graphs": (graphs, f"{graphs}, encoder_batch, encoder_paged"),
    }
    assert not found.graphs and not found.tensors


def test_it_is_quantised(tiny_artifact, tmp_path):
    source = to_format_1(copy_artifact(tiny_artifact, tmp_path / "source", "fp32"))
    out = quantize(source, tmp_path / "out", precisions=["q4"])
    found, expected = Manifest.read(out), Manifest.read(tiny_artifact)
    assert json.loads((out / FILE_NAME).read_bytes())["format"] == 2
    assert found.fingerprint == expected.fingerprint and NETWORK not in found.files
    assert found.precisions["q4"].encoder == expected.precisions["q4"].encoder
    assert found.files == {name: expected.files[name] for name in found.files}


def test_an_export_into_its_folder_makes_it_one_of_this_format(former):
    before = {
        path: path.stat().st_mtime_ns
        for path in former.rglob("*.*")
        if path.name not in (FILE_NAME, NETWORK)
    }
    export("tiny", former, precisions=["q4"])
    manifest = Manifest.read(former)
    assert manifest.format == 2 and list(manifest.precisions) == ["q4f16", "q4"]
    assert not (former / NETWORK).exists() and NETWORK not in manifest.files
    assert {path: path.stat().st_mtime_ns for path in before} == before
    manifest.check_files(former, hashes=True)


def test_what_its_killed_export_left_is_read_and_removed(former):
    """Its `unfinished.json` had counts of clean-ups too."""
    manifest, path = Manifest.read(former), former / UNFINISHED
    written = json.loads((former / FILE_NAME).read_bytes())
    kind = written["precisions"]["q4f16"]
    graph, recipe = kind["encoder"], kind["recipe"]
    files = {name: written["files"][name] for name in (graph["path"], *graph["data"])}
    finished = {graph["path"]: {"graph": graph, "recipe": recipe, "files": files}}
    values = {
        "fingerprint": manifest.fingerprint,
        "facts": {
            "generator": manifest.generator,
            "packages": {},
            "fingerprint": manifest.fingerprint,
            "checkpoint": {},
        },
        "files": [NETWORK],
        "finished": finished,
    }
    path.write_text(json.dumps(values))
    assert Record.read(path).finished[graph["path"]].graph == manifest.precisions["q4f16"].encoder
    (former / FILE_NAME).unlink()
    (former / f"{NETWORK}.partial").write_bytes(b"killed")
    export("tiny", former)
    Manifest.read(former).check_files(former, hashes=True)
    assert not path.exists() and not list(former.glob(f"{NETWORK}*"))
