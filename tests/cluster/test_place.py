"""Files of a folder and of a bucket."""

from __future__ import annotations

import pickle

import pytest

from voxtral_onnx.errors import StorageError, UsageError

pytestmark = pytest.mark.ray


@pytest.fixture(params=["folder", "bucket"])
def place(request, tmp_path):
    from voxtral_onnx.cluster.place import Place

    name = str(tmp_path / "out")
    if request.param == "bucket":
        name = f"{request.getfixturevalue('bucket')}/out"
    return pickle.loads(pickle.dumps(Place(name)))  # as workers get it


def test_files_are_written_whole_or_not_at_all(place):
    assert place.names("rows") == set() and not place.has("rows/a")
    place.write("rows/a", b"one")
    place.write("rows/a", b"another")
    with pytest.raises(KeyError), place.writing("rows/b") as file:
        file.write(b"half")
        raise KeyError
    assert place.names("rows") == {"a"} and place.has("rows/a")
    assert place.read("rows/a") == b"another"
    with pytest.raises(StorageError, match="rows/b: cannot be read"):
        place.read("rows/b")


def test_files_are_removed(place):
    for name in ("rows/a", "rows/b", "more/c"):
        place.write(name, b"x")
    place.remove("more/c")
    place.remove("more/c")
    place.clear("rows")
    place.clear("nothing")
    assert not place.has("more/c") and place.names("rows") == set()


def test_an_address_that_is_none():
    from voxtral_onnx.cluster.place import Place

    with pytest.raises(UsageError, match="expected an address such as"):
        Place("gopher://bucket/out")
