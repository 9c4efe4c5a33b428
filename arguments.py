"""Arguments of public functions: what each may be, said once, checked before any work begins."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

from .errors import UsageError
from .escaping import described, quoted

P = ParamSpec("P")
T = TypeVar("T")

LONGEST_PATH, LONGEST_NAME = 4096, 255  # bytes that systems take; a name is between slashes


@dataclass(frozen=True, slots=True)
class Kind:
    """What an argument may be.

    `take` returns a value in the form that the function uses; it raises TypeError where the type is
    another, and ValueError where only the value is.
    """

    expected: str
    take: Callable[[Any], Any]

    def check(self, name: str, value: object) -> Any:
        """Return the value in the form that functions use.

        Raises:
            UsageError: it is something else.
        """
        try:
            return self.take(value)
        except TypeError:
            found = described(value)
        except ValueError:
            found = quoted(value)
        raise UsageError(f"{label(name)}: expected {self.expected}, got {found}")


def label(argument: str) -> str:
    """Return an argument's name as messages have it: delay_ms is the delay."""
    return argument.removesuffix("_ms").replace("_", " ")


def accepts(**kinds: Kind) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Check the arguments of these names before the function is called.

    Raises:
        UsageError: when the function is called, about the first that is something else.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            given = signature.bind(*args, **kwargs)
            for name in given.arguments.keys() & kinds:
                given.arguments[name] = kinds[name].check(name, given.arguments[name])
            return function(*given.args, **given.kwargs)

        return checked

    return decorate


def is_path(path: str) -> bool:
    """Tell whether a file may be called so."""
    content = path.encode(errors="surrogatepass")
    longest = max(map(len, content.split(b"/")))
    return (
        bool(path) and "\0" not in path and len(content) <= LONGEST_PATH and longest <= LONGEST_NAME
    )


def optional(kind: Kind) -> Kind:
    """Return a kind that may be None as well."""
    return Kind(
        f"{kind.expected}, or None", lambda value: None if value is None else kind.take(value)
    )


def whole(least: int | None = None, most: int | None = None, unit: str = "") -> Kind:
    """Return the kind of whole numbers in a range, NumPy's too; True and False are none."""

    def take(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError
        found = int(value)
        if (least is not None and found < least) or (most is not None and found > most):
            raise ValueError
        return found

    if least is None:
        return Kind(f"a whole number{unit}", take)
    return Kind(f"at least {least}{unit}" if most is None else f"{least} to {most}{unit}", take)


def number(above: float, most: float, unit: str = "") -> Kind:
    """Return the kind of numbers in a range, its lower end left out."""

    def take(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError
        found: Any = value  # compared before it is converted, which an integer may be too large for
        if not above < found <= most:  # not a number compares as False
            raise ValueError
        return float(found)

    return Kind(f"more than {above:g} and at most {most:g}{unit}", take)


def choice(names: Sequence[str]) -> Kind:
    """Return the kind of words out of a list."""

    def take(value: Any) -> str:
        text = _text(value)
        if text not in names:
            raise ValueError
        return text

    return Kind(f"one of {list(names)}", take)


def instance(kind: type, expected: str) -> Kind:
    """Return the kind of a class's instances."""

    def take(value: Any) -> Any:
        if not isinstance(value, kind):
            raise TypeError
        return value

    return Kind(expected, take)


def either(first: Kind, second: Kind) -> Kind:
    """Return the kind of what is one or the other."""

    def take(value: Any) -> Any:
        try:
            return first.take(value)
        except TypeError:
            return second.take(value)

    return Kind(f"{first.expected} or {second.expected}", take)


def several(kind: Kind, expected: str) -> Kind:
    """Return the kind of lists, tuples, sets and iterators of something; one text is none."""

    def take(value: Any) -> list[Any]:
        if isinstance(value, str | bytes | bytearray | Mapping) or not isinstance(value, Iterable):
            raise TypeError
        return [kind.take(each) for each in value]

    return Kind(expected, take)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return str(value)


def _name(value: Any) -> str:
    if not (text := _text(value)):
        raise ValueError
    return text


def _path(value: Any) -> Any:
    if not isinstance(value, str | os.PathLike):
        raise TypeError
    path = os.fspath(value)
    if not isinstance(path, str):
        raise TypeError
    if not is_path(path):
        raise ValueError
    return value


def _flag(value: Any) -> bool:
    if type(value).__name__ not in ("bool", "bool_"):  # NumPy's are another type of that name
        raise TypeError
    return bool(value)


def _callback(value: Any) -> Any:
    if not callable(value):
        raise TypeError
    return value


INTEGER = whole()
TEXT = Kind("a text", _text)
FLAG = Kind("True or False", _flag)
CALLBACK = Kind("a function", _callback)
PATH = Kind("a path", _path)
MODEL = Kind("a folder, tiny, or ORG/NAME", _path)
NAMES = several(Kind("a name", _name), "a list of names")
PATHS = several(PATH, "a list of paths")
WORDS = either(
    Kind("a word or phrase", lambda value: [_text(value)]),
    several(TEXT, "a list of them"),
)


class Uncopied:
    """Refuses to be copied or pickled: it holds what this process alone has."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"a {type(self).__name__} is neither copied nor pickled; threads may share a "
            "Transcriber, and each process loads its own"
        )
