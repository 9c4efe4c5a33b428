"""Files appear whole under their names, by nobody else's hand, and links lead nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.commands import clean_environment, make_homeless

from voxtral_onnx.decode import decode
from voxtral_onnx.errors import StorageError
from voxtral_onnx.files import (
    PIECE_SIZE,
    FileSpec,
    atomic_file,
    atomic_write,
    hash_file,
    is_below,
    is_partial,
    lock,
    make_partial_folder,
    open_partial,
    size_of,
    user_folder,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    precious, path = tmp_path / "precious", tmp_path / "file"
    precious.write_text("mine")
    for link in (path, tmp_path / "file.partial"):
        link.symlink_to(precious)
    atomic_write(path, b"new")
    assert not path.is_symlink() and path.read_bytes() == b"new"
    assert precious.read_text() == "mine"


def test_a_name_of_255_bytes(tmp_path):
    path = tmp_path / ("ä" * 127 + "a")
    atomic_write(path, b"content")
    assert names(tmp_path) == [path.name]


def test_permissions_are_those_of_new_files_or_those_asked_for(tmp_path):
    umask = os.umask(0o027)
    try:
        atomic_write(tmp_path / "plain", b"")
        atomic_write(tmp_path / "key", b"", mode=0o600)
    finally:
        os.umask(umask)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("plain", "key")]
    assert modes == [0o640, 0o600]


def test_nothing_is_left_of_what_fails(tmp_path):
    atomic_write(tmp_path / "file", b"old")
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "file") as file:
        file.write(b"half")
        assert any(is_partial(name) for name in names(tmp_path))
        raise KeyboardInterrupt
    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"old"
    with pytest.raises(StorageError, match="nowhere/file: cannot be written"):
        atomic_write(tmp_path / "nowhere" / "file", b"")


def test_writers_at_once_never_publish_each_other_s_half(tmp_path):
    path, contents = tmp_path / "file", [bytes([i]) * 200_000 for i in range(8)]

    def write(content):
        with atomic_file(path) as file:
            for start in range(0, len(content), 10_000):
                file.write(content[start : start + 10_000])
        return path.read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert all(found in contents for found in pool.map(write, contents))
    assert names(tmp_path) == ["file"]


def test_partial_names_are_not_taken_twice(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
    path, handle = open_partial(tmp_path)
    os.close(handle)
    assert is_partial(path.name)
    with pytest.raises(FileExistsError):
        open_partial(tmp_path)
    with pytest.raises(FileExistsError):
        make_partial_folder(tmp_path)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        open_partial(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


HOLDER = """
import sys
from voxtral_onnx.files import lock
from pathlib import Path
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_one_process_s_until_it_ends(tmp_path):
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=clean_environment(tmp_path / "state"),
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with (
        pytest.raises(StorageError, match="somebody is at it"),
        lock(path, busy="somebody is at it"),
    ):
        pass
    holder.kill()  # its file stays, its lock does not
    holder.communicate()
    with lock(path, busy="somebody is at it"):
        assert path.exists()
    assert not path.exists()


def test_waiting_for_a_lock(tmp_path):
    order = []

    def work(number):
        with lock(tmp_path / "lock"):
            order.append(("in", number))
            order.append(("out", number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert [step for step, _ in order] == ["in", "out"] * 40
    assert [a == b for (_, a), (_, b) in zip(order[::2], order[1::2], strict=True)] == [True] * 40


def test_a_lock_file_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(StorageError, match="lock: cannot be made"), lock(tmp_path / "lock"):
        pass
    assert not (tmp_path / "precious").exists()


@pytest.mark.parametrize("name", ["none", "x" * 5000, "file/below", "a\0b", "."])
def test_what_is_no_file_has_no_size(name, tmp_path):
    (tmp_path / "file").write_bytes(b"123")
    assert size_of(tmp_path / "file") == 3
    assert size_of(tmp_path / name) is None


def test_links_out_of_a_folder(tmp_path):
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "inside").write_text("")
    (folder / "to_inside").symlink_to("inside")
    (folder / "to_outside").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to("..")
    good, bad = ("inside", "to_inside", "none"), ("to_outside", "up/secret", "../secret")
    assert [is_below(folder, folder / name) for name in (*good, *bad)] == [True] * 3 + [False] * 3
    (tmp_path / "link").symlink_to(folder)
    assert is_below(tmp_path / "link", tmp_path / "link" / "inside")


def test_the_links_of_the_hub_s_cache_lead_to_its_blobs(tmp_path):
    model = tmp_path / "models--org--name"
    snapshot, blobs = model / "snapshots" / "0123", model / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "5f3c").write_text("")
    (snapshot / "good").symlink_to("../../blobs/5f3c")
    (snapshot / "bad").symlink_to("../../refs")
    assert is_below(snapshot, snapshot / "good") and not is_below(snapshot, snapshot / "bad")


@pytest.mark.parametrize("size", [0, 1, PIECE_SIZE, PIECE_SIZE + 1])
def test_hashes_of_pieces(size, tmp_path):
    (tmp_path / "file").write_bytes(bytes(size))
    spec = hash_file(tmp_path / "file")
    assert spec.size == size and len(spec.pieces) == (2 if size > PIECE_SIZE else 0)
    with pytest.raises(ValueError, match="hashes of pieces"):
        decode(
            FileSpec,
            b'{"size": %d, "sha256": "%s", "pieces": ["%s"]}' % (size, *[b"0" * 64] * 2),
            ValueError,
        )


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="XDG folders are Linux's")
def test_a_user_without_a_home_has_no_folders(monkeypatch, tmp_path):
    make_homeless(monkeypatch)
    for kind in ("cache", "data", "state"):
        with pytest.raises(StorageError, match=f"no folder for the user's {kind} .*; set HOME"):
            user_folder(kind)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_folder("state").is_relative_to(tmp_path)
