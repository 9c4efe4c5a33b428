"""The artifact that is meant where none is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.commands import CLIP, TEXT, make_homeless

from voxtral_onnx import export, limits, quantize
from voxtral_onnx.assets import TINY
from voxtral_onnx.errors import ArtifactError, UsageError
from voxtral_onnx.exporter import sources
from voxtral_onnx.exporter.checkpoint.open import resolve_source
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime import locate
from voxtral_onnx.runtime.locate import choose_precisions, find_artifact, remember_export


@pytest.fixture
def state(tmp_path, monkeypatch):
    """The file that remembers the last export."""
    monkeypatch.delenv("VOXTRAL_ONNX_MODEL", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remember_export(tmp_path)
    [path] = (tmp_path / "state").rglob("state.json")
    return path


def test_last_export_is_remembered(state, tmp_path):
    assert find_artifact() == tmp_path


def test_a_file_hides_no_model(tiny_artifact, tmp_path, monkeypatch):
    monkeypatch.setattr("voxtral_onnx.runtime.locate.TINY_ARTIFACT", tiny_artifact)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").touch()
    assert find_artifact("tiny") == tiny_artifact
    assert resolve_source("tiny") == TINY
    (tmp_path / "tiny").unlink()
    (tmp_path / "tiny").mkdir()
    assert resolve_source("tiny") == Path("tiny")
    assert find_artifact("tiny") == Path("tiny")


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"[]",
        b"{}",
        b'{"last_export": 1}',
        b'{"last_export": ""}',
        b'{"last_export": "/a\\u0000b"}',
        b"[" * 60_000,
        b'{"last_export": "/tmp"}' + b" " * limits.STATE,
    ],
    ids=lambda damage: damage[:30].decode(),
)
def test_damaged_memory_of_the_last_export_is_none(damage, state):
    state.write_bytes(damage)
    with pytest.raises(ArtifactError, match="no model: name one"):
        find_artifact()


@pytest.fixture
def homeless(monkeypatch):
    make_homeless(monkeypatch)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="XDG folders are Linux's")
def test_a_user_without_a_home_names_models(homeless, run, tiny_artifact, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("transcribe", CLIP).assert_refused(4, "no model: name one")
    result = run("transcribe", "-m", tiny_artifact, CLIP)
    assert (result.code, result.out) == (0, TEXT + "\n")
    assert "note: weights are hashed at every load" in result.err and "set HOME" in result.err
    result = run("inspect", tiny_artifact)
    assert result.code == 0 and "certificate: not verified" in result.out
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="XDG folders are Linux's")
def test_an_export_without_a_home_ends_with_its_folder(homeless, run, tmp_path):
    result = run("export", "tiny", "-o", tmp_path / "out", "--precision", "q4")
    assert (result.code, result.out) == (0, f"{tmp_path / 'out'}\n")
    assert "note: not remembered as the last export: no folder for the user's state" in result.err


def test_a_last_export_that_is_gone_is_said(state, run, tmp_path):
    remember_export(tmp_path / "gone")
    gone = f"the last export, {tmp_path / 'gone'}, is not there any more; name a model with --model"
    run("transcribe", CLIP).assert_refused(4, gone)
    rows = {check["name"]: check for check in json.loads(run("doctor", "--json").out)}
    assert rows["none"]["summary"].startswith(gone)


def test_a_checkout_makes_the_test_model_first(state, run, tiny_artifact, tmp_path, monkeypatch):
    """Until it has exported it, `tiny` is nowhere; then it is where it was exported last."""
    monkeypatch.setattr("voxtral_onnx.runtime.locate.TINY_ARTIFACT", tmp_path / "none")
    make = "\n  voxtral-onnx export tiny  # makes the small test model; needs the extra export, "
    run("transcribe", "-m", "tiny", CLIP).assert_refused(4, "tiny: was not exported yet", make)
    state.unlink()
    result = run("transcribe", CLIP)
    result.assert_refused(4, "no model: name one", make)
    assert "--model tiny" not in result.err
    remember_export(tiny_artifact)
    assert find_artifact("tiny") == tiny_artifact
    remember_export(tmp_path)  # another model's
    assert find_artifact() == tmp_path and find_artifact("tiny") == tiny_artifact


def test_each_checkout_has_its_own_test_model(state, tiny_artifact, tmp_path, monkeypatch):
    """Another one's may be of other code; of so many the latest are remembered."""
    monkeypatch.setattr(locate, "TINY_ARTIFACT", tmp_path / "none")
    remember_export(tiny_artifact)
    monkeypatch.setattr(locate, "PACKAGE", tmp_path / "another checkout")
    with pytest.raises(ArtifactError, match="tiny: was not exported yet"):
        find_artifact("tiny")
    shutil.copytree(tiny_artifact, tmp_path / "own")
    remember_export(tmp_path / "own")
    assert find_artifact("tiny") == tmp_path / "own"
    monkeypatch.undo()
    monkeypatch.setenv("XDG_STATE_HOME", str(state.parents[1]))
    monkeypatch.setattr(locate, "TINY_ARTIFACT", tmp_path / "none")
    assert find_artifact("tiny") == tiny_artifact
    for number in range(locate.MOST_PACKAGES):
        monkeypatch.setattr(locate, "PACKAGE", tmp_path / str(number))
        remember_export(tiny_artifact)
    assert find_artifact() == tiny_artifact and find_artifact("tiny") == tiny_artifact
    assert len(json.loads(state.read_bytes())["test_models"]) == locate.MOST_PACKAGES


# An export's end, which takes its time between reading what is remembered and writing it
REMEMBER = """
import sys, time
from pathlib import Path
from voxtral_onnx.exporter import sources
from voxtral_onnx.runtime import locate

def slowly(read, seconds):
    def remembered():
        found = read()
        time.sleep(seconds)
        return found
    return remembered

folder, number = Path(sys.argv[1]), int(sys.argv[2])
locate.PACKAGE = Path(f"/{number}")
locate._remembered = slowly(locate._remembered, 0.2)
sources._remembered = slowly(sources._remembered, 0.5)  # which begin 0.2 s one after the other
sys.stdin.read()  # until all are ready
locate.remember_export(folder)
sources.remember_source(folder, {"file": (number, 0)})
"""


def test_exports_at_the_same_time_are_all_remembered(state, tiny_artifact):
    """Each process adds a package and a source to what the others have added."""
    command = [sys.executable, "-c", REMEMBER, str(tiny_artifact)]
    running = [
        subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE) for number in range(4)
    ]
    for process in running:
        assert process.stdin
        process.stdin.close()
    assert {process.wait() for process in running} == {0}
    assert json.loads(state.read_bytes())["test_models"].keys() == {"/0", "/1", "/2", "/3"}
    assert all(sources.may_be_source(tiny_artifact, {"file": (n, 0)}) for n in range(4))
    assert not sources.may_be_source(tiny_artifact, {"file": (4, 0)})


def test_another_last_export_is_not_the_test_model(state, artifact, tmp_path, monkeypatch):
    monkeypatch.setattr("voxtral_onnx.runtime.locate.TINY_ARTIFACT", tmp_path / "none")
    replace(Manifest.read(artifact), scope=None).write(artifact)
    remember_export(artifact)
    with pytest.raises(ArtifactError, match="tiny: was not exported yet"):
        find_artifact("tiny")


def test_a_precision_that_could_be_added_and_one_that_there_is_not(artifact, run):
    manifest = Manifest.read(artifact)
    with pytest.raises(UsageError, match=r"has q4f16, not 'q8'; add it: .*--precision q8$"):
        choose_precisions(manifest, ["q8"])
    there_are = "the artifact has q4f16, not 'int8'; there are q4f16, q4, q8, fp16, fp32"
    with pytest.raises(UsageError, match=f"{there_are}$"):
        choose_precisions(manifest, ["q4f16", "int8"])
    run("transcribe", "-m", artifact, "--precision", "int8", CLIP).assert_refused(2, there_are)


def test_precisions_are_looked_up_before_anything_is_read(tmp_path):
    known = r"expected some of \['q4f16', 'q4', 'q8', 'fp16', 'fp32'\], got 'int8'"
    for work in (export, quantize):
        with pytest.raises(UsageError, match=known):
            work("someone/nothing-of-the-kind", tmp_path / "out", precisions=["int8"])
