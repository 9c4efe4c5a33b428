"""What stands beside the manifest, and who believes it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from conftest import copy_artifact
from huggingface_hub import constants

from voxtral_onnx.manifest import FILE_NAME, Manifest
from voxtral_onnx.verification.certificate import (
    CLAIM,
    Certificate,
    hash_manifest,
    read_self_test,
    read_verdict,
)
from voxtral_onnx.verification.certificate_html import render
from voxtral_onnx.verification.thresholds import GRAPH_ERROR, SHIPPED_ERROR
from voxtral_onnx.verification.verdict import Finding

HIDDEN = "<script>alert('\"&')</script>"


@pytest.fixture(scope="module")
def verified(tiny_artifact, tmp_path_factory):
    """Verify tiny in 4 bits beside its float32 precision, on all rungs.

    The command line's own function verifies it.
    """
    from voxtral_onnx import verify

    folder = tmp_path_factory.mktemp("verified") / "tiny"
    copy_artifact(tiny_artifact, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder.parent / "state"))
        return folder, verify(folder, checkpoint="tiny")


@pytest.fixture
def by_this_user(verified, monkeypatch):
    """Who made the certificate that `verified` has; other tests know nothing of it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(verified[0].parent / "state"))


def test_all_rungs_of_tiny_pass(verified, by_this_user):
    folder, certificate = verified
    assert {finding.status for finding in certificate.findings} == {"passed"}
    assert {finding.rung for finding in certificate.findings} == {0, 1, 2, 3, 4, 5, 6}
    assert certificate.not_checked == ()
    assert json.loads((folder / "certificate.json").read_text()) == json.loads(
        json.dumps(certificate.to_dict())
    )
    assert certificate.manifest_sha256 == hash_manifest(folder)
    said = read_verdict(folder).line
    assert said.startswith("verified here on 20") and "q4f16 on rungs 0, 1, 2" in said


def test_the_self_test_holds_what_a_host_should_write(verified):
    from support.commands import CLIP, TEXT

    test = verified[1].details["q4f16"]["self_test"]
    assert (test["clip"], test["text"]) == (CLIP.name, TEXT)
    assert len(test["token_ids"]) == len(test["blank_margins"]) == 38
    blank = [token == 32 for token in test["token_ids"]]
    assert blank == [margin > 0 for margin in test["blank_margins"]]


def test_doctor_tests_this_machine_with_it(verified, artifact, run):
    read, written = (
        read_self_test(verified[0], "q4f16"),
        verified[1].details["q4f16"]["self_test"],
    )
    assert isinstance(read, dict) and len(read) == 4
    for name, value in read.items():
        assert value == (tuple(written[name]) if isinstance(value, tuple) else written[name])
    checks = {
        check["name"]: check for check in json.loads(run("doctor", verified[0], "--json").out)
    }
    assert checks["self-test q4f16"]["status"] == "ok"
    assert "self-test q4f16" in run("doctor", verified[0]).out
    assert read_self_test(artifact, "q4f16") == "no certificate"


def test_the_page_loads_nothing(verified):
    page = (verified[0] / "certificate.html").read_text()
    assert not re.search(
        r"<(script|link|img|iframe|object|embed)\b|@import|url\(|\bsrc=|\bhref=|https?:", page
    )
    assert page.count("<svg") == 2 and "VERIFIED" in page and "prefers-color-scheme: dark" in page


def test_inspect_shows_the_verdict(verified, by_this_user, artifact, run):
    assert "certificate: verified here on 20" in run("inspect", verified[0]).out
    assert "certificate: not verified\n" in run("inspect", artifact).out
    shown = json.loads(run("inspect", verified[0], "--json").out)
    assert shown["certificate"] == read_verdict(verified[0]).line
    assert shown["verification"] == {
        "status": "passed",
        "is_own": True,
        "precisions": ["q4f16"],
        "passed_rungs": [0, 1, 2, 3, 4, 5, 6],
        "not_checked": [],
    }
    none = json.loads(run("inspect", artifact, "--json").out)["verification"]
    assert (none["status"], none["passed_rungs"]) == ("none", [])


def edit(folder, **values):
    """Write some fields of a certificate anew."""
    path = folder / "certificate.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def copied(verified, tmp_path):
    return shutil.copytree(verified[0], tmp_path / "copied")


def stale(folder):
    manifest = Manifest.read(folder)
    replace(manifest, scope="another").write(folder)


def unreadable(folder):
    (folder / "certificate.json").write_text("{")


def failed(folder):
    rows = json.loads((folder / "certificate.json").read_text())["findings"]
    rows[-1] |= {"status": "failed", "summary": "other words"}
    edit(folder, findings=rows)


def without_a_rung(folder):
    rows = json.loads((folder / "certificate.json").read_text())["findings"]
    edit(folder, findings=[row for row in rows if row["rung"] != 5])


def with_more_rungs(folder):
    without_a_rung(folder)
    edit(folder, verdict="partly passed")


@pytest.mark.parametrize(
    ("damage", "status", "words"),
    [
        (stale, "stale", "the certificate is of another artifact"),
        (unreadable, "unreadable", "certificate.json cannot be read"),
        (failed, "failed", "FAILED on 20"),
        (without_a_rung, "contradictory", "says something else than its findings"),
        (with_more_rungs, "contradictory", "says something else than its findings"),
    ],
)
def test_inspect_begins_with_a_certificate_that_is_wrong(copied, damage, status, words, run):
    """And ends with 8, all facts printed."""
    damage(copied)
    shown = run("inspect", copied)
    assert shown.code == 8
    assert shown.out.startswith("certificate: ") and words in shown.out.splitlines()[0]
    assert shown.out.count("certificate: ") == 1 and "files," in shown.out
    assert shown.err.startswith(f"error: {copied}: ") and words in shown.err
    told = run("inspect", copied, "--json")
    assert told.code == 8 and words in told.err
    facts = json.loads(told.out)
    assert facts["verification"]["status"] == status and words in facts["certificate"]
    assert facts["generator"].startswith("voxtral-onnx")


def test_a_certificate_of_earlier_rules_is_read_by_todays(copied, run):
    """Format 1 called passed whatever did not fail."""
    values = json.loads((copied / "certificate.json").read_text())
    for key in ("passed_rungs", "left_out"):
        del values[key]
    for row in values["findings"]:
        if row["rung"] in (2, 5, 6):
            row |= {"status": "not run", "summary": "packages are missing"}
    (copied / "certificate.json").write_text(json.dumps({**values, "format": 1}))
    assert values["verdict"] == "passed"
    shown = run("inspect", copied)
    assert shown.code == 0 and "PARTLY VERIFIED (4 of 7) on 20" in shown.out
    assert "q4f16 on rungs 0, 1, 3, 4; rungs 2, 5 and 6: not run (packages" in shown.out
    edit(copied, verdict="failed")
    assert read_verdict(copied).status == "contradictory"


def test_what_did_not_run_is_shown_wherever_the_verdict_is(artifact, run):
    from voxtral_onnx import verify
    from voxtral_onnx.publish.upload import plan_publication

    folder, certificate = artifact, verify(artifact, rungs=[1])
    stamp, why = "PARTLY VERIFIED (2 of 7)", "rungs 2, 3, 4, 5 and 6: not run (not asked for)"
    assert certificate.to_dict()["verdict"] == "partly passed"
    assert certificate.to_dict()["passed_rungs"] == (0, 1)
    page = (folder / "certificate.html").read_text()
    assert f'<div class="stamp open">{stamp}</div>' in page and why in page
    assert "<dt>rungs passed</dt><dd>0, 1</dd>" in page and "VERIFIED" not in page.replace(
        stamp, ""
    )
    for shown in (
        run("verify", folder, "--rungs", "1").out,
        run("inspect", folder).out,
        re.sub(r"\\", "", plan_publication(folder, "org/name").card),
    ):
        assert stamp in shown and why in shown
        assert "verified here" not in shown and "says: verified" not in shown


def test_a_certificate_of_another_artifact_is_stale(verified, by_this_user, artifact):
    for name in ("certificate.json", "certificate.html"):
        (artifact / name).write_bytes((verified[0] / name).read_bytes())
    assert read_verdict(artifact).line.startswith("verified here")  # a copy of the same files
    manifest = Manifest.read(artifact)
    replace(manifest, scope="another").write(artifact)
    assert read_verdict(artifact).line.startswith(
        "not verified: the certificate is of another artifact"
    )


def test_hashes_alone_verify_nothing(artifact):
    from voxtral_onnx import verify

    assert verify(artifact, rungs=[]).verdict == "not judged"
    assert read_verdict(artifact).line.startswith("not verified: the certificate judges nothing")
    assert "NOT JUDGED" in (artifact / "certificate.html").read_text()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"verdict": "passed"}', b"\xff"])
def test_an_unreadable_certificate_verifies_nothing(artifact, content):
    (artifact / "certificate.json").write_bytes(content)
    assert read_verdict(artifact).line.startswith("not verified: certificate.json cannot be read")


class Tags(HTMLParser):
    """What a page is made of: tags with their attributes' names, in turn, and its text."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_comment(self, data):
        self.tags.append(("comment", ()))

    def handle_data(self, data):
        self.text += data


def told(word: str) -> Certificate:
    """Return a certificate that says a word wherever it can."""
    row = {"clip": word, "text": "a", "float_text": word, "shipped_text": "a"}
    row |= {"words": 1, "characters": 1}
    row |= {
        f"{kind}_{unit}": 0 for kind in ("float", "shipped") for unit in ("edits", "word_edits")
    }
    stage = {"name": word, "graph": 1e-6, "streamed": 1e-6, "shipped": 1e-6}
    details = {
        "clips": [row],
        "stages": [{**stage, "devices": {word: 1e-6}}],
        "margins": {"edges": [-1, 0, 1], "float": [1, 1], "shipped": [1, 1]},
        "operators": [{"name": word, "device": word, "error": 1e-6}],
        "self_test": {"clip": word, "text": word, "token_ids": [1]},
    }
    limits = (
        {"name": name, "value": 1, "why": ""} for name in (GRAPH_ERROR.name, SHIPPED_ERROR.name)
    )
    return Certificate(
        generator=word,
        created=word,
        manifest_sha256=word,
        fingerprint=word,
        checkpoint=word,
        rungs=(3,),
        precisions=(word,),
        findings=(Finding(3, word, word, "failed", word),),
        not_checked=(word,),
        details={word: details},
        thresholds=[{"name": word, "value": 1, "why": word}, *limits],
        machine={word: word, "memory": None, "packages": {word: word}},
        seconds=1.0,
    )


@pytest.mark.parametrize(
    "word",
    [HIDDEN, '"><img src=x onerror=alert(1)>', "' onload='x", "<!-- a -->", "</title><b>", "&lt;"],
)
def test_the_page_makes_nothing_of_what_it_is_told(word):
    page, plain = (Tags(render(told(text), text)) for text in (word, "plain"))
    assert page.tags == plain.tags and page.text.count(word) > 20
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in render(
        told(word), ""
    )


def test_a_certificate_says_whose_word_it_is(verified, monkeypatch, run):
    """Here, where somebody else made it, and where it was downloaded."""
    folder, how = verified[0], f"verify it yourself: voxtral-onnx verify {verified[0]}"
    said = read_verdict(folder).line
    assert said.startswith("its maker says: verified on 20") and said.endswith(f"; {how}")
    assert said in run("inspect", folder).out
    home = folder.parent.parent / "home" / "voxtral-onnx" / "org--name"
    home.mkdir(parents=True)
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(home.parents[1]))
    copy = shutil.copytree(folder, home / "0123456789abcdef")
    assert read_verdict(copy).line.startswith("its publisher, org/name, says: verified on 20")

    monkeypatch.setenv("XDG_STATE_HOME", str(folder.parent / "state"))
    assert read_verdict(folder).line.startswith("verified here on 20")
    assert read_verdict(copy).line.startswith("verified here on 20")  # the same bytes
    published = read_verdict(folder, published=True).line
    assert published.startswith("its maker says: verified on 20")
    assert published.endswith("verify it yourself: voxtral-onnx verify FOLDER")

    assert CLAIM in json.loads((folder / "certificate.json").read_text())["claim"]
    assert "Self-reported by whoever ran verify" in (folder / "certificate.html").read_text()
    certificate = copy / "certificate.json"
    certificate.write_bytes(
        certificate.read_bytes().replace(b'"claim"', b'"is_own": true, "claim"')
    )
    assert read_verdict(copy).line.startswith("its publisher, org/name, says")


def test_a_verdict_is_that_of_its_findings(verified):
    """Whatever the file says that it is."""
    copy = shutil.copytree(verified[0], verified[0].parent / "contradicts")
    values = json.loads((copy / "certificate.json").read_text())
    assert values["verdict"] == "passed"
    values["findings"][-1]["status"] = "failed"
    (copy / "certificate.json").write_text(json.dumps(values))
    assert "says: FAILED on 20" in read_verdict(copy).line


def test_a_certificate_that_cannot_be_remembered_is_said_to_be(tmp_path, monkeypatch):
    (tmp_path / FILE_NAME).write_text("{}")
    (tmp_path / "state").write_text("no folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with pytest.warns(UserWarning, match="will count as another's here"):
        told("word").write(tmp_path)
    assert (tmp_path / "certificate.json").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("clip", "../../../../etc/passwd"),
        ("num_delay_tokens", "6"),
        ("num_delay_tokens", 10**9),
        ("token_ids", [1]),
        ("blank_margins", ["a"] * 38),
    ],
)
def test_a_self_test_is_what_a_host_can_run(verified, key, value, run):
    copy = verified[0].parent / "self-test"
    shutil.copytree(verified[0], copy, dirs_exist_ok=True)
    values = json.loads((copy / "certificate.json").read_text())
    values["details"]["q4f16"]["self_test"][key] = value
    (copy / "certificate.json").write_text(json.dumps(values))
    assert read_self_test(copy, "q4f16") == "certificate.json cannot be read"
    assert read_verdict(copy).line.startswith("not verified: certificate.json cannot be read")


def test_a_certificate_is_read_within_its_budget(artifact):
    with (artifact / "certificate.json").open("wb") as file:
        file.truncate(1 << 30)
    assert read_verdict(artifact).line.startswith("not verified: certificate.json cannot be read")
    (artifact / "certificate.json").write_bytes(b"[" * 100_000)
    assert read_verdict(artifact).line.startswith("not verified: certificate.json cannot be read")
