"""The listen command: raw samples in, words, events and subtitles out."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time

import numpy as np
import pytest
import soundfile
from support.commands import CLIP, TEXT, read_word
from support.sounds import SAMPLES, encoded

from voxtral_onnx.cli.live import open_microphone
from voxtral_onnx.runtime.audio import microphone
from voxtral_onnx.runtime.text.captions import FORMATS

RAW = (soundfile.read(CLIP, dtype="int16")[0]).tobytes()


def test_standard_input(process, tiny_artifact):
    result = process("listen", "-m", tiny_artifact, "--stdin", input=RAW)
    assert (result.code, result.out) == (0, TEXT + "\n")
    assert re.search(
        r"s of audio, .* latency p50 \d+, p95 \d+, p99 \d+ ms, RTF ", result.err.splitlines()[-1]
    )


def test_events(process, tiny_artifact):
    result = process(
        "listen", "-m", tiny_artifact, "--stdin", "--stream-json", input=RAW + bytes(100_000)
    )
    events = [json.loads(line) for line in result.out.splitlines()]
    turn = ["speech_start", "turn_start", "turn_eager_end", "turn_end"]
    assert [event["type"] for event in events if event["type"] in turn] == turn
    times = [event["time"] for event in events if event["type"] in turn]
    assert times == sorted(times) and 1.5 < times[-1] < len(RAW) / 32_000
    end = next(event for event in events if event["type"] == "turn_end")
    assert end["reason"] == "threshold"
    after = [event["type"] for event in events[events.index(end) :]]
    assert "partial" not in after and "group" not in after
    assert {event["type"] for event in events} - {"notice", *turn} == {
        "partial",
        "group",
        "silence",
        "final",
    }
    assert "".join(event["text"] for event in events if event["type"] == "partial").strip() == TEXT
    assert "".join(event["text"] for event in events if event["type"] == "group").strip() == TEXT
    assert events[-1]["type"] == "final" and events[-1]["text"] == TEXT


def test_subtitles(process, tiny_artifact, tmp_path):
    result = process("listen", "-m", tiny_artifact, "--stdin", "-f", "srt", input=RAW)
    assert result.out.startswith("1\n00:00:") and TEXT.split()[0] in result.out
    process(
        "listen",
        "-m",
        tiny_artifact,
        "--stdin",
        "-f",
        "all",
        "--output-dir",
        tmp_path / "out",
        input=RAW,
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"stdin.{name}" for name in FORMATS
    }
    assert (tmp_path / "out/stdin.srt").read_text() == result.out


def test_streams_of_one_folder_keep_what_is_said_apart_and_after_a_kill(start, process, tmp_path):
    folder = tmp_path / "out"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    one, two = (start("listen", "--stdin", "-o", folder, **pipes) for _ in range(2))
    for each in (one, two):
        each.stdin.write(RAW + bytes(64_000))
        each.stdin.flush()
    journals = [folder / f".{name}.journal.jsonl" for name in ("stdin", "stdin-2")]
    while not all(path.exists() and path.read_bytes().count(b"\n") > 4 for path in journals):
        assert one.poll() is None and two.poll() is None
        time.sleep(0.01)
    one.kill()
    two.stdin.close()
    assert two.wait(60) == 0
    one.stdin.close()
    one.wait()
    [journal] = folder.glob(".*")
    kept = json.loads(journal.read_bytes().rpartition(b"\n")[0].splitlines()[-1])["segment"]["end"]
    result = process("listen", "--resume", "-o", folder)
    assert result.code == 0 and f" up to {kept:.2f} s" in result.err
    texts = {path.name: path.read_text() for path in folder.iterdir()}
    assert texts.keys() == {"stdin.txt", "stdin-2.txt"}
    killed = texts.pop(journal.name.split(".")[1] + ".txt")
    assert list(texts.values()) == [TEXT + "\n"]
    assert TEXT.startswith(killed.strip()) and len(killed.split()) >= 4


def test_resume_looks_for_streams_in_a_folder(process, tmp_path):
    process("listen", "--resume").assert_refused(2, "--resume looks for outputs in a folder")
    result = process("listen", "--resume", "-o", tmp_path)
    assert (result.code, result.out) == (0, "") and "no stream was interrupted" in result.err


def test_input_that_ends_inside_a_sample(process, tiny_artifact):
    result = process("listen", "-m", tiny_artifact, "--stdin", input=RAW + b"x")
    assert (result.code, result.out) == (6, TEXT + "\n")
    assert "error: standard input: it ends inside a sample: 1 of 2 bytes (s16le)" in result.err


def test_sound_that_needs_help_is_heard_and_said(process, tiny_artifact):
    """Channels of opposite phase, a large offset, and what cannot be read behind it."""
    sound = np.stack((SAMPLES / 2 + 0.3, -SAMPLES / 2 - 0.3), 1)
    content = encoded("float", sound) + encoded("mp3")
    result = process("listen", "-m", tiny_artifact, "--stdin", input=content)
    assert (result.code, result.out) == (6, TEXT + "\n")
    assert "note: channels cancel each other (opposite phase): channel 1 of 2 taken" in result.err
    assert "note: constant offset of 0.3 removed from 0.2 s on" in result.err
    assert "error: standard input: a recording of another format follows" in result.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_capture_and_keeps_what_was_said(number, code, start):
    process = start(
        "listen", "--stdin", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdin.write(RAW)
    process.stdin.flush()
    begun = read_word(process.stdout.fileno())
    process.send_signal(number)
    rest = process.stdout.read().decode()
    process.stdin.close()
    assert process.wait(60) == code, process.stderr.read()
    assert begun + rest == TEXT + "\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mic"], "--mic: a microphone is what listen records anyway; leave it out"),
        (["--gain", "auto"], "--gain: files are for `voxtral-onnx transcribe`"),
        (
            ["--alternatives", "2"],
            "--alternatives are written as JSON: add --json or --stream-json",
        ),
        (["--hotword-bias", "2"], "--hotword-bias belongs to --hotwords FILE"),
        (["--stdin", "-f", "all"], "add --output-dir FOLDER"),
        (["--stdin", "--sample-format", "s24le"], "sample format: expected one of"),
        (["--stdin", "--rate", "999"], "rate: expected 1000 to 768000 Hz, got 999"),
        (["--stdin", "--rate", "768001"], "rate: expected 1000 to 768000 Hz, got 768001"),
    ],
)
def test_misuse(arguments, words, process, tiny_artifact):
    process("listen", "-m", tiny_artifact, *arguments, input=b"").assert_refused(2, words)


def test_a_microphone_is_a_number_or_a_name(monkeypatch):
    asked = []

    class Stub:
        name, rate = "stub", 16000

        def __init__(self, device, rate):
            asked.append(device)

    monkeypatch.setattr(microphone, "Microphone", Stub)
    for device in (None, "", "3", "USB", "\u00b2", "9" * 5000):
        open_microphone(device, 16000)
    assert asked == [None, "", 3, "USB", "\u00b2", "9" * 5000]


@pytest.mark.parametrize("arguments", [["a.wav"], ["--", "a.wav"], ["--stdin", "a.wav", "b.wav"]])
def test_files_are_for_transcribe(arguments, run):
    result = run("listen", "-m", "nowhere", *arguments)
    result.assert_refused(2, "a.wav: files are for `voxtral-onnx transcribe`; listen takes speech")
    assert len(result.err.splitlines()) == 1
