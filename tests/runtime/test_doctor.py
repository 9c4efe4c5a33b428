"""doctor says what this machine can run, by trying it."""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from importlib import metadata

import numpy as np
import onnxruntime
import pytest
import soundfile
from support.commands import CLIP
from support.devices import Imitation

from voxtral_onnx import Transcriber
from voxtral_onnx.errors import ArtifactError
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime import doctor, machine
from voxtral_onnx.runtime import memory as requirements
from voxtral_onnx.verification.certificate import hash_manifest


@pytest.fixture(autouse=True)
def _small_reads(monkeypatch):
    monkeypatch.setattr(machine, "READ_BYTES", 32 << 20)


@pytest.fixture
def certified(artifact):
    """Tiny in q4f16, and a certificate with what it writes."""
    with Transcriber(artifact) as transcriber:
        stream = transcriber.stream()
        tokens = stream.feed(soundfile.read(CLIP, dtype="float32")[0]) + stream.finish()
    test = {
        "clip": CLIP.name,
        "num_delay_tokens": 6,
        "token_ids": [token.token_id for token in tokens],
        "blank_margins": [token.blank_margin for token in tokens],
    }
    write_certificate(artifact, test)
    return artifact, test


def write_certificate(folder, test):
    values = {
        "created": "2026-11-26T12:00:00+00:00",
        "manifest_sha256": hash_manifest(folder),
        "rungs": [0, 4],
        "precisions": ["q4f16"],
        "findings": [],
        "details": {"q4f16": {"self_test": test}},
    }
    (folder / "certificate.json").write_text(json.dumps(values))


def checks(run, *arguments, code=0):
    result = run("doctor", *arguments, "--json")
    assert result.code == code, result.err
    return {(check["topic"], check["name"]): check for check in json.loads(result.out)}


def test_a_sound_machine_and_artifact(certified, run):
    folder, test = certified
    found = checks(run, folder)
    assert onnxruntime.__version__ in found["versions", "onnxruntime"]["summary"]
    assert found["providers", "cpu"]["status"] == "ok"
    assert found["machine", "bandwidth"]["values"]["read_bytes_per_second"] > 1e8
    assert found["machine", "disk"]["values"]["free_disk"] > 0
    assert found["artifact", "q4f16"]["values"]["needed_memory"] > sum(
        file.size for file in Manifest.read(folder).files.values()
    )
    tested = found["artifact", "self-test q4f16"]
    sure = sum(abs(margin) > 1 for margin in test["blank_margins"])
    values = tested["values"]
    assert tested["status"] == "ok" and values.pop("rtf") > 0
    assert values == {"device": "cpu", "tokens": sure, "wrong": 0, "is_released_shape": False}


def test_a_model_that_writes_other_words_here(certified, run):
    folder, test = certified
    at = int(np.argmax(np.abs(test["blank_margins"])))
    token_ids = list(test["token_ids"])
    token_ids[at] += 1
    write_certificate(folder, {**test, "token_ids": token_ids})
    found = checks(run, folder, code=8)["artifact", "self-test q4f16"]
    assert (
        found["status"] == "failed"
        and f"1 of {found['values']['tokens']} sure tokens differ" in found["summary"]
    )
    margins = [0.9 if i == at else margin for i, margin in enumerate(test["blank_margins"])]
    write_certificate(folder, {**test, "token_ids": token_ids, "blank_margins": margins})
    assert checks(run, folder)["artifact", "self-test q4f16"]["status"] == "ok", (
        "close decisions are not compared"
    )


def test_nothing_is_called_tested_without_a_certificate_of_this_artifact(certified, run):
    folder, test = certified
    good = json.loads((folder / "certificate.json").read_text())
    for content, why in (
        (None, "no certificate;"),
        ("{", "certificate.json cannot be read"),
        (json.dumps(good | {"manifest_sha256": "0" * 64}), "its certificate is stale"),
        (json.dumps(good | {"details": {"q4f16": {}}}), "its certificate has no self-test"),
        (json.dumps(good | {"details": {}}), "its certificate says nothing of q4f16"),
    ):
        (folder / "certificate.json").unlink(missing_ok=True)
        if content is not None:
            (folder / "certificate.json").write_text(content)
        found = checks(run, folder)["artifact", "self-test q4f16"]
        assert found["status"] == "note"
        assert found["summary"].startswith(f"not self-tested: {why}")
        assert f"run: voxtral-onnx verify {folder}" in found["summary"]
    write_certificate(folder, {**test, "clip": "other.wav"})
    assert "other.wav is not part" in checks(run, folder)["artifact", "self-test q4f16"]["summary"]


def test_a_precision_that_there_is_not_is_refused_with_those_that_there_are(artifact, run):
    run("doctor", artifact, "--precision", "nope").assert_refused(2, "q4f16", "'nope'")
    run("doctor", "--precision", "nope").assert_refused(2, "q4f16, q4, q8, fp16, fp32", "'nope'")
    run("doctor", "--context", "1").assert_refused(2, "at least 64 positions")
    run("verify", artifact, "--precision", "nope").assert_refused(2, "q4f16", "'nope'")


def test_predicted_speed_is_bytes_over_bandwidth(artifact):
    """A token is 80 ms; a chunk is 16 tokens."""
    encoder, decoder = (
        sum(file.stat().st_size for file in (artifact / "onnx").glob(f"{name}*_data*"))
        for name in ("audio_encoder", "decoder_model_merged")
    )
    live, files = machine.predict_rtf(Manifest.read(artifact), "q4f16", 1e9)
    assert live == pytest.approx((encoder + decoder) / 1e9 / 0.08)
    assert files == pytest.approx((encoder / 16 + decoder) / 1e9 / 0.08)


def test_an_onnxruntime_that_is_too_old(artifact, run, monkeypatch):
    monkeypatch.setattr(onnxruntime, "__version__", "1.29.3")
    found = checks(run, artifact, code=7)
    old = found["versions", "onnxruntime"]
    assert (
        old["status"] == "missing"
        and "onnxruntime 1.29.3: needed is 1.30 or newer" in old["summary"]
    )
    assert not any(name.startswith("self-test") for _, name in found)
    run("transcribe", "-m", artifact, CLIP).assert_refused(
        7, "onnxruntime 1.29.3: needed is 1.30 or newer"
    )


def test_the_version_that_is_asked_for_is_the_packages():
    least = ".".join(map(str, doctor.MIN_ONNXRUNTIME))
    assert any(
        f">={least}" in line and "extra == 'cpu'" in line.replace('"', "'")
        for line in metadata.requires("voxtral-onnx") or []
    )


def test_too_little_memory(artifact, run, monkeypatch):
    for module in (doctor, requirements):
        monkeypatch.setattr(module, "available_memory", lambda: 100 << 20)
    found = checks(run, artifact, code=7)["artifact", "q4f16"]
    assert found["status"] == "missing" and "GB of memory needed, 0.1 free" in found["summary"]


def test_providers_are_tried_and_not_believed(artifact, run, monkeypatch):
    monkeypatch.setattr(
        onnxruntime,
        "get_available_providers",
        lambda: ["CPUExecutionProvider", "CUDAExecutionProvider", "XExecutionProvider"],
    )
    found = checks(run, artifact)
    assert found["providers", "x"]["summary"].startswith("listed by onnxruntime, runs nothing")
    if not any(name.startswith("cuda:") for _, name in found):
        assert found["providers", "cuda"]["status"] == "note"


GPU = doctor.Check(
    "providers", "cuda:0", "ok", "", {"free_memory": 80e9, "copy_bytes_per_second": 3e12}
)


def test_what_a_gpu_can_run(tiny_artifact, run, monkeypatch):
    """From its own memory and bandwidth.

    CUDA itself is not there, so what would be tested runs on the CPU.
    """
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider", doctor.CUDA]
    )
    monkeypatch.setattr(doctor, "_cuda_devices", lambda: iter([GPU]))
    found = checks(run, tiny_artifact)
    manifest = Manifest.read(tiny_artifact)
    there = found["artifact", "q4f16 cuda:0"]
    live, files = machine.predict_rtf(manifest, "q4f16", 3e12)
    assert there["status"] == "ok" and there["values"]["predicted_rtf_live"] == live
    assert there["values"]["needed_memory"] == requirements.needed_memory(
        manifest, "q4f16", 8192, on_device=True
    )
    assert f"predicted RTF on cuda:0, at best: {files:.2g} on files" in there["summary"]
    assert found["artifact", "q4 cuda:0"]["status"] == "note"
    assert "attention in float16 only" in found["artifact", "q4 cuda:0"]["summary"]
    assert checks(run, tiny_artifact, "--precision", "q4")["artifact", "q4"]["status"] == "ok", (
        "auto takes the CPU"
    )


@pytest.mark.parametrize(
    ("device", "precision", "code", "words"),
    [
        ("cuda", "q4", 7, "does not run there"),
        ("cuda", "q4f16", 7, "GB of memory needed, 0.0 free"),
        ("cpu", "q4f16", 0, "GB of memory needed, 0.0 free"),
    ],
)
def test_what_is_meant_to_run_on_a_gpu_must(
    device, precision, code, words, tiny_artifact, run, monkeypatch
):
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider", doctor.CUDA]
    )
    full = replace(GPU, values={**GPU.values, "free_memory": 1e6})
    monkeypatch.setattr(doctor, "_cuda_devices", lambda: iter([full]))
    found = checks(run, tiny_artifact, "--device", device, "--precision", precision, code=code)
    check = found["artifact", f"{precision} cuda:0"]
    assert words in check["summary"] and check["status"] == ("missing" if code else "note")


def test_bandwidth_of_a_device():
    assert machine.copy_bandwidth(Imitation()) > 1e8


def test_arm_is_told_of_q4(tiny_artifact, artifact, run, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert "float32: --precision q4" in checks(run, tiny_artifact)["artifact", "ARM"]["summary"]
    assert "export SOURCE --precision q4" in checks(run, artifact)["artifact", "ARM"]["summary"]
    assert ("artifact", "ARM") not in checks(run, tiny_artifact, "--precision", "q4")


def test_extras_are_those_of_the_package(run, monkeypatch):
    monkeypatch.setattr(
        metadata,
        "requires",
        lambda package: ["numpy", 'numpy<3 ; extra == "one"', "no-such-thing>1; extra == 'two'"],
    )
    found = checks(run)
    assert found["extras", "one"]["status"] == "ok"
    assert found["extras", "two"]["status"] == "note"
    assert (
        "without no-such-thing; pip install 'voxtral-onnx[two]'"
        in found["extras", "two"]["summary"]
    )
    summary = found["artifact", "none"]["summary"]
    assert summary.startswith("no model"), "no artifact is no fault"
    assert summary.endswith(
        "\n  voxtral-onnx export  # downloads the released model, 2.5 or 8.9 GB"
    )


def test_an_artifact_that_is_named_must_be_there(run, tmp_path):
    run("doctor", tmp_path / "absent").assert_refused(ArtifactError.exit_code, "no such folder")


def test_the_table(certified, run):
    shown = run("doctor", certified[0]).out
    for word in (
        "versions",
        "providers",
        "machine",
        "extras",
        "artifact",
        "self-test q4f16",
        "predicted RTF",
    ):
        assert word in shown
