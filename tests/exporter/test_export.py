"""Exports that cannot finish: what is said, what is left, and that the next one succeeds."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import copy_artifact
from support.checkpoints import write_mistral

from voxtral_onnx import export
from voxtral_onnx.errors import StorageError, UsageError
from voxtral_onnx.exporter import packages
from voxtral_onnx.exporter.output import UNFINISHED
from voxtral_onnx.exporter.packages import INSTALL_EXPORT, INSTALL_TRACE
from voxtral_onnx.manifest import FILE_NAME, Manifest


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_mistral(tmp_path_factory.mktemp("checkpoint") / "small")


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    return export(
        checkpoint, tmp_path_factory.mktemp("exported") / "small", precisions=("q4", "fp32")
    )


@pytest.fixture
def both(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "both")


def files_of(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def assert_whole(folder, *precisions):
    """A finished artifact with these precisions and not one file more."""
    manifest = Manifest.read(folder)
    manifest.check_files(folder, hashes=True)
    assert tuple(manifest.precisions) == precisions
    assert files_of(folder) == manifest.files.keys() | {FILE_NAME}


def assert_unfinished(folder, whole):
    """Assert that a folder holds no manifest, nothing partial and only whole files.

    Every file under its final name is what a finished export has there.
    """
    left = files_of(folder)
    assert FILE_NAME not in left
    assert not [name for name in left if name.endswith(".partial")]
    for name in left - {UNFINISHED}:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


class Interrupt:
    """Stop an export at its n-th report, as Ctrl-C would."""

    def __init__(self, reports: int):
        self.reports = reports

    def __call__(self, progress) -> None:
        self.reports -= 1
        if self.reports == 0:
            raise KeyboardInterrupt


def test_export_survives_a_state_folder_that_cannot_be_written(
    checkpoint, tmp_path, run, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("voxtral_onnx.exporter.export.run", lambda *arguments, **options: tmp_path)
    monkeypatch.setattr(Manifest, "read", lambda folder: type("Empty", (), {"files": {}}))
    result = run("export", checkpoint)
    assert (result.code, result.out) == (0, f"{tmp_path}\n")
    assert "note: not remembered as the last export" in result.err


def test_interrupted_export_leaves_nothing_that_looks_finished_and_the_next_one_works(
    checkpoint, exported, tmp_path, run
):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, out, precisions=("fp32",), on_progress=Interrupt(4))
    assert_unfinished(out, exported)
    (out / "onnx/encoder.onnx.partial").write_bytes(b"what a killed process leaves")
    result = run("export", checkpoint, "-o", out, "--precision", "fp32")
    assert (result.code, result.out) == (0, f"{out}\n")
    assert_whole(out, "fp32")
    # The last export is remembered
    assert json.loads(run("inspect", "--json").out)["folder"] == str(out)


def test_added_precision_keeps_the_others(checkpoint, exported, tmp_path):
    out = copy_artifact(exported, tmp_path / "out", "fp32")
    before = {name: (out / name).stat().st_mtime_ns for name in files_of(out) if "coder" in name}
    export(checkpoint, out, precisions=("q4",))
    assert_whole(out, "q4", "fp32")
    assert before == {name: (out / name).stat().st_mtime_ns for name in before}
    assert Manifest.read(out) == Manifest.read(exported)


@pytest.mark.parametrize(("again", "kept"), [(("fp32",), ("q4",)), (("q4",), ("fp32",))])
def test_interrupted_renewal_keeps_the_other_precision(again, kept, checkpoint, both):
    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, both, precisions=again, shard_size=50_000, on_progress=Interrupt(1))
    manifest = Manifest.read(both)
    manifest.check_files(both, hashes=True)
    assert tuple(manifest.precisions) == kept


def test_interrupted_renewal_of_all_precisions_leaves_no_manifest(checkpoint, both, exported):
    with pytest.raises(KeyboardInterrupt):
        options = {"shard_size": 50_000, "on_progress": Interrupt(1)}
        export(checkpoint, both, precisions=("q4", "fp32"), **options)
    assert_unfinished(both, exported)


class Fill:
    """Take what is left of a disk at the n-th report."""

    def __init__(self, disk, reports: int):
        self.disk, self.reports = disk, reports

    def __call__(self, progress) -> None:
        self.reports -= 1
        if self.reports == 0:
            with suppress(OSError), (self.disk / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))


@pytest.mark.parametrize("reports", [1, 2, 30])
def test_full_disk(reports, checkpoint, exported, tmpfs):
    disk = tmpfs("size=64m")
    with pytest.raises(StorageError, match=r"cannot be written \(No space left on device\)"):
        export(checkpoint, disk / "out", precisions=("fp32",), on_progress=Fill(disk, reports))
    assert_unfinished(disk / "out", exported)
    assert ("onnx/encoder.onnx" in files_of(disk / "out")) == (reports == 30)
    (disk / "filler").unlink()
    assert export(checkpoint, disk / "out", precisions=("fp32",)) == disk / "out"
    assert_whole(disk / "out", "fp32")


@pytest.mark.parametrize("inodes", [1, 2, 3, 4])
def test_full_disk_at_the_first_files_allows_another_try(inodes, checkpoint, tmpfs):
    disk = tmpfs(f"nr_inodes={inodes}")
    for _ in range(2):
        with pytest.raises(StorageError, match="No space left on device"):
            export(checkpoint, disk)
    assert not (files_of(disk) - {UNFINISHED})


def test_full_disk_while_adding_keeps_the_artifact(checkpoint, exported, tmpfs):
    disk = tmpfs("size=64m")
    out = copy_artifact(exported, disk / "small", "q4")
    with pytest.raises(StorageError, match="No space left on device"):
        export(checkpoint, out, precisions=("fp32",), on_progress=Fill(disk, 2))
    Manifest.read(out).check_files(out, hashes=True)
    assert not list(disk.rglob("*.partial"))


def test_output_below_a_file(checkpoint, tmp_path, run):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "out"):
        result = run("export", checkpoint, "-o", output)
        result.assert_refused(9, f"{output}: cannot be made (Not a directory)", "--output")


@pytest.mark.parametrize("below", ["", "out"])
def test_read_only_folder(below, checkpoint, tmpfs, run):
    folder = tmpfs("ro") / below
    run("export", checkpoint, "-o", folder).assert_refused(
        9, str(folder), "(Read-only file system)"
    )


def test_output_that_is_something_else(checkpoint, tmp_path, run):
    (tmp_path / "precious.txt").write_text("mine")
    result = run("export", checkpoint, "-o", tmp_path)
    result.assert_refused(
        4, f"{tmp_path}: exists and is no artifact; choose another folder with --output"
    )
    assert files_of(tmp_path) == {"precious.txt"}


def test_artifact_of_another_checkpoint(exported, tmp_path, run):
    other = write_mistral(tmp_path / "other", seed=1)
    before = files_of(exported)
    run("export", other, "-o", exported).assert_refused(
        4, "holds an artifact of another checkpoint", "--output"
    )
    assert files_of(exported) == before


@pytest.mark.parametrize("content", ['{"fingerprint": "another"}', "", "[]", "{"])
def test_unfinished_export_of_another_checkpoint(content, checkpoint, tmp_path, run):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / UNFINISHED).write_text(content)
    result = run("export", checkpoint, "-o", tmp_path / "out")
    result.assert_refused(4, "holds an artifact of another checkpoint")


def test_artifact_of_a_newer_format(checkpoint, tmp_path, run):
    (tmp_path / FILE_NAME).write_text(json.dumps({"format": 3}))
    run("export", checkpoint, "-o", tmp_path).assert_refused(
        4, "expected format 1 or 2, got 3; upgrade voxtral-onnx"
    )


@pytest.mark.parametrize("names", ["q5", "q4,q5", ",", "q4,"])
def test_unknown_precision(names, checkpoint, tmp_path, run):
    result = run("export", checkpoint, "-o", tmp_path / "out", "--precision", names)
    result.assert_refused(
        2, "precision: expected some of ['q4f16', 'q4', 'q8', 'fp16', 'fp32'], got"
    )
    assert not (tmp_path / "out").exists()


def test_unknown_precision_in_python(checkpoint, tmp_path):
    with pytest.raises(UsageError, match="got 'int3'"):
        export(checkpoint, tmp_path / "out", precisions=("int3",))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("many", "got 'many'"),
        ("12PB", "got '12PB'"),
        (" ", "got ' '"),
        ("1KiB", "at least 1MiB"),
        ("nanMB", "got 'nanMB'"),
        ("inf", "got 'inf'"),
    ],
)
def test_impossible_shard_size(size, message, checkpoint, tmp_path, run):
    run("export", checkpoint, "-o", tmp_path / "out", "--shard-size", size).assert_refused(
        2, "size: expected", message
    )


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["found neither", "default", "q8"]),
        ("rules = 3 =", ["expected accuracy_level and rules"]),
        ("accuracy_level = 4", ["expected accuracy_level and rules"]),
        ("accuracy_level = 9\nrules = []", ["accuracy_level: expected 0 to 4, got 9"]),
        ("accuracy_level = 4\nrules = [3]", ["expected accuracy_level and rules"]),
        ("accuracy_level = 4\nrules = 3", ["expected accuracy_level and rules"]),
        (
            'accuracy_level = 4\n[[rules]]\ntensors = "*"\nbits = 3\nblock_size = 32\nmethod = '
            '"rtn_symmetric"',
            ["rule '*': bits: expected 4 or 8, got 3"],
        ),
        (
            'accuracy_level = 4\n[[rules]]\ntensors = "*.down_prj"\nbits = 8\nblock_size = '
            '32\nmethod = "as_stored"',
            [
                "rule '*.down_prj' matches no linear layer or table of this model; did you mean "
                "'*.down_proj'"
            ],
        ),
    ],
)
def test_impossible_recipe(content, parts, checkpoint, tmp_path, run):
    if content is not None:
        (tmp_path / "recipe.toml").write_text(content)
    result = run("export", checkpoint, "-o", tmp_path / "out", "--recipe", tmp_path / "recipe.toml")
    result.assert_refused(5, *parts)


def test_a_recipe_that_no_precision_would_use_is_refused(checkpoint, exported, tmp_path, run):
    options = ("-o", tmp_path / "out", "--recipe", "quality", "--precision")
    run("export", checkpoint, *options, "fp16,fp32").assert_refused(
        2, "recipe quality: expected a precision that is quantised", "got fp16, fp32"
    )
    run("export", checkpoint, "--dry-run", *options, "fp16").assert_refused(2, "got fp16")
    assert not (tmp_path / "out").exists()
    assert run("export", checkpoint, "--dry-run", *options, "q4,fp16").code == 0


def test_another_recipe_says_what_it_replaces(checkpoint, both, tmp_path, run):
    mine = tmp_path / "mine.toml"
    rule = '[[rules]]\ntensors = "*"\nbits = 8\nblock_size = 32\nmethod = "rtn_symmetric"\n'
    mine.write_text(f"accuracy_level = 4\n{rule}")
    notes = []
    export(checkpoint, both, precisions=("q4", "fp32"), on_note=notes.append)
    assert [note.split(": ")[1] for note in notes] == ["already there"]
    notes.clear()
    options = (checkpoint, "-o", both, "--precision", "q4", "--recipe")
    planned = run("export", *options, mine, "--dry-run")
    assert "q4: replaces the export with recipe 'default', sha256 " in planned.out
    made = run("export", *options, mine)
    assert made.code == 0
    assert "q4: replaces the export with recipe 'default', sha256 " in made.err
    shown = run("inspect", both).out
    assert "q4: recipe 'mine', sha256 " in shown and "fp32: not quantised" in shown
    mine.write_text(f"accuracy_level = 0\n{rule}")
    export(checkpoint, both, precisions=("q4",), recipe=mine, on_note=notes.append)
    (note,) = notes  # of the same name, told apart by their hashes
    assert len(set(re.findall(r"recipe 'mine', sha256 (\w{12})", note))) == 2


@pytest.mark.parametrize("command", ["export", "quantize", "diff", "verify"])
@pytest.mark.parametrize("missing", [("onnx", "onnx_ir"), ("onnx_ir",), ("gguf",)])
def test_a_command_whose_packages_are_missing_is_named(
    command, missing, checkpoint, run, monkeypatch
):
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    arguments = [checkpoint] * (2 if command == "diff" else 1)
    result = run(command, *arguments)
    result.assert_refused(7, f"{command} needs {', '.join(missing)}; run:\n{INSTALL_EXPORT}")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (
            ["--trace"],
            ["onnx/encoder_paged_q4f16.onnx: must be traced, which needs not_installed;"],
        ),
        (
            ["--family", "native,transformers_js"],
            ["onnx/decoder_q4f16.onnx, onnx/encoder_batch_q4f16.onnx,", "must be traced"],
        ),
    ],
)
def test_only_tracing_needs_its_packages(options, parts, checkpoint, run, monkeypatch, tmp_path):
    monkeypatch.setattr(packages, "TRACE", ("onnx", "not_installed"))
    result = run("export", checkpoint, "-o", tmp_path / "out", *options)
    result.assert_refused(7, *parts, INSTALL_TRACE)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_which_graphs_are_traced_and_what_that_lacks(
    checkpoint, exported, run, monkeypatch, tmp_path
):
    options = ("-o", tmp_path / "out", "--family", "native,portable", "--dry-run")
    whole = run("export", "tiny", *options)
    lines = {line.split()[0]: line.split()[-1] for line in whole.out.splitlines() if line}
    assert lines["onnx/encoder_q4f16.onnx"] == "shipped"
    assert lines["onnx/portable_encoder_q4f16.onnx"] == "traced"
    assert "missing" not in whole.out and "memory: about 600 MB" in whole.out
    assert "memory: about 300 MB" in run("export", "tiny", *options[:2], "--dry-run").out
    monkeypatch.setattr(packages, "TRACE", ("onnx", "not_installed"))
    lacking = run("export", checkpoint, *options)
    assert lacking.code == 0
    assert f"missing for the traced graphs: not_installed; run:\n{INSTALL_TRACE}" in lacking.out
    there = run("export", checkpoint, "-o", exported, "--precision", "q4", "--dry-run")
    assert "traced" not in there.out and "already there: q4;" in there.out


def test_packages_are_installed_as_the_documentation_says():
    root = Path(__file__).parents[2]
    commands = [line.strip() for line in INSTALL_TRACE.splitlines()]
    install = (root / "docs" / "start" / "install.md").read_text()
    assert "\n".join(commands) in install
    assert INSTALL_EXPORT.strip() in install
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    pins = [pin for pins in extras["optional-dependencies"].values() for pin in pins]
    assert commands[0].split("'")[1] in pins


def test_an_export_says_how_to_go_on(run, tmp_path):
    folder = tmp_path / "my model"
    result = run("export", "tiny", "-o", folder, "--precision", "q4")
    assert (result.code, result.out) == (0, f"{folder}\n")
    assert result.err.splitlines()[-1] == (
        f"transcribe with: voxtral-onnx transcribe --model '{folder}' FILE"
    )


def test_an_export_of_no_precision_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"precision: expected some of q4f16, .*, got none"):
        export("tiny", tmp_path / "out", precisions=[])
    assert not (tmp_path / "out").exists()
