"""The page and an artifact over HTTP."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from support.servers import COMMAND, get, page_app, running, send_raw, serving

from voxtral_onnx.errors import ArtifactError, UsageError
from voxtral_onnx.files import hash_file
from voxtral_onnx.manifest import FILE_NAME, Manifest
from voxtral_onnx.server.page import files as server_page
from voxtral_onnx.server.serving import listen


def test_pages_are_isolated_and_typed(port, page):
    for path, kind in (
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/src/client/index.js", "text/javascript; charset=utf-8"),
        ("/src/engine/graphs/copy_float16.onnx", "application/octet-stream"),
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


def test_without_onnxruntime_web(tiny_artifact, tmp_path, monkeypatch):
    monkeypatch.setattr(server_page, "PAGE", tmp_path)
    with pytest.raises(ArtifactError, match="run: make web"):
        page_app(tiny_artifact)


@pytest.mark.parametrize("target", ["/etc/passwd", "SECRET", "//SECRET"])
@pytest.mark.parametrize("below", ["/", "/artifact/", "/artifact/onnx/../../", "/artifact/\\"])
@pytest.mark.parametrize(
    "quote", [str, lambda path: "".join(f"%{byte:02x}" for byte in path.encode())]
)
def test_no_path_leads_out(port, tmp_path, below, target, quote):
    """Clients that do not tidy paths up: absolute, climbing, percent-encoded, with backslashes."""
    secret = tmp_path / "secret.pem"
    secret.write_text("a key of somebody's")
    path = f"{below}{target.replace('SECRET', str(secret))}"
    for climb in ("", "../" * 12, "..\\" * 12):
        line = (
            f"GET /{quote(climb + path)} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        answer = send_raw(port, line.encode())
        assert answer.startswith(b"HTTP/1.1 404 "), answer[:200]
        assert b"a key of" not in answer and b"root:" not in answer


@pytest.mark.parametrize(
    "name", ["../secret.pem", "SECRET", "onnx/../../secret.pem", "a:b", "a\\b"]
)
def test_a_manifest_names_no_file_elsewhere(page, artifact, tmp_path, name):
    """A stranger's manifest, with the right size and hash of a file of the user's."""
    secret = artifact.parent / "secret.pem"
    secret.write_text("a key of somebody's")
    rename(artifact, "onnx/mel.onnx", name.replace("SECRET", str(secret)), secret)
    with pytest.raises(ArtifactError):
        page_app(artifact)
    with pytest.raises(ArtifactError):
        server_page.bundle(artifact, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_links_in_an_artifact_lead_nowhere_else(page, artifact, tmp_path):
    secret = tmp_path / "secret.pem"
    secret.write_text("a key of somebody's")
    (artifact / "tekken.json").unlink()
    (artifact / "tekken.json").symlink_to(secret)
    rename(artifact, "tekken.json", "tekken.json", secret)
    with pytest.raises(ArtifactError, match=r"tekken\.json"):
        page_app(artifact)


def test_a_snapshot_of_the_hub_is_served(page, tiny_artifact, tmp_path):
    """Its files are links to blobs beside the snapshots."""
    home = tmp_path / "models--org--name"
    snapshot = home / "snapshots" / "0123"
    for path in filter(Path.is_file, tiny_artifact.rglob("*")):
        blob = home / "blobs" / hash_file(path).sha256
        link = snapshot / path.relative_to(tiny_artifact)
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    with running(page_app(snapshot)) as port:
        assert get(port, "/artifact/tekken.json")[0] == 200


def rename(folder, old, new, content):
    """Give a file in a manifest another name, and the size and hash of `content`."""
    text = (folder / FILE_NAME).read_text("utf-8")
    values = json.loads(text.replace(json.dumps(old), json.dumps(new)))
    values["files"].pop(old, None)
    values["files"][new] = asdict(hash_file(content))
    (folder / FILE_NAME).write_text(json.dumps(values))


def test_hashes_are_compared_before_anything_is_served(page, artifact):
    mel = bytearray((artifact / "onnx/mel.onnx").read_bytes())
    mel[1000] ^= 1
    (artifact / "onnx/mel.onnx").write_bytes(mel)
    with pytest.raises(ArtifactError, match=r"mel\.onnx: expected sha256"):
        page_app(artifact)


@pytest.mark.parametrize("change", ["bytes", "place", "link", "gone"])
def test_what_changes_later_is_not_served(page, artifact, tmp_path, change, caplog):
    mel, aside = artifact / "onnx/mel.onnx", tmp_path / "aside"
    with running(page_app(artifact)) as port:
        whole = get(port, "/artifact/onnx/mel.onnx")[2]
        if change == "bytes":
            mel.write_bytes(bytes(len(whole)))
        else:
            mel.rename(aside)
        if change == "place":
            shutil.copyfile(aside, mel)
        if change == "link":
            shutil.copy(aside, tmp_path / "copy")
            mel.symlink_to(tmp_path / "copy")
        status, _, content = get(port, "/artifact/onnx/mel.onnx")
        assert status == 410
        assert content == b"artifact/onnx/mel.onnx: changed since serve was started; start it again"
        assert get(port, "/artifact/tekken.json")[0] == 200
    assert "mel.onnx: changed since it was checked" in caplog.text


def test_the_page_runs_and_asks_nothing_of_others(port, page):
    policy = get(port, "/")[1]["content-security-policy"]
    own = server_page.page_policy((page / "index.html").read_bytes())
    assert policy == f"{own}; frame-ancestors 'none'"
    for path in ("/src/engine/worker.js", "/artifact/onnx/mel.onnx", "/nothing"):
        headers = get(port, path)[1]
        assert headers["content-security-policy"] == policy
        assert headers["x-content-type-options"] == "nosniff"


def test_allowed_artifacts_are_in_the_page_and_in_the_header(page, tiny_artifact):
    served = page_app(tiny_artifact, allowed_artifacts=["https://example.org"])
    with running(served) as port:
        _, headers, content = get(port, "/")
    assert b'name="allowed-artifacts" content="https://example.org"' in content
    assert "connect-src 'self' https://example.org;" in headers["content-security-policy"]


@pytest.mark.parametrize("https", [False, True])
def test_command(page, tiny_artifact, tmp_path, https):
    """As a user starts and stops it; the certificate is kept for the next time."""
    options = ["--precision", "q4", *(["--https"] if https else [])]
    certificates = []
    for _ in range(1 + https):
        with serving(page, tiny_artifact, tmp_path, *options) as server:
            assert server.scheme == ("https" if https else "http")
            if https:
                pem = tmp_path / "data" / "voxtral-onnx" / "https" / "certificate.pem"
                context = ssl.create_default_context(cafile=str(pem))
                connection = http.client.HTTPSConnection(
                    "127.0.0.1", server.port, context=context, timeout=30
                )
                assert (pem.parent / "key.pem").stat().st_mode & 0o077 == 0
                certificates.append(pem.read_bytes())
            else:
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            connection.request("GET", "/")
            assert connection.getresponse().read() == (page / "index.html").read_bytes()
            connection.request("GET", f"/artifact/{FILE_NAME}")
            assert list(json.loads(connection.getresponse().read())["precisions"]) == ["q4"]
            connection.close()
    assert len(set(certificates)) == https


@pytest.mark.parametrize(
    "target",
    [
        "&-",
        pytest.param(
            "/dev/full",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here"),
        ),
    ],
)
def test_the_address_is_said_where_stdout_takes_nothing(page, tiny_artifact, target):
    """Standard output is closed, or full."""
    command = ["sh", "-c", f'exec "$@" >{target}', "sh", sys.executable, "-c", COMMAND, page]
    command += [
        "serve",
        tiny_artifact,
        "--page-only",
        "--precision",
        "q4",
        "--port",
        "0",
        "--no-open",
    ]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            said = [process.stderr.readline()]
            while said[-1] and not said[-1].startswith("http://"):
                said.append(process.stderr.readline())
            found = re.search(r":(\d+)/$", said[-1])
            assert found, said
            assert get(int(found[1]), "/")[0] == 200
        finally:
            process.kill()


def test_an_address_in_use(page, tiny_artifact):
    with (
        running(page_app(tiny_artifact)) as port,
        pytest.raises(UsageError, match="choose another --port"),
    ):
        listen("127.0.0.1", port)
