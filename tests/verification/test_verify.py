"""Intact artifacts pass.

Each damage fails on its rung, and the message names the stage or the tensor.
"""

from __future__ import annotations

import io
import json
import re
import sys
import warnings
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import copy_artifact
from support.commands import SAMPLES, TEXTS
from support.damage import attribute, edit_graph, edit_tensor, nodes

from voxtral_onnx import verify
from voxtral_onnx.cli import tables
from voxtral_onnx.cli.terminal import Console
from voxtral_onnx.errors import DeviceError, VerificationError
from voxtral_onnx.exporter.packages import INSTALL_TRACE, INSTALL_TRANSFORMERS
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.device.cpu import Cpu
from voxtral_onnx.runtime.device.open import open_device
from voxtral_onnx.verification import checks, module_checks
from voxtral_onnx.verification import verify as running
from voxtral_onnx.verification.artifact_model import ArtifactModel
from voxtral_onnx.verification.certificate import read_verdict
from voxtral_onnx.verification.stage_parity import probe
from voxtral_onnx.verification.subgraphs import ArtifactGraphs
from voxtral_onnx.verification.verdict import ALL_RUNGS, PASSED, Finding, Status

LAYER = "language_model.layers.1"


@pytest.fixture
def tiny(tiny_artifact, tmp_path):
    """A copy of tiny in q4f16 and q4."""
    return copy_artifact(tiny_artifact, tmp_path / "tiny", "q4f16", "q4")


@pytest.fixture
def toy(toy_artifact, tmp_path):
    """A copy of the toy artifact's q4, to damage."""
    return copy_artifact(toy_artifact, tmp_path / "toy", "q4")


def failures(folder, **options) -> list:
    with pytest.raises(VerificationError) as caught:
        verify(folder, **options)
    assert caught.value.exit_code == 8
    assert json.loads((folder / "certificate.json").read_text())["verdict"] == "failed"
    assert "FAILED" in (folder / "certificate.html").read_text()
    assert read_verdict(folder).line.startswith("FAILED")
    first = caught.value.report.failures[0]
    assert f"rung {first.rung}, {first.check}: {first.summary}" in str(caught.value)
    return caught.value.report.failures


def half_split_to_interleaved(rows: np.ndarray) -> np.ndarray:
    """Rows of a rotary weight in the order of Mistral's file; toy heads are 16 wide."""
    return rows.reshape(-1, 2, 8, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def double_one_scale(scales):
    scales[3, 1] *= 2


def flip_a_row_of_nibbles(weight):
    weight[5] ^= 0x50


def swap_two_rows(weight):
    weight[[0, 9]] = weight[[9, 0]]


def interleave(weight):
    weight[...] = half_split_to_interleaved(np.array(weight))


def shift(table):
    table[1:] = np.array(table[:-1])


def zero(values):
    values[...] = 0


@pytest.mark.parametrize(
    ("role", "name", "change", "says"),
    [
        (
            "decoder",
            f"{LAYER}.mlp.up_proj.scales",
            double_one_scale,
            "1 of 480 values differ, the first in row 3",
        ),
        (
            "decoder",
            f"{LAYER}.mlp.gate_proj.weight",
            flip_a_row_of_nibbles,
            "48 of 7,680 values differ",
        ),
        (
            "decoder",
            f"{LAYER}.self_attn.q_proj.weight",
            swap_two_rows,
            "its rows stand in another order",
        ),
        (
            "decoder",
            f"{LAYER}.self_attn.k_proj.weight",
            swap_two_rows,
            "its rows stand in another order",
        ),
        (
            "decoder",
            f"{LAYER}.self_attn.q_proj.weight",
            interleave,
            "its rows stand in another order",
        ),
        ("decoder", f"{LAYER}.ada_rms_norm.table", shift, "values differ, the first in row 1"),
        ("encoder", "audio_tower.layers.0.self_attn.q_proj.bias", zero, "96 of 96 values differ"),
    ],
    ids=["scale", "nibbles", "q rows", "k rows", "rotary order", "delay table", "bias"],
)
def test_damaged_weights_are_named(toy, toy_checkpoint, role, name, change, says):
    edit_tensor(toy, role, name, change)
    (found,) = failures(toy, checkpoint=toy_checkpoint, rungs=[3])
    assert (found.rung, found.check) == (3, "weights against the checkpoint")
    assert found.summary.startswith(name) and says in found.summary


def widen_a_window(graph):
    attribute(nodes(graph, "GroupQueryAttention")[1], "local_window_size").i += 1


def rotate_other_pairs(graph):
    attribute(nodes(graph, "RotaryEmbedding")[2], "interleaved").i = 1


def move_a_state(graph):
    (cut,) = [node for node in graph.node if "present_conv1_state" in node.output]
    for index, value in ((1, -3), (2, -1)):
        cut.input[index] += "_moved"
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), cut.input[index]))


def forget_the_zero_points(graph):
    nodes(graph, "MatMulNBits")[3].input[3] = ""


def choose_another_blank(graph):
    (gather,) = [node for node in nodes(graph, "Gather") if node.input[0] == "logits"]
    (constant,) = [tensor for tensor in graph.initializer if tensor.name == gather.input[1]]
    constant.CopyFrom(onnx.numpy_helper.from_array(np.array(33), constant.name))


@pytest.mark.parametrize(
    ("role", "change", "stage"),
    [
        ("decoder", widen_a_window, LAYER),
        ("encoder", widen_a_window, "audio_tower.layers.1"),
        ("decoder", rotate_other_pairs, LAYER),
        ("encoder", move_a_state, "audio_tower.embedder"),
        ("decoder", forget_the_zero_points, "language_model.layers.0"),
        ("decoder", choose_another_blank, "language_model.norm"),
    ],
    ids=["decoder window", "encoder window", "rotary pairs", "conv state", "zero points", "blank"],
)
def test_damaged_graphs_are_found_without_the_checkpoint(toy, role, change, stage):
    edit_graph(toy, role, change)
    found = failures(toy, rungs=[3])[0]
    assert (found.rung, found.check) == (3, "graphs against modules")
    assert f" in {stage}, more than 1e-5" in found.summary


def move_weights(graph):
    weight = next(tensor for tensor in graph.initializer if "q_proj.weight" in tensor.name)
    (offset,) = [entry for entry in weight.external_data if entry.key == "offset"]
    offset.value = "0"


def forget_the_lengths(graph):
    nodes(graph, "GroupQueryAttention")[1].input[16] = ""


def swap_two_projections(graph):
    first, second = nodes(graph, "MatMulNBits")[:2]
    (first.input[1], second.input[1]) = (second.input[1], first.input[1])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (move_weights, "q_proj.weight is other bytes than the encoder's"),
        (widen_a_window, "GroupQueryAttention_1 is not the encoder's GroupQueryAttention_1"),
        (forget_the_lengths, "GroupQueryAttention_1 does not read query_seqlens"),
        (swap_two_projections, "MatMulNBits_0 is not the encoder's MatMulNBits_0"),
    ],
)
def test_an_encoder_for_several_streams_that_is_not_the_encoder_is_found(toy, change, says):
    edit_graph(toy, "encoder_batch", change)
    (found,) = failures(toy, rungs=[3])
    assert (found.rung, found.check) == (3, "the encoder for several streams")
    assert says in found.summary


def test_intact_toy_passes_the_rungs_of_graphs_and_streams(toy, toy_checkpoint):
    certificate = verify(toy, checkpoint=toy_checkpoint, rungs=[1, 3, 4])
    assert {finding.status for finding in certificate.findings} == {"passed"}
    assert {finding.rung for finding in certificate.findings} == {0, 1, 3, 4}
    assert certificate.not_checked == ("rungs 2, 5 and 6: not run (not asked for)",)
    assert "q4 on rungs 0, 1, 3, 4; " in read_verdict(toy).line
    stages = certificate.details["q4"]["stages"]
    assert [stage["name"] for stage in stages][:2] == [
        "audio_tower.embedder",
        "audio_tower.layers.0",
    ]
    assert len(stages) == 6 + 5


def test_a_changed_byte_fails_on_the_first_rung(toy):
    path = next((toy / "onnx").glob("decoder_model*"))
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    (found,) = failures(toy)
    assert found.rung == 0 and path.name in found.summary


def test_what_is_open_without_the_checkpoint_is_said(toy):
    certificate = verify(toy, rungs=[2, 3])
    assert [finding.status for finding in certificate.findings] == [
        "passed",
        "passed",
        "not run",
        "passed",
        "passed",
        "passed",
    ]
    assert certificate.not_checked[:2] == (
        "rungs 1, 4, 5 and 6: not run (not asked for)",
        "rung 3, weights against the checkpoint: not run (no checkpoint was given)",
    )
    assert "Whether the weights are the checkpoint's" in certificate.not_checked[2]


def test_cache_rows_that_shift_one_too_far_are_found(toy):
    manifest = Manifest.read(toy)
    spec = manifest.caches["decoder"]
    shifted = replace(spec, keep=spec.keep - 2)
    replace(manifest, caches={**manifest.caches, "decoder": shifted}).write(toy)
    (found,) = failures(toy, rungs=[4])[:1]
    assert (found.check, found.rung) == (
        "stages call by call",
        4,
    ) and "language_model.layers" in found.summary


def test_damage_in_the_weights_shows_in_the_float_model_beside_them(tiny_artifact, tmp_path):
    """Without the checkpoint, by the precision fp32 of the same artifact."""
    folder = tmp_path / "tiny"
    copy_artifact(tiny_artifact, folder, "q4f16")
    edit_tensor(folder, "decoder", f"{LAYER}.self_attn.o_proj.scales", zero)
    damaged, fp32 = Manifest.read(folder), copy_artifact(tiny_artifact, tmp_path / "fp32", "fp32")
    for path in (fp32 / "onnx").iterdir():
        path.replace(folder / "onnx" / path.name)
    both = Manifest.read(fp32)
    precisions = {**damaged.precisions, **both.precisions}
    replace(damaged, precisions=precisions, files={**damaged.files, **both.files}).write(folder)
    (tmp_path / "clip.wav").write_bytes((SAMPLES / "time-flite.wav").read_bytes())
    (tmp_path / "clip.txt").write_text(TEXTS["time-flite.wav"])
    found = failures(folder, precisions=["q4f16"], audio=[tmp_path / "clip.wav"], rungs=[5, 6])
    assert [row.check for row in found] == ["quantised against float", "words"]
    assert "; limit: KL at most 0.05, " in found[0].summary
    assert found[1].summary.endswith(", limit 2 points more")


@pytest.mark.parametrize(
    ("precision", "failed", "others", "advice"),
    [
        ("q4", 6, "passed", "recipe default is too coarse for this model: export it with --recipe"),
        ("fp32", 6, "passed", "too coarse for this model: export it with --precision fp32"),
        ("q4", 6, "not run", "pass rungs 1, 2, 3 and 4 to tell which"),
        ("q4", 3, "passed", "export it again, and report it if that fails too"),
    ],
)
def test_what_to_do_follows_from_which_rungs_failed(
    precision, failed, others, advice, toy_artifact, toy
):
    """A recipe is called too coarse only where all that it does not decide has passed."""
    certificate = verify(toy, rungs=[])
    rungs: dict[int, Status] = {
        rung: others if rung in (1, 2, 3, 4) else PASSED for rung in ALL_RUNGS
    }
    rungs[failed] = "failed"
    found = tuple(
        Finding(rung, "some check", precision if rung else None, status, "1 of 2")
        for rung, status in rungs.items()
    )
    certificate = replace(certificate, precisions=(precision,), findings=found)
    manifest = Manifest.read(toy_artifact)
    kinds = manifest.precisions
    recipe = replace(kinds["q4"].recipe, name="default")
    manifest = replace(manifest, precisions={**kinds, "q4": replace(kinds["q4"], recipe=recipe)})
    said = running._message(toy, manifest, certificate)
    assert f"{precision}, rung {failed}, some check: 1 of 2; see " in said and advice in said


def test_another_versions_rounding_passes_and_its_damage_does_not(toy, toy_checkpoint):
    def one_code_up(weight):
        weight[0, 0, 0] ^= 1

    name = f"{LAYER}.mlp.up_proj.weight"
    edit_tensor(toy, "decoder", name, one_code_up)
    assert failures(toy, checkpoint=toy_checkpoint, rungs=[3])[0].summary.startswith(name)
    replace(Manifest.read(toy), generator="voxtral-onnx 0.0.1").write(toy)
    certificate = verify(toy, checkpoint=toy_checkpoint, rungs=[3])
    assert "1 rounded differently by voxtral-onnx 0.0.1" in certificate.findings[1].summary
    edit_tensor(toy, "decoder", name, flip_a_row_of_nibbles)
    assert failures(toy, checkpoint=toy_checkpoint, rungs=[3])[0].summary.startswith(name)


def test_every_device_is_compared_with_the_cpu(toy):
    manifest = Manifest.read(toy)
    for errors in probe(
        ArtifactModel(ArtifactGraphs(toy, manifest, "q4"), 6), manifest, devices=[Cpu()]
    ):
        assert errors.devices == {"cpu": 0.0}


class Partial(Cpu):
    """A device without some kernels: it takes this many graphs and no more."""

    def __init__(self, graphs: int):
        super().__init__()
        self.name, self.left = "partial:0", graphs

    def open(self, path, options, *, captures):
        if not self.left:
            raise DeviceError("partial:0: no kernel for Conv\n  more advice")
        self.left -= 1
        return super().open(path, options, captures=captures)


@pytest.mark.parametrize(("operators", "stages"), [(0, 0), (0.5, 0), (1, 1), (1, 1000)])
def test_a_device_that_cannot_run_everything_is_reported(toy, monkeypatch, operators, stages):
    alone = verify(toy, rungs=[1]).details["q4"]["operators"]
    graphs = int(operators * len(alone)) + stages
    monkeypatch.setattr(module_checks, "present_devices", lambda: ["partial"])
    monkeypatch.setattr(module_checks, "open_device", lambda name, dtype: Partial(graphs))
    certificate = verify(toy, rungs=[1, 3])
    found = {finding.check: finding for finding in certificate.findings}
    assert certificate.verdict == "partly passed"
    assert found["partial:0 against CPU"].status == ("passed" if stages == 1000 else "not run")
    if stages < 1000:
        assert any(
            "partial:0 against CPU: not run (partial:0: no kernel for Conv)" in line
            for line in certificate.not_checked
        )
    assert ("operators on partial:0" in found) == (operators == 1)
    assert "partial:0" in (toy / "certificate.html").read_text()


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu(artifact):
    try:
        name = open_device("cuda").name
    except DeviceError as error:
        pytest.skip(str(error))
    certificate = verify(artifact, rungs=[1, 3])
    found = {finding.check: finding for finding in certificate.findings}
    for check in (f"operators on {name}", f"{name} against CPU"):
        assert found[check].status == "passed", found[check].summary


@pytest.mark.gpu
def test_a_precision_that_a_device_cannot_run_is_reported(toy):
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA")
    certificate = verify(toy, rungs=[3])
    assert certificate.verdict == "partly passed"
    assert any(
        "cuda against CPU: not run (CUDA has attention in float16 only" in line
        for line in certificate.not_checked
    )


def test_wrong_arguments_are_refused(toy, tiny_artifact, run):
    run("verify", toy, "--checkpoint", "tiny").assert_refused(
        3, "expected the checkpoint that", "fingerprint"
    )
    run("verify", toy, "--rungs", "7").assert_refused(2, "expected some of 0 to 6, got 7")
    run("verify", toy, "--rungs", "a").assert_refused(2, "numbers from 0 to 6")
    run("verify", toy, "--rungs", "3-1").assert_refused(2, "numbers from 0 to 6")
    run("verify", toy, "--require", "0-9").assert_refused(2, "expected some of 0 to 6, got 9")
    run("verify", toy, "--rungs", "1,4", "--require", "all").assert_refused(
        2, "rungs 2, 3, 5 and 6 would not run", "rungs 0, 1 and 4 only"
    )
    run("verify", toy, "--precision", "q8").assert_refused(2, "the artifact has q4")
    run("verify", toy, "--audio", toy / "none.wav", "--rungs", "4").assert_refused(6, "none.wav")
    assert not (toy / "certificate.json").exists()


def test_the_command_line_prints_the_rungs_and_fails(toy, run):
    passed = run("verify", toy, "--rungs", "3")
    assert passed.code == 0
    assert (
        "graphs against modules" in passed.out and "not checked: Whether the weights" in passed.out
    )
    last = passed.out.splitlines()[-1]
    assert re.fullmatch(
        r"PARTLY VERIFIED \(1 of 7\): q4 on rung 0 and parts of rung 3, in \d+ s", last
    )
    edit_graph(toy, "decoder", widen_a_window)
    failed = run("verify", toy, "--rungs", "3", "--json")
    assert failed.code == 8
    assert json.loads(failed.out)["verdict"] == "failed"
    assert (
        f"error: {toy}: q4, rung 3, graphs against modules: graph vs PyTorch (float32) "
        in failed.err
    )


def test_what_is_required_must_have_run_and_been_judged(toy, toy_checkpoint, run):
    """Or the exit code is 8, though nothing failed, and a sentence names the rungs."""
    enough = run("verify", toy, "--rungs", "0-1,3", "--require", "0,1")
    assert enough.code == 0 and "PARTLY VERIFIED (2 of 7)" in enough.out
    short = run("verify", toy, "--rungs", "1,3", "--require", "0-1,3", "--json")
    assert short.code == 8 and json.loads(short.out)["verdict"] == "partly passed"
    assert json.loads(short.out)["passed_rungs"] == [0, 1]
    assert "rung 3: required, but not all of it was run and judged" in short.err
    assert "no checkpoint was given" in short.err and short.err.count("error: ") == 1
    assert "asked for" not in short.err  # of the others, which nobody required
    whole = ("--checkpoint", toy_checkpoint, "--rungs", "3", "--require", "3")
    assert run("verify", toy, *whole).code == 0


def test_without_the_packages_of_a_rung_it_is_left_open(toy, toy_checkpoint, run, monkeypatch):
    monkeypatch.setattr(
        running, "missing", lambda names: [name for name in names if name != "torch"]
    )
    short = run("verify", toy, "--rungs", "2", "--require", "2")
    assert short.code == 8 and "rung 2: not run (transformers is missing)" in short.err
    assert short.out.splitlines()[-2] == INSTALL_TRANSFORMERS and INSTALL_TRACE not in short.out


def test_without_pytorch_the_rest_is_run(toy, toy_checkpoint, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    short = run("verify", toy, "--checkpoint", toy_checkpoint, "--precision", "q4", "--json")
    assert short.code == 0
    rows = [(row["rung"], row["check"], row["status"]) for row in json.loads(short.out)["findings"]]
    assert [row for row in rows if row[2] != "not run"] == [
        (0, "hashes of all files", "passed"),
        (3, "weights against the checkpoint", "passed"),
        (3, "the encoder for several streams", "passed"),
        (4, "a stream in pieces", "passed"),
    ]
    assert {row[0] for row in rows if row[2] == "not run"} == {1, 2, 3, 4, 5, 6}
    assert json.loads(short.out)["verdict"] == "partly passed"
    scope = "q4 on rung 0 and parts of rungs 3, 4"
    assert f"PARTLY VERIFIED (1 of 7) here on {TODAY}: {scope}; " in run("inspect", toy).out
    assert "<dt>passed in part</dt><dd>3, 4</dd>" in (toy / "certificate.html").read_text()


TODAY = datetime.now(UTC).date().isoformat()


def test_what_lacks_packages_is_a_row_a_rung_and_said_once(tiny, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    shown = run("verify", tiny)
    rows = [line for line in shown.out.splitlines() if "not run     PyTorch" in line]
    assert [row[:7] for row in rows] == [f"{rung}  all " for rung in range(1, 7)]
    assert "graphs against modules, graphs as shipped  not run     PyTorch is missing" in rows[2]
    page = (tiny / "certificate.html").read_text()
    assert page.count("<td>PyTorch is missing</td>") == 6
    for text in (shown.out, unescape(page).replace("<br>", "\n  ")):
        assert text.count(INSTALL_TRACE.strip()) == 1 and INSTALL_TRANSFORMERS not in text


def test_a_terminal_has_rows_within_its_width(tiny, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    certificate = verify(tiny, rungs=[1, 2, 3, 4])
    console = Console()
    console.file, console._force_terminal, console.width = io.StringIO(), True, 80
    monkeypatch.setattr(tables, "stdout", console)
    tables.print_certificate(certificate)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue()).splitlines()
    assert all(len(line) <= 80 for line in lines if "pip install" not in line)
    words = " ".join(lines).split()
    assert all(sentence in " ".join(words) for sentence in certificate.not_checked)
    told = " ".join(f"{row.check}  {row.summary}" for row in certificate.findings).split()
    assert {word.strip(",") for word in told} <= {word.strip(",") for word in words}  # none is cut


def test_a_run_without_a_result_does_not_look_like_success(tiny, run, monkeypatch):
    """Nothing has failed, so it ends with 0, but the last line says that nothing was found."""
    monkeypatch.setitem(sys.modules, "torch", None)
    shown = run("verify", tiny, "--rungs", "1")
    last = "NOT JUDGED: rung 1 did not run, only the files were hashed, in"
    assert shown.code == 0 and shown.out.splitlines()[-1].startswith(last)
    assert run("verify", tiny, "--rungs", "1", "--require", "1").code == 8


@pytest.mark.parametrize("has_torch", [True, False])
def test_clips_that_no_rung_compares_are_not_transcribed(toy, has_torch, monkeypatch):
    """The certificate's self-test is, alone; there is no float model here."""
    if not has_torch:
        monkeypatch.setitem(sys.modules, "torch", None)
    heard, stream = [], checks.stream

    def count(transcriber, samples, **options):
        heard.append(len(samples))
        return stream(transcriber, samples, **options)

    monkeypatch.setattr(checks, "stream", count)
    steps = []
    certificate = verify(toy, rungs=[5, 6], on_progress=steps.append)
    assert len(heard) == 1 and certificate.details["q4"]["self_test"]["token_ids"]
    assert "q4: the self-test's clip as shipped" in steps
    heard.clear()
    verify(toy, rungs=[4, 5, 6])
    assert len(heard) == 3  # the self-test, and a clip at once and in pieces


def kept(folder, **options) -> str:
    """Return the warning that a certificate was kept, or "" if this run's was written."""
    files = [folder / "certificate.json", folder / "certificate.html"]
    before = [file.stat().st_mtime_ns for file in files]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        certificate = verify(folder, **options)
    are_kept = {was == file.stat().st_mtime_ns for was, file in zip(before, files, strict=True)}
    (is_kept,) = are_kept  # both or neither
    returned = json.loads(json.dumps(certificate.to_dict()))  # this run's in any case
    assert (json.loads(files[0].read_text()) != returned) == is_kept
    (said,) = [str(one.message) for one in caught if "certificate" in str(one.message)] or [""]
    assert bool(said) == is_kept
    return said


def test_a_fuller_certificate_is_kept(tiny, monkeypatch, run):
    """Also one with PyTorch against one without; a line says so."""
    verify(tiny, rungs=[1, 3, 4])
    said = kept(tiny, rungs=[0], precisions=["q4"])
    assert said.startswith(f"kept the certificate of {TODAY}, which passed all of this and more (q")
    assert said.endswith(f"; to replace it, delete {tiny / 'certificate.json'} and verify again")
    assert kept(tiny, rungs=[3]) and kept(tiny, rungs=[4], precisions=["q4f16"])
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        assert kept(tiny)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            told = run("verify", tiny, "--require", "0-6")
        assert told.code == 8 and told.err.startswith("note: kept the certificate of ")
    (tiny / "certificate.json").unlink()
    verify(tiny, rungs=[0])
    assert not kept(tiny, rungs=[0])  # no more than this one


def test_a_certificate_is_kept_only_if_it_says_all_of_a_run(tiny, tmp_path):
    both = verify(tiny, rungs=[3])
    assert not kept(tiny, rungs=[1])  # other checks
    both.write(tiny)
    assert not kept(tiny, rungs=[5])  # a self-test
    both.write(tiny)
    replace(Manifest.read(tiny), scope="changed").write(tiny)
    assert not kept(tiny, rungs=[0])  # other files
    full = verify(tiny, rungs=[3, 4])
    assert kept(tiny, rungs=[4])
    assert not kept(tiny, rungs=[4], audio=[SAMPLES / "time-flite.wav"])  # another recording
    for changed in (
        replace(full, generator="voxtral-onnx 0.0.1"),
        replace(full, findings=(*full.findings, Finding(5, "words", "q4", "failed", "many"))),
    ):
        changed.write(tiny)
        assert not kept(tiny, rungs=[0])
    full.write(tiny)
    path = tiny / "certificate.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"verdict": "passed"}))
    assert not kept(tiny, rungs=[0])  # what contradicts itself
    path.write_text("{")
    assert not kept(tiny, rungs=[0])


def test_a_failure_is_written_over_a_fuller_certificate(toy):
    verify(toy, rungs=[3, 4])
    content = bytearray((toy / "tekken.json").read_bytes())
    content[100] ^= 1
    (toy / "tekken.json").write_bytes(content)
    assert failures(toy, rungs=[0])[0].rung == 0
