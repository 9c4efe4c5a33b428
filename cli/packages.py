"""Refuse to go on where a package of an extra is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import DeviceError


@contextmanager
def require_extra(what: str, install: str) -> Iterator[None]:
    """Refuse to go on where a package is missing, and name what to install.

    Args:
        what: needs the packages that are imported in this context.
        install: what to tell pip, and whatever follows it.

    Raises:
        DeviceError: one is missing.
    """
    try:
        yield
    except ImportError as error:
        raise DeviceError(f"{what} needs {error.name}; run: pip install {install}") from error
