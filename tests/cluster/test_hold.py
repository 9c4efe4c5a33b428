"""Two runs do not write into one place, a folder or a bucket."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest
from support.servers import until

from voxtral_onnx.errors import StorageError

pytestmark = pytest.mark.ray
LOCAL, BUCKET = "folder", "bucket"


@pytest.fixture(params=[LOCAL, BUCKET])
def name(request, tmp_path):
    if request.param == BUCKET:
        return f"{request.getfixturevalue('bucket')}/out"
    return str(tmp_path / "out")


def hold(name: str, told) -> None:
    """Hold a place until this process is killed."""
    from voxtral_onnx.cluster.hold import held
    from voxtral_onnx.cluster.place import Place

    with held(Place(name)):
        told.send(os.getpid())
        signal.pause()


def test_a_second_run_is_refused_while_the_first_lives(name, monkeypatch):
    from voxtral_onnx.cluster import hold as holding
    from voxtral_onnx.cluster.place import Place

    place = Place(name)
    context = multiprocessing.get_context("spawn")
    listening, told = context.Pipe()
    first = context.Process(target=hold, args=(name, told))
    first.start()
    pid = listening.recv()
    with pytest.raises(StorageError, match="another run is writing here"), holding.held(place):
        pass

    # Killed, it holds a folder no longer, and a bucket until its file is old
    os.kill(pid, signal.SIGKILL)
    first.join()
    if not place.is_local:
        with pytest.raises(StorageError, match=f"process {pid} on .*, seen "), holding.held(place):
            pass
        monkeypatch.setattr(holding, "LEASE_SECONDS", 0.0)
    with holding.held(place):
        assert place.has(holding.LOCK)
    assert not place.has(holding.LOCK)


def test_two_that_begin_at_once(bucket, monkeypatch):
    """The later one goes on; and one that has lost its place does not remove another's file."""
    from voxtral_onnx.cluster import hold as holding
    from voxtral_onnx.cluster.place import Place

    place = Place(f"{bucket}/out")
    other = b'{"machine": "elsewhere", "process": 1, "run": "x"}'
    monkeypatch.setattr(holding, "sleep", lambda _: place.write(holding.LOCK, other))
    with pytest.raises(StorageError, match="process 1 on elsewhere"), holding.held(place):
        pass
    assert place.read(holding.LOCK) == other


def test_a_run_that_lives_renews_its_file(bucket, monkeypatch):
    from voxtral_onnx.cluster import hold as holding
    from voxtral_onnx.cluster.place import Place

    place = Place(f"{bucket}/out")
    monkeypatch.setattr(holding, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(holding, "SETTLE_SECONDS", 0.0)
    with holding.held(place):
        written = place.modified(holding.LOCK)
        until(lambda: place.modified(holding.LOCK) > written)
