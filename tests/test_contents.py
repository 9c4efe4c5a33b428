"""Files hold what was recorded of them: before they are used, and while they are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest
from support.commands import CLIP, LONG_CLIP, TEXT, TEXTS, clean_environment

from voxtral_onnx import Transcriber, contents
from voxtral_onnx.contents import MOST_REMEMBERED, check_contents, verified
from voxtral_onnx.errors import ArtifactError
from voxtral_onnx.files import PIECE_SIZE, hash_file
from voxtral_onnx.limits import STATE
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.stream import Stream


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were read to be hashed, in order."""
    names, hash_part = [], contents._hash_part

    def counted(path, part, *, is_last):
        names.append(path.name)
        return hash_part(path, part, is_last=is_last)

    monkeypatch.setattr(contents, "_hash_part", counted)
    return names


def memory() -> Path:
    return platformdirs.user_cache_path("voxtral-onnx") / "hashes.json"


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        [byte] = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def weights_of(artifact: Path) -> Path:
    [path] = (artifact / "onnx").glob("decoder_model_merged*_data")
    return path


# Before they are used


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("pattern", ["decoder*_data", "audio_encoder*_data", "*.onnx", "mel.onnx"])
def test_a_flipped_bit_is_no_other_text(artifact, pattern, is_known, run):
    path = sorted((artifact / "onnx").glob(pattern))[0]
    if is_known:
        assert run("transcribe", "-m", artifact, CLIP).out == TEXT + "\n"
    flip(path, path.stat().st_size // 3)
    run("transcribe", "-m", artifact, CLIP).assert_refused(
        4, f"{path}: expected sha256 ", "got other bytes", "copy the artifact again, download"
    )


def test_a_flipped_bit_of_the_tokenizer(artifact, run):
    flip(artifact / "tekken.json", 100_000)
    run("transcribe", "-m", artifact, CLIP).assert_refused(4, "tekken.json: expected sha256 ")


@pytest.mark.parametrize("at", [0, PIECE_SIZE, 2 * PIECE_SIZE + 999, None])
def test_every_piece_of_a_large_file_counts(tmp_path, at):
    path = tmp_path / "large"
    path.write_bytes(b"w" * (2 * PIECE_SIZE + 1000))
    files = {path: hash_file(path)}
    check_contents(files)
    if at is None:
        with path.open("ab") as file:
            file.write(b"w")
    else:
        flip(path, at)
    with pytest.raises(ArtifactError, match=r"large: expected sha256 .*, got other bytes"):
        check_contents(files)


def test_weights_are_read_once_and_all_else_every_time(artifact, hashed):
    names = Manifest.read(artifact).files
    weights = {Path(name).name for name in names if name.endswith(("_data", "_data_1"))}
    small = {Path(name).name for name in names} - weights
    Transcriber(artifact, "cpu").close()
    assert {*hashed} == weights | small
    hashed.clear()
    Transcriber(artifact, "cpu").close()
    assert {*hashed} == small
    shutil.copytree(artifact, copy := artifact.with_name("copy"))
    hashed.clear()
    Transcriber(copy, "cpu").close()
    assert {*hashed} == weights | small, "another file of the same name and content"


def test_a_time_that_was_set_back_does_not_hide_a_write(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"right")
    files, before = {path: hash_file(path)}, path.stat()
    check_contents(files, [path])
    path.write_bytes(b"wrong")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ArtifactError, match="got other bytes"):
        check_contents(files, [path])


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[" * 60_000, b'{"files": {"a": "b"}}', b'{"files": []}', bytes(1 << 20)],
)
def test_a_damaged_memory_knows_nothing(tmp_path, hashed, content):
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    files = {path: hash_file(path)}
    check_contents(files, [path])
    memory().write_bytes(content)
    check_contents(files, [path])
    check_contents(files, [path])
    assert hashed == ["weights"] * 2


def test_memory_has_an_end(tmp_path, monkeypatch, hashed):
    longest = {" ".join([str((1 << 64) - 1 - i)] * 5): "0" * 64 for i in range(MOST_REMEMBERED)}
    assert len(json.dumps({"files": longest})) < STATE
    monkeypatch.setattr(contents, "MOST_REMEMBERED", 3)
    paths = [tmp_path / str(i) for i in range(5)]
    for path in paths:
        path.write_bytes(path.name.encode())
        check_contents({path: hash_file(path)}, [path])
    assert len(json.loads(memory().read_text())["files"]) == 3
    hashed.clear()
    for path in (paths[4], paths[0]):
        check_contents({path: hash_file(path)}, [path])
    assert hashed == ["0"]


def test_without_a_cache_folder_all_is_hashed_and_said(artifact, monkeypatch, tmp_path, run):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        result = run("transcribe", "-m", artifact, CLIP)
        assert result.out == TEXT + "\n"
        assert result.err.count("note: weights are hashed at every load") == 1
    flip(weights_of(artifact), 1000)
    run("transcribe", "-m", artifact, CLIP).assert_refused(4, "got other bytes")


@pytest.mark.parametrize("change", ["write", "replace"])
def test_what_changes_while_it_is_loaded_is_refused(tmp_path, change):
    small, weights = tmp_path / "small", tmp_path / "weights"
    for path in (small, weights):
        path.write_bytes(b"right")
    files = {path: hash_file(path) for path in (small, weights)}
    with (
        pytest.raises(ArtifactError, match="small: written or replaced while it was loaded"),
        verified(files, [weights]),
    ):
        if change == "write":
            small.write_bytes(b"right and more")
        else:
            shutil.copy2(small, tmp_path / "other").replace(small)
    assert not memory().exists()


def test_check_reads_what_is_remembered(artifact, run):
    """A disk whose bits rot changes no time."""
    Transcriber(artifact, "cpu").close()
    known = json.loads(memory().read_text())["files"]
    flip(path := weights_of(artifact), 1000)
    stamp = " ".join(map(str, contents.Stamp.of(path) or ()))
    wanted = Manifest.read(artifact).files[f"onnx/{path.name}"].sha256
    memory().write_text(json.dumps({"files": {**known, stamp: wanted}}))
    Transcriber(artifact, "cpu").close()
    run("inspect", "--check", artifact).assert_refused(4, f"{path.name}: expected sha256")


# While they are used


def test_weights_that_are_written_into_are_refused(artifact):
    with Transcriber(artifact, "cpu") as transcriber:
        assert transcriber.transcribe(CLIP).text == TEXT
        with weights_of(artifact).open("r+b") as file:
            file.seek(1000)
            file.write(bytes(range(256)))
        with pytest.raises(ArtifactError, match="_data: changed while it was in use"):
            transcriber.transcribe(CLIP).text  # noqa: B018, which decodes
        with pytest.raises(ArtifactError, match="changed while it was in use"):
            transcriber.stream().finish()


def test_weights_that_change_between_blocks(artifact, run, monkeypatch):
    """The words so far are shown, and the exit code is the artifact's."""
    take, left = Stream._take, iter((4, 3, 2, 1, 0))
    weights = weights_of(artifact)

    def taking(stream, samples):
        if next(left, None) == 0:
            os.truncate(weights, weights.stat().st_size + 1)
        return take(stream, samples)

    monkeypatch.setattr(Stream, "_take", taking)
    result = run("transcribe", "-m", artifact, LONG_CLIP)
    assert result.code == 4
    assert result.out and TEXTS[LONG_CLIP.name].startswith(result.out.strip())
    assert "changed while it was in use" in result.err and "Traceback" not in result.err


CUT_SHORT = """
import os, sys
from pathlib import Path
import numpy as np
from voxtral_onnx import Transcriber
from voxtral_onnx.errors import ArtifactError
artifact = Path(sys.argv[1])
with Transcriber(artifact, "cpu") as transcriber:
    stream = transcriber.stream()
    stream.feed(np.zeros(16000, np.float32))
    for path in artifact.rglob("*data*"):
        os.truncate(path, 4096)
    try:
        stream.feed(np.zeros(16000, np.float32))
    except ArtifactError as error:
        print(error)
"""


def test_weights_cut_short_between_feeds_are_no_signal(artifact, tmp_path):
    """In a process of its own: what is read behind the end of a mapped file ends it."""
    done = subprocess.run(
        [sys.executable, "-c", CUT_SHORT, artifact],
        capture_output=True,
        check=False,
        env=clean_environment(tmp_path),
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b": changed while it was in use" in done.stdout


def test_weights_that_are_touched_replaced_or_deleted_stay_what_they_were(artifact):
    weights = weights_of(artifact)
    with Transcriber(artifact, "cpu") as transcriber:
        os.utime(weights)
        assert transcriber.transcribe(CLIP).text == TEXT
        other = shutil.copyfile(weights, weights.with_suffix(".other"))
        with other.open("r+b") as file:
            file.write(bytes(100_000))
        other.replace(weights)
        assert transcriber.transcribe(CLIP).text == TEXT
        weights.unlink()
        assert transcriber.transcribe(CLIP).text == TEXT
