"""Attributes of fused nodes, which traced and retargeted graphs have alike."""

from __future__ import annotations


def matmul_nbits_attributes(
    out_features: int, in_features: int, bits: int, block_size: int, accuracy_level: int
) -> dict[str, int]:
    """Return the attributes of a MatMulNBits node."""
    sizes = {"K": in_features, "N": out_features, "bits": bits, "block_size": block_size}
    return {**sizes, "accuracy_level": accuracy_level}


def gather_block_quantized_attributes(bits: int, block_size: int) -> dict[str, int]:
    """Return the attributes of a GatherBlockQuantized node."""
    return {"bits": bits, "block_size": block_size, "gather_axis": 0, "quantize_axis": 2}
