"""Join the tensors of compressed-tensors checkpoints: packed integers, 8-bit floats.

    pack-quantized     x.weight_packed I32 [N, K * bits / 32], x.weight_scale [N, K / group_size],
                       x.weight_shape I64 [2] (N, K)
    float-quantized    x.weight F8_E4M3 [N, K], x.weight_scale [N, 1], or of one value

Integers are stored with the middle code added, the first in the lowest bits of a word, so that they
are MatMulNBits' codes byte for byte. Module names are those of the checkpoint, whatever its naming
scheme. Source: `pack_to_int32` and the compressors of compressed-tensors 0.20.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from msgspec import Struct

from ....decode import convert
from ....errors import CheckpointError
from ....quant.kept import StoredBlocks
from ..tensors import Tensor
from .safetensors import F8_E4M3, F8_E5M2, FLOATS
from .scaled import Scaled, groups, integers

BLOCK_SIZES = (16, 32, 64, 128)  # of MatMulNBits on every device
UNQUANTISED = "export a checkpoint of floats instead, such as Mistral's release"
_FORMATS = {"pack-quantized", "float-quantized", "naive-quantized", "mixed-precision", "dense"}
_PACKED = ".weight_packed"
# Scales of activations and of the cache, which graphs with activations in floats do not need
_UNUSED = (".input_scale", ".output_scale", ".k_scale", ".v_scale")


class _Weights(Struct):
    type: str = "int"
    symmetric: bool = True
    actorder: str | bool | None = None


class _Group(Struct):
    weights: _Weights | None = None
    format: str | None = None


class _Config(Struct):
    quant_method: str
    format: str | None = None
    config_groups: dict[str, _Group] = {}
    transform_config: dict[str, object] | None = None


def check_config(where: str, values: object) -> None:
    """Check that a checkpoint's `quantization_config` describes weights that can be read.

    Args:
        where: the file, for messages.
        values: the configuration as the file has it.

    Raises:
        CheckpointError: another method or format quantised it, or in a way that has no graph.
    """
    # Read it, and check what is said of all weights
    config = convert(
        _Config,
        values,
        lambda reason: CheckpointError(f"{where}: quantization_config: {reason}; {UNQUANTISED}"),
    )
    if config.quant_method != "compressed-tensors":
        raise CheckpointError(
            f"{where}: expected weights of compressed-tensors, got those of {config.quant_method}; "
            f"{UNQUANTISED}"
        )
    if config.transform_config and config.transform_config.get("config_groups"):
        raise CheckpointError(
            f"{where}: quantization_config: transform_config: expected weights as they are, got "
            f"rotated ones; {UNQUANTISED}"
        )

    # Check each group
    for group in config.config_groups.values():
        weights = group.weights or _Weights()
        problem = None
        if (kind := group.format or config.format or "dense") not in _FORMATS:
            problem = f"format {kind}: expected pack-quantized or float-quantized"
        elif not weights.symmetric:
            problem = "asymmetric weights: expected symmetric ones"
        elif weights.actorder in (True, "group", "dynamic"):
            problem = _act_order(f"actorder {weights.actorder}")
        if problem:
            raise CheckpointError(f"{where}: quantization_config: {problem}; {UNQUANTISED}")


def join_compressed(where: str, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join the parts of each quantised weight into one tensor; leave all others as they are.

    Args:
        where: the checkpoint, for messages.
        found: its tensors by stored name.

    Raises:
        CheckpointError: a part is missing or does not fit the others, or MatMulNBits has no form
            for the blocks; the message names the tensor.
    """
    tensors = {name: tensor for name, tensor in found.items() if not name.endswith(_UNUSED)}
    for name in found:
        module = name.removesuffix(_PACKED)
        try:
            if module != name:
                parts = _take(tensors, module, ("_packed", "_scale", "_shape", "_g_idx"))
                tensors[f"{module}.weight"] = _packed(f"{module}.weight", parts)
            elif name.endswith(".weight") and found[name].encoding in (F8_E4M3, F8_E5M2):
                module = name.removesuffix(".weight")
                parts = _take(tensors, module, ("", "_scale"))
                tensors[name] = _float8(name, parts)
        except _UnreadableError as error:
            raise CheckpointError(f"{where}: {name}: {error}; {UNQUANTISED}") from None
    return tensors


class _UnreadableError(Exception):
    """The reason for which a quantised weight cannot be read."""


def _take(
    tensors: dict[str, Tensor], module: str, suffixes: tuple[str, ...]
) -> dict[str, Tensor | None]:
    """Take the parts of a module's weight out of the tensors: None for one that is not there."""
    if suffixes[0] and f"{module}.weight" in tensors:
        raise _UnreadableError("the same weight twice: expected it alone, found weight beside it")
    if f"{module}.weight_zero_point" in tensors:
        raise _UnreadableError("weight_zero_point: asymmetric weights: expected symmetric ones")
    return {suffix: tensors.pop(f"{module}.weight{suffix}", None) for suffix in suffixes}


def _packed(name: str, parts: Mapping[str, Tensor | None]) -> Tensor:
    """Return the matrix of packed integers and scales."""
    # Read the integers' shape
    packed, scales, shape, order = (parts[key] for key in ("_packed", "_scale", "_shape", "_g_idx"))
    if packed is None or packed.encoding.name != "I32" or len(packed.shape) != 2:
        got = "nothing" if packed is None else f"{packed.encoding.name} {list(packed.shape)}"
        raise _UnreadableError(f"expected I32 [N, K * bits / 32], got {got}")
    if shape is None or shape.encoding.name not in ("I64", "I32") or shape.shape != (2,):
        raise _UnreadableError("expected weight_shape, two integers N and K, beside it")
    rows, columns = _integers(shape)
    words = packed.shape[1]
    bits = next((bits for bits in (4, 8) if 0 < columns * bits == 32 * words), None)
    if rows != packed.shape[0] or bits is None:
        raise _UnreadableError(
            f"expected 4 or 8 bits for each value of [{rows}, {columns}], got I32 "
            f"{list(packed.shape)}"
        )

    # Find the size of the groups, which must be neighbours
    scales = _scales(scales, rows, columns)
    size = columns // scales.shape[1]
    if size not in BLOCK_SIZES or scales.shape[0] != rows:
        count = f"one for {size} values" if scales.shape[1] > 1 else "one for a row (per-channel)"
        raise _UnreadableError(
            "scales: expected one for 16, 32, 64 or 128 values, as MatMulNBits has them, got "
            f"{count}"
        )
    if order is not None and _integers(order) != [at // size for at in range(columns)]:
        raise _UnreadableError(_act_order("weight_g_idx"))

    # Join the parts
    encoding = groups(f"W{bits}A16", size, bits, StoredBlocks(bits, size))
    codes = replace(packed, shape=(rows, columns), encoding=integers(bits, 1 << (bits - 1)))
    return Scaled.of(name, encoding, codes, scales, None)


def _float8(name: str, parts: Mapping[str, Tensor | None]) -> Tensor:
    """Return the matrix of 8-bit floats and their scales."""
    codes, scales = parts[""], parts["_scale"]
    assert codes is not None
    if len(codes.shape) != 2 or 0 in codes.shape:
        raise _UnreadableError(
            f"expected a matrix of {codes.encoding.name}, got {list(codes.shape)}"
        )
    rows, columns = codes.shape
    if scales is None:
        raise _UnreadableError(
            f"{codes.encoding.name}: expected weight_scale beside it, found none"
        )
    scales = _scales(scales, rows, columns)
    size = columns // scales.shape[1]
    encoding = groups(codes.encoding.name, size, 8)
    return Scaled.of(name, encoding, codes, scales, None)


def _scales(scales: Tensor | None, rows: int, columns: int) -> Tensor:
    """Return scales as [N, groups], or [1, 1] where there is one for the whole matrix."""
    if scales is None or scales.encoding not in FLOATS:
        got = "nothing" if scales is None else scales.encoding.name
        raise _UnreadableError(f"expected weight_scale in BF16, F16 or F32 beside it, got {got}")
    shape = (1, 1) if scales.shape in ((), (1,)) else scales.shape
    shape = (*shape, 1) if len(shape) == 1 else shape
    is_whole = shape in ((1, 1), (rows, 1))
    if not is_whole and (len(shape) != 2 or shape[0] != rows or not shape[1] or columns % shape[1]):
        raise _UnreadableError(
            f"expected weight_scale [{rows}, groups] for [{rows}, {columns}], got "
            f"{list(scales.shape)}"
        )
    return replace(scales, shape=shape)


def _integers(tensor: Tensor) -> list[int]:
    kind = {"I64": "<i8", "I32": "<i4"}.get(tensor.encoding.name)
    if kind is None:
        raise _UnreadableError(f"{tensor.name}: expected integers, got {tensor.encoding.name}")
    return tensor.span.read(0, tensor.span.size).view(kind).tolist()


def _act_order(what: str) -> str:
    return f"{what}: columns in the order of activations (act-order): expected groups of neighbours"
