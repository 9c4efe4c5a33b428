"""OpenAI's REST API: its own client, and clients that leave, lie or send what is no sound."""

from __future__ import annotations

import asyncio
import io
import json
import math
import re
import shlex
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import schemathesis
import soundfile
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mistralai.client import Mistral
from mistralai.client.errors import SDKError
from mistralai.client.models import File
from schemathesis.specs.openapi.checks import positive_data_acceptance
from support.commands import CLIP, SAMPLES, TEXT, TEXTS
from support.servers import TIMEOUT, until

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime.text.captions import render
from voxtral_onnx.server.names import ALIASES
from voxtral_onnx.server.rest import transcriptions
from voxtral_onnx.server.rest.form import REFUSED, Fields
from voxtral_onnx.server.rest.transcriptions import WARNINGS

SHORT = [name for name in TEXTS if not name.startswith("long")]


@pytest.fixture(scope="module")
def client(api):
    with api.client as client:
        yield client


@pytest.fixture(scope="module")
def transcriber(tiny_artifact):
    with Transcriber(tiny_artifact, device="cpu", precision="fp32") as found:
        yield found


def post(api, content=None, *, name="clip.wav", **fields) -> httpx.Response:
    """Send a form as httpx does, with a file unless there is none."""
    files = None if content is None else {"file": (name, content)}
    address = f"{api.address}/v1/audio/transcriptions"
    return httpx.post(address, files=files, data=fields, timeout=TIMEOUT)


def error_of(answer: httpx.Response) -> dict:
    """Return the error of an answer, whose shape is OpenAI's."""
    assert answer.headers["content-type"] == "application/json"
    (error,) = answer.json().values()
    assert error.keys() == {"message", "type", "param", "code"}
    kind = "server_error" if answer.status_code >= 500 else "invalid_request_error"
    assert error["type"] == kind
    assert "/tmp" not in error["message"] and "voxtral-onnx-" not in error["message"]
    return error


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_those_of_python(client, name):
    answer = client.audio.transcriptions.create(file=SAMPLES / name, model="whisper-1")
    assert answer.text == TEXTS[name]
    assert answer.usage.type == "duration"
    assert answer.usage.seconds == round(soundfile.info(SAMPLES / name).duration, 3)


@pytest.mark.parametrize("name", [CLIP.name, "long-mixed.wav"])
def test_text_is_streamed(client, name):
    with client.audio.transcriptions.create(
        file=SAMPLES / name, model="gpt-4o-transcribe", stream=True
    ) as events:
        *deltas, done = events
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert len(deltas) > 5
    assert "".join(event.delta for event in deltas) == TEXTS[name]
    assert (done.type, done.text) == ("transcript.text.done", TEXTS[name])
    assert done.usage.type == "duration"


def test_several_at_once(api):
    """They share the engine, whose slots are fewer than they are."""

    async def text(client, name, stream):
        made = client.audio.transcriptions.create(file=SAMPLES / name, model="tiny", stream=stream)
        answer = await made
        if not stream:
            return answer.text
        return "".join([e.delta async for e in answer if e.type == "transcript.text.delta"])

    async def texts():
        async with openai.AsyncOpenAI(base_url=f"{api.address}/v1", api_key="none") as client:
            return await asyncio.gather(
                *(text(client, name, stream) for name in SHORT for stream in (False, True))
            )

    assert asyncio.run(texts()) == [TEXTS[name] for name in SHORT for _ in range(2)]


@pytest.mark.parametrize("kind, own", [("text", "txt"), ("srt", "srt"), ("vtt", "vtt")])
def test_formats_of_text(client, transcriber, kind, own):
    found = client.audio.transcriptions.create(file=CLIP, model="tiny", response_format=kind)
    assert found == render(transcriber.transcribe(CLIP), own)


def test_times(client, transcriber):
    """Words begin where the one before ends, at most 0.8 s before their own end."""
    segments = transcriber.transcribe(SAMPLES / "long-mixed.wav").segments
    found = client.audio.transcriptions.create(
        file=SAMPLES / "long-mixed.wav",
        model="tiny",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert found.text == TEXTS["long-mixed.wav"] and found.duration == pytest.approx(26.914)
    assert [word.word for word in found.words] == [each.text.strip() for each in segments]
    for word, segment in zip(found.words, segments, strict=True):
        assert (word.start, word.end) == pytest.approx((segment.start, segment.end), abs=2e-3)
    assert "".join(each.text for each in found.segments).strip() == found.text
    ids = [token for each in found.segments for token in each.tokens]
    assert ids == [token for each in segments for token in each.token_ids]
    assert all(each.no_speech_prob is None for each in found.segments)
    for before, after in zip(found.segments, found.segments[1:], strict=False):
        assert before.start < before.end <= after.start


@pytest.mark.parametrize("granularities", [None, ["segment"], ["word"]])
def test_mistral_s_package(api, granularities):
    with Mistral(api_key="none", server_url=api.address) as mistral:
        found = mistral.audio.transcriptions.complete(
            model="voxtral-mini-latest" if granularities is None else "tiny",
            file=File(file_name="a.wav", content=CLIP.read_bytes()),
            context_bias=["tuesday"],
            timestamp_granularities=granularities,
        )
    assert found.text == TEXT and found.language is None
    assert found.usage.prompt_audio_seconds == math.ceil(soundfile.info(CLIP).duration)
    segments = found.segments or []
    assert " ".join(each.text.strip() for each in segments) == (TEXT if granularities else "")
    expected = {"segment": 1, "word": len(TEXT.split())}
    assert len(segments) == (expected[granularities[0]] if granularities else 0)


def test_mistral_s_package_cannot_have_speakers_or_a_stream(api):
    with Mistral(api_key="none", server_url=api.address) as mistral:
        file = File(file_name="a.wav", content=CLIP.read_bytes())
        with pytest.raises(SDKError, match="does not tell speakers apart"):
            mistral.audio.transcriptions.complete(model="tiny", file=file, diarize=True)
        with pytest.raises(SDKError, match="/v1/audio/transcriptions/realtime"):
            mistral.audio.transcriptions.stream(model="tiny", file=file)


@pytest.mark.parametrize("asked, kept", [(None, "segments"), ("word", "words")])
def test_times_that_are_asked_for(api, asked, kept):
    fields = {"timestamp_granularities[]": asked} if asked else {}
    found = post(api, CLIP.read_bytes(), response_format="verbose_json", **fields).json()
    assert {"segments", "words"} & found.keys() == {kept}


def test_probabilities(client, transcriber):
    tokens = []
    _ = transcriber.transcribe(CLIP, on_token=tokens.append).text
    expected = [(token.text, token.logprob) for token in tokens if token.text]
    options = {"file": CLIP, "model": "tiny", "include": ["logprobs"]}
    whole = client.audio.transcriptions.create(**options)
    with client.audio.transcriptions.create(**options, stream=True) as events:
        *deltas, done = events
    streamed = [each for delta in deltas for each in delta.logprobs]
    for found in (whole.logprobs, streamed, done.logprobs):
        assert [each.token for each in found] == [text for text, _ in expected]
        logprobs = [logprob for _, logprob in expected]
        assert [each.logprob for each in found] == pytest.approx(logprobs, abs=1e-3)
        assert bytes(int(byte) for each in found for byte in each.bytes).decode().strip() == TEXT


def test_keywords(client, transcriber, tiny_artifact):
    """Of a recording in noise, where they weigh more than what is heard."""
    samples, rate = soundfile.read(SAMPLES / "time-flite.wav", dtype="float32")
    samples += 0.1 * np.random.default_rng(6).standard_normal(len(samples)).astype("float32")
    content, words = io.BytesIO(), ["seven five"]
    soundfile.write(content, samples, rate, format="WAV", subtype="FLOAT")
    with Transcriber(tiny_artifact, precision="fp32", device="cpu", hotwords=words) as own:
        expected = own.transcribe(content.getvalue()).text
    assert expected != transcriber.transcribe(content.getvalue()).text
    found = client.audio.transcriptions.create(
        file=content.getvalue(), model="tiny", extra_body={"keywords": words}
    )
    assert found.text == expected


def test_channels(client, transcriber):
    """A call: each side on a channel of its own."""
    sides = [soundfile.read(SAMPLES / name, dtype="float32") for name in SHORT[:2]]
    count = max(len(samples) for samples, _ in sides)
    both = np.stack([np.pad(samples, (0, count - len(samples))) for samples, _ in sides], 1)
    content = io.BytesIO()
    soundfile.write(content, both, sides[0][1], format="WAV")
    expected = transcriber.transcribe(content.getvalue(), channels="split")
    options = {"model": "tiny", "extra_body": {"channels": "split"}}
    found = client.audio.transcriptions.create(
        file=content.getvalue(), response_format="verbose_json", **options
    )
    assert found.text == expected.text and found.text.startswith(("left: ", "right: "))
    assert {segment.channel for segment in found.segments} == {0, 1}


@pytest.mark.parametrize(
    "fields, param, says",
    [
        ({"prompt": "Names: Ada"}, "prompt", "`keywords[]`"),
        ({"response_format": "diarized_json"}, "response_format", "tell speakers apart"),
        ({"response_format": "lrc"}, "response_format", "json, text, srt, vtt, verbose_json, got"),
        ({"temperature": "0.7"}, "temperature", "expected 0"),
        ({"temperature": "nan"}, "temperature", "expected 0"),
        ({"stream": "perhaps"}, "stream", "true or false, got 'perhaps'"),
        ({"stream": "true", "response_format": "srt"}, "stream", "response_format=json, got srt"),
        ({"stream": "true", "channels": "split"}, "stream", "at the end only"),
        ({"channels": "both"}, "channels", "mix, left, right, split"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities", "verbose_json"),
        ({"timestamp_granularities[]": "line"}, "timestamp_granularities", "segment, word"),
        ({"include[]": "words"}, "include", "expected logprobs"),
        ({"chunking_strategy": "server_vad"}, "chunking_strategy", "expected auto"),
        ({"chunking_strategy[type]": "server_vad"}, "chunking_strategy", "expected auto"),
        ({"known_speaker_names[]": "Ada"}, "known_speaker_names", "channels=split"),
        ({"keywords[]": "x" * 101}, "keywords", "at most 100 characters"),
        ({"language": ["en", "de"]}, "language", "once"),
        ({"task": "translate"}, "task", "unknown; expected some of file, model"),
        ({"Männer": "1"}, "Männer", "unknown"),
        ({"file": "clip.wav"}, "file", "a file with its name"),
    ],
)
def test_what_the_model_cannot_do_is_refused(api, fields, param, says):
    content = None if "file" in fields else CLIP.read_bytes()
    if content is None:
        form = {name: (None, value) for name, value in fields.items()}
        answer = httpx.post(f"{api.address}/v1/audio/transcriptions", files=form)
    else:
        answer = post(api, content, **fields)
    assert answer.status_code == 400
    error = error_of(answer)
    assert error["param"] == param and says in error["message"]


def test_what_the_client_of_openai_says_of_a_refusal(client):
    with pytest.raises(openai.BadRequestError, match="the model takes none") as caught:
        client.audio.transcriptions.create(file=CLIP, model="tiny", prompt="Ada")
    assert caught.value.param == "prompt"
    with pytest.raises(openai.NotFoundError, match="expected one of tiny, whisper-1"):
        client.audio.transcriptions.create(file=CLIP, model="whisper-9")


def test_a_language_is_ignored_aloud(api, client):
    """A header says it in all formats, a field where there is a place for it."""
    sentence = "language: ignored, the model detects the language itself"
    for kind in ("json", "text", "verbose_json"):
        answer = post(api, CLIP.read_bytes(), language="en", response_format=kind)
        assert answer.status_code == 200 and answer.headers[WARNINGS] == sentence
        assert kind == "text" or answer.json()["warnings"] == [sentence]
    found = client.audio.transcriptions.create(file=CLIP, model="tiny", language="en", stream=True)
    *_, done = found
    assert done.warnings == [sentence]
    assert WARNINGS not in post(api, CLIP.read_bytes(), language="", prompt="").headers


def test_what_cannot_be_heard_is_said(api):
    """The beginning of a file whose header promises more."""
    whole = CLIP.read_bytes()
    answer = post(api, whole[: len(whole) * 2 // 3])
    assert answer.status_code == 200
    (loss,) = answer.json()["warnings"]
    assert loss.startswith("file: ") and answer.headers[WARNINGS] == loss


@pytest.mark.parametrize(
    "content, says",
    [(b"", "file: not a readable audio file"), (b"no sound " * 900, "file: "), (b"RIFF", "file: ")],
)
def test_files_that_are_no_sound(api, content, says):
    answer = post(api, content, name="/etc/passwd")
    assert answer.status_code == 400
    error = error_of(answer)
    assert (error["param"], error["code"]) == ("file", "invalid_audio")
    assert error["message"].startswith(says)


FORM = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'


# Starlette leaves the file of a part without an end to the collector of garbage
@pytest.mark.filterwarnings("ignore:Exception ignored in. <function SpooledTemporaryFile")
@pytest.mark.parametrize(
    "kind, body, says",
    [
        (None, b"", "expected a body of multipart/form-data, got none"),
        ("application/json", b"{}", "got 'application/json'"),
        ("application/x-www-form-urlencoded", b"file=a", "multipart/form-data"),
        ("multipart/form-data", PART, "cannot be read"),
        (FORM, b"", "file: missing"),
        (FORM, b"--b--\r\n", "file: missing"),
        (FORM, b"no form", "cannot be read"),
        (FORM, PART + b"RIFF", "file: missing"),  # the end did not come
        (FORM, PART.replace(b"name=", b"nom="), "cannot be read"),
        (FORM, PART + b"a\r\n" + PART + b"b\r\n--b--\r\n", "cannot be read: Too many files"),
        (FORM, PART.replace(b'; filename="a.wav"', b"") + bytes(1 << 17), "maximum size"),
        (FORM, b"--b\r\n" + b"X" * (1 << 17) + b": 1\r\n\r\n", "cannot be read"),
    ],
)
def test_forms_that_are_none(api, kind, body, says):
    headers = {"content-type": kind} if kind else {}
    address = f"{api.address}/v1/audio/transcriptions"
    answer = httpx.post(address, content=body, headers=headers, timeout=TIMEOUT)
    assert answer.status_code == 400
    assert says in error_of(answer)["message"]


PAGE = (Path(__file__).parents[3] / "docs" / "server.md").read_text("utf-8")


def shown(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_python_of_the_page(api, tmp_path, monkeypatch, capsys):
    """What the page shows runs as it is, at another port."""
    shutil.copyfile(CLIP, tmp_path / "clip.wav")
    monkeypatch.chdir(tmp_path)
    names = dict[str, Any]()
    for block in shown("python"):
        exec(block.replace("http://127.0.0.1:8000", api.address), names)
        assert capsys.readouterr().out.strip() == TEXT
    names["client"].close()
    assert len(shown("python")) == 4


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl here")
def test_curl_lines_of_the_page(api, tmp_path):
    shutil.copyfile(CLIP, tmp_path / "clip.wav")
    lines = [line for block in shown("sh") for line in block.splitlines()]
    lines = [line for line in lines if line.startswith("curl")]
    for line in lines:
        command = shlex.split(line.replace("http://127.0.0.1:8000", api.address))
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert TEXT in done.stdout and "error" not in done.stdout
    assert len(lines) == 3


def test_fields_of_the_page():
    """The page names every field that there is."""
    for name in (*Fields.model_fields, *REFUSED):
        assert name.removesuffix("_names").removesuffix("_references") in PAGE, name


def test_models(client):
    (model,) = client.models.list()
    assert model.id == "tiny" and model.owned_by == "voxtral-onnx"
    for name in ("tiny", *ALIASES):
        assert client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError, match="'whisper-9'"):
        client.models.retrieve("whisper-9")


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("GET", "/v1/audio/transcriptions", 405),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/audio/translations", 404),
        ("POST", "/v1/chat/completions", 404),
        ("GET", "/v1/", 404),
    ],
)
def test_what_there_is_not(api, method, path, status):
    answer = httpx.request(method, f"{api.address}{path}")
    assert answer.status_code == status
    error_of(answer)
    assert status == 404 or answer.headers["allow"]


@pytest.mark.parametrize("stream, phase", [("false", "encoding"), ("true", "decoding")])
def test_the_work_of_a_client_that_leaves_stops(api, long_recording, stream, phase):
    """Its slot is free, and the engine has nothing more to do."""
    engine = api.engines.engines[0]
    request = httpx.Request(
        "POST",
        f"{api.address}/v1/audio/transcriptions",
        files={"file": ("long.wav", long_recording.read_bytes())},
        data={"stream": stream},
    )
    before = engine.metrics.steps
    with socket.create_connection(("127.0.0.1", api.port)) as connection:
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        connection.sendall(f"POST {request.url.path} HTTP/1.1\r\n{head}\r\n".encode())
        connection.sendall(request.read())
        until(lambda: api.engines.num_running)
        if phase == "decoding":
            until(lambda: engine.metrics.steps > before)
    until(lambda: not api.engines.num_open)
    assert not api.engines.num_running
    steps = engine.metrics.steps
    assert steps - before < (500 if phase == "decoding" else 50)  # of 4,700 tokens
    assert post(api, CLIP.read_bytes()).json()["text"] == TEXT
    assert engine.metrics.steps - steps < 100


def test_a_client_that_leaves_while_it_sends(api):
    with socket.create_connection(("127.0.0.1", api.port)) as connection:
        head = f"Host: localhost\r\nContent-Type: {FORM}\r\nContent-Length: 100000\r\n\r\n"
        connection.sendall(f"POST /v1/audio/transcriptions HTTP/1.1\r\n{head}".encode() + PART)
    assert post(api, CLIP.read_bytes()).json()["text"] == TEXT


def test_signs_of_life(api, long_recording, monkeypatch):
    """While no text comes, comments keep proxies from closing the connection."""
    monkeypatch.setattr(transcriptions, "ALIVE_SECONDS", 1e-4)
    content = io.BytesIO()
    soundfile.write(content, np.zeros(16_000 * 20, np.float32), 16_000, format="WAV")
    answer = post(api, content.getvalue(), stream="true")
    lines = answer.text.split("\n\n")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert ": working" in lines
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data")]
    assert events[-1]["type"] == "transcript.text.done"


def test_the_description_is_kept(api):
    """Requests made of the OpenAPI description, and answers compared with it."""
    schemathesis.openapi.format("binary", st.sampled_from([CLIP.read_bytes(), b"no sound"]))
    schema = schemathesis.openapi.from_url(f"{api.address}/openapi.json")
    seen = set[tuple[str, int, str]]()
    for found in schema.get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]

        @given(operation.as_strategy())
        @settings(
            max_examples=30 if operation.method == "post" else 5,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow],
        )
        def check(case):
            answer = case.call()
            # Fields that are each as described may exclude each other
            case.validate_response(answer, excluded_checks=[positive_data_acceptance])
            kind = answer.headers["content-type"][0].partition(";")[0]
            seen.add((case.operation.label, answer.status_code, kind))

        check()
        if operation.method == "post":
            inner: Any = check
            for asked in ({"stream": True}, {"response_format": "text"}, {"diarize": False}):
                body = {"file": CLIP.read_bytes(), **asked}
                case = operation.Case(body=body, media_type="multipart/form-data")
                inner.hypothesis.inner_test(case)
    route = "POST /v1/audio/transcriptions"
    kinds = ("application/json", "text/plain", "text/event-stream")
    assert {(route, 200, kind) for kind in kinds} | {(route, 400, kinds[0])} <= seen
    assert ("GET /v1/models", 200, kinds[0]) in seen and ("GET /metrics", 200, kinds[1]) in seen
