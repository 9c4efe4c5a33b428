"""The packages of the extras `export` and `trace` and of `verify`, and what to do without them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from ..errors import DeviceError

# Names to import, by the extra that installs them
EXPORT = ("onnx", "onnx_ir", "gguf", "safetensors")
TRACE = ("torch", "onnxscript")
# As docs/start/install.md has it: PyTorch without CUDA is much smaller
INSTALL_TRACE = (
    "  pip install --extra-index-url https://download.pytorch.org/whl/cpu 'torch>=2.13,<2.14'\n"
    "  pip install 'voxtral-onnx[cpu,export,trace]'"
)
INSTALL_EXPORT = "  pip install 'voxtral-onnx[cpu,export]'"
# Not part of an extra: only rung 2 of `verify` uses it
INSTALL_TRANSFORMERS = "  pip install 'transformers>=5.23,<5.24'"
_SHOWN = 4  # graphs that a message names


def missing(packages: Sequence[str]) -> list[str]:
    """Return the packages that are not installed."""
    found = []
    for name in packages:
        try:
            is_there = find_spec(name) is not None
        except ValueError:  # an import that was forbidden
            is_there = False
        found += [] if is_there else [name]
    return found


def say_missing(packages: Sequence[str]) -> str:
    """Return in words that some packages are missing: "PyTorch and transformers are missing"."""
    *first, last = ["PyTorch" if name == "torch" else name for name in packages]
    return f"{', '.join(first)} and {last} are missing" if first else f"{last} is missing"


def how_to_install(packages: Sequence[str]) -> str:
    """Return the lines that install what `verify` lacks, indented."""
    lines = [INSTALL_TRACE] if {*packages} - {"transformers"} else []
    return "\n".join([*lines, *([INSTALL_TRANSFORMERS] if "transformers" in packages else [])])


def require_packages(command: str) -> None:
    """Require the packages of the extra `export` for a command.

    Raises:
        DeviceError: some are missing; the message has the command and what to run.
    """
    if lost := missing(EXPORT):
        raise DeviceError(f"{command} needs {', '.join(lost)}; run:\n{INSTALL_EXPORT}")


def require_tracer(graphs: Sequence[str]) -> None:
    """Require the packages that trace graphs, if there are graphs to be traced.

    Args:
        graphs: names of their files.

    Raises:
        DeviceError: some are missing; the message names the graphs and what to run.
    """
    if graphs and (lost := missing(TRACE)):
        more = f" and {len(graphs) - _SHOWN} more" if len(graphs) > _SHOWN else ""
        raise DeviceError(
            f"{', '.join(graphs[:_SHOWN])}{more}: must be traced, which needs "
            f"{', '.join(lost)}; run:\n{INSTALL_TRACE}"
        )
