"""The output folder while an export runs.

Killed, resumed, locked, short of disk or memory, a bad checkpoint.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.checkpoints import write_mistral
from support.commands import clean_environment

from voxtral_onnx import contents as contents_of_files
from voxtral_onnx import export
from voxtral_onnx.errors import ArtifactError, CheckpointError, StorageError
from voxtral_onnx.exporter import export as exporter
from voxtral_onnx.exporter import output
from voxtral_onnx.exporter.binding import recipes
from voxtral_onnx.exporter.output import LOCK, UNFINISHED
from voxtral_onnx.exporter.plan import plan_export
from voxtral_onnx.manifest import FILE_NAME, Manifest

KILL_POINTS, NUM_POINTS = Path(__file__).parent / "kill_points.py", 25


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_mistral(tmp_path_factory.mktemp("checkpoint") / "small")


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    return export(
        checkpoint, tmp_path_factory.mktemp("exported") / "small", precisions=("q4",), threads=1
    )


@pytest.fixture
def own_checkpoint(checkpoint, tmp_path):
    """A copy to damage."""
    return shutil.copytree(checkpoint, tmp_path / "small")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_killed_exports_are_taken_up_again(checkpoint, tmp_path, traces):
    done = subprocess.run(
        [sys.executable, KILL_POINTS, checkpoint, tmp_path, traces.folder, "0", str(NUM_POINTS)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == NUM_POINTS
    manifests = {
        "fresh": {"none", "new"},
        "added": {"old", "new"},
        "renewed": {"old", "kept fp32", "new"},
    }
    manifests["all renewed"] = {"none", "old", "new"}
    manifests["family added"] = {"old", "new"}
    for result in results:
        assert result["killed"], result
        assert result["manifest"] in manifests[result["scenario"]], result
        assert result["rerun"] == 0 and result["equal"], result
        assert result["untouched"] and not set(result["finished"]) & set(result["traced"]), result
    assert any(result["finished"] and result["traced"] for result in results)


def test_finished_graph_is_reused(checkpoint, exported, tmp_path, traces):
    def stop_in_decoder(progress):
        if "decoder" in progress.graphs[0] and progress.done:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, out, precisions=("q4",), on_progress=stop_in_decoder)
    plan = plan_export(checkpoint, out, precisions=("q4",))
    reused = {file.name for file in plan.files if file.is_reused}
    assert {name for name in reused if "coder" in name} == {
        "onnx/encoder_q4.onnx",
        "onnx/audio_encoder_q4.onnx_data",
    }
    assert (
        plan.num_bytes < plan_export(checkpoint, tmp_path / "other", precisions=("q4",)).num_bytes
    )
    traces.names.clear()
    export(checkpoint, out, precisions=("q4",))
    assert traces.names == ["onnx/decoder_q4.onnx", "onnx/encoder_batch_q4.onnx"]
    assert contents(out) == contents(exported)


@pytest.mark.parametrize("change", ["generator", "size", "graph", "weights", "files"])
def test_graphs_of_other_facts_are_made_anew(change, checkpoint, exported, tmp_path):
    out = shutil.copytree(exported, tmp_path / "out")
    plan = plan_export(checkpoint, out, precisions=("q4",))
    manifest = Manifest.read(out)
    (out / FILE_NAME).unlink()  # as if the export had been killed before it wrote that
    finished = {
        graph.path: output.FinishedGraph(
            graph, plan.graphs[0].recipe.spec(), {f: manifest.files[f] for f in graph.files}
        )
        for graph in (manifest.precisions["q4"].encoder, manifest.precisions["q4"].decoder)
    }
    output.Record(plan.fingerprint, plan.facts, (), finished).write(out)
    assert plan_export(checkpoint, out, precisions=("q4",)).finished == finished
    if change == "generator":
        output.Record(
            plan.fingerprint, replace(plan.facts, generator="voxtral-onnx 0"), (), finished
        ).write(out)
        assert plan_export(checkpoint, out, precisions=("q4",)).finished == {}
    elif change == "files":
        record = json.loads((out / UNFINISHED).read_text())
        del record["finished"]["onnx/encoder_q4.onnx"]["files"]["onnx/audio_encoder_q4.onnx_data"]
        (out / UNFINISHED).write_text(json.dumps(record))
        assert plan_export(checkpoint, out, precisions=("q4",)).finished == {}
    else:
        name = "audio_encoder_q4.onnx_data" if change == "weights" else "encoder_q4.onnx"
        content = (out / "onnx" / name).read_bytes()
        damaged = content[:100] if change == "size" else bytes([content[0] ^ 1]) + content[1:]
        (out / "onnx" / name).write_bytes(damaged)
        assert list(plan_export(checkpoint, out, precisions=("q4",)).finished) == [
            "onnx/decoder_q4.onnx"
        ]


def test_what_a_renewal_leaves_over_is_removed(checkpoint, exported, tmp_path):
    out = shutil.copytree(exported, tmp_path / "out")
    manifest = Manifest.read(out)
    (out / "onnx/old.onnx_data").write_bytes(b"old")
    (out / "onnx/mine.txt").write_bytes(b"not ours")
    (out / "onnx/encoder_q4.onnx_data.partial").write_bytes(b"killed")
    output.Record(
        manifest.fingerprint, None, ("onnx/old.onnx_data", "elsewhere/old.onnx_data"), {}
    ).write(out)
    (tmp_path / "outside").write_text("stays")
    export(checkpoint, out, precisions=("q4",), threads=2)
    left = contents(out)
    assert left.pop("onnx/mine.txt") == b"not ours" and (tmp_path / "outside").exists()
    assert left == contents(exported)  # with two threads as with one


def test_shared_files_are_not_written_again(checkpoint, exported, tmp_path):
    out = shutil.copytree(exported, tmp_path / "out")
    shared = ["onnx/mel.onnx", "tekken.json"]
    before = [(out / name).stat().st_mtime_ns for name in shared]
    export(checkpoint, out, precisions=("q4f16",))
    assert [(out / name).stat().st_mtime_ns for name in shared] == before


def test_precisions_in_one_call_quantise_once(checkpoint, exported, tmp_path, monkeypatch):
    calls, quantize = [], recipes.quantize_blockwise
    monkeypatch.setattr(
        recipes, "quantize_blockwise", lambda *a: calls.append(a[2]) or quantize(*a)
    )
    both = export(checkpoint, tmp_path / "both", precisions=("q4f16", "q4"))
    assert len(calls) == len(set(calls)) > 0  # every weight here is one slice
    alone = contents(exported)
    assert all(content == alone[name] for name, content in contents(both).items() if "_q4." in name)


def test_shared_file_that_would_differ_is_refused(exported, own_checkpoint, tmp_path, run):
    out = shutil.copytree(exported, tmp_path / "out")
    with (own_checkpoint / "tekken.json").open("a") as file:
        file.write("\n")
    result = run("export", own_checkpoint, "-o", out, "--precision", "fp32")
    result.assert_refused(4, "its tekken.json is not what this checkpoint", "--precision q4,fp32")
    assert contents(out) == contents(exported)
    export(own_checkpoint, out, precisions=("q4",))
    Manifest.read(out).check_files(out, hashes=True)


def test_two_exports_into_one_folder(checkpoint, tmp_path, run):
    out = tmp_path / "out"
    code = "import sys, time; from pathlib import Path\n"
    code += "from voxtral_onnx.exporter.output import lock\n"
    code += "with lock(Path(sys.argv[1])): print('locked', flush=True); time.sleep(100)"
    holder = subprocess.Popen([sys.executable, "-c", code, out], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"locked\n"
        result = run("export", checkpoint, "-o", out)
        result.assert_refused(9, f"{out}: another export is writing here", "--output")
        assert set(contents(out)) == {LOCK}
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    with output.lock(out):  # the system let go of it
        pass
    assert contents(out) == {}


def test_folder_that_changes_between_plan_and_lock(checkpoint, exported, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(
        exporter,
        "plan_export",
        lambda *a, **k: [plan_export(*a, **k), shutil.copytree(exported, out)][0],
    )
    with pytest.raises(StorageError, match="another export has just changed it"):
        export(checkpoint, out, precisions=("q4",))
    assert contents(out) == contents(exported)


def test_predicted_full_disk(checkpoint, tmpfs, run):
    disk = tmpfs("size=1m")
    result = run("export", checkpoint, "-o", disk / "below" / "out", "--precision", "q4,fp32")
    result.assert_refused(
        9, f"{disk}/below/out: ", f" MB of disk are needed, {disk} has 1.0 MB free", "--output"
    )
    assert list(disk.iterdir()) == []


def test_predicted_sizes_are_those_written(checkpoint, exported, tmp_path):
    plan = plan_export(checkpoint, tmp_path / "out", precisions=("q4",))
    for file in plan.files:
        size = (exported / file.name).stat().st_size
        assert file.size == size if file.is_exact else size <= file.size < 2 * size
    assert {file.name for file in plan.files} == set(contents(exported)) - {FILE_NAME}
    assert plan.disk_needed >= sum(map(len, contents(exported).values()))


def test_what_a_killed_export_left_is_room(checkpoint, tmp_path):
    out = tmp_path / "out"
    before = plan_export(checkpoint, out).disk_needed
    (out / "onnx").mkdir(parents=True)
    (out / UNFINISHED).write_text(
        json.dumps({"fingerprint": plan_export(checkpoint, tmp_path / "other").fingerprint})
    )
    (out / "onnx/audio_encoder_q4f16.onnx_data.partial").write_bytes(bytes(50_000))
    assert plan_export(checkpoint, out).disk_needed == before - 50_000


def test_dry_run_writes_nothing(checkpoint, tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for options in ([], ["-o", tmp_path / "out"]):
        result = run("export", checkpoint, "--dry-run", "--precision", "q4,fp32", *options)
        assert result.code == 0
        for part in (
            "onnx/encoder_q4.onnx",
            "onnx/decoder_model_merged.onnx_data",
            "disk: ",
            "memory: ",
            "time: ",
        ):
            assert part in result.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", [300, 400, 1000])
def test_memory_limit_too_low(limit, checkpoint, tmp_path):
    command = [
        sys.executable,
        "-m",
        "voxtral_onnx",
        "export",
        str(checkpoint),
        "-o",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        check=False,
        env=clean_environment(tmp_path, OPENBLAS_NUM_THREADS="1"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit << 20, limit << 20)),
    )
    assert done.returncode == 9, done.stderr.decode()
    assert b"error: memory: an export needs" in done.stderr and b"Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("can't start new thread"), OSError(12, "Cannot allocate memory")],
)
def test_memory_runs_out(error, checkpoint, tmp_path, monkeypatch, run):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(exporter, "trace", fail)
    run("export", checkpoint, "-o", tmp_path / "out").assert_refused(
        9, "memory: ran out (", "needs about 600 MB"
    )
    assert set(contents(tmp_path / "out")) == {UNFINISHED, "onnx/mel.onnx", "tekken.json"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda path: os.utime(path, ns=(0, 0)),
            "changed while it was read: consolidated.safetensors",
        ),
        (
            lambda path: os.truncate(path, path.stat().st_size // 2),
            "its file has shrunk while it was read",
        ),
        (lambda path: path.unlink(), "changed while it was read: consolidated.safetensors"),
    ],
)
def test_checkpoint_that_changes(change, message, own_checkpoint, exported, tmp_path):
    def changing(progress):
        if progress.done and not kept.exists():
            shutil.copy2(weights, kept)
            change(weights)

    weights = own_checkpoint / "consolidated.safetensors"
    kept = tmp_path / "kept"
    out = tmp_path / "out"
    with pytest.raises(CheckpointError, match=message):
        export(own_checkpoint, out, precisions=("q4",), on_progress=changing)
    assert not (out / FILE_NAME).exists() and not (out / "onnx/encoder_q4.onnx").exists()
    assert json.loads((out / UNFINISHED).read_text())["finished"] == {}
    shutil.copy2(kept, weights)
    export(own_checkpoint, out, precisions=("q4",))
    assert contents(out) == contents(exported)


def test_artifact_that_lacks_a_file_is_not_added_to(checkpoint, exported, tmp_path):
    out = shutil.copytree(exported, tmp_path / "out")
    (out / "onnx/encoder_q4.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"onnx/encoder_q4.onnx: missing"):
        export(checkpoint, out, precisions=("fp32",))


def test_artifact_with_a_damaged_file_is_not_added_to(checkpoint, exported, tmp_path):
    out = shutil.copytree(exported, tmp_path / "out")
    with (out / "onnx/audio_encoder_q4.onnx_data").open("r+b") as file:
        file.write(b"\xff")
    with pytest.raises(ArtifactError, match=r"audio_encoder_q4\.onnx_data: expected sha256"):
        export(checkpoint, out, precisions=("fp32",))
    export(checkpoint, out, precisions=("q4",))
    assert contents(out) == contents(exported)


FAMILY = [
    "onnx/audio_encoder_q4.onnx",
    "onnx/embed_tokens_q4.onnx",
    "onnx/decoder_model_merged_q4.onnx",
]


@pytest.fixture(scope="module")
def with_family(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("family") / "small"
    return export(checkpoint, folder, precisions=("q4",), families=("transformers_js",))


def test_family_stands_beside_the_native_graphs(exported, with_family):
    native, both = contents(exported), contents(with_family)
    assert all(content == both[name] for name, content in native.items() if name != FILE_NAME)
    manifest = Manifest.read(with_family)
    manifest.check_files(with_family, hashes=True)
    assert [graph.path for graph in manifest.family("q4", "transformers_js")] == FAMILY
    assert set(both) == manifest.files.keys() | {FILE_NAME}
    assert manifest.files_of(["q4"]) == Manifest.read(exported).files_of(["q4"])


def test_added_family_leaves_the_rest(checkpoint, exported, with_family, tmp_path, traces):
    out = shutil.copytree(exported, tmp_path / "out")
    before = {name: (out / name).stat().st_mtime_ns for name in contents(out) if name != FILE_NAME}
    traces.names.clear()
    export(checkpoint, out, precisions=("q4",), families=("native", "transformers_js"))
    assert traces.names == FAMILY
    assert before == {name: (out / name).stat().st_mtime_ns for name in before}
    assert contents(out) == contents(with_family)


def test_interrupted_adding_keeps_the_artifact_and_is_taken_up_again(
    checkpoint, exported, with_family, tmp_path, traces
):
    def stop(progress):
        if "decoder_model_merged" in progress.graphs[0]:
            raise KeyboardInterrupt

    out = shutil.copytree(exported, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, out, precisions=("q4",), families=("transformers_js",), on_progress=stop)
    manifest = Manifest.read(out)
    manifest.check_files(out, hashes=True)
    assert manifest == Manifest.read(exported)
    traces.names.clear()
    export(checkpoint, out, precisions=("q4",), families=("transformers_js",))
    assert traces.names == FAMILY[2:]
    assert contents(out) == contents(with_family)


def test_renewed_precision_keeps_its_family(checkpoint, with_family, tmp_path):
    out = shutil.copytree(with_family, tmp_path / "out")
    export(checkpoint, out, precisions=("q4",), recipe="q8")
    manifest = Manifest.read(out)
    manifest.check_files(out, hashes=True)
    assert manifest.precisions["q4"].recipe.name == "q8"
    assert [graph.path for graph in manifest.family("q4", "transformers_js")] == FAMILY
    assert set(contents(out)) == manifest.files.keys() | {FILE_NAME}
    export(checkpoint, out, precisions=("q4",))
    assert contents(out) == contents(with_family)


def test_configuration_speaks_of_every_precision_with_the_family(checkpoint, with_family, tmp_path):
    def stop(progress):
        raise KeyboardInterrupt

    out = shutil.copytree(with_family, tmp_path / "out")
    before = (out / "config.json").read_bytes()
    export(checkpoint, out, precisions=("fp32",))
    assert (out / "config.json").read_bytes() == before
    with pytest.raises(KeyboardInterrupt):
        export(
            checkpoint, out, precisions=("fp32",), families=("transformers_js",), on_progress=stop
        )
    manifest = Manifest.read(out)
    manifest.check_files(out, hashes=True)
    assert "config.json" not in manifest.files and (out / "config.json").read_bytes() != before
    export(checkpoint, out, precisions=("fp32",), families=("transformers_js",))
    manifest = Manifest.read(out)
    manifest.check_files(out, hashes=True)
    assert (
        len(
            json.loads((out / "config.json").read_text())["transformers.js_config"][
                "use_external_data_format"
            ]
        )
        == 6
    )
    assert set(contents(out)) == manifest.files.keys() | {FILE_NAME}


def test_progress_is_of_the_whole_export(checkpoint, tmp_path):
    reports = []
    families = ("transformers_js", "portable")
    plan = plan_export(checkpoint, tmp_path / "out", precisions=("q4", "fp32"), families=families)
    exporter.run(plan, on_progress=reports.append)
    (total,) = {report.total for report in reports}  # known from the start
    done = [report.done for report in reports]
    assert done == sorted(done) and done[0] == 0 and done[-1] == total
    assert [report.step for report in reports if not report.tensor][:4] == [
        *["graphs"] * 2,
        "hashes",
        "graphs",
    ]


def test_what_is_there_is_not_made_again(checkpoint, exported, tmp_path, traces, run):
    out = shutil.copytree(exported, tmp_path / "out")
    times = {name: (out / name).stat().st_ctime_ns for name in contents(out)}
    traces.names.clear()
    result = run("export", checkpoint, "-o", out, "--precision", "q4")
    assert (result.code, result.out) == (0, f"{out}\n")
    size = sum(len(body) for name, body in contents(out).items() if name != FILE_NAME)
    facts = f"{len(times) - 1} files, {size / 1e6:,.1f} MB"
    assert f"{out}: already there: q4; {facts}, sizes and times as hashed before\n" in result.err
    for command in ("inspect --check", "verify"):
        assert f"voxtral-onnx {command} {out}" in result.err
    quantised = run("quantize", checkpoint, "-o", out, "--precision", "q4")
    assert (quantised.code, quantised.out) == (0, f"{out}\n")
    assert "already there: q4;" in quantised.err
    assert traces.names == []
    assert times == {name: (out / name).stat().st_ctime_ns for name in contents(out)}
    assert not (out / UNFINISHED).exists()

    added = run("export", checkpoint, "-o", out, "--precision", "q4,fp32")
    assert added.code == 0 and "anew" not in added.err
    names = ("encoder", "decoder", "encoder_batch")  # of the new one alone
    assert traces.names == [f"onnx/{name}.onnx" for name in names]
    Manifest.read(out).check_files(out, hashes=True)


def test_weights_of_an_export_are_not_hashed_again(checkpoint, tmp_path, monkeypatch):
    """At full size they are gigabytes, and the second export is to say so at once."""
    out, hashed = tmp_path / "out", []
    export(checkpoint, out, precisions=("q4",))
    part = contents_of_files._hash_part
    monkeypatch.setattr(
        contents_of_files,
        "_hash_part",
        lambda path, *a, **k: hashed.append(path) or part(path, *a, **k),
    )
    plan = plan_export(checkpoint, out, precisions=("q4",))
    assert plan.is_there and not [path for path in hashed if path.suffix != ".onnx"]
    weights = out / "onnx" / "audio_encoder_q4.onnx_data"
    os.utime(weights)  # touched, not changed
    plan = plan_export(checkpoint, out, precisions=("q4",))
    assert plan.is_there and weights in hashed


@pytest.mark.parametrize(
    ("change", "reason", "traced"),
    [
        ("recipe", "replaces the export with recipe 'default'", 3),
        ("version", "made anew, because it was made by voxtral-onnx 0.0 and this is voxtral", 3),
        ("shard size", "made anew, because of another --shard-size", 3),
        ("damage", "made anew, because of damage (", 2),
        ("cut", "made anew, because of onnx/audio_encoder_q4.onnx_data, which has 100 bytes", 2),
        ("missing", "made anew, because of onnx/audio_encoder_q4.onnx_data, which is missing", 2),
        ("trace", "made anew, because all graphs are to be traced", 3),
    ],
)
def test_what_is_made_anew_says_why(change, reason, traced, checkpoint, exported, tmp_path, traces):
    out, notes, options = shutil.copytree(exported, tmp_path / "out"), [], {}
    weights = out / "onnx" / "audio_encoder_q4.onnx_data"
    match change:
        case "recipe":
            options["recipe"] = "quality"
        case "version":
            replace(Manifest.read(out), generator="voxtral-onnx 0.0").write(out)
        case "shard size":
            options["shard_size"] = 10_000
        case "damage":
            content = weights.read_bytes()
            weights.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "cut":
            weights.write_bytes(weights.read_bytes()[:100])
        case "missing":
            weights.unlink()
        case "trace":
            options["trace"] = True
    traces.names.clear()
    export(checkpoint, out, precisions=("q4",), on_note=notes.append, **options)
    (note,) = notes
    assert note.startswith(f"{out}: q4: {reason}")
    assert len(traces.names) == traced
    if not options or change == "trace":
        assert contents(out) == contents(exported)


def test_a_precision_of_another_version_is_not_taken_for_ours(checkpoint, exported, tmp_path):
    """One that is added must not make the one of an earlier version look like made by this."""
    out, notes = shutil.copytree(exported, tmp_path / "out"), []
    replace(Manifest.read(out), generator="voxtral-onnx 0.0").write(out)
    export(checkpoint, out, precisions=("fp32",))
    export(checkpoint, out, precisions=("q4", "fp32"), on_note=notes.append)
    assert len(notes) == 2 and all("made by voxtral-onnx 0.0" in note for note in notes)
    assert Manifest.read(out).generator != "voxtral-onnx 0.0"
    assert plan_export(checkpoint, out, precisions=("q4", "fp32")).is_there


def test_a_missing_shared_file_is_written_again(checkpoint, exported, tmp_path, traces):
    out = shutil.copytree(exported, tmp_path / "out")
    (out / "tekken.json").unlink()
    traces.names.clear()
    export(checkpoint, out, precisions=("q4",))
    assert traces.names == [] and contents(out) == contents(exported)


def test_family_is_predicted_and_shown(checkpoint, with_family, tmp_path, run):
    plan = plan_export(
        checkpoint, tmp_path / "out", precisions=("q4",), families=("transformers_js",)
    )
    for file in plan.files:
        size = (with_family / file.name).stat().st_size
        assert file.size == size if file.is_exact else size <= file.size < 2 * size + 10_000
    assert {file.name for file in plan.files} == set(contents(with_family)) - {FILE_NAME}
    assert plan.disk_needed >= sum(map(len, contents(with_family).values()))
    options = ["--precision", "q4", "--family", "native,transformers_js"]
    shown = run("export", checkpoint, "--dry-run", *options, "-o", tmp_path / "out").out
    assert "onnx/embed_tokens_q4.onnx_data" in shown and "tokenizer.json" in shown
    assert not (tmp_path / "out").exists()
    shown = run("inspect", with_family).out
    assert "embed_" in shown and "shared" in shown


def test_unknown_family(checkpoint, tmp_path, run):
    result = run("export", checkpoint, "-o", tmp_path / "out", "--family", "native,transformer_js")
    result.assert_refused(
        2, "family: expected some of ['native', 'transformers_js'", "got 'transformer_js'"
    )
    assert not (tmp_path / "out").exists()


def test_other_weights_of_the_same_first_rows_are_exported_anew(checkpoint, tmp_path, run):
    """The fingerprint is of first rows; sizes and times of the checkpoint's files tell the rest."""
    source, out = shutil.copytree(checkpoint, tmp_path / "source"), tmp_path / "out"
    assert run("export", source, "-o", out, "--precision", "q4").code == 0
    assert "already there" in run("export", source, "-o", out, "--precision", "q4").err
    before = contents(out)
    weights = source / "consolidated.safetensors"
    tensors = load_file(weights)
    name = "layers.0.feed_forward.w1.weight"
    tensors[name] = np.concatenate((tensors[name][:1], -3 * tensors[name][1:]))
    save_file(tensors, weights)
    run("export", source, "-o", out, "--precision", "fp32").assert_refused(
        4, "its q4 was exported from other files than these", "--precision q4,fp32"
    )
    assert contents(out) == before
    again = run("export", source, "-o", out, "--precision", "q4")
    assert again.code == 0
    assert "q4: made anew, because the checkpoint's files are not those it was made" in again.err
    assert contents(out) != before


def test_copies_of_a_checkpoint_are_all_known_as_its_source(checkpoint, tmp_path, run):
    """They have other times, and each is exported once."""
    for number in range(2):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(checkpoint, copy, copy_function=shutil.copyfile)
        assert run("export", copy, "-o", tmp_path / f"out-{number}", "--precision", "q4").code == 0
    for number in range(2):
        for folder in ("out-0", "out-1"):
            again = run(
                "export", tmp_path / f"copy-{number}", "-o", tmp_path / folder, "--precision", "q4"
            )
            assert "already there" in again.err, again.err
