"""Which hosts run an artifact: what they lack and which tests ran them (hosts.toml) against its graphs' operators.

The mel graph is left out: hosts run it on the CPU. Reading needs neither torch nor onnx.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ..manifest import GraphSpec, Manifest, Precision

DATA = Path(__file__).parent / "hosts.toml"
NATIVE = "native"
WORKS, EXPECTED, NOT_SUPPORTED = "works", "expected", "not supported"
NOT_IN_ARTIFACT = "not in this artifact"


@dataclass(frozen=True, slots=True)
class Test:
    """A test that compares a host's tokens with Python's."""

    family: str
    precisions: tuple[str, ...]
    test: str  # as pytest names it


@dataclass(frozen=True, slots=True)
class Host:
    """A row of hosts.toml."""

    name: str
    source: str  # the published list of operators, an address
    takes: tuple[str, ...]  # families
    read: date | None = None  # when the list was compared, where no test runs the host
    version: str | None = None  # that the tests ran
    lacks: frozenset[str] = frozenset()  # operators
    lacks_in: Mapping[str, frozenset[str]] | None = None  # the same, with activations of this type
    note: str = ""
    tests: tuple[Test, ...] = ()

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Host:
        """From TOML."""
        tests = tuple(Test(test["family"], tuple(test["precisions"]), test["test"]) for test in values.get("tests", ()))
        lacks_in = {dtype: frozenset(names) for dtype, names in values.get("lacks_in", {}).items()}
        changed = {"takes": tuple(values["takes"]), "lacks": frozenset(values.get("lacks", ()))}
        return cls(**{**values, **changed, "lacks_in": lacks_in, "tests": tests})

    def is_tested(self, family: str, precision: str) -> bool:
        """Whether a test runs these graphs."""
        return any(test.family == family and precision in test.precisions for test in self.tests)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What can be said of a host and the graphs of one family in one precision."""

    host: str
    version: str | None  # that was tested
    family: str | None  # None: it takes none
    precision: str | None  # None: the artifact has the family in none
    status: str  # WORKS, EXPECTED, NOT_SUPPORTED, NOT_IN_ARTIFACT
    operators: tuple[str, ...] = ()  # that the host lacks


def read_hosts() -> tuple[Host, ...]:
    """All rows."""
    return tuple(Host.parse(values) for values in tomllib.loads(DATA.read_text())["hosts"])


def judge(host: Host, manifest: Manifest) -> Iterator[Verdict]:
    """A verdict for each family that the host takes, and each precision in which the artifact has it."""
    if not host.takes:
        yield Verdict(host.name, host.version, None, None, NOT_SUPPORTED)
    for family in host.takes:
        found = {name: graphs for name, kind in manifest.precisions.items() if (graphs := _graphs(kind, family))}
        if not found:
            yield Verdict(host.name, host.version, family, None, NOT_IN_ARTIFACT)
        for name, graphs in found.items():
            dtype = manifest.precisions[name].activation_dtype
            lacks = host.lacks | (host.lacks_in or {}).get(dtype, frozenset())
            missing = sorted(lacks & {operator for graph in graphs for operator in graph.operators})
            fits = WORKS if host.is_tested(family, name) else EXPECTED
            yield Verdict(host.name, host.version, family, name, NOT_SUPPORTED if missing else fits, tuple(missing))


def _graphs(precision: Precision, family: str) -> tuple[GraphSpec, ...]:
    return (precision.encoder, precision.decoder) if family == NATIVE else precision.families.get(family, ())
