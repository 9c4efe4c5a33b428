"""What a worker does with a batch that is repeated, because its process was killed."""

from __future__ import annotations

import numpy as np
import pytest
from support.archives import unexpected

pytestmark = pytest.mark.ray


@pytest.fixture
def batch(clips):
    """Three recordings, as Ray hands them to a worker."""
    from voxtral_onnx.cluster.manifest import list_recordings

    table = list_recordings([str(clips)], unexpected, unexpected).slice(0, 3)
    return {name: np.array(table[name].to_pylist(), object) for name in table.column_names}


@pytest.fixture
def place(tmp_path):
    from voxtral_onnx.cluster.place import Place

    return Place(str(tmp_path / "out"))


@pytest.fixture
def worker(place, tiny_artifact):
    from voxtral_onnx.cluster.worker import Job, Worker

    options = {"model": str(tiny_artifact), "precision": "fp32", "batch_size": 4}
    return Worker(Job(place, options, {}, split=True, formats=("txt",)))


def test_a_batch(worker, batch, place):
    done = worker(batch)
    assert sorted(done["id"]) == sorted(batch["id"])
    assert done["name"] == [""] * 3 and min(done["seconds"]) > 0
    assert place.names("work/rows") == {f"{name}.json" for name in batch["id"]}
    assert place.names("") >= {f"{name}.txt" for name in batch["id"]}


def test_what_was_written_is_not_repeated(worker, batch, place):
    first = batch["id"][0]
    place.write(f"work/attempts/{first}.batch", b"")
    place.write(f"work/rows/{first}.json", b"kept")
    done = worker(batch)
    assert list(done["id"]) == list(batch["id"]) and done["name"] == [""] * 3
    assert place.read(f"work/rows/{first}.json") == b"kept"
    assert len(place.names("work/rows")) == 3


def test_a_recording_that_ends_its_process_is_given_up(worker, batch, place):
    """What had begun is tried alone once; what had not, is none's fault."""
    first, second, third = batch["id"]
    place.write(f"work/attempts/{first}.batch", b"")
    for name in (second, third):
        place.write(f"work/attempts/{name}.begun", b"")
    place.write(f"work/attempts/{second}.alone", b"")
    done = worker(batch)
    assert dict(zip(done["id"], done["name"], strict=True)) == {
        first: "",
        second: "DeviceError",
        third: "",
    }
    assert done["id"] == [second, first, third]  # suspects are last
    assert place.has(f"work/attempts/{third}.alone")
    assert place.names("work/failed") == {f"{second}.json"}
    assert len(place.names("work/rows")) == 2


def test_another_version_is_refused(worker, batch, place):
    from dataclasses import replace

    from voxtral_onnx.cluster.worker import Worker

    done = Worker(replace(worker.job, version="0.0.1"))(batch)
    assert done["is_fatal"] == [True] and "install the same everywhere" in done["message"][0]
    assert not place.names("work/rows")


def test_outputs_that_cannot_be_written_end_the_run(worker, batch, tmp_path):
    (tmp_path / "out" / "work").mkdir(parents=True)
    (tmp_path / "out" / "work" / "rows").write_text("a file")
    done = worker(batch)
    assert done["is_fatal"] == [True] and done["name"] == ["StorageError"]
