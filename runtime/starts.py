"""States of streams behind the silence that precedes all audio, kept from one run to the next.

Every stream begins with the same silence, which takes the 4B model one to five seconds on two
cores. So `silences` in the user's cache folder has the state behind it, in the format of saved
streams, for each artifact, precision, delay and context, and for each processor and version of what
computes it: kernels round differently on others. It does not depend on the number of threads.
"""

from __future__ import annotations

import hashlib
import logging
import platform
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from .._version import __version__
from ..errors import ArtifactError, StorageError
from ..files import user_folder
from .device.base import import_onnxruntime
from .grid import EncoderGrid
from .model import LoadedModel
from .stream_state import StreamState, write_state

_log = logging.getLogger(__name__)

MOST_KEPT = 4  # files, those used last; each has 72 MB with the 4B model in q4
_FLAGS = "flags", "Features"  # of instruction sets in /proc/cpuinfo, on x86 and on ARM


def kept_start(
    model: LoadedModel,
    num_delay_tokens: int,
    grid: EncoderGrid | None,
    read: Callable[[Path, str], StreamState],
    compute: Callable[[], StreamState],
) -> StreamState:
    """Return the state behind the silence, kept by an earlier run, else computed and kept.

    Only the CPU's is kept, because GPUs compute it in less time than a user notices. A note of the
    device says if a kept state is damaged, or if none can be kept.

    Args:
        model: what computes with it.
        num_delay_tokens: the stream's delay.
        grid: of the encoder's calls; None for a live stream.
        read: returns the state in a file, checked as `read_state` does, from path and identity.
        compute: returns the state.
    """
    # Find the kept state
    if model.device.name != "cpu":
        return compute()
    identity, notes = _identity(model, num_delay_tokens, grid), model.device.notes
    try:
        path = user_folder("cache") / "silences" / f"{identity[:32]}.stream"
        if path.exists():
            state = read(path, identity)
            with suppress(OSError):
                path.touch()
            return state
    except ArtifactError as error:
        _add(notes, f"the silence before the audio is computed again: {error}")
    except (StorageError, OSError):  # which keeping it will meet again, and note
        pass

    # Compute and keep it
    state = compute()
    try:
        path = user_folder("cache") / "silences" / f"{identity[:32]}.stream"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_state(path, identity, False, state)
    except (StorageError, OSError) as error:
        _add(
            notes,
            "the silence before the audio is computed at every start, because its state cannot be "
            f"kept: {error}",
        )
    else:
        _remove_old(path.parent)
    return state


def _identity(model: LoadedModel, num_delay_tokens: int, grid: EncoderGrid | None) -> str:
    """Return a sha256 of all that the state depends on."""
    facts = (
        model.identity(num_delay_tokens, grid),
        f"voxtral-onnx {__version__}",
        f"onnxruntime {import_onnxruntime().__version__}",
        f"numpy {np.__version__}",
        _processor(),
    )
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _add(notes: list[str], note: str) -> None:
    if note not in notes:
        notes.append(note)
        _log.info("%s", note)


def _remove_old(folder: Path) -> None:
    """Remove the files that were not used for longest, unless another process is doing so."""
    with suppress(OSError):
        files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in files[:-MOST_KEPT]:
            path.unlink()


def _processor() -> str:
    """Return the CPU's architecture, model and instruction sets, by which kernels are chosen."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kinds = {line for line in lines if line.startswith(("model name", "CPU part", *_FLAGS))}
    return "\n".join((platform.machine(), *sorted(kinds)))
