"""Recognise models in formats that are not read, and say what to export instead."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

from ....config import RELEASED_NAME
from ....errors import CheckpointError
from ..tensors import Tensor
from .safetensors import FLOATS, expected_floats

INSTEAD = f"export the checkpoint that it was made of, such as {RELEASED_NAME}"
_PICKLED = (
    "weights that PyTorch pickled, which run code when they are opened",
    "convert them to safetensors first, or take a checkpoint that has them",
)
_FILES = {  # pattern of a name below the folder: the format, what to do with it
    "*.pte": ("an ExecuTorch program", INSTEAD),
    "*.onnx": (
        "ONNX graphs of another exporter, such as transformers.js loads",
        f"run them there, or {INSTEAD}",
    ),
    "adapter_model.safetensors": ("a LoRA adapter alone", "merge it into its model first"),
    "*.npz": ("MLX weights of an early version", "convert them to safetensors first"),
    "*.nemo": ("a model of NeMo", INSTEAD),
    **dict.fromkeys(("*.bin", "*.pt", "*.pth", "*.ckpt"), _PICKLED),
}
_PARTS = {  # end of a tensor's name: the packing that it belongs to
    ".weight_global_scale": "NVFP4",
    ".weight_scale_2": "NVFP4",
    ".weight_scale_inv": "FP8 in square blocks",
    ".absmax": "bitsandbytes",
    ".SCB": "bitsandbytes",
    ".qzeros": "AWQ or GPTQ",
    ".qweight": "GPTQ, AWQ or Marlin",
    ".B": "Marlin",
}


def refuse_files(place: str, names: Collection[str]) -> None:
    """Refuse a folder or repository whose model is in a format that is not read.

    Args:
        place: the folder or repository, for messages.
        names: the files in it, below it.

    Raises:
        CheckpointError: there is a file of such a format.
    """
    for pattern, (what, instead) in _FILES.items():
        if found := sorted(name for name in names if PurePosixPath(name).match(pattern)):
            raise CheckpointError(
                f"{place}: expected weights in safetensors or a GGUF, found {found[0]}, {what}; "
                f"{instead}"
            )


def refuse_packings(place: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that belong to a packing that is not read.

    Raises:
        CheckpointError: there is such a tensor; the message names it and the packing.
    """
    for ending, packing in _PARTS.items():
        if found := sorted(name for name in tensors if name.endswith(ending)):
            raise CheckpointError(
                f"{place}: {found[0]}: weights packed by {packing}, which are not read; {INSTEAD}"
            )


def require_floats(place: str, tensors: Mapping[str, Tensor]) -> None:
    """Check that every tensor whose values are plain numbers has floats.

    Raises:
        CheckpointError: one has integers or 8-bit floats that nothing gives a scale to.
    """
    for name, tensor in tensors.items():
        if tensor.encoding.block_size == 1 and tensor.encoding not in FLOATS:
            raise CheckpointError(
                f"{place}: {name}: {expected_floats(tensor.encoding.name)} {list(tensor.shape)}, "
                f"packed in a way that is not known, such as Marlin or HLWQ; {INSTEAD}"
            )
