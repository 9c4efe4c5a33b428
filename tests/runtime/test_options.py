"""Options that cannot be are refused before a model is loaded; unusual ones that can be are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.refusals import assert_refuses

from voxtral_onnx import Transcriber, export, quantize, verify
from voxtral_onnx.errors import UsageError
from voxtral_onnx.runtime import transcriber as transcribing
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.locate import find_artifact

HUGE = "x" * 500_000
NO_PATH = [3, True, b"tiny", [], object(), HUGE, "", "a\0b"]
NO_FLAG = [1, "yes", None, [], np.array([True])]
NO_FUNCTION = [None, 3, "print"]
NO_NUMBER = ["3", 3.0, True, 1.5, b"3", [3], object(), np.float64(3), np.zeros(500_000)]
NO_NAMES = ["q4", None, 4, b"q4", [4], [""], {"q4": 1}, [["q4"]]]

LOADING = {
    "model": NO_PATH,
    "device": [None, 5, b"cpu", "gpu", "cuda:x", "cuda:-1", "", HUGE],
    "delay_ms": [*NO_NUMBER, 81, 0, -80, 10**9, 10**5000],
    "context": [*NO_NUMBER, None, 0, -1, 63, -(10**5000)],
    "batch_size": [*NO_NUMBER, None, 0, -1, 1025, 10**5000],
    "precision": [3, b"q4", ["q4"], "int8", "", HUGE],
    "threads": [*NO_NUMBER, 0, -1, 10**9, 10**5000],
    "blank_guard": NO_FLAG,
    "alternatives": [*NO_NUMBER, None, -1, 11],
    "hotwords": [None, 3, [1], b"word", {"word": 1}, [b"word"], HUGE, ["word", None]],
    "hotword_bias": ["2", None, True, 0, -1, 20.5, float("nan"), float("inf"), 1j, 10**5000],
    "vad": [True, 1, b"energy", [], "", HUGE],
    "allow_fallback": NO_FLAG,
    "offline": NO_FLAG,
    "on_download": NO_FUNCTION,
}
TRANSCRIBING = {
    "delay_ms": LOADING["delay_ms"],
    "gain": [None, 3, True, "loud", b"auto", HUGE, np.zeros(500_000)],
    "on_token": NO_FUNCTION,
}
EXPORTING = {
    "source": [value for value in NO_PATH if value != []],
    "output": NO_PATH,
    "tokenizer": NO_PATH,
    "precisions": [*NO_NAMES, ["int8"], ["q4", HUGE]],
    "shard_size": [*NO_NUMBER, None, 0, -1],
    "threads": [*NO_NUMBER, 0, -1],
    "offline": NO_FLAG,
    "on_download": NO_FUNCTION,
    "on_progress": NO_FUNCTION,
    "recipe": NO_PATH,
}
FAMILIES = {"families": [*NO_NAMES, ["onnxweb"], [HUGE]]}
VERIFYING = {
    "artifact": NO_PATH,
    "checkpoint": NO_PATH,
    "audio": ["a.wav", 3, None, [3], [""]],
    "precisions": [*[value for value in NO_NAMES if value], ["int8"]],
    "rungs": [3, "3", None, ["3"], [7], [-1], [True], [10**5000]],
    "on_progress": NO_FUNCTION,
}


def cases(table):
    return [
        pytest.param(argument, value, id=f"{argument}-{type(value).__name__}-{number}")
        for argument, values in table.items()
        for number, value in enumerate(values)
    ]


@pytest.fixture(scope="module")
def transcriber(tiny_artifact):
    with Transcriber(tiny_artifact, "cpu", precision="q4") as transcriber:
        yield transcriber


@pytest.mark.parametrize(("argument", "value"), cases(LOADING))
def test_transcriber(argument, value, tiny_artifact, monkeypatch):
    monkeypatch.setattr(transcribing, "load_model", lambda *given, **options: pytest.fail("loads"))
    others = {} if argument == "model" else {"model": tiny_artifact}
    assert_refuses(Transcriber, argument, value, **others)


@pytest.mark.parametrize(("argument", "value"), cases(TRANSCRIBING))
def test_transcribe(argument, value, transcriber):
    assert_refuses(transcriber.transcribe, argument, value, audio=np.zeros(9, np.float32))
    if argument != "on_token":
        assert_refuses(transcriber.transcribe_many, argument, value, audio=[])
    if argument == "gain":
        assert_refuses(open_audio, argument, value, source=np.zeros(9), sample_rate=16000)
    if argument == "delay_ms":
        assert_refuses(transcriber.stream, argument, value)
        assert_refuses(transcriber.speech_filter, argument, value)
        assert_refuses(transcriber.load_stream, argument, value, path="none")


@pytest.mark.parametrize("path", NO_PATH)
def test_paths_of_streams(path, transcriber):
    assert_refuses(transcriber.load_stream, "path", path)
    assert_refuses(transcriber.stream().save, "path", path)


@pytest.mark.parametrize("audio", [None, 3, "a.wav", Path("a.wav"), b"RIFF", np.zeros(9)])
def test_one_recording_is_not_several(audio, transcriber):
    with pytest.raises(UsageError, match="audio: expected a list of recordings, or an iterator"):
        transcriber.transcribe_many(audio)


@pytest.mark.parametrize(("argument", "value"), cases(EXPORTING | FAMILIES))
def test_export(argument, value, tmp_path):
    others = {"source": "tiny", "output": tmp_path / "out"}
    others.pop(argument, None)
    assert_refuses(export, argument, value, **others)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("argument", "value"), cases(EXPORTING))
def test_quantize(argument, value, tmp_path):
    others = {"source": "tiny", "output": tmp_path / "out"}
    others.pop(argument, None)
    assert_refuses(quantize, argument, value, **others)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("argument", "value"), cases(VERIFYING))
def test_verify(argument, value, tiny_artifact):
    others = {} if argument == "artifact" else {"artifact": tiny_artifact}
    assert_refuses(verify, argument, value, **others)


def test_unusual_values_that_can_be(tiny_artifact):
    options: dict[str, Any] = {
        "delay_ms": np.int64(960),
        "context": np.int32(100),
        "batch_size": np.uint8(2),
        "precision": np.str_("q4"),
        "threads": np.int16(1),
        "blank_guard": np.False_,
        "alternatives": np.int8(2),
        "hotwords": (word for word in ("Hibari", "tram")),
        "hotword_bias": np.float32(2),
        "vad": Path("energy"),
    }
    with Transcriber(tiny_artifact, "cpu", **options) as transcriber:
        assert transcriber.stream(int(np.int64(80))).num_delay_tokens == 1
        assert transcriber.options.hotwords and transcriber.options.hotwords.words == [
            "Hibari",
            "tram",
        ]
        transcript = transcriber.transcribe(np.zeros(1600, np.float32))
        assert transcript.text == "" and transcript.info["blank_guard"] is None
        assert '"delay_ms": 960' in transcript.to_json()
    assert find_artifact(str(tiny_artifact)) == find_artifact(tiny_artifact)


@pytest.mark.parametrize(("context", "is_said"), [(64, False), (128, False), (129, True)])
def test_a_context_beyond_the_window_is_said(context, is_said, tiny_artifact):
    with Transcriber(tiny_artifact, "cpu", precision="q4", context=context) as transcriber:
        window = transcriber.manifest.config.decoder.sliding_window
        said = f"context: the model sees {window} positions, not {context}"
        assert window == 128 and (said in transcriber.notes) == is_said


def test_words_alone_are_one_hotword(tiny_artifact):
    with Transcriber(tiny_artifact, "cpu", precision="q4", hotwords="Hibari") as transcriber:
        assert transcriber.options.hotwords and transcriber.options.hotwords.words == ["Hibari"]
