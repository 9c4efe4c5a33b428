"""Declared checks of the arguments of public functions, made before any work begins."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

from .errors import UsageError
from .escaping import described, quoted
from .limits import LONGEST_NAME, LONGEST_PATH

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of argument: the values that it accepts, and how error messages describe them.

    `take` returns an accepted value, converted to the type that functions work with. It raises
    TypeError for a wrong type, and ValueError for a wrong value of the right type.
    """

    expected: str  # completes the message "expected …"
    take: Callable[[Any], Any]

    def check(self, name: str, value: object) -> Any:
        """Return an argument's value as `take` converts it.

        Raises:
            UsageError: the value is not of this kind.
        """
        try:
            return self.take(value)
        except TypeError:
            found = described(value)
        except ValueError:
            found = quoted(value)
        raise UsageError(f"{label(name)}: expected {self.expected}, got {found}")


def label(argument: str) -> str:
    """Return an argument's name as messages write it: "delay" for `delay_ms`."""
    return argument.removesuffix("_ms").replace("_", " ")


def accepts(**kinds: Kind) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator that checks and converts the named arguments of each call.

    Raises:
        UsageError: by the decorated function, if an argument is not of its kind.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                given = signature.bind(*args, **kwargs)
            except TypeError as error:  # which names neither the function nor a likely argument
                unknown = next((name for name in kwargs if name not in signature.parameters), "")
                likely = get_close_matches(unknown, signature.parameters, 1)
                hint = f"; did you mean '{likely[0]}'?" if likely else ""
                raise TypeError(f"{function.__qualname__}() {error}{hint}") from None
            for name in given.arguments.keys() & kinds:
                given.arguments[name] = kinds[name].check(name, given.arguments[name])
            return function(*given.args, **given.kwargs)

        return checked

    return decorate


def is_path(path: str) -> bool:
    """Return whether a string can be a path: not empty, without NUL, no part of it too long."""
    content = path_bytes(path)
    longest = max(map(len, content.split(b"/")))
    return (
        bool(path) and "\0" not in path and len(content) <= LONGEST_PATH and longest <= LONGEST_NAME
    )


def path_bytes(path: str) -> bytes:
    """Return a path as the system gets it; one that it cannot get, in UTF-8."""
    try:
        return os.fsencode(path)
    except UnicodeEncodeError:
        return path.encode(errors="surrogatepass")


def optional(kind: Kind) -> Kind:
    """Return a kind that also accepts None."""
    return Kind(
        f"{kind.expected}, or None", lambda value: None if value is None else kind.take(value)
    )


def whole(least: int | None = None, most: int | None = None, unit: str = "") -> Kind:
    """Return the kind of integers from `least` to `most`, NumPy's included, bools excluded.

    Args:
        least: smallest accepted value; None for no bound.
        most: largest accepted value; None for no bound.
        unit: unit behind the bounds in messages, with a leading space.
    """

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
    """Return the kind of real numbers x with above < x <= most, bools excluded.

    Args:
        above: the excluded lower bound.
        most: the included upper bound.
        unit: unit behind the bounds in messages, with a leading space.
    """

    def take(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError
        found: Any = value  # compared unconverted, because a large integer overflows a float
        if not above < found <= most:  # also refuses NaN, for which every comparison is False
            raise ValueError
        return float(found)

    return Kind(f"more than {above:g} and at most {most:g}{unit}", take)


def choice(names: Sequence[str]) -> Kind:
    """Return the kind that accepts one of the given strings."""

    def take(value: Any) -> str:
        text = _text(value)
        if text not in names:
            raise ValueError
        return text

    return Kind(f"one of {list(names)}", take)


def instance(kind: type, expected: str) -> Kind:
    """Return the kind that accepts instances of a class; `expected` describes them in messages."""

    def take(value: Any) -> Any:
        if not isinstance(value, kind):
            raise TypeError
        return value

    return Kind(expected, take)


def either(first: Kind, second: Kind) -> Kind:
    """Return the kind that accepts what `first` or `second` accepts, tried in this order."""

    def take(value: Any) -> Any:
        try:
            return first.take(value)
        except TypeError:
            return second.take(value)

    return Kind(f"{first.expected} or {second.expected}", take)


def several(kind: Kind, expected: str) -> Kind:
    """Return the kind that accepts iterables of one kind of values and converts them to a list.

    Strings, bytes and mappings are refused, although they can be iterated over.
    """

    def take(value: Any) -> list[Any]:
        if isinstance(value, str | bytes | bytearray | Mapping) or not isinstance(value, Iterable):
            raise TypeError
        return [kind.take(each) for each in value]

    return Kind(expected, take)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return str(value)


def _path(value: Any) -> Any:
    if not isinstance(value, str | os.PathLike):
        raise TypeError
    path = os.fspath(value)
    if not isinstance(path, str):
        raise TypeError
    if (
        not path or "\0" in path or len(path_bytes(path)) > LONGEST_PATH
    ):  # the system enforces other limits
        raise ValueError
    return value


def _flag(value: Any) -> bool:
    if type(value).__name__ not in ("bool", "bool_"):  # the second is NumPy's, by its older name
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
NAMES = several(Kind("a name", _text), "a list of names")
PATHS = several(PATH, "a list of paths")
WORDS = either(
    Kind("a word or phrase", lambda value: [_text(value)]),
    several(TEXT, "a list of them"),
)


class Uncopied:
    """A base of classes whose instances own a process's resources: not copied, not pickled."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse to be copied or pickled.

        Raises:
            UsageError: in every case.
        """
        raise UsageError(
            f"a {type(self).__name__} is neither copied nor pickled; threads may share a "
            "Transcriber, and each process loads its own"
        )
