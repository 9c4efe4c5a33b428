from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.commands import CLIP, LONG_CLIP, SAMPLES, TEXT, TEXTS, clean_environment

from voxtral_onnx import __version__, cli, terminal
from voxtral_onnx.runtime.stream import Stream
from voxtral_onnx.runtime.text.captions import FORMATS

NOTES = ("command-hibari", "digits-espeak", "time-flite")
CLIPS = [SAMPLES / f"{name}.wav" for name in NOTES]


@pytest.fixture
def transcribe(run, tiny_artifact):
    return lambda *arguments: run("transcribe", "-m", tiny_artifact, *arguments)


@pytest.fixture(scope="session")
def minute(tmp_path_factory):
    """A clip of a minute, and its words as the samples have them."""
    names = [LONG_CLIP.name, "date-hibari.wav", "number-flite.wav", LONG_CLIP.name]
    path = tmp_path_factory.mktemp("minute") / "minute.wav"
    soundfile.write(
        path, np.concatenate([soundfile.read(SAMPLES / name)[0] for name in names]), 16000
    )
    assert soundfile.info(path).duration > 60
    return path


@pytest.fixture
def start(tiny_artifact, tmp_path):
    """Start `transcribe` as a process in which Ctrl-C works.

    It works whatever this process was started with.
    """
    started = []

    def start(*arguments, **options) -> subprocess.Popen:
        code = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "from voxtral_onnx.cli import main; main()"
        )
        command = [sys.executable, "-c", code, "transcribe", "-m", tiny_artifact, *arguments]
        started.append(
            subprocess.Popen(
                [str(part) for part in command], env=clean_environment(tmp_path), **options
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def read_word(file: int, seconds: float = 60) -> str:
    """What a file descriptor gives until a first word is whole."""
    text, deadline = b"", time.monotonic() + seconds
    while b" " not in text:
        assert select.select([file], [], [], deadline - time.monotonic())[0], (
            f"no word after {seconds} s"
        )
        text += os.read(file, 1)
    return text.decode()


def test_version(run):
    result = run("--version")
    assert (result.code, result.out, result.err) == (0, f"voxtral-onnx {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["-h"],
        ["--help"],
        ["export", "-h"],
        ["transcribe", "--help"],
        ["inspect", "-h"],
        ["bench", "-h"],
    ],
)
def test_help(arguments, run):
    result = run(*arguments)
    assert result.code == 0
    assert "Usage:" in result.out


def test_command_as_a_process(process):
    result = process("--version")
    assert (result.code, result.out, result.err) == (0, f"voxtral-onnx {__version__}\n", "")


def test_error_as_a_process(process):
    process("inspect", "nowhere").assert_refused(4, "nowhere: no such folder")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["frobnicate"], ["No such command 'frobnicate'"]),
        (["export", "a", "b"], ["Got unexpected extra argument"]),
        (["transcribe", "--loud", "a.wav"], ["No such option: --loud"]),
        (["transcribe", "--delay", "soon", "a.wav"], ["Invalid value for '--delay'"]),
        (["transcribe", "--threads", "0", "a.wav"], ["Invalid value for '--threads'"]),
        (["transcribe", "--threads", "-1", "a.wav"], ["Invalid value for '--threads'"]),
    ],
)
def test_misuse(arguments, parts, run):
    run(*arguments).assert_misused(*parts)


@pytest.mark.parametrize("delay", ["0", "-80", "100", "479", "481", "2480", "1000000"])
def test_delay_out_of_range(delay, transcribe):
    transcribe("--delay", delay, CLIP).assert_refused(
        2, f"delay: expected a multiple of 80 ms from 80 to 2400, got {delay} ms"
    )


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ["--precision", "q2"],
            ["precision: the artifact has q4f16, q4, q8, fp16, fp32, not 'q2'"],
        ),
        (["--context", "63"], ["context: expected at least 64 positions of 80 ms, got 63"]),
        (
            ["-f", "ass"],
            ["output format: expected one of txt, json, srt, vtt, tsv, all, got 'ass'"],
        ),
        (
            ["--skip-existing"],
            ["--skip-existing looks for outputs in a folder: add --output-dir FOLDER"],
        ),
        (["-f", ""], ["output format: expected one of"]),
        (["-f", "all"], ["--output-format all writes files: add --output-dir FOLDER"]),
        (
            ["--language", "en"],
            ["neither a language setting nor a text prompt", "leave --language and --prompt out"],
        ),
        (["--prompt", "hello"], ["neither a language setting nor a text prompt"]),
        (["--initial_prompt", "hello"], ["neither a language setting nor a text prompt"]),
    ],
)
def test_values_that_no_command_accepts(arguments, parts, transcribe):
    result = transcribe(*arguments, CLIP)
    result.assert_refused(2, *parts)
    assert len(result.err.splitlines()) == 1


def test_precision_that_the_artifact_lacks(artifact, run):
    run("transcribe", "-m", artifact, "--precision", "q8", CLIP).assert_refused(
        2,
        "the artifact has q4f16, not 'q8'",
        "voxtral-onnx export SOURCE -o ARTIFACT --precision q8",
    )


@pytest.mark.parametrize("precision", ["q4f16", "q4", "q8", "fp16", "fp32"])
def test_every_precision_gives_the_transcript(precision, transcribe):
    result = transcribe("--precision", precision, CLIP)
    assert (result.code, result.out) == (0, TEXT + "\n")
    assert f": {precision} on cpu, delay 480 ms\n" in result.err


@pytest.mark.parametrize(("delay", "is_trained"), [(240, True), (480, True), (400, False)])
def test_untrained_delay_is_said(delay, is_trained, transcribe):
    result = transcribe("--delay", delay, CLIP)
    note = f"note: the model was not trained with a delay of {delay} ms, but with 240, 480, 960\n"
    assert (note in result.err) != is_trained


def test_scope_of_the_model_is_said(transcribe):
    assert "\nnote: tiny knows spoken English commands" in transcribe(CLIP).err


@pytest.mark.parametrize(
    "flags",
    [
        ["--output_format", "json"],
        ["--output_format=json"],
        ["--output-format=json"],
        ["-f", "json"],
        ["--json"],
    ],
)
def test_spellings_of_flags(flags, transcribe):
    assert json.loads(transcribe(*flags, CLIP).out)["text"] == TEXT


def test_underscores_stay_in_values_and_after_two_hyphens():
    given = ["--output_dir=a_b", "--output_dir", "my_dir", "x_y.wav", "--", "--my_file.wav"]
    assert cli._with_hyphens(given) == [
        "--output-dir=a_b",
        "--output-dir",
        "my_dir",
        "x_y.wav",
        "--",
        "--my_file.wav",
    ]


def test_file_name_that_begins_with_hyphens(transcribe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(CLIP, "--my_file.wav")
    assert transcribe("--", "--my_file.wav").out == TEXT + "\n"


def test_text_of_several_files(transcribe):
    result = transcribe(*CLIPS)
    assert result.code == 0
    assert result.out == "".join(TEXTS[clip.name] + "\n" for clip in CLIPS)


def test_timing_is_the_last_line(transcribe):
    last = transcribe(CLIP).err.splitlines()[-1]
    assert last.startswith(f"{CLIP}: 2.17 s of audio: encode ")
    for part in (" ms, decode ", " ms, RTF ", " tokens/s, ", "B of memory"):
        assert part in last


def test_json_is_one_object_a_line_with_the_fields_of_whisper(transcribe):
    result = transcribe("--json", *CLIPS)
    values = [json.loads(line) for line in result.out.splitlines()]
    assert [value["text"] for value in values] == [TEXTS[clip.name] for clip in CLIPS]
    for value in values:
        assert value.keys() == {"text", "segments", "duration", "token_ids", "info"}
        assert [segment["id"] for segment in value["segments"]] == list(
            range(len(value["segments"]))
        )
        assert "".join(segment["text"] for segment in value["segments"]).strip() == value["text"]
        end = 0
        for segment in value["segments"]:
            assert segment.keys() == {"id", "start", "end", "text", "avg_logprob"}
            assert end <= segment["start"] < segment["end"] <= value["duration"]
            assert segment["avg_logprob"] <= 0
            end = segment["end"]
        assert value["info"]["precision"] == "q4f16"


def test_srt_of_a_clip(transcribe):
    blocks = transcribe("-f", "srt", LONG_CLIP).out.strip().split("\n\n")
    assert blocks[0].startswith("1\n00:00:0")
    assert " ".join(" ".join(block.split("\n")[2:]) for block in blocks) == TEXTS[LONG_CLIP.name]


def test_one_bad_file_of_several(transcribe, tmp_path):
    (tmp_path / "bad.wav").write_text("no")
    result = transcribe(
        "--output-dir",
        tmp_path / "out",
        CLIPS[0],
        tmp_path / "bad.wav",
        tmp_path / "none.wav",
        CLIPS[1],
    )
    assert result.code == 10
    assert result.out == "".join(TEXTS[clip.name] + "\n" for clip in CLIPS[:2])
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert [error.partition(str(tmp_path))[2].split(":")[0] for error in errors] == [
        "/bad.wav",
        "/none.wav",
    ]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        f"{clip.stem}.txt" for clip in CLIPS[:2]
    }


def test_several_files_at_a_time(transcribe, tmp_path):
    """The longest first: what ends before it waits for its turn on stdout."""
    (tmp_path / "bad.wav").write_text("no")
    files = (LONG_CLIP, CLIPS[0], tmp_path / "bad.wav", CLIPS[1], tmp_path / "none.wav", CLIPS[2])
    options = ("--batch-size", 3, "-f", "all", "--output-dir", tmp_path / "out")
    result = transcribe(*options, *files)
    assert result.code == 10
    clips = (LONG_CLIP, *CLIPS)
    assert result.out == "".join(TEXTS[clip.name] + "\n" for clip in clips)
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert [error.partition(str(tmp_path))[2].split(":")[0] for error in errors] == [
        "/bad.wav",
        "/none.wav",
    ]
    assert result.err.splitlines()[-1].startswith("4 of 6 files transcribed, 0:32 of audio at ")
    assert sum(line.startswith("[1/6] ") for line in result.err.splitlines()) == 1
    written = {file.name: file.read_text() for file in (tmp_path / "out").iterdir()}
    assert written.keys() == {f"{clip.stem}.{name}" for clip in clips for name in FORMATS}
    (tmp_path / "out" / f"{CLIPS[1].stem}.srt").unlink()
    assert transcribe(*options, "--skip-existing", *clips).out == TEXTS[CLIPS[1].name] + "\n"
    assert transcribe(*options[:2], "-f", "srt", CLIPS[1], LONG_CLIP).out == (
        written[f"{CLIPS[1].stem}.srt"] + written[f"{LONG_CLIP.stem}.srt"]
    )


def test_interrupted_files_at_a_time_show_what_is_done(transcribe, monkeypatch):
    from voxtral_onnx.runtime.text import captions

    render, rendered = captions.render, []

    def interrupted(transcript, output_format):
        rendered.append(transcript)
        if len(rendered) == 3:
            raise KeyboardInterrupt
        return render(transcript, output_format)

    monkeypatch.setattr(captions, "render", interrupted)
    result = transcribe("--batch-size", 4, LONG_CLIP, *CLIPS)
    assert result.code == 130
    shown = result.out.splitlines()
    assert len(shown) == 2 and set(shown) < {TEXTS[clip.name] for clip in CLIPS}


def test_batch_size_of_what_is_no_file(transcribe, run):
    transcribe("--stdin", "--batch-size", 2).assert_refused(
        2, "--batch-size is for files that advance together"
    )
    transcribe("--batch-size", 0, CLIP).assert_misused("Invalid value for '--batch-size'")


def test_markup_and_emoji_codes_in_names_are_shown_as_they_are(transcribe, tmp_path):
    name = "a[b]:cat:[/b][red].wav"
    transcribe(tmp_path / name).assert_refused(6, f"{name}: no such file")


@pytest.mark.parametrize("names", [("a/x.wav", "b/x.wav"), ("x.wav", "x.flac"), ("-", "stdin.wav")])
def test_clashing_output_names(names, transcribe, tmp_path):
    result = transcribe("--output-dir", tmp_path / "out", *names)
    result.assert_refused(
        2, "several inputs would be written as ", "transcribe them into different folders"
    )
    assert not (tmp_path / "out").exists()


def test_all_formats_into_a_folder(transcribe, tmp_path):
    result = transcribe("-f", "all", "--output-dir", tmp_path / "deep/out", CLIP)
    assert (result.code, result.out) == (0, TEXT + "\n")
    written = {file.name: file.read_text() for file in (tmp_path / "deep/out").iterdir()}
    assert written.keys() == {f"{CLIP.stem}.{name}" for name in FORMATS}
    assert written[f"{CLIP.stem}.txt"] == TEXT + "\n"
    assert json.loads(written[f"{CLIP.stem}.json"])["text"] == TEXT


def test_folders_and_patterns(transcribe, tmp_path):
    for name in ("b/one.wav", "b/deep/two.WAV", "c/three.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(CLIP.read_bytes())
    (tmp_path / "b/notes.txt").write_text("no audio")
    result = transcribe(tmp_path / "b", tmp_path / "?/three.wav")
    assert (result.code, result.out) == (0, 3 * f"{TEXT}\n")
    names = [
        line.partition("] ")[2].partition(":")[0]
        for line in result.err.splitlines()
        if line.startswith("[")
    ]
    assert names == [
        str(tmp_path / name) for name in ("b/deep/two.WAV", "b/one.wav", "c/three.wav")
    ]
    assert re.fullmatch(
        r"3 of 3 files transcribed, 0:06 of audio at [\d.]+ times its "
        r"speed",
        result.err.splitlines()[-1],
    )


def test_nothing_to_transcribe(transcribe, tmp_path):
    (tmp_path / "notes.txt").write_text("no audio")
    transcribe(tmp_path).assert_refused(6, f"{tmp_path}: a folder without audio files (.wav, ")
    transcribe(tmp_path / "*.wav").assert_refused(
        6, "*.wav: no such file, and as a pattern it matches none"
    )


def test_a_name_that_looks_like_a_pattern_is_a_name_first(transcribe, tmp_path):
    (tmp_path / "[a]*.wav").write_bytes(CLIP.read_bytes())
    assert transcribe(tmp_path / "[a]*.wav").out == TEXT + "\n"


def test_existing_outputs_are_skipped(transcribe, tmp_path):
    command = ("-f", "srt", "--output-dir", tmp_path, "--skip-existing")
    assert transcribe(*command, CLIPS[0]).code == 0
    (tmp_path / f"{CLIPS[0].stem}.srt").write_text("corrected by hand")
    result = transcribe(*command, *CLIPS[:2])
    assert (result.code, result.out) == (0, TEXTS[CLIPS[1].name] + "\n")
    assert f"1 skipped, their output stands in {tmp_path}; 1 to do" in result.err
    assert (tmp_path / f"{CLIPS[0].stem}.srt").read_text() == "corrected by hand"
    result = transcribe(*command, *CLIPS[:2])
    assert (result.code, result.out) == (0, "")


def test_output_folder_below_a_file(transcribe, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        transcribe("--output-dir", folder, CLIP).assert_refused(9, f"{folder}: cannot be made (")


def test_read_only_output_folder(transcribe, tmpfs):
    folder = tmpfs("ro")
    transcribe("--output-dir", folder / "out", CLIP).assert_refused(
        9, f"{folder}/out: cannot be made (Read-only file system)"
    )
    result = transcribe("--output-dir", folder, CLIP)
    assert result.code == 9
    assert (
        f"error: {folder}/{CLIP.stem}.txt: cannot be written (Read-only file system)" in result.err
    )


def test_full_output_folder_holds_only_whole_files(transcribe, tmpfs):
    folder = tmpfs("size=8k")
    result = transcribe("-f", "all", "--output-dir", folder, LONG_CLIP)
    assert result.code == 9
    assert result.err.splitlines()[-1] == (
        f"error: {folder}/{LONG_CLIP.stem}.json: cannot be written (No space left on device)"
    )
    assert [file.name for file in folder.iterdir()] == [f"{LONG_CLIP.stem}.txt"]


def test_finished_file_is_replaced_whole(transcribe, tmp_path):
    (tmp_path / f"{CLIP.stem}.txt").write_text("older and longer " * 100)
    (tmp_path / f"{CLIP.stem}.txt.partial").write_text("left by a killed process")
    assert transcribe("--output-dir", tmp_path, CLIP).code == 0
    assert {file.name: file.read_text() for file in tmp_path.glob("*.txt*")} == {
        f"{CLIP.stem}.txt": TEXT + "\n"
    }


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_full_disk_behind_standard_output(start):
    with Path("/dev/full").open("w") as full:
        process = start(CLIP, stdout=full, stderr=subprocess.PIPE, text=True)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 9
    assert error.splitlines()[-1] == (
        "error: standard output: cannot be written (No space left on device)"
    )
    assert "Traceback" not in error


def test_reader_that_leaves_ends_the_process_quietly(start, minute):
    process = start(minute, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    read_word(process.stdout.fileno())
    process.stdout.close()
    error = process.stderr.read().decode()
    assert process.wait(60) == terminal.NO_READER
    assert [
        line for line in error.splitlines() if not line.startswith("note: ")
    ] == error.splitlines()[:1]


RAW = (soundfile.read(CLIP, dtype="int16")[0]).tobytes()


def test_live_from_standard_input(process, tiny_artifact):
    result = process("transcribe", "-m", tiny_artifact, "--stdin", input=RAW)
    assert (result.code, result.out) == (0, TEXT + "\n")
    assert re.search(
        r"s of audio, .* latency p50 \d+, p95 \d+, p99 \d+ ms, "
        r"RTF ",
        result.err.splitlines()[-1],
    )


def test_live_events(process, tiny_artifact):
    result = process(
        "transcribe", "-m", tiny_artifact, "--stdin", "--stream-json", input=RAW + bytes(100_000)
    )
    events = [json.loads(line) for line in result.out.splitlines()]
    assert {event["type"] for event in events} - {"notice"} == {
        "partial",
        "group",
        "silence",
        "final",
    }
    assert "".join(event["text"] for event in events if event["type"] == "partial").strip() == TEXT
    assert "".join(event["text"] for event in events if event["type"] == "group").strip() == TEXT
    assert events[-1]["type"] == "final" and events[-1]["text"] == TEXT


def test_live_subtitles(process, tiny_artifact, tmp_path):
    result = process("transcribe", "-m", tiny_artifact, "--stdin", "-f", "srt", input=RAW)
    assert result.out.startswith("1\n00:00:") and TEXT.split()[0] in result.out
    process(
        "transcribe",
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


def test_live_input_that_ends_inside_a_sample(process, tiny_artifact):
    result = process("transcribe", "-m", tiny_artifact, "--stdin", input=RAW + b"x")
    assert (result.code, result.out) == (6, TEXT + "\n")
    assert "error: the input ended inside a sample: 1 of 2 bytes (s16le)" in result.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_capture_and_keeps_what_was_said(number, code, start):
    process = start(
        "--stdin", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
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
        ([], "give audio files, or --mic, or --stdin"),
        (["--stdin", CLIP], "one of the three"),
        (["--stdin", "--mic"], "one of the three"),
        (["--stream-json", CLIP], "add --mic or --stdin"),
        (["--stdin", "--sample-format", "s24le"], "sample format: expected one of"),
        (["--stdin", "--rate", "10"], "rate: expected 1000 to 768000 Hz"),
    ],
)
def test_misuse_of_live_input(arguments, words, process, tiny_artifact):
    process("transcribe", "-m", tiny_artifact, *arguments, input=b"").assert_refused(2, words)


def test_inspect_for_a_reader_that_leaves(process, tiny_artifact):
    command = f"{sys.executable} -m voxtral_onnx inspect --json {tiny_artifact} | head -c 1"
    result = subprocess.run(["sh", "-c", command], capture_output=True, check=True, timeout=60)
    assert (result.stdout, result.stderr) == (b"{", b"")


def test_ctrl_c_leaves_no_output_file(start, minute, tmp_path):
    folder = tmp_path / "out"
    process = start("--output-dir", folder, minute, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    read_word(process.stdout.fileno())
    process.send_signal(signal.SIGINT)
    error = process.stderr.read().decode()
    assert process.wait(60) == cli.INTERRUPTED
    assert "Traceback" not in error
    assert list(folder.iterdir()) == []


def test_sigterm_while_an_output_is_written(transcribe, tmp_path, monkeypatch):
    """What is there is in the file by then, and is not yet the file."""
    monkeypatch.setattr(os, "fsync", lambda file: os.kill(os.getpid(), signal.SIGTERM))
    result = transcribe("--output-dir", tmp_path / "out", CLIP)
    assert (result.code, result.out) == (cli.TERMINATED, TEXT + "\n")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def terminate_at(monkeypatch):
    """This process gets SIGTERM when so many tokens have been decided."""

    def terminate_at(count: int) -> None:
        decided, left = Stream.decided, iter(range(count, -1, -1))

        def counting(stream, choice):
            if next(left, None) == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return decided(stream, choice)

        monkeypatch.setattr(Stream, "decided", counting)

    return terminate_at


def test_sigterm_shows_what_was_decoded(transcribe, terminate_at):
    terminate_at(25)
    result = transcribe("--json", CLIP)
    values = json.loads(result.out)
    assert result.code == cli.TERMINATED
    assert 1 < values["info"]["broken_off_at"] < values["duration"]
    assert TEXT.startswith(values["text"]) and 0 < len(values["text"]) < len(TEXT)


def test_sigterm_shows_files_that_waited_for_an_earlier_one(transcribe, terminate_at):
    terminate_at(200)
    result = transcribe("--batch-size", 2, LONG_CLIP, CLIP)
    assert (result.code, result.out) == (cli.TERMINATED, TEXT + "\n")


def test_progress_of_a_file_and_of_all_is_for_terminals(start):
    ours, theirs = pty.openpty()
    process = start(LONG_CLIP, CLIP, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # how Linux says that the other end of a terminal is closed
        while piece := os.read(ours, 4096):
            shown += piece
    os.close(ours)
    assert process.wait(60) == 0
    lines = re.findall(
        r"0:(\d\d) of 0:26 of long-mixed\.wav, 0 of 2 files, 0:\1 of audio "
        r"at",
        shown.decode(),
    )
    assert lines == sorted(lines) and len(set(lines)) > 1
    assert "2 of 2 files transcribed, 0:29 of audio at" in shown.decode()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (754, "12:34"), (36_000, "10:00:00")]
)
def test_times_for_people(seconds, text):
    assert terminal.format_time(seconds) == text


def test_words_appear_on_a_terminal_while_the_clip_is_decoded(start, minute):
    ours, theirs = pty.openpty()
    process = start(minute, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    first = read_word(ours)
    assert process.poll() is None
    soon = os.read(ours, 4096) if select.select([ours], [], [], 0)[0] else b""
    rest = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # how Linux says that the other end of a terminal is closed
            break
        if not piece:
            break
        rest += piece
    os.close(ours)
    assert process.wait(60) == 0
    assert first == "what "
    assert len(soon.split()) < 20  # all of them would be here, had they been written together
    assert len(rest.split()) > 100


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MiB", 512 << 20),
        ("1gib", 1 << 30),
        ("2GB", 2 * 10**9),
        (" 1.5 GiB", 3 << 29),
        ("1048576", 1 << 20),
        ("4MB", 4 * 10**6),
    ],
)
def test_sizes(text, size):
    assert cli.parse_size(text) == size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (8_200_000, "8.2 MB"),
        (136_000_000, "136 MB"),
        (2_500_000_000, "2.5 GB"),
    ],
)
def test_sizes_for_people(size, text):
    assert terminal.format_size(size) == text


def test_nothing_heavy_is_loaded_for_help():
    heavy = {"torch", "numpy", "onnxruntime", "soundfile"}
    code = f"import sys; from voxtral_onnx import cli; print(*{heavy} & sys.modules.keys())"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    assert result.stdout.strip() == ""
