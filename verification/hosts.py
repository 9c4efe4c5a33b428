"""Hosts that run an artifact's graphs, with the versions and tests that show it (hosts.toml)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct

from ..decode import decode_toml
from ..manifest import Manifest

DATA = Path(__file__).parent / "hosts.toml"
NATIVE = "native"
WORKS, NOT_RUN, NOT_IN_ARTIFACT = "works", "not run", "not in this artifact"


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
    version: str  # the one that the tests ran
    tests: tuple[Test, ...]
    note: str = ""

    def tests_of(self, family: str, precision: str) -> tuple[str, ...]:
        """Return the names of the tests that run a family's graphs in one precision."""
        return tuple(
            test.test
            for test in self.tests
            if test.family == family and precision in test.precisions
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on a host and the graphs of one family in one precision."""

    host: str
    version: str  # the tested one
    family: str
    precision: str | None  # None where the artifact has the family in no precision
    status: str  # WORKS, NOT_RUN, NOT_IN_ARTIFACT
    tests: tuple[str, ...] = ()


class _Hosts(Struct, forbid_unknown_fields=True):
    hosts: tuple[Host, ...]


def read_hosts() -> tuple[Host, ...]:
    """Read all rows of hosts.toml."""
    return decode_toml(_Hosts, DATA.read_bytes(), ValueError).hosts


def judge(host: Host, manifest: Manifest) -> Iterator[Verdict]:
    """Yield a verdict for each family that tests run on a host, by precision."""
    for family in dict.fromkeys(test.family for test in host.tests):
        found = [
            name
            for name, kind in manifest.precisions.items()
            if family == NATIVE or family in kind.families
        ]
        if not found:
            yield Verdict(host.name, host.version, family, None, NOT_IN_ARTIFACT)
        for name in found:
            tests = host.tests_of(family, name)
            yield Verdict(host.name, host.version, family, name, WORKS if tests else NOT_RUN, tests)
