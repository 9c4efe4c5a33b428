"""A library may read a file by itself only where it finds the same bytes there."""

from __future__ import annotations

import os
from io import BytesIO, FileIO

import pytest

from voxtral_onnx.runtime.audio.container.view import View

CONTENT = b"0123456789"
posix = pytest.mark.skipif(os.name != "posix", reason="needs descriptors of the same C library")


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    return tmp_path / "a"


@posix
def test_a_whole_file_is_opened_again_at_its_beginning(path):
    with FileIO(path) as file:
        view = View(file, 0, len(CONTENT))
        view.seek(5)
        found = view.descriptor()
        assert found is not None
        assert os.read(found, 100) == CONTENT and view.read() == CONTENT[5:]
        os.close(found)


def test_part_of_a_file_and_other_bytes_are_not(path):
    with FileIO(path) as file:
        assert View(file, 1, len(CONTENT)).descriptor() is None
        assert View(file, 0, len(CONTENT) - 1).descriptor() is None
        assert View(file, 0, len(CONTENT), {2: b"x"}).descriptor() is None


def test_what_has_no_path_is_not(path):
    with FileIO(os.open(path, os.O_RDONLY)) as file:
        assert View(file, 0, len(CONTENT)).descriptor() is None
    assert View(BytesIO(CONTENT), 0, len(CONTENT)).descriptor() is None


def test_a_file_that_was_replaced_is_not(path):
    with FileIO(path) as file:
        view = View(file, 0, len(CONTENT))
        path.rename(path.with_name("b"))
        assert view.descriptor() is None
        path.write_bytes(CONTENT)
        assert view.descriptor() is None
