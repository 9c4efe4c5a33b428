"""Options in whisper's spelling do what they do there, or say why not."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from support.commands import CLIP, TEXT

from voxtral_onnx.cli.spellings import UNSUPPORTED, USUAL, leave_out_usual, replace_switches
from voxtral_onnx.errors import UsageError


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["transcribe", "-o", "", "a.wav"], "-o"),
        (["transcribe", "--output_dir=", "a.wav"], "--output_dir"),
        (["transcribe", "a.wav", ""], "an argument"),
        (["transcribe", "--", ""], "an argument"),
        (["listen", "--hotwords", ""], "--hotwords"),
        (["export", "tiny", "-o", ""], "-o"),
        (["export", ""], "an argument"),
        (["evaluate", "tiny", "--data", ""], "--data"),
        (["bundle", "tiny", "-o", ""], "-o"),
        (["inspect", ""], "an argument"),
    ],
)
def test_nothing_is_no_path(arguments, what, run):
    result = run(*arguments)
    result.assert_refused(
        2, f"{what}: expected a value, got ''; is a variable of the shell not set?"
    )


@pytest.mark.parametrize("spelling", [["--model", "{}"], ["-m", "{}"], ["--model={}"]])
def test_a_model_is_named_as_for_transcribe(spelling, run, tmp_path):
    """By all commands that take it as an argument."""
    given = [part.format(tmp_path / "none") for part in spelling]
    for command in ("doctor", "inspect", "bench", "serve", "verify"):
        run(command, *given).assert_refused(4, f"{tmp_path / 'none'}: no such folder")
    run("bundle", "-o", tmp_path / "site", *given).assert_refused(4, "none: no such folder")
    run("inspect", "--model").assert_refused(2, "--model: expected a value, got nothing")


def test_several_formats(run):
    for again in (["-f", "vtt"], ["--output_format=vtt"]):
        result = run("transcribe", "-m", "tiny", "-f", "srt", *again, "a.wav")
        result.assert_refused(2, "--output-format: expected one, got several", "-f all")


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
def test_underscores_and_hyphens(flags, transcribe):
    assert json.loads(transcribe(*flags, CLIP).out)["text"] == TEXT


def test_underscores_stay_in_values(transcribe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(CLIP, "x_y.wav")
    for folder, flags in (
        ("a_b", ["--output_dir=a_b"]),
        ("c_d", ["--output_dir", "c_d"]),
        ("e_f", ["-o", "e_f"]),
    ):
        assert transcribe(*flags, "x_y.wav").code == 0
        assert (tmp_path / folder / "x_y.txt").read_text() == TEXT + "\n"


@pytest.mark.parametrize("name", ["--my_file.wav", "--language", "--word_timestamps"])
def test_file_name_that_begins_with_hyphens(name, transcribe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(CLIP, name)
    assert transcribe("--", name).out == TEXT + "\n"


def test_a_command_of_whisper(run, tiny_artifact, tmp_path):
    options = "--device cpu --threads 2 --word_timestamps True --verbose False -f all --output_dir"
    result = run("transcribe", "--model", tiny_artifact, *options.split(), tmp_path, CLIP)
    assert (result.code, result.out) == (0, TEXT + "\n")
    assert len(list(tmp_path.glob(f"{CLIP.stem}.*"))) == 6


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("--word_timestamps True a.wav", "a.wav"),
        ("--word-timestamps=false a.wav", "a.wav"),
        ("--word_timestamps a.wav", "a.wav"),
        ("a.wav --word_timestamps", "a.wav"),
        ("--verbose --word_timestamps true True", "True"),
        ("--vad_filter True a.wav", "--vad a.wav"),
        ("--vad_filter a.wav", "--vad a.wav"),
        ("--vad_filter False a.wav", "a.wav"),
        ("-o True --threads 2", "-o True --threads 2"),
    ],
)
def test_switches(given, left):
    assert replace_switches(given.split()) == left.split()


def test_a_switch_is_true_or_false():
    with pytest.raises(UsageError, match="--verbose: expected True or False, got 'perhaps'"):
        replace_switches(["--verbose=perhaps"])


def test_fp16_is_said_to_change_nothing(transcribe):
    result = transcribe("--fp16", "False", CLIP)
    assert (result.code, result.out) == (0, TEXT + "\n")
    assert result.err.startswith("note: --fp16 changes nothing; --precision chooses")


@pytest.mark.parametrize("command", ["transcribe", "listen"])
@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_what_the_model_cannot_have_is_a_sentence(name, command, run):
    for given in (name, name.replace("-", "_").replace("__", "--", 1)):
        result = run(command, "-m", "nowhere", given, "en")
        result.assert_refused(2, f"{name}: ")
        assert len(result.err.splitlines()) == 1


def test_sentences(transcribe):
    for option, sentence in (
        ("--language", "the model detects the language by itself"),
        ("--task=translate", "translates nothing"),
        ("--initial_prompt", "the model takes no text as a prompt; --hotwords FILE"),
        ("--diarize", "the model does not tell speakers apart"),
        ("--beam_size", "no beams"),
        ("--temperature", "the likeliest token is taken"),
        ("--condition_on_previous_text", "one stream to the model"),
        ("--condition_on_previous_text=True", "one stream to the model"),
        ("--vad_onset", "--vad judges by loudness, --vad-model PATH by Silero's model"),
        ("--cpu-threads", "use --threads N"),
        ("--live_transcribe", "`voxtral-onnx listen`"),
        ("--checkpoint", "Stream.save"),
        ("--blank-guard", "it is the default; --no-blank-guard turns it off"),
    ):
        transcribe(option, CLIP).assert_refused(2, sentence)


def test_sentences_name_only_options_that_there_are(run):
    shown = "".join(run(command, "--help").out for command in ("transcribe", "listen"))
    for sentence in UNSUPPORTED.values():
        assert all(option in shown for option in re.findall(r"--[a-z-]+", sentence)), sentence


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("--task transcribe a.wav", "a.wav"),
        ("a.wav --task=transcribe", "a.wav"),
        ("--task translate a.wav", "--task translate a.wav"),
        ("--task", "--task"),
        ("--highlight_words False --condition_on_previous_text=false a.wav", "a.wav"),
        ("--highlight_words True False", "--highlight_words True False"),
        ("-o transcribe False", "-o transcribe False"),
    ],
)
def test_values_that_ask_for_what_is_done_anyway(given, left):
    assert leave_out_usual(given.split()) == left.split()


def test_usual_values_are_accepted_without_a_word(transcribe):
    values = [part for name, value in USUAL.items() for part in (name, value)]
    result = transcribe(*values, CLIP)
    assert (result.code, result.out) == (0, TEXT + "\n")
    assert "--" not in result.err
    assert USUAL.keys() <= UNSUPPORTED.keys()


@pytest.mark.parametrize("command", ["transcribe", "listen"])
@pytest.mark.parametrize(
    "given", ["--vad silero.onnx", "--vad x/Silero.ONNX a.wav", "--vad=silero.onnx", "--vad=energy"]
)
def test_vad_takes_no_model(given, command, run):
    result = run(command, "-m", "nowhere", *given.split())
    result.assert_refused(2, "--vad: ", "--vad-model PATH")
    assert len(result.err.splitlines()) == 1


def test_other_commands_know_nothing_of_whisper(run):
    run("inspect", "--language", "en").assert_misused("No such option: --language")
