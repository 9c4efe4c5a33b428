"""The transcribe command: its options, its formats and several files."""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import unicodedata
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.commands import CLIP, LONG_CLIP, SAMPLES, TEXT, TEXTS, clean_environment, read_word
from support.damage import rehash

from voxtral_onnx import Transcriber
from voxtral_onnx.cli import exit_codes
from voxtral_onnx.escaping import printable
from voxtral_onnx.runtime.text.captions import FORMATS
from voxtral_onnx.runtime.writer import TokenWriter

NOTES = ("command-hibari", "digits-espeak", "time-flite")
CLIPS = [SAMPLES / f"{name}.wav" for name in NOTES]


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
            ["output format: expected one of txt, json, srt, vtt, tsv, lrc, all, got 'ass'"],
        ),
        (
            ["--skip-existing"],
            ["--skip-existing looks for outputs in a folder: add --output-dir FOLDER"],
        ),
        (["-f", ""], ["-f: expected a value, got ''"]),
        (["-f", "all"], ["--output-format all writes files: add --output-dir FOLDER"]),
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


def texts_of(*clips: Path) -> str:
    """Return what stdout gets of several files: a heading above each text."""
    return "\n".join(f"==> {clip} <==\n{TEXTS[clip.name]}\n" for clip in clips)


def test_text_of_several_files(transcribe):
    result = transcribe(*CLIPS)
    assert (result.code, result.out) == (0, texts_of(*CLIPS))


@pytest.mark.parametrize("kind", ["srt", "vtt", "tsv"])
def test_formats_of_one_recording_are_not_joined(kind, transcribe):
    transcribe("-f", kind, *CLIPS).assert_refused(
        2, f"{kind} on standard output holds one recording, not 3: add --output-dir FOLDER"
    )


def test_timing_is_the_last_line(transcribe):
    last = transcribe(CLIP).err.splitlines()[-1]
    assert last.startswith(f"{CLIP}: 2.17 s of audio, RTF ")
    for part in (" (encode ", " ms, decode ", " ms), ", "B of memory"):
        assert part in last


def test_json_is_one_object_a_line_with_the_fields_of_whisper(transcribe):
    result = transcribe("--json", *CLIPS)
    values = [json.loads(line) for line in result.out.splitlines()]
    assert [value["text"] for value in values] == [TEXTS[clip.name] for clip in CLIPS]
    assert [value["file"] for value in values] == list(map(str, CLIPS))
    for value in values:
        names = {"file", "text", "segments", "cues", "duration", "token_ids", "info"}
        assert value.keys() == names
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
    assert result.out == texts_of(*CLIPS[:2])
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert [error.partition(str(tmp_path))[2].split(":")[0] for error in errors] == [
        "/none.wav",
        "/bad.wav",
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
    assert result.out == texts_of(*clips)
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert [error.partition(str(tmp_path))[2].split(":")[0] for error in errors] == [
        "/none.wav",
        "/bad.wav",
    ]
    *_, count, last = result.err.splitlines()
    assert count == f"{tmp_path / 'out'}: {4 * len(FORMATS)} files written"
    assert last.startswith("4 of 6 files transcribed, 0:32 of audio at ")
    assert last.endswith(f" times its speed; failed: {files[2]}, {files[4]}")
    assert sum(line.startswith("[1/6] ") for line in result.err.splitlines()) == 1
    written = {file.name: file.read_text() for file in (tmp_path / "out").iterdir()}
    assert written.keys() == {f"{clip.stem}.{name}" for clip in clips for name in FORMATS}
    (tmp_path / "out" / f"{CLIPS[1].stem}.srt").unlink()
    assert transcribe(*options, "--skip-existing", *clips).out == TEXTS[CLIPS[1].name] + "\n"
    result = transcribe(*options[:2], "--json", files[2], CLIPS[1], LONG_CLIP)
    values = [json.loads(line) for line in result.out.splitlines()]
    assert [value["file"] for value in values] == [str(files[2]), str(CLIPS[1]), str(LONG_CLIP)]
    assert values[0].keys() == {"file", "error"} and values[0]["error"] in result.err
    assert [value["text"] for value in values[1:]] == [TEXTS[CLIPS[1].name], TEXTS[LONG_CLIP.name]]


def test_interrupted_files_at_a_time_show_what_is_done(transcribe, monkeypatch):
    from voxtral_onnx.runtime.text import captions

    render, rendered = captions.render, []

    def interrupted(transcript, output_format, **facts):
        rendered.append(transcript)
        if len(rendered) == 3:
            raise KeyboardInterrupt
        return render(transcript, output_format, **facts)

    monkeypatch.setattr(captions, "render", interrupted)
    result = transcribe("--batch-size", 4, LONG_CLIP, *CLIPS)
    assert result.code == 130
    shown = [line for line in result.out.splitlines() if line and not line.startswith("==> ")]
    assert len(shown) == 2 and set(shown) < {TEXTS[clip.name] for clip in CLIPS}


@pytest.mark.parametrize("batch_size", [1, 2])
def test_channels_on_their_own(batch_size, transcribe, tmp_path):
    left, right = (soundfile.read(clip)[0] for clip in CLIPS[:2])
    channels = np.zeros((len(left) + len(right), 2))
    channels[: len(left), 0], channels[len(left) :, 1] = left, right
    soundfile.write(tmp_path / "call.wav", channels, 16000)
    command = ("--channels", "split", "--batch-size", batch_size)
    call = tmp_path / "call.wav"
    turns = f"left: {TEXTS[CLIPS[0].name]}\nright: {TEXTS[CLIPS[1].name]}\n"
    result = transcribe(*command, tmp_path / "call.wav", CLIPS[2])
    assert (result.code, result.out) == (
        0,
        f"==> {call} <==\n{turns}\n==> {CLIPS[2]} <==\n{TEXTS[CLIPS[2].name]}\n",
    )
    assert "call.wav: 2 channels, each on its own\n" in result.err
    result = transcribe(*command, "-f", "all", "-o", tmp_path, tmp_path / "call.wav")
    assert (result.code, result.out) == (0, turns)
    assert (tmp_path / "call.txt").read_text() == turns
    assert (tmp_path / "call.vtt").read_text().count("\n<v ") == 2
    result = transcribe("--channels", "right", tmp_path / "call.wav", CLIPS[2])
    assert (result.code, result.out) == (10, f"==> {call} <==\n{TEXTS[CLIPS[1].name]}\n")
    assert f"error: {CLIPS[2]}: no right channel" in result.err


def test_channels_that_are_no_choice(transcribe, run):
    transcribe("--channels", "centre", CLIP).assert_refused(
        2, "channels: expected one of ['mix', 'split', 'left', 'right'], got 'centre'"
    )
    run("listen", "--channels", "left").assert_refused(2, "--channels: files are for")


def test_batch_size_of_what_is_no_file(transcribe, run):
    run("listen", "--batch-size", 2).assert_refused(
        2, "--batch-size: files are for `voxtral-onnx transcribe`"
    )
    transcribe("--batch-size", 0, CLIP).assert_misused("Invalid value for '--batch-size'")


@pytest.mark.parametrize(
    "arguments", [[], ["--mic"], ["--sample-format"], ["--stream-json"], ["--list_devices"]]
)
def test_speech_as_it_is_spoken_is_for_listen(arguments, run):
    result = run("transcribe", *arguments)
    result.assert_refused(
        2, "voxtral-onnx listen", *(argument.replace("_", "-") for argument in arguments)
    )
    assert len(result.err.splitlines()) == 1


def test_markup_and_emoji_codes_in_names_are_shown_as_they_are(transcribe, tmp_path):
    name = "a[b]:cat:[/b][red].wav"
    transcribe(tmp_path / name).assert_refused(6, f"{name}: no such file")


def test_a_file_that_is_named_twice(transcribe, tmp_path):
    result = transcribe("--output-dir", tmp_path / "out", "-", "-")
    result.assert_refused(2, "-: is named twice, and can be written once")
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
    assert result.code == 0 and re.findall("^[^=\n].*", result.out, re.M) == [TEXT] * 3
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


def test_files_that_are_written_are_named(transcribe, tmp_path):
    folder = tmp_path / "out"
    result = transcribe(LONG_CLIP, "-f", "srt", "-o", folder)
    count = (folder / f"{LONG_CLIP.stem}.srt").read_text().count(" --> ")
    line = rf"{folder}/{LONG_CLIP.stem}\.srt: {count} subtitles, 0:26 of sound in [\d.]+ s"
    assert re.fullmatch(line, result.err.splitlines()[-2])
    result = transcribe(*CLIPS[:2], "-o", folder)
    for clip in CLIPS[:2]:
        assert re.search(rf"^{folder}/{clip.stem}\.txt: 0:0\d of sound", result.err, re.MULTILINE)
    assert (
        f"{folder}: {len(FORMATS)} files written" in transcribe(CLIP, "-f", "all", "-o", folder).err
    )
    assert " of sound in " not in transcribe(CLIP).err


def test_many_failed_files_are_counted(transcribe, tmp_path):
    missing = [tmp_path / f"{name}.wav" for name in "abcde"]
    result = transcribe(CLIP, *missing)
    assert result.code == 10 and result.out == f"==> {CLIP} <==\n{TEXT}\n"
    last = result.err.splitlines()[-1]
    assert last.startswith("1 of 6 files transcribed, ")
    assert last.endswith(f"; failed: {', '.join(map(str, missing[:3]))} and 2 more")


@pytest.mark.parametrize("model", ["none", "tiny_artifact"])
def test_a_run_that_fails_before_its_first_file_makes_no_folder(model, request, run, tmp_path):
    """A missing input is said before a model is looked for, let alone loaded."""
    (tmp_path / "bad.wav").write_text("no")
    place = tmp_path / "none" if model == "none" else request.getfixturevalue(model)
    command = "transcribe", "-m", place, "-o", tmp_path / "new" / "out"
    run(*command, tmp_path / "intervew.mp4").assert_refused(6, "intervew.mp4: no such file")
    if model == "none":
        run(*command, CLIP).assert_refused(4, f"{place}: no such folder")
    else:
        assert run(*command, tmp_path / "bad.wav").code == 6
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", [["transcribe", CLIP], ["listen", "--stdin"]])
def test_an_output_folder_that_is_named_as_a_file(command, run, tmp_path):
    for name in ("interview.srt", "interview.VTT"):
        kind = name[-3:].lower()
        run(*command, "-o", tmp_path / name).assert_refused(
            2, f"{name}: expected a folder, got the name of a file", f": -f {kind} -o FOLDER"
        )
    assert not list(tmp_path.iterdir())


def test_a_folder_may_have_such_a_name(transcribe, tmp_path):
    folder = tmp_path / "mine.txt"
    folder.mkdir()
    assert transcribe(CLIP, "-o", folder).code == 0
    assert (folder / f"{CLIP.stem}.txt").read_text() == TEXT + "\n"


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
    assert (result.code, result.out) == (9, "")
    assert f"error: {CLIP}: {folder}/.{CLIP.stem}.journal.jsonl: cannot be made (" in result.err


def test_full_output_folder_holds_only_whole_files(transcribe, tmpfs):
    """Its journal fits, and some of the outputs."""
    folder = tmpfs("size=28k")
    result = transcribe("-f", "all", "--output-dir", folder, LONG_CLIP, CLIPS[0])
    assert (result.code, result.out) == (10, texts_of(LONG_CLIP))
    assert len(re.findall("^error: .*No space left on device", result.err, re.M)) == 2
    assert re.search(rf"{folder}/{LONG_CLIP.stem}\.\w+: cannot be written \(No space", result.err)
    assert "--resume goes on" in result.err
    assert {file.name for file in folder.iterdir()} >= {
        f"{LONG_CLIP.stem}.txt",
        f".{LONG_CLIP.stem}.journal.jsonl",
    }
    assert not list(folder.glob("*.partial"))


def test_finished_file_is_replaced_whole(transcribe, tmp_path):
    (tmp_path / f"{CLIP.stem}.txt").write_text("older and longer " * 100)
    assert transcribe("--output-dir", tmp_path, CLIP).code == 0
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        f"{CLIP.stem}.txt": TEXT + "\n"
    }


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_full_disk_behind_standard_output(start):
    with Path("/dev/full").open("w") as full:
        process = start("transcribe", CLIP, stdout=full, stderr=subprocess.PIPE, text=True)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 9
    assert error.splitlines()[-1].startswith("error: standard output: cannot be written (")
    assert "Traceback" not in error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_full_disk_behind_a_table(tiny_artifact, tmp_path):
    command = [sys.executable, "-m", "voxtral_onnx", "inspect", str(tiny_artifact)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(tmp_path),
            check=False,
        )
    assert done.returncode == 9
    assert done.stderr == "error: standard output: cannot be written (No space left on device)\n"


def test_reader_that_leaves_ends_the_process_quietly(start, minute):
    process = start("transcribe", minute, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    read_word(process.stdout.fileno())
    process.stdout.close()
    error = process.stderr.read().decode()
    assert process.wait(60) == exit_codes.NO_READER
    assert [
        line for line in error.splitlines() if not line.startswith("note: ")
    ] == error.splitlines()[:1]


def test_ctrl_c_leaves_no_output_file(start, minute, tmp_path):
    folder = tmp_path / "out"
    process = start(
        "transcribe", "--output-dir", folder, minute, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    read_word(process.stdout.fileno())
    process.send_signal(signal.SIGINT)
    error = process.stderr.read().decode()
    assert process.wait(60) == exit_codes.INTERRUPTED
    assert "Traceback" not in error
    [journal] = folder.iterdir()
    assert journal.name == ".minute.journal.jsonl"
    kept = json.loads(journal.read_bytes().splitlines()[-1])["segment"]["end"]
    assert f"{minute}: kept up to {kept:.2f} s: --resume goes on" in error


def test_sigterm_while_an_output_is_written(transcribe, tmp_path, monkeypatch):
    """What is there is in the file by then, and is not yet the file."""
    transcribe(CLIP)  # from now on nothing but the output is written
    monkeypatch.setattr(os, "fsync", lambda file: os.kill(os.getpid(), signal.SIGTERM))
    result = transcribe("--output-dir", tmp_path / "out", CLIP)
    assert (result.code, result.out) == (exit_codes.TERMINATED, TEXT + "\n")
    assert [path.name[0] for path in (tmp_path / "out").iterdir()] == ["."]


@pytest.fixture
def terminate_at(monkeypatch):
    """This process gets SIGTERM when so many tokens have been written."""

    def terminate_at(count: int) -> None:
        write, left = TokenWriter.write, iter(range(count, -1, -1))

        def counting(writer, sampled):
            if next(left, None) == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return write(writer, sampled)

        monkeypatch.setattr(TokenWriter, "write", counting)

    return terminate_at


def test_sigterm_shows_what_was_decoded(transcribe, terminate_at):
    terminate_at(25)
    result = transcribe("--json", CLIP)
    values = json.loads(result.out)
    assert result.code == exit_codes.TERMINATED
    assert 1 < values["info"]["broken_off_at"] < values["duration"]
    assert TEXT.startswith(values["text"]) and 0 < len(values["text"]) < len(TEXT)


def test_sigterm_shows_files_that_waited_for_an_earlier_one(transcribe, terminate_at):
    terminate_at(200)
    result = transcribe("--batch-size", 2, LONG_CLIP, CLIP)
    assert (result.code, result.out) == (exit_codes.TERMINATED, f"==> {CLIP} <==\n{TEXT}\n")


def test_progress_of_a_file_and_of_all_is_for_terminals(start):
    ours, theirs = pty.openpty()
    process = start("transcribe", LONG_CLIP, CLIP, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # how Linux says that the other end of a terminal is closed
        while piece := os.read(ours, 4096):
            shown += piece
    os.close(ours)
    assert process.wait(60) == 0
    lines = re.findall(
        r"[━─]{20} +(\d+)%, 0:\d\d left, 0 of 2 files, 0:(\d\d) of 0:26 of long-mix",
        shown.decode(),
    )
    lines = [tuple(map(int, line)) for line in lines]
    assert lines and lines == sorted(lines)
    assert all(abs(share - 100 * seconds / 29) < 5 for share, seconds in lines)
    assert "2 of 2 files transcribed, 0:29 of audio at" in shown.decode()


def test_words_appear_on_a_terminal_while_the_clip_is_decoded(start, minute):
    ours, theirs = pty.openpty()
    process = start("transcribe", minute, stdout=theirs, stderr=subprocess.DEVNULL)
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


WORDS = ("turn", "music")
HOSTILE = "\x1b]52;c;ZXZpbA==\x07\x9b2J\u202e\n--> <b>"


@pytest.fixture
def hostile(artifact):
    """An artifact whose words write the clipboard, and clear the screen."""
    path = artifact / "tekken.json"
    values = json.loads(path.read_text())
    found = 0
    for entry in values["vocab"]:
        word = base64.b64decode(entry["token_bytes"]).decode("utf-8", "replace")
        if word.strip() in WORDS:
            found += 1
            text = f" {HOSTILE}" + "!" * found  # no two of one name
            entry["token_bytes"] = base64.b64encode(text.encode()).decode()
    assert found
    path.write_text(json.dumps(values))
    rehash(artifact)
    return artifact


def controls(text: str) -> set[str]:
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf")} - {"\n"}


def test_words_of_a_tokenizer_are_text(hostile, run, tmp_path):
    """In what is written, whatever reads it; Python gets them as they are."""
    shown = printable(HOSTILE)
    for kind in FORMATS:
        result = run("transcribe", "-m", hostile, "-f", kind, "-o", tmp_path / "out", CLIP)
        written = (tmp_path / "out" / f"{CLIP.stem}.{kind}").read_text()
        assert result.code == 0 and controls(result.out + written) <= {"\t"}
        assert "\\u001b]52;c;ZXZpbA==\\u0007\\u009b2J\\u202e" in written
        if kind == "txt":
            assert shown in written and result.out == written
        if kind == "json":
            assert HOSTILE in json.loads(written)["text"]
        if kind in ("srt", "vtt"):
            assert written.count("-->") == len(re.findall(r"^\d.* --> \d.*$", written, re.M))
    with Transcriber(hostile) as transcriber:
        assert HOSTILE in transcriber.transcribe(CLIP).text


def test_words_of_a_tokenizer_on_a_terminal(hostile, start):
    """Words as they come, with the line below them."""
    ours, theirs = pty.openpty()
    process = start("transcribe", "-m", hostile, CLIP, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # how Linux says that the other end of a terminal is closed
        while piece := os.read(ours, 4096):
            shown += piece
    os.close(ours)
    assert process.wait(60) == 0
    text = re.sub(r"\x1b\[[0-9]*[A-HJKGm]|\r", "", shown.decode())
    assert "\\u001b]52;c;ZXZpbA==" in text.replace("\n", "") and not controls(text)
