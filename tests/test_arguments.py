"""Arguments that are checked before a function begins."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import numpy as np
import pytest

from voxtral_onnx import arguments, export
from voxtral_onnx.arguments import Uncopied, accepts, optional, whole
from voxtral_onnx.errors import UsageError


@accepts(count=optional(whole(1, 9, " things")), name=arguments.TEXT)
def function(count: Any, *rest: int, name: str = "x", other: object = None):
    """Do nothing."""
    return count, rest, name, other


def test_a_checked_function_is_called_as_it_was():
    assert function(np.int64(3), 4, 5, name="y") == (3, (4, 5), "y", None)
    assert type(function(np.int64(3))[0]) is int
    assert function(count=None, other=[]) == (None, (), "x", [])
    assert function.__doc__ == "Do nothing."
    assert [*inspect.signature(function).parameters] == ["count", "rest", "name", "other"]


def test_python_itself_refuses_what_is_no_argument():
    with pytest.raises(TypeError, match="missing a required argument: 'count'"):
        function()  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="unexpected keyword argument 'nmae'"):
        function(3, nmae="y")  # pyright: ignore[reportCallIssue]


def test_a_refusal_says_what_is_expected_and_what_came():
    with pytest.raises(UsageError) as refused:
        function("3")
    assert str(refused.value) == "count: expected 1 to 9 things, or None, got str '3'"
    with pytest.raises(UsageError, match=r"got 10$"):
        function(10)


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        ("a", True),
        ("/a/" + "ä" * 127, True),
        ("ä" * 128, False),
        ("/".join(["a" * 200] * 20), True),
        ("/".join(["a" * 200] * 21), False),
        ("\udcff" * 255, True),
        ("\udcff" * 256, False),
        ("\ud800", True),
        ("a\0", False),
        ("", False),
    ],
)
def test_what_a_file_may_be_called(path, is_one):
    assert arguments.is_path(path) == is_one


def test_what_this_process_alone_has_is_not_copied():
    class Model(Uncopied):
        pass

    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(UsageError, match="a Model is neither copied nor pickled"):
            copied(Model())


def test_an_argument_that_there_is_not_is_named_with_a_likely_one():
    with pytest.raises(TypeError) as error:
        export("tiny", precision="q4")  # pyright: ignore[reportCallIssue]
    assert str(error.value) == (
        "export() got an unexpected keyword argument 'precision'; did you mean 'precisions'?"
    )
    with pytest.raises(TypeError, match=r"^export\(\) missing a required argument: 'source'$"):
        export()  # pyright: ignore[reportCallIssue]
