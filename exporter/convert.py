"""The decoder's delay network as a small GGUF in the artifact.

It is in no graph, because its values for every delay are (MODEL.md, step 6). So an artifact keeps its matrices, as the
checkpoint stored them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np

from . import gguf, weights
from .checkpoint import Checkpoint
from .gguf import Entry


def delay_network(checkpoint: Checkpoint) -> bytes:
    """A GGUF of the decoder's delay network, as the checkpoint stores it."""
    entries = []
    for name, tensor in checkpoint.tensors.items():
        if ".ada_rms_norm." in name:
            parts = _once(tensor.stored_rows().copy())
            tensor.release()
            entries.append(Entry(weights.mistral_name(name), tensor.shape, tensor.encoding, parts))
    file = io.BytesIO()
    gguf.write_gguf(file, {"general.architecture": "voxtral"}, entries)
    return file.getvalue()


def _once(values: np.ndarray) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: iter([values])
