"""The sentences by which clients are told what is wrong with the fields of a message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ...escaping import MOST_QUOTED, one_line, quoted

MOST_NAMED = 8  # fields in an error


@dataclass(frozen=True, slots=True)
class Fault:
    """A field that is unknown, missing or wrong."""

    path: str  # of names, with dots between them
    reason: str
    is_unknown: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def fault_of(error: ValidationError, model: type[BaseModel], *parents: str) -> Fault:
    """Return what is wrong: all fields that are unknown, or else a first value.

    Args:
        error: that the model has raised.
        model: of the fields.
        parents: names of the fields that the model's own are in.
    """
    errors = error.errors(include_url=False, include_context=False)
    unknown = [each["loc"] for each in errors if each["type"] == "extra_forbidden"]
    if unknown:
        path, *others = (_path(parents, each) for each in unknown[:MOST_NAMED])
        expected = ", ".join(_fields(model, unknown[0][:-1]))
        more = f" (unknown too: {', '.join(others)})" if others else ""
        return Fault(path, f"unknown; expected some of {expected}{more}", is_unknown=True)
    first = errors[0]
    path = _path(parents, first["loc"])
    if first["type"] == "missing":
        return Fault(path, "missing")
    expected = first["msg"].removeprefix("Input should be ")
    return Fault(path, f"expected {expected}, got {quoted(first['input'])}")


def _path(parents: Sequence[str], location: Sequence[str | int]) -> str:
    """Return the path of a field, of whose names the last may be any text of the client's."""
    *names, last = map(str, location)
    return ".".join((*parents, *names, one_line(last[:MOST_QUOTED])))


def _fields(model: Any, location: Sequence[str | int]) -> list[str]:
    """Return the fields that an object in a model may have."""
    for name in location:
        kind = model.model_fields[name].annotation
        model = next((each for each in get_args(kind) if each is not type(None)), kind)
    return list(model.model_fields)
