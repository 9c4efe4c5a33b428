"""The list of an archive's recordings."""

# Packages that have an environment of their own, see make test-ray
# pyright: reportMissingImports=false
from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.archives import unexpected

from voxtral_onnx.errors import AudioError, UsageError

pytestmark = pytest.mark.ray


def listed(*inputs: object) -> dict[str, str]:
    """The ids of recordings by their paths."""
    from voxtral_onnx.cluster.manifest import list_recordings

    table = list_recordings(list(map(str, inputs)), unexpected, unexpected)
    return dict(zip(table["path"].to_pylist(), table["id"].to_pylist(), strict=True))


def write_list(path: Path, /, **columns: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "in"
    for name in ("a/talk.wav", "b/talk.wav", "b/Ünïcode name.mp3", "b/talk.flac"):
        path = made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))
    return made


def test_ids_tell_apart_and_stay(folder, tmp_path):
    before = listed(folder)
    assert len({name.casefold() for name in before.values()}) == 4
    assert all(name.isascii() for name in before.values())

    (folder / "b" / "another.wav").write_bytes(b"x")
    after = listed(folder)
    assert before.items() < after.items()

    shutil.copytree(folder, tmp_path / "moved")
    assert set(listed(tmp_path / "moved").values()) == set(after.values())
    assert set(listed(folder / "a", folder / "b").values()) == set(after.values())


def test_a_list_names_recordings(folder, tmp_path):
    paths = sorted(listed(folder))
    inside = [os.path.relpath(path, tmp_path) for path in paths]
    write_list(tmp_path / "list.parquet", path=inside)
    assert listed(tmp_path / "list.parquet").keys() == set(paths)
    write_list(tmp_path / "ids.parquet", path=inside, id=["a", "b", "c", "d"])
    assert list(listed(tmp_path / "ids.parquet").values()) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"file": ["a.wav"]}, "expected a column path, got file"),
        ({"path": [7]}, "column path: expected text, got 7"),
        ({"path": ["a.wav"], "id": ["../a"]}, "column id: expected a name"),
        ({"path": ["a.wav", "b.wav"], "id": ["A", "a"]}, "got some twice"),
    ],
)
def test_lists_that_are_refused(tmp_path, columns, said):
    with pytest.raises(UsageError, match=said):
        listed(write_list(tmp_path / "list.parquet", **columns))


def test_a_list_that_is_none(tmp_path):
    (tmp_path / "list.parquet").write_bytes(b"no list")
    with pytest.raises(AudioError, match="not a readable list"):
        listed(tmp_path / "list.parquet")


def test_standard_input_is_refused():
    with pytest.raises(UsageError, match="standard input"):
        listed("-")


def test_a_name_that_is_not_utf8_fails_alone(folder):
    from voxtral_onnx.cluster.manifest import list_recordings

    (folder / os.fsdecode(b"\xff.wav")).write_bytes(b"x")
    failures = {}
    assert len(list_recordings([str(folder)], failures.__setitem__, unexpected)) == 4
    assert [str(error) for error in failures.values() if "not UTF-8" in str(error)]


def test_batches_are_even_and_the_longest_come_first(tmp_path):
    from voxtral_onnx.cluster.manifest import dealt, list_recordings

    for size in range(1, 13):
        (tmp_path / f"{size:02}.wav").write_bytes(b"x" * size)
    table = list_recordings([str(tmp_path)], unexpected, unexpected)
    sizes = dealt(table, 4)["size"].to_pylist()
    assert sizes == [12, 9, 6, 3, 11, 8, 5, 2, 10, 7, 4, 1]
    assert sorted(dealt(table, 5)["size"].to_pylist()) == list(range(1, 13))
