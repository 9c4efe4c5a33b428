"""Packages of the extra `trace`, which few exports need."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from ..errors import DeviceError

TRACE = ("torch", "onnxscript")
# PyTorch's own index: elsewhere Linux wheels bring gigabytes of CUDA
INSTALL_TRACE = (
    "  pip install --extra-index-url https://download.pytorch.org/whl/cpu 'torch>=2.13,<2.14'\n"
    "  pip install 'voxtral-onnx[cpu,trace]'"
)


def missing_packages(names: Iterable[str]) -> list[str]:
    """Return those of some packages that cannot be imported here."""
    return [name for name in names if find_spec(name) is None]


def require_trace(what: str) -> None:
    """Require the packages that trace graphs and compute in PyTorch.

    Args:
        what: what needs them, for the message.

    Raises:
        DeviceError: some are missing.
    """
    if missing := missing_packages(TRACE):
        raise DeviceError(f"{what} needs {' and '.join(missing)}; run:\n{INSTALL_TRACE}")
