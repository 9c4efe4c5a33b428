"""What stands beside the manifest, and who believes it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from conftest import copy_artifact

from voxtral_onnx.manifest import FILE_NAME, Manifest
from voxtral_onnx.verification.certificate import (
    Certificate,
    Finding,
    hash_manifest,
    read_self_tests,
    read_verdict,
)

HIDDEN = "<script>alert('\"&')</script>"


@pytest.fixture(scope="module")
def verified(tiny_artifact, tmp_path_factory):
    """Verify tiny in 4 bits beside its float32 precision, on all rungs.

    The command line's own function verifies it.
    """
    from voxtral_onnx import verify

    folder = tmp_path_factory.mktemp("verified") / "tiny"
    copy_artifact(tiny_artifact, folder)
    return folder, verify(folder, checkpoint="tiny")


def test_all_rungs_of_tiny_pass(verified):
    folder, certificate = verified
    assert {finding.status for finding in certificate.findings} == {"passed"}
    assert {finding.rung for finding in certificate.findings} == {0, 1, 2, 3, 4, 5, 6}
    assert certificate.not_checked == ()
    assert json.loads((folder / "certificate.json").read_text()) == json.loads(
        json.dumps(certificate.to_dict())
    )
    assert certificate.manifest_sha256 == hash_manifest(folder)
    assert read_verdict(folder).startswith(
        "verified on 20"
    ) and "q4f16 on rungs 0, 1, 2" in read_verdict(folder)


def test_the_self_test_holds_what_a_host_should_write(verified):
    from support.commands import CLIP, TEXT

    test = verified[1].details["q4f16"]["self_test"]
    assert (test["clip"], test["text"]) == (CLIP.name, TEXT)
    assert len(test["token_ids"]) == len(test["blank_margins"]) == 38
    blank = [token == 32 for token in test["token_ids"]]
    assert blank == [margin > 0 for margin in test["blank_margins"]]


def test_doctor_tests_this_machine_with_it(verified, artifact, run):
    assert read_self_tests(verified[0]) == {"q4f16": verified[1].details["q4f16"]["self_test"]}
    checks = {
        check["name"]: check for check in json.loads(run("doctor", verified[0], "--json").out)
    }
    assert checks["self-test q4f16"]["status"] == "ok"
    assert "self-test q4f16" in run("doctor", verified[0]).out
    assert read_self_tests(artifact) == {}


def test_the_page_loads_nothing(verified):
    page = (verified[0] / "certificate.html").read_text()
    assert not re.search(
        r"<(script|link|img|iframe|object|embed)\b|@import|url\(|\bsrc=|\bhref=|https?:", page
    )
    assert page.count("<svg") == 2 and "VERIFIED" in page and "prefers-color-scheme: dark" in page


def test_inspect_shows_the_verdict(verified, artifact, run):
    assert "certificate: verified on 20" in run("inspect", verified[0]).out
    assert "certificate: not verified\n" in run("inspect", artifact).out
    shown = json.loads(run("inspect", verified[0], "--json").out)
    assert shown["certificate"] == read_verdict(verified[0])


def test_a_certificate_of_another_artifact_is_stale(verified, artifact):
    for name in ("certificate.json", "certificate.html"):
        (artifact / name).write_bytes((verified[0] / name).read_bytes())
    assert read_verdict(artifact).startswith("verified")  # a copy of the same files
    manifest = Manifest.read(artifact)
    replace(manifest, scope="another").write(artifact)
    assert read_verdict(artifact).startswith("not verified: the certificate is of another artifact")


def test_hashes_alone_verify_nothing(artifact):
    from voxtral_onnx import verify

    assert verify(artifact, rungs=[]).verdict == "not judged"
    assert read_verdict(artifact).startswith("not verified: the certificate judges nothing")
    assert "NOT JUDGED" in (artifact / "certificate.html").read_text()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"verdict": "passed"}', b"\xff"])
def test_an_unreadable_certificate_verifies_nothing(artifact, content):
    (artifact / "certificate.json").write_bytes(content)
    assert read_verdict(artifact).startswith("not verified: certificate.json cannot be read")


def test_the_page_escapes_what_it_is_told(tmp_path):
    (tmp_path / FILE_NAME).write_text("{}")
    finding = Finding(3, HIDDEN, HIDDEN, "failed", HIDDEN)
    row = {
        "clip": HIDDEN,
        "text": "a",
        "float_text": HIDDEN,
        "shipped_text": "a",
        "words": 1,
        "characters": 1,
    }
    row |= {
        f"{kind}_{unit}": 0 for kind in ("float", "shipped") for unit in ("edits", "word_edits")
    }
    certificate = Certificate(
        *(
            HIDDEN,
            "2026-01-01T00:00:00+00:00",
            hash_manifest(tmp_path),
            HIDDEN,
            HIDDEN,
            (3,),
            (HIDDEN,),
            (finding,),
        ),
        not_checked=(HIDDEN,),
        details={
            HIDDEN: {
                "clips": [row],
                "self_test": {"clip": HIDDEN, "text": HIDDEN, "token_ids": [1]},
            }
        },
        thresholds=[
            {"name": HIDDEN, "value": 1, "why": HIDDEN},
            *({"name": name, "value": 1, "why": ""} for name in ("graph error", "shipped error")),
        ],
        machine={"cpu": HIDDEN, "memory": None, "packages": {HIDDEN: "1"}},
        seconds=1.0,
    )
    certificate.write(tmp_path)
    page = (tmp_path / "certificate.html").read_text()
    assert "<script" not in page and "FAILED" in page
