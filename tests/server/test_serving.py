"""The command as a process: how it ends, and what it says of itself."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import openai
import pytest
from support.commands import CLIP, SAMPLES, TEXT, TEXTS
from support.servers import COMMAND, TIMEOUT, serving, until

from voxtral_onnx.cli import serving as announcing
from voxtral_onnx.errors import DeviceError
from voxtral_onnx.runtime.engine.loop import EngineLoop
from voxtral_onnx.server import serving as process
from voxtral_onnx.server.app import build_app

EXAMPLE = Path(__file__).parents[2] / "examples" / "live_client.py"
API = ("--api-only", "--precision", "fp32", "--device", "cpu", "--slots", "4")


def client_of(port: int) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)


def test_recordings_end_before_it_does(tiny_artifact, minute_recording, tmp_path):
    """At SIGTERM it takes no more, and nothing of those it has is lost."""
    options = {"api": True, "ends": False}
    with (
        serving(
            tmp_path, tiny_artifact, tmp_path, *API, "--model-name", "mine", **options
        ) as server,
        client_of(server.port) as client,
    ):
        assert [model.id for model in client.models.list()] == ["mine"]
        made = {"file": minute_recording, "model": "mine", "stream": True}
        with client.audio.transcriptions.create(**made) as events:
            assert next(events).delta
            server.process.send_signal(signal.SIGTERM)
            ready = f"http://127.0.0.1:{server.port}/ready"
            until(lambda: httpx.get(ready).status_code == 503)
            with pytest.raises(openai.InternalServerError, match="about to end"):
                client.audio.transcriptions.create(file=CLIP, model="mine")
            *_, done = events
        assert done.type == "transcript.text.done" and done.usage.seconds > 50
        assert server.process.wait(TIMEOUT) == 143
        assert "Traceback" not in server.said.read_text()


@pytest.mark.parametrize("drain", ["0", "30"])
def test_recordings_that_take_too_long(tiny_artifact, long_recording, tmp_path, drain):
    """After `--drain`, or at a second Ctrl-C, they end with an error."""
    options = {"api": True, "ends": False}
    with (
        serving(tmp_path, tiny_artifact, tmp_path, *API, "--drain", drain, **options) as server,
        client_of(server.port) as client,
    ):
        made = {"file": long_recording, "model": "whisper-1", "stream": True}
        with client.audio.transcriptions.create(**made) as events:
            assert next(events).delta
            server.process.send_signal(signal.SIGINT)
            if drain == "30":
                until(lambda: httpx.get(f"http://127.0.0.1:{server.port}/ready").is_error)
                server.process.send_signal(signal.SIGINT)
            with pytest.raises(openai.APIError):
                list(events)
        assert server.process.wait(TIMEOUT) == 130
        said = server.said.read_text()
    assert "that are ended with an error: 1" in said and "Traceback" not in said


def test_a_client_goes_on_with_another_server(tiny_artifact, tmp_path):
    """The example's: it is told to move, finds nobody at first, and gets all of its text."""
    clip = SAMPLES / "date-hibari.wav"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    options = {"api": True, "ends": False}
    with serving(tmp_path, tiny_artifact, tmp_path, *API, **options) as first:
        url = f"ws://127.0.0.1:{first.port}/v1/realtime"
        client = subprocess.Popen([sys.executable, EXAMPLE, url, str(clip)], **pipes)
        assert client.stderr and client.stderr.read(4)  # its first words
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(TIMEOUT) == 143
    port = ("--port", str(first.port))
    with client, serving(tmp_path, tiny_artifact, tmp_path, *API, *port, api=True):
        out, err = client.communicate(timeout=2 * TIMEOUT)
    assert "connecting anew: code 1012" in err
    assert out == TEXTS[clip.name] + "\n"


def test_an_engine_that_dies_ends_it(new_api, monkeypatch):
    """With an error, so that a supervisor starts it anew."""
    engines, ended = new_api().engines, list[Exception]()

    def serve():
        try:
            process.serve(build_app(engines), process.listen("127.0.0.1", 0), engines=engines)
        except DeviceError as error:
            ended.append(error)

    thread = threading.Thread(target=serve)
    thread.start()

    def dying(loop):
        raise MemoryError("no memory")

    monkeypatch.setattr(EngineLoop, "_settle", dying)
    with pytest.raises(MemoryError):
        list(engines.engines[0].transcribe_many([CLIP]))
    thread.join(TIMEOUT)
    assert [str(error) for error in ended] == [
        "cpu: the engine has failed: no memory; start serve again"
    ]


def test_page_and_api_at_once(page_folder, tiny_artifact, tmp_path):
    """As the command is used without options."""
    with (
        serving(page_folder, tiny_artifact, tmp_path, api=True) as server,
        client_of(server.port) as api,
    ):
        assert httpx.get(f"http://127.0.0.1:{server.port}/").text.startswith("<!doctype html>")
        assert api.audio.transcriptions.create(file=CLIP, model="whisper-1").text == TEXT
        assert f"API: http://127.0.0.1:{server.port}/v1 with model tiny" in server.said.read_text()


@pytest.mark.parametrize(
    "named, code", [((), None), (("--api-only",), 7), (("--device", "cpu"), 7)]
)
def test_without_onnxruntime(page_folder, tiny_artifact, tmp_path, named, code):
    """The page alone is served, and that is said; where an API was asked for, it is an error."""
    without = "import sys; sys.modules['onnxruntime'] = None\n" + COMMAND
    command = [sys.executable, "-c", without, page_folder, "serve", tiny_artifact]
    command += ["--port", "0", "--no-open", *named]
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as served:
        try:
            assert served.stdout and served.stderr
            if code:
                assert served.wait(TIMEOUT) == code
                assert "onnxruntime" in served.stderr.read()
                return
            address = served.stdout.readline().strip()
            assert httpx.get(address).status_code == 200
            assert httpx.get(f"{address}ready").status_code == 503
        finally:
            served.kill()
        assert "the page alone is served" in served.stderr.read()


@pytest.mark.parametrize(
    "named, says",
    [
        (("--page-only", "--api-only"), "--page-only and --api-only"),
        (("--api-only", "--port", "0", "--device", "cpu,cpu"), "--device: cpu is named twice"),
        (("--api-only", "--port", "0", "--tick", "100"), "expected 80 or 160 ms, got 100"),
    ],
)
def test_options_that_cannot_be(run, tiny_artifact, named, says):
    run("serve", tiny_artifact, *named).assert_refused(2, says)


@pytest.mark.parametrize("https", [False, True])
def test_addresses_for_phones(https):
    own, *others = announcing.addresses("0.0.0.0", 8000, https)
    scheme = "https" if https else "http"
    assert own == f"{scheme}://{socket.gethostname()}:8000/"
    for each in others:
        assert each.startswith(f"{scheme}://") and "127." not in each and "0.0.0.0" not in each
    assert announcing.addresses("::1", 1, False) == ["http://[::1]:1/"]
    assert announcing.addresses("127.0.0.1", 1, False) == ["http://127.0.0.1:1/"]


def test_only_a_page_is_for_phones(capsys):
    shown = {"https": False, "model": "tiny", "opens": False}
    announcing.announce("0.0.0.0", 8000, page=True, **shown)
    assert "add --https" in capsys.readouterr().err
    announcing.announce("0.0.0.0", 8000, page=False, **shown)
    said = capsys.readouterr()
    assert "--https" not in said.err and said.out == f"http://{socket.gethostname()}:8000/\n"


def test_a_qr_code_fits_a_terminal():
    drawn = announcing.qr_code("https://192.168.100.200:65535/")
    lines = drawn.splitlines()
    assert 10 < len(lines) < 24
    assert "\x1b" in drawn or "█" in drawn


@pytest.mark.parametrize(
    "parts, name",
    [
        ("voxtral-mini-4b-realtime-2602-onnx", "voxtral-mini-4b-realtime-2602"),
        ("models--org--some-model-onnx/snapshots/0123", "some-model"),
        ("mine", "mine"),
    ],
)
def test_the_name_of_a_model(tmp_path, parts, name):
    (tmp_path / parts).mkdir(parents=True)
    assert announcing.name_of(tmp_path / parts) == name
