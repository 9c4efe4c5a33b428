"""The page over HTTP and as a static site."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest
import uvicorn
from markdown_it import MarkdownIt

from voxtral_onnx.errors import ArtifactError, StorageError, UsageError
from voxtral_onnx.files import hash_file
from voxtral_onnx.manifest import CERTIFICATE, FILE_NAME, Manifest
from voxtral_onnx.server import app
from voxtral_onnx.server import page as server_page

FROM_VENDOR = {
    "VERSION": b"onnxruntime-web 0\n",
    "ort.webgpu.min.mjs": b"export {}\n",
    "ort.wasm": b"\0asm",
}


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The page with stand-ins for onnxruntime-web, which only browsers run."""
    folder = tmp_path / "page"
    shutil.copytree(
        server_page.PAGE, folder, ignore=shutil.ignore_patterns("node_modules", "vendor")
    )
    (folder / "vendor").mkdir()
    for name, content in FROM_VENDOR.items():
        (folder / "vendor" / name).write_bytes(content)
    monkeypatch.setattr(server_page, "PAGE", folder)
    return folder


@contextmanager
def running(app):
    listener = uvicorn.Config(app, port=0, log_level="error")
    process = uvicorn.Server(listener)
    thread = threading.Thread(target=process.run)
    thread.start()
    try:
        while not process.started:
            assert thread.is_alive()
        yield process.servers[0].sockets[0].getsockname()[1]
    finally:
        process.should_exit = True
        thread.join()


def get(port, path, method="GET", **headers):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


@pytest.fixture
def port(page, tiny_artifact):
    with running(app.create_app(tiny_artifact)) as port:
        yield port


def test_pages_are_isolated_and_typed(port, page):
    for path, kind in (
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/src/engine/engine.js", "text/javascript; charset=utf-8"),
        ("/vendor/ort.webgpu.min.mjs", "text/javascript; charset=utf-8"),
        ("/vendor/ort.wasm", "application/wasm"),
        ("/artifact/voxtral_onnx.json", "application/json"),
        ("/artifact/onnx/mel.onnx", "application/octet-stream"),
        ("/samples/command-hibari.wav", "audio/wav"),
    ):
        status, headers, content = get(port, path)
        assert (status, headers["content-type"]) == (200, kind)
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-embedder-policy"] == "require-corp"
        assert int(headers["content-length"]) == len(content)
    assert get(port, "/")[2] == (page / "index.html").read_bytes()


def test_ranges(port, tiny_artifact):
    name = "onnx/mel.onnx"
    whole = (tiny_artifact / name).read_bytes()
    status, headers, content = get(port, f"/artifact/{name}", Range="bytes=1000-1999")
    assert (status, content) == (206, whole[1000:2000])
    assert headers["content-range"] == f"bytes 1000-1999/{len(whole)}"
    assert get(port, f"/artifact/{name}", Range=f"bytes={len(whole) - 5}-")[2] == whole[-5:]
    assert get(port, f"/artifact/{name}", Range=f"bytes={len(whole)}-")[0] == 416
    status, headers, content = get(port, f"/artifact/{name}", "HEAD")
    assert (status, int(headers["content-length"]), content) == (200, len(whole), b"")


@pytest.mark.parametrize("below", ["", "artifact/"])
@pytest.mark.parametrize(
    "path",
    [
        "../server.py",
        "%2e%2e/server.py",
        "server.py",
        "onnx",
        "/etc/passwd",
        "unfinished.json",
        "src/",
        "onnx/%00",
    ],
)
def test_only_named_files_are_served(port, below, path):
    assert get(port, f"/{below}{path}")[0] == 404


def test_the_manifest_names_what_is_served(port, tiny_artifact):
    manifest = json.loads(get(port, f"/artifact/{FILE_NAME}")[2])
    assert set(manifest["precisions"]) == {"q4f16", "q4"} & set(
        Manifest.read(tiny_artifact).precisions
    )
    for name, expected in manifest["files"].items():
        status, _, content = get(port, f"/artifact/{name}")
        assert (status, hashlib.sha256(content).hexdigest()) == (200, expected["sha256"])


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
    with running(app.create_app(certified)) as port:
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
    with running(app.create_app(certified)) as port:
        assert get(port, f"/artifact/{CERTIFICATE[0]}")[0] == 404


def test_a_bundle_has_the_certificate_too(page, certified, tmp_path):
    output = server_page.bundle(certified, tmp_path / "site")
    certificate = json.loads((output / "artifact" / CERTIFICATE[0]).read_bytes())
    assert certificate["manifest_sha256"] == hash_file(output / "artifact" / FILE_NAME).sha256


def test_without_onnxruntime_web(tiny_artifact, tmp_path, monkeypatch):
    monkeypatch.setattr(server_page, "PAGE", tmp_path)
    with pytest.raises(ArtifactError, match="run: make web"):
        app.create_app(tiny_artifact)


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
        if path.suffix in (".html", ".css", ".js")
    }
    own -= {name for name in own if name.startswith("test/")} | {"vendor.mjs"}
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
    with pytest.raises(ArtifactError, match=r"mel\.onnx: differs from its sha256"):
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


COMMAND = """
import sys
from dataclasses import replace
from pathlib import Path
from voxtral_onnx.server import page
page.PAGE = Path(sys.argv.pop(1))
from voxtral_onnx.cli import main
main()
"""


@pytest.mark.parametrize("https", [False, True])
def test_command(page, tiny_artifact, tmp_path, https):
    """As a user starts and stops it; the certificate is kept for the next time."""
    options = ["--port", "0", "--no-open", "--precision", "q4", *(["--https"] if https else [])]
    command = [sys.executable, "-c", COMMAND, page, "serve", tiny_artifact, *options]
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "data")}
    certificates = []
    for _ in range(1 + https):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as run:
            assert run.stdout and run.stderr
            address = run.stdout.readline()
            found = re.fullmatch(r"(https?)://127\.0\.0\.1:(\d+)/\n", address)
            assert found and found[1] == ("https" if https else "http"), address + run.stderr.read()
            if https:
                pem = tmp_path / "data" / "voxtral-onnx" / "https" / "certificate.pem"
                context = ssl.create_default_context(cafile=str(pem))
                connection = http.client.HTTPSConnection(
                    "127.0.0.1", int(found[2]), context=context, timeout=30
                )
                assert (pem.parent / "key.pem").stat().st_mode & 0o077 == 0
                certificates.append(pem.read_bytes())
            else:
                connection = http.client.HTTPConnection("127.0.0.1", int(found[2]), timeout=30)
            connection.request("GET", "/")
            assert connection.getresponse().read() == (page / "index.html").read_bytes()
            connection.request("GET", f"/artifact/{FILE_NAME}")
            assert list(json.loads(connection.getresponse().read())["precisions"]) == ["q4"]
            connection.close()
            run.send_signal(signal.SIGINT)
            assert run.wait(30) in (0, 130)
            assert "Traceback" not in run.stderr.read()
    assert len(set(certificates)) == https


def test_an_address_in_use(page, tiny_artifact):
    with (
        running(app.create_app(tiny_artifact)) as port,
        pytest.raises(UsageError, match="choose another --port"),
    ):
        app.serve(tiny_artifact, port=port)
