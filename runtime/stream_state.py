"""The state of a stream, and the format of the file in which it is saved.

    a line: voxtral-onnx stream 1
    a line of JSON (`_Header`): what the state belongs to, its numbers, its arrays' types and shapes
    the arrays' bytes, one after the other, little-endian
    the sha256 of everything before it, 32 bytes

All sizes follow from the numbers and the model, so a file that is too large is refused unread.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta

from ..decode import Count, Name, Sha256, decode, read_within
from ..errors import ArtifactError
from ..files import atomic_file
from ..limits import STREAM
from ..manifest import TokenId

_MAGIC = b"voxtral-onnx stream 1\n"
_DIGEST_SIZE = hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True)
class Position:
    """The numbers that say how far a stream has come."""

    num_samples: Count  # fed
    num_generated: Count
    next_id: TokenId
    blanks: Count  # generated in a row
    finished: bool
    recent: Annotated[tuple[TokenId, ...], Meta(max_length=10_000)]  # `TokenSampler.recent`
    # First bytes of a character that is not complete yet, in hexadecimal digits
    pending: Annotated[str, Meta(pattern=r"\A([0-9a-f]{2}){0,3}\Z")]
    encoder: Count  # rows that were written to the encoder's cache
    decoder: Count  # and to the decoder's

    def __post_init__(self):
        if self.blanks > self.num_generated:
            raise ValueError(f"{self.blanks} blanks of {self.num_generated} tokens")
        if codecs.getincrementaldecoder("utf-8")("replace").decode(bytes.fromhex(self.pending)):
            raise ValueError("pending: expected the begin of one character")


@dataclass(frozen=True, slots=True)
class StreamState:
    """Everything that the later tokens of a stream depend on."""

    position: Position
    arrays: Mapping[str, np.ndarray]

    def copy(self) -> StreamState:
        """Return a state with arrays of its own."""
        return StreamState(self.position, {name: a.copy() for name, a in self.arrays.items()})


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """Name, type and shape of one array."""

    name: Name
    dtype: Annotated[str, Meta(pattern=r"\Afloat(16|32)\Z")]
    shape: Annotated[tuple[Count, ...], Meta(max_length=8)]

    @property
    def num_bytes(self) -> int:
        """Return the number of bytes of its values."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class _Header:
    identity: Sha256  # of artifact, precision, delay and context
    stop_at_eos: bool
    position: Position
    arrays: Annotated[tuple[ArraySpec, ...], Meta(max_length=10_000)]


def write_state(path: Path, identity: str, stop_at_eos: bool, state: StreamState) -> None:
    """Save a state to a file.

    Args:
        path: of the file.
        identity: `Transcriber.identity`, which must be the same when it is read.
        stop_at_eos: whether the model's end-of-text token ends the stream.
        state: to save.

    Raises:
        StorageError: the file cannot be written.
    """
    specs = tuple(
        ArraySpec(name, array.dtype.name, array.shape) for name, array in state.arrays.items()
    )
    header = json.dumps(asdict(_Header(identity, stop_at_eos, state.position, specs)))
    digest = hashlib.sha256()
    with atomic_file(path) as file:
        for part in (
            _MAGIC + header.encode() + b"\n",
            *(_little(array).tobytes() for array in state.arrays.values()),
        ):
            digest.update(part)
            file.write(part)
        file.write(digest.digest())


def read_state(
    path: Path, identity: str, specs_of: Callable[[Position], Sequence[ArraySpec]], most_bytes: int
) -> tuple[bool, StreamState]:
    """Read a saved state, and check that its arrays are those of a stream at its position.

    Args:
        path: of the file.
        identity: `Transcriber.identity`, with which it must have been saved.
        specs_of: returns types and shapes of the arrays of a stream at a position; raises
            ValueError if no stream can be there.
        most_bytes: the most bytes that all arrays may have.

    Returns:
        whether the model's end-of-text token ends the stream, and the state.

    Raises:
        ArtifactError: it is no saved stream, is damaged, or has another identity.
    """

    def refused(reason: str) -> ArtifactError:
        return ArtifactError(f"{path}: not a saved stream ({reason})")

    # Read the file, and compare its content with its hash
    try:
        content = read_within(path, len(_MAGIC) + STREAM + most_bytes + _DIGEST_SIZE, refused)
    except (FileNotFoundError, NotADirectoryError):
        raise refused("no such file") from None
    if content.startswith(b"PK"):
        raise refused("or one of voxtral-onnx 0.2 or older, which alone can go on with it")
    body = memoryview(content)[:-_DIGEST_SIZE]
    if not content.startswith(_MAGIC) or hashlib.sha256(body).digest() != content[-_DIGEST_SIZE:]:
        raise refused("its bytes are not those that were written")

    # Compare header and arrays with the stream's
    first, _, rest = content[len(_MAGIC) : -_DIGEST_SIZE].partition(b"\n")
    header = decode(_Header, first, refused)
    if header.identity != identity:
        raise ArtifactError(
            f"{path}: saved with another artifact, precision, delay or context; open a stream "
            "with the same"
        )
    try:
        specs = tuple(specs_of(header.position))
    except ValueError as error:
        raise refused(str(error)) from error
    if header.arrays != specs or len(rest) != sum(spec.num_bytes for spec in specs):
        raise refused("its arrays are not those of a stream there")
    return header.stop_at_eos, StreamState(header.position, _arrays(rest, specs, refused))


def _arrays(
    content: bytes, specs: Sequence[ArraySpec], refused: Callable[[str], ArtifactError]
) -> dict[str, np.ndarray]:
    arrays, at = {}, 0
    for spec in specs:
        dtype = np.dtype(spec.dtype).newbyteorder("<")
        values = np.frombuffer(content, dtype, prod(spec.shape), at).reshape(spec.shape)
        if not np.isfinite(values).all():
            raise refused(f"{spec.name}: values that are not finite")
        arrays[spec.name] = values.astype(spec.dtype, copy=False)
        at += spec.num_bytes
    return arrays


def _little(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
