"""Artifacts that are absent, damaged or of another format.

Exit 4 with what is wrong and what to do.
"""

from __future__ import annotations

import json
import os
import shutil

import onnx
import pytest
from conftest import copy_artifact
from support.checkpoints import TINY, write_hf, write_mistral
from support.commands import CLIP, TEXT
from support.damage import rehash

from voxtral_onnx.errors import ArtifactError
from voxtral_onnx.manifest import FILE_NAME, Manifest

DATA = "onnx/decoder_model_merged_q4f16.onnx_data"
GRAPH = "onnx/encoder_q4f16.onnx"


@pytest.fixture
def refuse(run, artifact):
    """Both commands refuse the artifact with these words."""

    def refuse(*parts, folder=artifact):
        run("inspect", folder).assert_refused(4, *parts)
        run("transcribe", "-m", folder, CLIP).assert_refused(4, *parts)

    return refuse


def edit_manifest(artifact, change):
    values = json.loads((artifact / FILE_NAME).read_text())
    change(values)
    (artifact / FILE_NAME).write_text(json.dumps(values))


def flip_byte(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_good_artifact(artifact, run):
    result = run("inspect", "--check", artifact)
    assert result.code == 0
    assert "checked: sizes, graphs, hashes" in result.out


def test_inspect_prints_the_manifest(artifact, run):
    values = json.loads(run("inspect", "--json", artifact).out)
    assert values["folder"] == str(artifact)
    assert values["checked"] == ["sizes", "graphs"]
    assert values["files"].keys() == Manifest.read(artifact).files.keys()


def test_no_manifest(artifact, refuse):
    (artifact / FILE_NAME).unlink()
    refuse(
        f"{artifact}: no {FILE_NAME}",
        "its export did not finish",
        "run: voxtral-onnx export SOURCE",
    )


def test_no_such_folder(tmp_path, refuse):
    refuse("cannot be looked at (File name too long)", folder=tmp_path / ("x" * 300))
    refuse("nowhere: no such folder", "voxtral-onnx export SOURCE", folder=tmp_path / "nowhere")


def test_a_file_is_no_artifact(refuse):
    refuse(f"no {FILE_NAME}: not an exported artifact", folder=CLIP)


@pytest.mark.parametrize("write", [write_mistral, write_hf])
def test_checkpoint_given_as_model(write, tmp_path, refuse):
    folder = write(tmp_path / "checkpoint")
    refuse(
        f"{folder}: a checkpoint, not an artifact; run: voxtral-onnx export {folder}", folder=folder
    )


def test_gguf_given_as_model(tmp_path, refuse):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    refuse(f"run: voxtral-onnx export {file}", folder=file)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"[]", "cannot be read (Expected `object`, got `array`); export again"),
        (b"{}", "expected format 1 or 2, got null; export again"),
        (b'{"format": 3}', "expected format 1 or 2, got 3; upgrade voxtral-onnx"),
        (b'{"format": 10}', "expected format 1 or 2, got 10; upgrade voxtral-onnx"),
        (b'{"format": 0}', "expected format 1 or 2, got 0; export again"),
        (b'{"format": "1"}', 'expected format 1 or 2, got "1"; export again'),
        (b'{"format": [1]}', "expected format 1 or 2, got [1]; export again"),
        (b'{"format": true}', "expected format 1 or 2, got true; export again"),
        (
            b'{"format": 2}',
            "not a valid manifest (Object missing required field `generator`); export again",
        ),
    ],
)
def test_manifest_that_is_none(content, part, artifact, refuse):
    (artifact / FILE_NAME).write_bytes(content)
    refuse(str(artifact / FILE_NAME), part)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda m: m.update(caches=[]), "not a valid manifest"),
        (lambda m: m.update(files=[]), "not a valid manifest"),
        (lambda m: m.update(mel=None), "not a valid manifest"),
        (lambda m: m["tokens"].pop("eos"), "not a valid manifest"),
        (lambda m: m["tokens"].update(eos=True), "not a valid manifest"),
        (lambda m: m["tokens"].update(eos=1 << 20), "expected ids below 5,096"),
        (lambda m: m.update(fingerprint="stranger"), "Expected a sha256 in hexadecimal digits"),
        (lambda m: m["config"]["encoder"].update(head_dim=31), "head_dim 31 is odd"),
        (lambda m: m["caches"]["decoder"].update(keep=10**9), "cannot keep 1000000000"),
    ],
)
def test_damaged_manifest(change, part, artifact, refuse):
    edit_manifest(artifact, change)
    refuse(part)


def test_manifest_without_precisions(artifact, run):
    edit_manifest(artifact, lambda m: m.update(precisions={}))
    run("transcribe", "-m", artifact, CLIP).assert_refused(4, "none of the precisions q4f16, q4,")


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("input", lambda tensor: tensor.update(name="renamed")),
        ("input", lambda tensor: tensor.update(dtype="float16")),
        ("input", lambda tensor: tensor.update(dtype="bfloat16")),
        ("input", lambda tensor: tensor.update(shape=[1, 128])),
        ("output", lambda tensor: tensor.update(name="renamed")),
    ],
)
def test_graph_that_is_not_what_the_manifest_says(kind, change, artifact, refuse):
    edit_manifest(artifact, lambda m: change(m["precisions"]["q4f16"]["encoder"][f"{kind}s"][0]))
    refuse(GRAPH, f"{kind} '", "as in the manifest", "export again")


def test_graph_with_a_renamed_input(artifact, refuse):
    """The manifest's hash and size are those of the changed graph: only its inputs tell."""
    model = onnx.load(artifact / GRAPH, load_external_data=False)
    model.graph.input[0].name = "features"
    for node in model.graph.node:
        node.input[:] = ["features" if name == "input_features" else name for name in node.input]
    content = model.SerializeToString()
    (artifact / GRAPH).write_bytes(content)
    rehash(artifact)
    refuse(GRAPH, "input 'features': expected none", "export again")


def test_graph_that_does_not_load(artifact, refuse):
    (artifact / GRAPH).write_bytes(bytes((artifact / GRAPH).stat().st_size))
    rehash(artifact)
    refuse(GRAPH, "onnxruntime cannot load it")


def test_inspect_reads_all_bytes_when_asked(artifact, run):
    flip_byte(artifact / DATA, at=100_000)
    assert run("inspect", artifact).code == 0
    run("inspect", "--check", artifact).assert_refused(
        4, f"{DATA}: expected sha256", "copy the artifact again"
    )


@pytest.mark.parametrize("name", [DATA, GRAPH, "tekken.json"])
def test_truncated_file(name, artifact, refuse):
    os.truncate(artifact / name, 1000)
    refuse(f"{name}: expected ", " bytes, got 1,000")


def test_artifact_cloned_without_git_lfs(artifact, refuse):
    (artifact / DATA).write_text("version https://git-lfs.github.com/spec/v1\n")
    refuse(f"{DATA}: a Git LFS pointer, not the file; run: git lfs pull")


def test_every_wrong_file_is_named(artifact, refuse):
    os.truncate(artifact / DATA, 0)
    (artifact / "onnx/mel.onnx").unlink()
    refuse(f"{DATA}: expected", "got 0", "onnx/mel.onnx: missing")


def test_files_that_are_links_run_by_their_contents(artifact, tmp_path, run):
    """As in caches of other programs; who hands files on refuses links that lead out."""
    for path in [path for path in artifact.rglob("*") if path.is_file()]:
        blob = tmp_path / "blobs" / path.name
        blob.parent.mkdir(exist_ok=True)
        path.rename(blob)
        path.symlink_to(blob)
    assert run("transcribe", "-m", artifact, CLIP).out == TEXT + "\n"
    manifest = Manifest.read(artifact)
    with pytest.raises(ArtifactError, match=r"mel\.onnx: a link that leads out of the folder"):
        manifest.check_files(artifact, no_links_out=True)
    result = run("publish", artifact, "org/name", "--dry-run")
    result.assert_refused(4, "a link that leads out of the folder")


def test_precision_that_is_not_there_is_not_needed(tiny_artifact, tmp_path, run):
    folder = copy_artifact(tiny_artifact, tmp_path / "artifact")
    shutil.copyfile(tiny_artifact / FILE_NAME, folder / FILE_NAME)  # which names five precisions
    assert run("transcribe", "-m", folder, CLIP).out == TEXT + "\n"
    assert "\nnot in this folder: q4, q8, fp16, fp32\n" in run("inspect", "--check", folder).out
    run("transcribe", "-m", folder, "--precision", "q4", CLIP).assert_refused(
        4, "onnx/encoder_q4.onnx: missing"
    )
    (folder / "onnx/encoder_q4.onnx").write_bytes(b"cut short")
    run("inspect", folder).assert_refused(
        4, "onnx/encoder_q4.onnx: expected ", "onnx/decoder_q4.onnx: missing"
    )
    run("transcribe", "-m", folder, CLIP).assert_refused(4, "onnx/encoder_q4.onnx: expected ")


def test_damaged_tokenizer(artifact, run):
    size = (artifact / "tekken.json").stat().st_size
    (artifact / "tekken.json").write_bytes(b"{}".ljust(size))
    rehash(artifact)
    run("transcribe", "-m", artifact, CLIP).assert_refused(
        4, "tekken.json: not a readable Tekken tokenizer"
    )


def test_nothing_named_and_nothing_exported(run, tiny_artifact, monkeypatch):
    monkeypatch.setattr("voxtral_onnx.runtime.locate.TINY_ARTIFACT", tiny_artifact)
    commands = (
        "  voxtral-onnx transcribe --model tiny AUDIO",
        "  voxtral-onnx export  # downloads the released model",
    )
    run("transcribe", CLIP).assert_refused(
        4, "no model: name one, as FOLDER or ORG/NAME, or run one of", *commands
    )
    run("inspect").assert_refused(4, *commands)


def test_embedded_artifact_that_was_not_made(run, monkeypatch, tmp_path):
    monkeypatch.setattr("voxtral_onnx.runtime.locate.TINY_ARTIFACT", tmp_path)
    run("transcribe", "-m", "tiny", CLIP).assert_refused(
        4, "make demo", "voxtral-onnx export tiny  # makes the small test model"
    )


def test_model_named_by_the_environment(artifact, run, monkeypatch):
    monkeypatch.setenv("VOXTRAL_ONNX_MODEL", str(artifact))
    result = run("transcribe", CLIP)
    assert (result.code, result.out) == (0, TEXT + "\n")
    assert result.err.startswith(f"{artifact}: q4f16 on cpu")


def test_option_outranks_environment_and_environment_the_last_export(artifact, run, monkeypatch):
    from voxtral_onnx.runtime.locate import remember_export

    remember_export(TINY)
    monkeypatch.setenv("VOXTRAL_ONNX_MODEL", str(artifact))
    assert run("inspect").code == 0
    run("inspect", TINY).assert_refused(4, "a checkpoint")
    monkeypatch.setenv("VOXTRAL_ONNX_MODEL", "")
    run("inspect").assert_refused(4, "a checkpoint")


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", '{"last_export": null}', '{"last_export": ["/a"]}', "\x00", "[" * 60_000),
        *('{"last_export": "ORG/NAME"}', '{"last_export": "/a\\u0000"}', '{"last_export": ""}'),
        json.dumps({"last_export": "/" + "x" * 5000}),
    ],
)
def test_damaged_state_is_no_state(content, run):
    from voxtral_onnx.runtime.locate import _state_file

    _state_file().parent.mkdir(parents=True)
    _state_file().write_text(content)
    run("inspect").assert_refused(4, "no model: name one, as FOLDER")
