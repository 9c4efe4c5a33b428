"""The wheel in an empty environment: what a user gets."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "assets" / "tiny" / "samples"
TEXT = "thursday the seventeenth of november nineteen forty one\n"  # of date-hibari.wav
MAX_WHEEL = 60_000_000
OLDEST = (
    "onnxruntime==1.30.0",
    "numpy==1.26.4",
    "typer==0.26.0",
    "rich==13.8.0",
    "soundfile==0.13.0",
    "soxr==0.5.0",
)
OLDEST_OF_SERVE = (
    "cryptography==48.0.1",
    "fastapi==0.133.0",
    "h11==0.16.0",
    "prometheus-client==0.23.1",
    "python-multipart==0.0.27",
    "segno==1.6.0",
    "starlette==1.3.1",
    "uvicorn==0.35.0",
    "websockets==13.0",
    "wyoming==1.10.0",
)
# Speaks a clip to a server, whose address is given, with whatever version of websockets there is
SPEAK = """
import base64, json, sys, wave
from websockets.sync.client import connect
sound = wave.open(sys.argv[2]).readframes(1 << 30)
with connect(sys.argv[1].replace("http", "ws", 1) + "v1/realtime") as socket:
    def send(kind, **fields):
        socket.send(json.dumps({"type": kind, **fields}))
    send("session.update", model="tiny")
    for at in range(0, len(sound), 3200):
        audio = base64.b64encode(sound[at : at + 3200]).decode()
        send("input_audio_buffer.append", audio=audio)
    send("input_audio_buffer.commit", final=True)
    while (event := json.loads(socket.recv(60)))["type"] != "transcription.done":
        assert event["type"] != "error", event
print(event["text"].strip())
"""


@pytest.fixture(scope="module")
def wheel(shared_folder):
    folder = shared_folder / "dist"
    with FileLock(shared_folder / "dist.lock"):  # it is built in the source tree
        if not folder.exists():
            subprocess.run(
                ["make", "wheel", f"DIST={folder}"], cwd=ROOT, check=True, capture_output=True
            )
    (path,) = folder.glob("*.whl")
    return path


def test_contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {
            name.removeprefix("voxtral_onnx/")
            for name in archive.namelist()
            if ".dist-info/" not in name
        }
        info = [name for name in archive.namelist() if ".dist-info/" in name]
    sources = {
        str(path.relative_to(ROOT))
        for pattern in (
            "*.py",
            "cli/*.py",
            "exporter/**/*.py",
            "quant/**/*.py",
            "runtime/**/*.py",
            "verification/**/*.py",
            "cluster/**/*.py",
            "server/**/*.py",
            "publish/*.py",
            "exporter/graph/ready/*/*",
            "quant/recipes/*.toml",
            "runtime/device/graphs/*.onnx",
            "verification/*.html",
            "verification/*.toml",
            "web/*.html",
            "web/*.css",
            "web/sw.js",
            "web/src/*/*.js",
            "web/src/*/graphs/*.onnx",
            "web/vendor/*",
        )
        for path in ROOT.glob(pattern)
        if "__pycache__" not in path.parts
    }
    tiny = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "assets" / "tiny").rglob("*")
        if path.is_file()
    }
    manifest = json.loads((ROOT / "assets" / "tiny-onnx" / "voxtral_onnx.json").read_text())
    files = ("voxtral_onnx.json", "certificate.json", "certificate.html", *manifest["files"])
    artifact = {f"assets/tiny-onnx/{name}" for name in files}
    assert set(manifest["precisions"]) == {"q4f16", "q4"}
    assert names == sources | tiny | artifact | {"py.typed"}
    assert any(name.endswith("LICENSE") for name in info) and any(
        name.endswith("NOTICE.txt") for name in info
    )
    assert wheel.stat().st_size <= MAX_WHEEL


@pytest.mark.parametrize("versions", [(), OLDEST], ids=["newest", "oldest"])
def test_transcribes_without_torch(wheel, tmp_path, versions):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run(
        [python, "-m", "pip", "install", "-q", f"voxtral-onnx[cpu] @ {wheel.as_uri()}", *versions],
        check=True,
    )
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }
    command = [
        python.parent / "voxtral-onnx",
        "transcribe",
        "--model",
        "tiny",
        SAMPLES / "date-hibari.wav",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == TEXT
    assert "not a dictation model" in done.stderr
    for words in (["inspect", "tiny"], ["doctor", "tiny"]):
        told = subprocess.run(
            [python.parent / "voxtral-onnx", *words],
            cwd=tmp_path,
            env={**environment, "XDG_STATE_HOME": str(tmp_path), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert {
            "inspect": "certificate: its publisher, voxtral-onnx, says: verified on 20",
            "doctor": "sure tokens of command-hibari.wav",
        }[words[0]] in told
    listed = subprocess.run(
        [python, "-m", "pip", "list"], capture_output=True, text=True, check=True
    ).stdout
    assert "torch" not in listed and "\nonnx " not in listed
    refused = subprocess.run(
        [python.parent / "voxtral-onnx", "export", "tiny"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 7 and "pip install" in refused.stderr and not refused.stdout


@pytest.mark.parametrize("versions", [(), OLDEST_OF_SERVE], ids=["newest", "oldest"])
def test_serves(wheel, tmp_path, versions):
    """The API answers recordings and live speech, with whichever packages there are."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    package = f"voxtral-onnx[cpu,serve] @ {wheel.as_uri()}"
    subprocess.run([python, "-m", "pip", "install", "-q", package, *versions], check=True)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }
    clip = SAMPLES / "date-hibari.wav"
    command = [python.parent / "voxtral-onnx", "serve", "tiny", "--api-only", "--port", "0"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout
            address = server.stdout.readline().strip()
            spoken = subprocess.run(
                [python, "-c", SPEAK, address, clip],
                capture_output=True,
                text=True,
                env=environment,
            )
            assert spoken.stdout == TEXT, spoken.stderr
            answer = httpx.post(
                f"{address}v1/audio/transcriptions",
                files={"file": clip.read_bytes()},
                data={"response_format": "text"},
                timeout=60,
            )
            assert answer.text == TEXT
        finally:
            server.terminate()


def test_exports_and_verifies_without_torch(wheel, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    package = f"voxtral-onnx[cpu,export] @ {wheel.as_uri()}"
    subprocess.run([python, "-m", "pip", "install", "-q", package], check=True)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "COLUMNS": "200",
    }

    def run(*words, code=0):
        command = [python.parent / "voxtral-onnx", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        return done

    # Export in every precision for both kinds of hosts, and compare with the packaged artifact
    precisions = "q4f16,q4,q8,fp16,fp32"
    run("export", "tiny", "--precision", precisions, "--family", "native,transformers_js")
    for name in ("onnx/encoder_q4f16.onnx", "onnx/decoder_model_merged_q4f16.onnx_data"):
        made = tmp_path / "tiny-onnx" / name
        assert made.read_bytes() == (ROOT / "assets" / "tiny-onnx" / name).read_bytes()
    heard = run("transcribe", SAMPLES / "date-hibari.wav").stdout
    assert heard == TEXT

    # Quantise, compare, verify what can be
    run("quantize", "tiny-onnx", "-o", "small", "--recipe", "small")
    run("diff", "tiny-onnx", "small", code=8)
    told = run("verify", "tiny-onnx", "--checkpoint", "tiny", "--precision", "q4", "--json")
    certificate = json.loads(told.stdout)
    status = {row["check"]: row["status"] for row in certificate["findings"]}
    assert status["weights against the checkpoint"] == "passed"
    assert status["a stream in pieces"] == "passed"
    assert status["operators on cpu"] == status["graphs against modules"] == "not run"

    # A trace is refused, and PyTorch is not there
    refused = run("export", "tiny", "-o", "portable", "--family", "portable", code=7)
    assert (
        "portable_encoder_q4f16.onnx" in refused.stderr and "[cpu,export,trace]" in refused.stderr
    )
    assert not (tmp_path / "portable").exists()
    packages = subprocess.run(
        [python, "-m", "pip", "list"], capture_output=True, text=True, check=True
    ).stdout
    assert "torch" not in packages and "onnxscript" not in packages and "onnx-ir" in packages
