"""Families of graphs: each has the names, inputs and outputs that its hosts expect."""

from __future__ import annotations

from collections.abc import Iterable

from ....errors import UsageError
from ....escaping import quoted
from . import native, portable, transformers_js
from .spec import Family

NATIVE = "native"  # the family that Python and the page run; every precision has it
FAMILIES: dict[str, Family] = {
    NATIVE: native.FAMILY,
    "transformers_js": transformers_js.FAMILY,
    "portable": portable.FAMILY,
}
ROOT_NAMES = frozenset(name for family in FAMILIES.values() for name in family.root_names)


def choose_families(names: Iterable[str]) -> tuple[str, ...]:
    """Return some families and the native one, in the order in which they are exported.

    Raises:
        UsageError: a name is not that of a family.
    """
    asked = {NATIVE, *names}
    if unknown := sorted(asked - FAMILIES.keys()):
        raise UsageError(f"family: expected some of {list(FAMILIES)}, got {quoted(unknown[0])}")
    return tuple(name for name in FAMILIES if name in asked)
