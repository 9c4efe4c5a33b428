"""Open an artifact as a checkpoint, so that it can be quantised again.

Its weights are lazy tensors; the checkpoint that it was exported from is not needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ... import limits
from ..._version import __version__
from ...errors import ArtifactError, QuantizationError
from ...manifest import FILE_NAME, TOKENIZER, Manifest, Precision
from .external_data import read_initializers
from .formats.safetensors import read_bytes
from .names import EMBEDDING, held_shapes
from .open import Card, Checkpoint, versions
from .tensors import F16, F32, U8, Tensor

FLOATS = (F16, F32)


@dataclass(frozen=True, slots=True)
class Transposed(Tensor):
    """A matrix that is stored transposed, [inputs, outputs], as MatMul takes it."""

    inner: Tensor = field(kw_only=True)

    @classmethod
    def of(cls, inner: Tensor) -> Transposed:
        """Return the transpose of a stored matrix."""
        return cls(inner.name, inner.shape[::-1], inner.encoding, inner.span, inner=inner)

    def rows(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return a float32 copy of the rows [start, stop)."""
        return np.ascontiguousarray(
            self.inner.columns(start, self.shape[0] if stop is None else stop)
        )

    def columns(
        self, start: int, stop: int, first_row: int = 0, end_row: int | None = None
    ) -> np.ndarray:
        """Return a float32 copy of some columns, transposed: [columns, rows].

        They are the columns [start, stop) of the rows [first_row, end_row).
        """
        return self.inner.rows(start, stop)[:, first_row:end_row]

    def release(self, start: int = 0, stop: int | None = None) -> None:
        """Let the operating system drop the whole matrix, as each row is spread over all of it."""
        if start == 0 and stop in (None, self.shape[0]):
            self.inner.release()


@dataclass(frozen=True, slots=True)
class EightBits(Tensor):
    """A matrix that is stored in blocks of 8-bit codes and read dequantised."""

    inner: Tensor = field(kw_only=True)  # codes [N, num_blocks, block_size]
    scales: Tensor = field(kw_only=True)  # [N, num_blocks]
    zero_points: Tensor | None = field(kw_only=True)  # [N, num_blocks]; None: 128 everywhere

    @classmethod
    def of(
        cls, inner: Tensor, scales: Tensor, zero_points: Tensor | None, shape: tuple[int, ...]
    ) -> EightBits:
        """Return the matrix of this shape [N, K] that blocks encode."""
        return cls(
            inner.name,
            shape,
            inner.encoding,
            inner.span,
            inner=inner,
            scales=scales,
            zero_points=zero_points,
        )

    def rows(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return a float32 copy of the rows [start, stop)."""
        return self._values(start, stop, 0, self.inner.shape[1])[:, : self.shape[1]]

    def columns(
        self, start: int, stop: int, first_row: int = 0, end_row: int | None = None
    ) -> np.ndarray:
        """Return a float32 copy of some columns, transposed: [columns, rows].

        They are the columns [start, stop) of the rows [first_row, end_row).
        """
        size = self.inner.shape[2]
        first, end = start // size, -(-stop // size)
        values = self._values(first_row, end_row, first, end)
        return values[:, start - first * size : stop - first * size].T

    def _values(self, start: int, stop: int | None, first: int, end: int) -> np.ndarray:
        """Return the rows [start, stop) of the blocks [first, end), dequantised to float32."""
        codes = (
            self.inner.stored_rows(start, stop)
            .reshape(-1, *self.inner.shape[1:])[:, first:end]
            .astype(np.float32)
        )
        zeros = (
            np.float32(128)
            if self.zero_points is None
            else self.zero_points.rows(start, stop)[:, first:end, None]
        )
        values = (codes - zeros) * self.scales.rows(start, stop)[:, first:end, None]
        return values.reshape(len(values), -1)

    def release(self, start: int = 0, stop: int | None = None) -> None:
        """Let the operating system drop the pages of the rows [start, stop)."""
        for part in (self.inner, self.scales, self.zero_points):
            if part is not None:
                part.release(start, stop)


def is_artifact(folder: Path) -> bool:
    """Return whether a folder holds a finished artifact."""
    return (folder / FILE_NAME).is_file()


def open_artifact(folder: Path) -> Checkpoint:
    """Open the most exact precision of an artifact: float32, float16, or blocks of 8 bits.

    The fingerprint and the tensors of float32 are those of the exported checkpoint, but with the
    delay gains in the place of the networks that they were computed from.

    Raises:
        ArtifactError: the folder is not an artifact, or a damaged one.
        QuantizationError: every precision has 4-bit weights.
    """
    # Choose the precision
    manifest = Manifest.read(folder)
    manifest.check_files(folder)
    ranks = {
        name: rank
        for name, kind in manifest.precisions.items()
        if (rank := _rank(kind)) is not None
    }
    if not ranks:
        raise QuantizationError(
            f"{folder}: has only 4-bit weights ({', '.join(manifest.precisions)}), and quantising "
            "those again would lose more accuracy; quantise the checkpoint that it was exported "
            f"from, whose fingerprint begins with {manifest.fingerprint[:16]}: voxtral-onnx "
            "quantize CHECKPOINT"
        )
    chosen = min(ranks, key=ranks.__getitem__)
    kind = manifest.precisions[chosen]

    # Find its weights
    manifest.check_contents(folder, manifest.files_of([chosen]))
    found = read_initializers(folder, kind.encoder) | read_initializers(folder, kind.decoder)
    tensors = {
        name: _held(folder, found, name, shape)
        for name, shape in held_shapes(manifest.config).items()
    }

    # Describe the checkpoint; only a graph of this version can be used again
    audio = manifest.config.audio
    ms_per_token = 1000 * audio.samples_per_token // audio.sample_rate
    delays = tuple(ms_per_token * tokens for tokens in manifest.streaming.trained_delay_tokens)
    return Checkpoint(
        folder,
        f"artifact, {chosen}",
        manifest.config,
        tensors,
        read_bytes(folder / TOKENIZER, limits.TOKENIZER),
        Card(manifest.scope, delays, manifest.license),
        versions(folder / name for name in (FILE_NAME, *manifest.files)),
        {role: folder / graph.path for role, graph in kind.native.items()}
        if manifest.generator == f"voxtral-onnx {__version__}"
        else {},
        _fingerprint(manifest, chosen),
    )


def _held(folder: Path, found: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """Return a checkpoint's tensor made of the initializers that it was exported as."""
    module = name.removesuffix(".weight")
    parts = [found.get(part) for part in (name, f"{module}.scales", f"{module}.zero_points")]
    inner, scales, zero_points = parts
    if inner is not None and scales is None:
        is_matrix = len(shape) == 2 and name != EMBEDDING
        tensor = Transposed.of(inner) if is_matrix else inner
        if tensor.shape == shape and tensor.encoding in FLOATS:
            return tensor
    elif inner is not None and scales is not None and _fit(inner, scales, zero_points, shape):
        return EightBits.of(inner, scales, zero_points, shape)
    got = ", ".join(f"{part.encoding.name} {list(part.shape)}" for part in parts if part)
    raise ArtifactError(
        f"{folder}: {name}: expected values that make up {list(shape)}, got {got or 'none'}; "
        "export again"
    )


def _fit(codes: Tensor, scales: Tensor, zero_points: Tensor | None, shape: tuple[int, ...]) -> bool:
    """Return whether initializers are blocks of 8 bits that make up a matrix of this shape."""
    grid = codes.shape[:2]
    return (
        len(codes.shape) == 3
        and codes.encoding == U8
        and grid == (shape[0], -(-shape[-1] // codes.shape[2]))
        and scales.encoding in FLOATS
        and scales.shape == grid
        and (zero_points is None or (zero_points.encoding == U8 and zero_points.shape == grid))
    )


def _fingerprint(manifest: Manifest, precision: str) -> str:
    """Return the fingerprint of a precision's weights.

    For unrounded weights it is the exported checkpoint's, else a sha256 of that and the rounding.
    """
    kind = manifest.precisions[precision]
    if _rank(kind) == 0:
        return manifest.fingerprint
    facts = [manifest.fingerprint, kind.activation_dtype, asdict(kind.recipe)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _rank(precision: Precision) -> int | None:
    """Return a precision's rank by exactness, from 0 for float32; None with 4-bit weights."""
    bits = {rule.bits for rule in precision.recipe.rules}
    if not bits:
        return 0 if precision.activation_dtype == "float32" else 1
    return 2 if bits == {8} else None
