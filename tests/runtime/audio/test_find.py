"""Inputs become the files that hold sound; what cannot be searched is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from voxtral_onnx.errors import AudioError
from voxtral_onnx.runtime.audio.container.media import MEDIA_SUFFIXES
from voxtral_onnx.runtime.audio.find import SUFFIXES, find_audio

APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "
NOBODY = 65534


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder that one is in, and that everybody may enter from here."""
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*names: str, content: bytes = b"sound") -> None:
    for path in map(Path, names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def found_in(*inputs: str) -> tuple[list[str], list[str]]:
    failures: list[str] = []

    def fail(name: str, error: AudioError) -> None:
        assert str(error).startswith(f"{name}: ")
        failures.append(str(error))

    return find_audio(inputs, fail), failures


def test_suffixes_of_all_that_is_read(folder):
    names = sorted(f"d/x{suffix}" for suffix in SUFFIXES)
    make(*names, "d/notes.txt", "d/Thumbs.db", "d/.DS_Store", "d/y.wav.part")
    assert found_in("d") == (names, [])
    assert set(MEDIA_SUFFIXES) < set(SUFFIXES)


def test_files_of_folders_that_may_be_sound_are_said(folder):
    make("d/recording", "d/x.nut", "d/deep/y.sph", "d/a.wav")
    make("d/a.txt", "d/a.SRT", "d/cover.jpg", "d/README", "d/.hidden", "e/b.wav", "e/b.json")
    make("d/nothing", content=b"")
    others: list[list[str]] = []
    assert find_audio(["d", "e"], on_others=others.append) == ["d/a.wav", "e/b.wav"]
    assert others == [["d/deep/y.sph", "d/recording", "d/x.nut"]]
    assert find_audio(["d/x.nut", "e"], on_others=others.append) and len(others) == 1


def test_what_a_mac_keeps_beside_files_is_no_audio(folder):
    make("d/._x.wav", "d/deep/._y.mp3", content=APPLE_DOUBLE)
    make("d/x.wav", "d/._sound.wav")
    assert found_in("d") == (["d/._sound.wav", "d/x.wav"], [])
    assert found_in("d/.*.wav") == (["d/._sound.wav"], [])
    files, [failure] = found_in("d/._x.wav", "d/x.wav")
    assert files == ["d/x.wav"]
    assert failure.startswith("d/._x.wav: holds what macOS keeps beside a file")
    files, [failure] = found_in("d/deep")
    assert (files, failure.partition(" (")[0]) == ([], "d/deep: a folder without audio files")


def test_an_input_without_audio_does_not_keep_the_others_from_it(folder):
    make("a.wav")
    Path("empty").mkdir()
    files, failures = found_in("empty", "a.wav", "*.flac")
    assert files == ["a.wav"] and len(failures) == 2
    with pytest.raises(AudioError, match="empty: a folder without audio files"):
        find_audio(["empty", "a.wav"])


def test_links_are_followed_once(folder):
    make("d/a.wav", "elsewhere/b.wav")
    Path("d/up").symlink_to("..")
    Path("d/round").symlink_to(".")
    Path("d/dangling.wav").symlink_to("nowhere.wav")
    assert found_in("d") == (["d/a.wav", "d/dangling.wav", "d/up/elsewhere/b.wav"], [])


def test_a_pipe_in_a_folder_is_not_read(folder):
    make("d/a.wav")
    os.mkfifo("d/pipe.wav")
    os.mkfifo("d/._pipe.wav")
    assert found_in("d") == (["d/a.wav"], [])


def test_a_folder_that_may_not_be_entered_is_said(folder):
    make("d/a.wav", "d/sub/b.wav", "d/listed/c.wav")
    Path("d/sub").chmod(0)
    Path("d/listed").chmod(0o644)  # names may be read, and nothing else
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        files, failures = found_in("d")
        assert files == ["d/a.wav", "d/listed/c.wav"]
        assert failures == ["d/sub: cannot be searched (Permission denied)"]
        assert found_in("d/sub")[0] == []
    finally:
        os.seteuid(user)
        Path("d/sub").chmod(0o755)


def test_a_path_that_no_call_takes_is_said(folder):
    """Folders in folders: each name is legal, and all together are longer than a path may be."""
    make("d/a.wav")
    here = Path.cwd()
    try:
        os.chdir("d")
        for _ in range(20):
            Path("n" * 250).mkdir()
            os.chdir("n" * 250)
        make("deep.wav")
    finally:
        os.chdir(here)
    files, [failure] = found_in("d")
    assert files == ["d/a.wav"]
    assert failure.endswith(": cannot be searched (File name too long)")


def test_a_link_to_itself_keeps_no_file_back(folder):
    (folder / "loop").symlink_to("loop")
    (folder / "after").mkdir()
    (folder / "after" / "c.wav").write_bytes(b"")
    (folder / "z.wav").write_bytes(b"")
    failures = {}
    found = find_audio([str(folder)], failures.__setitem__)
    assert {str(folder / "after" / "c.wav"), str(folder / "z.wav")} <= set(found)
    assert list(failures) == [str(folder / "loop")]
