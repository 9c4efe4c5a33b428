"""Names of outputs: distinct on every file system, legal, and never those of inputs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtral_onnx.cli.outputs import Outputs, shown_name
from voxtral_onnx.errors import StorageError, UsageError
from voxtral_onnx.files import fitted_name
from voxtral_onnx.limits import LONGEST_NAME


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Outputs(("txt", "json"), Path("out"))


@pytest.mark.parametrize(
    ("audio", "names"),
    [
        (["d/a.wav", "d/b.wav"], ["a", "b"]),
        (["a.wav", "b.mp4", "b.wav"], ["a", "b.mp4", "b.wav"]),
        (["Talk.mp4", "talk.wav"], ["Talk.mp4", "talk.wav"]),
        (["caf\u00e9.wav", "cafe\u0301.mp3"], ["caf\u00e9.wav", "cafe\u0301.mp3"]),
        (["a.mp4", "a.wav", "a.mp4.flac"], ["a.mp4", "a.wav", "a.mp4.flac"]),
        (["-", "stdin.wav"], ["stdin", "stdin.wav"]),
    ],
)
def test_recordings_of_one_name_keep_their_suffixes(audio, names, outputs):
    assert outputs.name(audio) == names


@pytest.mark.parametrize(
    "audio",
    [["a/x.wav", "b/x.wav"], ["x.wav", "d/X.WAV"], ["caf\u00e9.wav", "cafe\u0301.wav"]],
)
def test_files_of_one_name_and_suffix_are_told_apart(audio, outputs):
    """By their paths alone: another file beside them does not change their names."""
    *names, other = outputs.name([*audio, "y.wav"])
    assert other == "y" and len({name.casefold() for name in names}) == 2
    assert sorted(outputs.name(audio[::-1])) == sorted(names)
    assert all(
        re.fullmatch(re.escape(path[path.find("/") + 1 :]) + r"\.[0-9a-f]{8}", name)
        for path, name in zip(audio, names, strict=True)
    )


@pytest.mark.parametrize("audio", [["-", "-"], ["x.wav", "y.wav", "x.wav"]])
def test_a_file_that_is_named_twice_is_refused(audio, outputs):
    with pytest.raises(UsageError, match="is named twice"):
        outputs.name(audio)


def test_an_input_is_never_an_output(outputs):
    for name in ("talk.wav", "talk.txt"):
        Path(name).write_bytes(b"sound")
    Path("link").symlink_to(".")
    Path("alias.txt").hardlink_to("talk.txt")
    for folder in (Path(), Path("link")):
        for audio in (["talk.txt"], ["talk.wav", "alias.txt"]):
            with pytest.raises(UsageError, match=r"(talk|alias).txt: would be replaced by an outp"):
                Outputs(("txt",), folder).name(audio)
    assert Outputs(("txt",), Path()).name(["talk.wav"]) == ["talk"]


@given(st.text("aé今\udce9", min_size=1, max_size=300), st.integers(1, 20))
def test_long_names_are_legal_and_distinct(name, suffix):
    short, other = fitted_name(name, suffix), fitted_name(name + "x", suffix)
    assert len(os.fsencode(short)) + suffix <= LONGEST_NAME
    assert short == name or len(os.fsencode(name)) + suffix > LONGEST_NAME
    assert short != other


def test_what_stands_in_the_place_of_an_output_is_said_before_the_work(outputs):
    (outputs.folder / "a.json").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"a.json: cannot be written \(Is a directory\)"):
        outputs.require_places("a")
    outputs.require_places("b")


def test_names_that_are_no_text_are_escaped():
    assert shown_name(os.fsdecode(b"caf\xe9 \xc3\xa9.wav")) == "caf\\xe9 é.wav"
