"""Files of one run: each one's failure is its own, and what was decoded is kept."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
from support.commands import CLIP, LONG_CLIP, SAMPLES, TEXT, TEXTS, clean_environment

from voxtral_onnx.runtime import opening, recordings
from voxtral_onnx.runtime.audio import files
from voxtral_onnx.runtime.audio.files import AudioSource
from voxtral_onnx.runtime.text.captions import FORMATS
from voxtral_onnx.runtime.transcriber import NUM_DRAFT_TOKENS
from voxtral_onnx.runtime.writer import TokenWriter
from voxtral_onnx.threads import num_cores

OTHER = SAMPLES / "date-hibari.wav"


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("kind", [MemoryError, ValueError, OSError])
def test_whatever_one_file_raises_is_its_own(kind, batch_size, transcribe, tmp_path, monkeypatch):
    """In the middle of its sound, where no error of ours is expected."""
    copy = tmp_path / "odd.wav"
    copy.write_bytes(CLIP.read_bytes())
    blocks = AudioSource.blocks

    def failing(source):
        for block in blocks(source):
            yield block
            if source.name == str(copy):
                raise kind("out of luck")

    monkeypatch.setattr(AudioSource, "blocks", failing)
    options = ("--json", "--batch-size", batch_size)
    result = transcribe(*options, CLIP, copy, OTHER)
    one, odd, two = map(json.loads, result.out.splitlines())
    assert result.code == 10 and (one["text"], two["text"]) == (TEXT, TEXTS[OTHER.name])
    assert odd["file"] == str(copy) and odd["error"].startswith(f"{copy}: ")
    assert f"error: {odd['error']}" in result.err and "Traceback" not in result.err
    assert transcribe(copy).code == 1


def test_names_that_are_no_text(transcribe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"caf\xe9.wav")
    Path(name).write_bytes(CLIP.read_bytes())
    assert transcribe(name, OTHER, "-f", "all", "-o", "out").code == 0
    written = {os.fsencode(path.name) for path in Path("out").iterdir()}
    assert written == {
        stem + b"." + kind.encode() for kind in FORMATS for stem in (b"caf\xe9", b"date-hibari")
    }
    content = Path("out", os.fsdecode(b"caf\xe9.json")).read_bytes()
    assert json.loads(content)["file"] == "caf\\xe9.wav"


def test_files_that_are_passed_over_are_said_once(transcribe, tmp_path):
    for name in ("a.wav", "recording", "b.nut", "c.xyz", "d.xyz"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(CLIP.read_bytes())
    result = transcribe(tmp_path / "in")
    assert (result.code, result.out) == (0, TEXT + "\n")
    passed = ", ".join(str(tmp_path / "in" / name) for name in ("b.nut", "c.xyz", "d.xyz"))
    note = f"note: 4 other files not tried: {passed} and 1 more; name them to read them"
    assert result.err.count(note) == 1


def test_long_names_of_bytes_are_read_and_spelt_in_one_way(transcribe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"\xe9" * 200 + b".wav")
    Path(name).write_bytes(CLIP.read_bytes())
    result = transcribe("--json", name, os.fsdecode(b"\xff.wav"))
    good, lacking = map(json.loads, result.out.splitlines())
    assert (result.code, good["text"], good["file"]) == (10, TEXT, "\\xe9" * 200 + ".wav")
    assert lacking["error"] == "\\xff.wav: no such file"
    assert f"error: {lacking['error']}" in result.err and "udc" not in result.err


def test_names_where_the_locale_is_of_ascii(tiny_artifact, tmp_path):
    name = "録音" * 40 + ".wav"
    (tmp_path / name).write_bytes(CLIP.read_bytes())
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "voxtral_onnx", "transcribe", "-m", tiny_artifact, "--json", name],
        env={**clean_environment(tmp_path), "PYTHONIOENCODING": "", **locale},
        capture_output=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["text"], found["file"]) == (TEXT, name)


def test_a_folder_in_the_place_of_an_output_and_one_that_cannot_be_searched(transcribe, tmp_path):
    (tmp_path / "out" / f"{CLIP.stem}.txt").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    result = transcribe(tmp_path / "empty", CLIP, OTHER, "-o", tmp_path / "out")
    assert result.code == 10 and TEXTS[OTHER.name] in result.out
    assert (tmp_path / "out" / f"{OTHER.stem}.txt").read_text() == TEXTS[OTHER.name] + "\n"
    assert f"{CLIP.stem}.txt: cannot be written (Is a directory)" in result.err
    assert "empty: a folder without audio files" in result.err


def test_a_failed_file_of_two_names_is_counted_once_and_said_in_json(transcribe, tmp_path):
    (tmp_path / "empty").mkdir()
    result = transcribe("--json", tmp_path / "empty")
    assert result.code == 6
    assert json.loads(result.out) == {
        "file": str(tmp_path / "empty"),
        "error": result.err.strip().removeprefix("error: "),
    }


@pytest.fixture
def killed(start, tmp_path):
    """Kill the transcription of the long clip when its journal has some lines."""

    def killed(number: int, lines: int, *options) -> Path:
        folder = tmp_path / "out"
        process = start(
            "transcribe", "-o", folder, *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        journal = folder / f".{LONG_CLIP.stem}.journal.jsonl"
        while not (journal.exists() and journal.read_bytes().count(b"\n") > lines):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(number)
        process.communicate()
        assert not list(folder.glob(f"{LONG_CLIP.stem}.*"))
        return journal

    return killed


@pytest.mark.parametrize(
    ("number", "options"),
    [(signal.SIGKILL, ()), (signal.SIGTERM, ()), (signal.SIGKILL, ("--batch-size", 2, CLIP))],
)
def test_a_run_that_was_killed_goes_on(number, options, killed, transcribe, tmp_path):
    """The text is that of a run that was not: nothing is missing, and nothing is there twice."""
    journal = killed(number, 16, LONG_CLIP, *options)
    with journal.open("ab") as file:
        file.write(b'{"segment": {"id": 1')  # as the system leaves a line that was being written
    options = ("-o", tmp_path / "out", "-f", "all")
    result = transcribe(*options, "--resume", LONG_CLIP)
    assert (result.code, result.out) == (0, TEXTS[LONG_CLIP.name] + "\n")
    assert "goes on at " in result.err
    assert not journal.exists()
    value = json.loads((tmp_path / "out" / f"{LONG_CLIP.stem}.json").read_text())
    whole = json.loads(transcribe("--json", LONG_CLIP).out)
    [resumed_at] = value["info"].pop("resumed_at")
    assert 0 < resumed_at < value["duration"] and round(resumed_at / 0.08, 6) % 1 == 0
    for name in ("text", "token_ids", "duration"):
        assert value[name] == whole[name]
    for one, other in zip(value["segments"], whole["segments"], strict=True):
        assert one == other | {"avg_logprob": pytest.approx(other["avg_logprob"], abs=0.01)}
    assert f"1 skipped, their output stands in {tmp_path / 'out'}" in (
        transcribe(*options, "--resume", LONG_CLIP).err
    )


def test_without_resume_a_run_begins_again_and_sets_the_journal_aside(killed, transcribe, tmp_path):
    journal = killed(signal.SIGKILL, 8, LONG_CLIP)
    held = journal.read_bytes()
    old = journal.with_name(f".{LONG_CLIP.stem}.journal.old.jsonl")
    # Of another recording, delay or model there is nothing to go on with
    result = transcribe("-o", tmp_path / "out", "--resume", "--delay", 960, LONG_CLIP)
    assert result.code == 9 and "the delay_ms differs from what" in result.err
    assert journal.read_bytes() == held
    result = transcribe("-o", tmp_path / "out", LONG_CLIP)
    assert result.out == TEXTS[LONG_CLIP.name] + "\n"
    assert f"begins again without --resume; its journal is now {old}" in result.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{LONG_CLIP.stem}.txt"]


def test_options_that_look_for_outputs_need_a_folder_and_names(transcribe, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "stdin.txt").write_text("of another recording")
    for option in ("--resume", "--skip-existing"):
        transcribe(option, CLIP).assert_refused(2, f"{option} looks for outputs in a folder")
        for name in ("-", tmp_path / "pipe"):
            transcribe(option, "-o", tmp_path, name).assert_refused(
                2, f"{option}: {name} is no file that another run could recognise"
            )


@pytest.mark.parametrize("precision", ["fp32", "q4"])
def test_the_text_of_a_batch_is_that_of_one_after_the_other(precision, transcribe, monkeypatch):
    """In q4 without draft tokens, whose calls of two positions round otherwise."""
    if precision == "q4":
        monkeypatch.setitem(NUM_DRAFT_TOKENS, "cpu", 0)
    clips = [SAMPLES / name for name in TEXTS]
    alone, *others = (
        transcribe("--precision", precision, "--batch-size", size, *clips) for size in (1, 4)
    )
    assert alone.code == 0 and len(alone.out) > 300
    assert [(each.code, each.out) for each in others] == [(0, alone.out)]


def test_how_many_auto_takes_is_said_once(transcribe):
    result = transcribe("--batch-size", "auto", "--json", CLIP, OTHER)
    notes = [line for line in result.err.splitlines() if line.startswith("note: batch size: ")]
    slots = {json.loads(line)["info"]["batch"]["slots"] for line in result.out.splitlines()}
    assert notes == [f"note: batch size: {slots.pop()} together (chosen by auto)"] and not slots
    assert "batch size:" not in transcribe("--batch-size", 2, CLIP).err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_many_files_in_flight_that_are_stopped(number, code, start, tmp_path):
    """Finished files are written, none is half, journals are kept, and no thread holds it up."""
    names = [f"{i:02}.wav" for i in range(64)]
    for name in names:
        shutil.copyfile(LONG_CLIP, tmp_path / name)
    out = tmp_path / "out"
    process = start(
        *("transcribe", "--batch-size", 64, "-o", out, CLIP, *(tmp_path / name for name in names)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not (
        (out / f"{CLIP.stem}.txt").exists()
        and any(path.read_bytes().count(b"\n") > 1 for path in out.glob(".[0-9]*"))
    ):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(number)
    shown, said = process.communicate(timeout=30)
    assert process.returncode == code and b"Traceback" not in said
    written = {path.name for path in out.iterdir()}
    texts = {path for path in out.iterdir() if not path.name.startswith(".")}
    assert texts and {path.read_text() for path in texts} <= {
        f"{TEXTS[each.name]}\n" for each in (CLIP, LONG_CLIP)
    }
    journals = {name for name in written if name.endswith(".journal.jsonl")}
    assert journals and written == journals | {path.name for path in texts}
    assert shown.startswith(f"==> {CLIP} <==\n{TEXT}\n".encode())


@pytest.mark.parametrize("batch_size", [1, 3])
def test_files_that_are_done_are_let_go(batch_size, transcribe, tmp_path, monkeypatch):
    """However many files there are, those that are open are few."""
    for i in range(40):
        shutil.copyfile(CLIP, tmp_path / f"{i}.wav")
    # In slots, ahead of them, opened ahead, and those that the engine still lists
    bound = batch_size + recordings.AHEAD + 2 * opening.AHEAD * num_cores() + 8
    opened, most, open_audio = weakref.WeakSet[AudioSource](), 0, files.open_audio

    def watched(*arguments, **options):
        nonlocal most
        opened.add(source := open_audio(*arguments, **options))
        for _ in range(500):
            if len(opened) <= bound:
                break
            gc.collect()  # does nothing while another thread collects
            time.sleep(0.01)
        most = max(most, len(opened))
        return source

    monkeypatch.setattr(files, "open_audio", watched)
    result = transcribe("--batch-size", batch_size, tmp_path)
    assert result.code == 0 and result.out.count(TEXT) == 40
    assert most <= bound


def test_a_journal_of_pieces_is_continued_in_pieces(transcribe, tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "LONG_SECONDS", 10.0)
    write, left = TokenWriter.write, iter(range(300, -1, -1))

    def stopping(writer, sampled):
        if next(left, None) == 0:
            raise KeyboardInterrupt
        return write(writer, sampled)

    monkeypatch.setattr(TokenWriter, "write", stopping)
    command = ("-o", tmp_path / "out", LONG_CLIP)
    assert transcribe("--batch-size", 2, *command).code == 130
    for others in ((), ("--batch-size", 2, "--no-split")):
        result = transcribe("--resume", *others, *command)
        assert result.code == 9
        assert "the decoding in pieces (--batch-size, --no-split) differs from" in result.err
    result = transcribe("--resume", "--batch-size", 3, *command)
    assert "goes on at" in result.err
    assert (result.code, result.out) == (0, TEXTS[LONG_CLIP.name] + "\n")
