"""The page and an artifact as one set of files."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt
from support.servers import FROM_VENDOR, get, page_app, running

from voxtral_onnx.errors import ArtifactError, StorageError, UsageError
from voxtral_onnx.files import hash_file
from voxtral_onnx.manifest import CERTIFICATE, FILE_NAME, Manifest
from voxtral_onnx.server.page import files as server_page


def test_a_download_of_one_precision_is_served(page, tiny_artifact, tmp_path):
    folder, manifest = tmp_path / "part", Manifest.read(tiny_artifact)
    for name in (FILE_NAME, *manifest.files_of(["q4"])):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tiny_artifact / name, folder / name)
    assert list(server_page.site_manifest(folder).precisions) == ["q4"]
    assert (
        server_page.absent_precisions(folder),
        server_page.absent_precisions(tiny_artifact),
    ) == (
        ["q4f16"],
        [],
    )


@pytest.fixture
def certified(artifact):
    """An artifact with a certificate that names it.

    Of what a certificate holds, what hosts test themselves with.
    """
    own = hash_file(artifact / FILE_NAME).sha256
    values = {
        "manifest_sha256": own,
        "details": {"q4f16": {"self_test": {"clip": "command-hibari.wav"}}},
    }
    (artifact / CERTIFICATE[0]).write_text(json.dumps(values))
    return artifact


def test_the_certificate_names_the_manifest_that_is_served(page, certified):
    with running(page_app(certified)) as port:
        status, headers, content = get(port, f"/artifact/{CERTIFICATE[0]}")
        manifest = get(port, f"/artifact/{FILE_NAME}")[2]
    certificate = json.loads(content)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert certificate["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
    clip = certificate["details"]["q4f16"]["self_test"]["clip"]
    assert f"samples/{clip}" in server_page.page_files()


@pytest.mark.parametrize(
    "content", [None, "{}", "[]", '{"manifest_sha256": "of another"}', "<html>"]
)
def test_what_certifies_another_artifact_is_not_served(page, certified, content):
    if content is None:
        (certified / CERTIFICATE[0]).unlink()
    else:
        (certified / CERTIFICATE[0]).write_text(content)
    with running(page_app(certified)) as port:
        assert get(port, f"/artifact/{CERTIFICATE[0]}")[0] == 404


def test_a_bundle_has_the_certificate_too(page, certified, tmp_path):
    output = server_page.bundle(certified, tmp_path / "site")
    certificate = json.loads((output / "artifact" / CERTIFICATE[0]).read_bytes())
    assert certificate["manifest_sha256"] == hash_file(output / "artifact" / FILE_NAME).sha256


def test_bundle(page, tiny_artifact, tmp_path):
    output = tmp_path / "sites" / "one"
    seen = []
    assert (
        server_page.bundle(
            tiny_artifact, output, ["q4"], on_file=lambda *values: seen.append(values)
        )
        == output
    )
    manifest = Manifest.read(output / "artifact")
    manifest.check_files(output / "artifact", hashes=True)
    assert list(manifest.precisions) == ["q4"]
    found = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    own = {
        str(path.relative_to(page))
        for path in page.rglob("*")
        if path.suffix in (".html", ".css", ".js", ".onnx")
    }
    own -= {name for name in own if name.startswith(("test/", "npm/"))}
    vendor = {f"vendor/{name}" for name in FROM_VENDOR}
    expected = own | vendor | {"samples/command-hibari.wav"}
    assert found == expected | {f"artifact/{name}" for name in (FILE_NAME, *manifest.files)}
    assert len(seen) == len(found) and seen[0][1] == 0 and seen[0][2] > seen[-1][1]
    with pytest.raises(StorageError, match="exists already"):
        server_page.bundle(tiny_artifact, output)


def test_bundle_for_a_space(page, tiny_artifact, tmp_path):
    card = (
        server_page.bundle(tiny_artifact, tmp_path / "site", space=True) / "README.md"
    ).read_text("utf-8")
    front = card.split("---\n")[1]
    assert (
        "sdk: static\n" in front
        and "app_file: index.html\n" in front
        and "license: apache-2.0\n" in front
    )
    for header in ("embedder-policy: require-corp", "opener-policy: same-origin"):
        assert f"  cross-origin-{header}\n" in front
    assert str(Manifest.read(tiny_artifact).scope) in card


def test_the_card_of_a_space_makes_nothing_of_the_words_of_a_manifest(tiny_artifact):
    word = "x\n---\n# Evil\n[a](https://evil.example) <script> ![](https://evil.example/a.png)"
    strange = replace(Manifest.read(tiny_artifact), generator=word, scope=word)
    plain = replace(strange, generator="plain", scope="plain")
    kinds, parts = [], []
    for manifest in (strange, plain):
        tokens = MarkdownIt("js-default", {"html": True}).parse(server_page.space_card(manifest))
        kinds.append([token.type for token in tokens])
        parts.append({part.type for token in tokens for part in token.children or ()})
    assert kinds[0] == kinds[1] and parts[0] - {"text_special"} == parts[1]


def test_a_bundle_is_whole_or_absent(page, tiny_artifact, tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_artifact, broken)
    mel = bytearray((broken / "onnx/mel.onnx").read_bytes())
    mel[1000] ^= 1
    (broken / "onnx/mel.onnx").write_bytes(mel)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ArtifactError, match=r"mel\.onnx: expected sha256"):
        server_page.bundle(broken, tmp_path / "site")
    with pytest.raises(UsageError, match="precision int3: expected one of"):
        server_page.bundle(tiny_artifact, tmp_path / "site", ["int3"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(StorageError, match="MB of disk are needed"):
        server_page.bundle(tiny_artifact, tmp_path / "site")
    assert sorted(tmp_path.iterdir()) == before
    assert (
        hash_file(tiny_artifact / "onnx/mel.onnx").sha256
        == Manifest.read(tiny_artifact).files["onnx/mel.onnx"].sha256
    )


def test_nothing_is_copied_before_its_hash_was_compared(page, artifact, tmp_path, monkeypatch):
    """Not even into a folder that is removed again."""
    precisions = Manifest.read(artifact).precisions
    weights = artifact / next(iter(precisions.values())).decoder.data[-1]
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    copied = []
    monkeypatch.setattr(shutil, "copyfileobj", lambda *values: copied.append(values))
    with pytest.raises(ArtifactError, match=rf"{weights.name}: expected sha256"):
        server_page.bundle(artifact, tmp_path / "site")
    assert copied == []


def test_a_file_that_changes_before_it_is_copied_ends_the_bundle(page, artifact, tmp_path):
    def swap(name, done, total):
        mel = artifact / "onnx/mel.onnx"
        if name == "artifact/onnx/mel.onnx":
            mel.rename(tmp_path / "mel.onnx")
            shutil.copyfile(tmp_path / "mel.onnx", mel)

    with pytest.raises(ArtifactError, match=r"mel\.onnx: changed since it was checked"):
        server_page.bundle(artifact, tmp_path / "site", on_file=swap)
    assert not (tmp_path / "site").exists()


def test_pages_name_one_policy(page):
    """What runs comes from the page's own files, what is asked for goes to its own origin."""
    policies = {
        server_page.page_policy((page / name).read_bytes())
        for name in ("index.html", "minimal.html")
    }
    (policy,) = policies
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["base-uri"] == "'none'"
    assert rules["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert rules["connect-src"] == rules["style-src"] == rules["worker-src"] == "'self'"
    for name in ("index.html", "minimal.html"):
        text = (page / name).read_text("utf-8")
        assert not re.findall(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=", text)


def test_artifacts_of_other_sites_where_they_are_allowed(page, tiny_artifact, tmp_path):
    origins = ["https://example.org", "https://*.example.org", "http://127.0.0.1:8000"]
    site = server_page.bundle(tiny_artifact, tmp_path / "site", allowed_artifacts=origins)
    index = (site / "index.html").read_text("utf-8")
    assert f'<meta name="allowed-artifacts" content="{" ".join(origins)}" />' in index
    assert f"connect-src 'self' {' '.join(origins)}" in server_page.page_policy(index.encode())
    assert server_page.index_page() == (page / "index.html").read_bytes()


@pytest.mark.parametrize(
    "origin",
    [
        "example.org",
        "https://example.org/",
        "https://example.org/models",
        "https://name@example.org",
        "https://*",
        "*",
        "data:",
        "https://example.org; script-src *",
        'https://example.org" />',
        "javascript://example.org",
        "https://EXAMPLE.org",
        "http://[::1]:8000",
        "",
    ],
)
def test_what_is_no_origin_is_refused(page, tiny_artifact, tmp_path, origin):
    with pytest.raises(UsageError, match="expected the origin of artifacts"):
        server_page.bundle(tiny_artifact, tmp_path / "site", allowed_artifacts=[origin])
    assert not (tmp_path / "site").exists()
