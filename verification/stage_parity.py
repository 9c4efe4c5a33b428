"""Rungs 3 and 4: compare each stage's graph with its PyTorch module.

The graph runs in one call, in several calls with a shift of the cache between them, and as shipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DeviceError
from ..manifest import MAX_DELAY_TOKENS, CacheSpec, Manifest, TensorSpec
from ..runtime.device.base import Device
from .artifact_model import ArtifactModel, Computation
from .subgraphs import StageSession

POSITIONS = ("cos", "sin", "seqlens_k", "total_sequence_length")
CHUNKS = (2, 1, 3)  # tokens of each call; a cache that begins full is shifted after the first
Values = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class StageErrors:
    """The errors of a stage's graph against its module.

    Each is |got - expected| / |expected| in the L2 norm, for the worst output.
    """

    name: str
    graph: float  # one call, exact
    streamed: float  # several calls, exact, against the module over all rows at once
    shipped: float  # one call in the artifact's own types and accuracy level
    devices: Mapping[str, float]  # of other devices, as shipped, against the CPU as shipped


@dataclass(frozen=True, slots=True)
class Case:
    """The random inputs of a stage for all CHUNKS, and its module's outputs for all at once."""

    feeds: Values
    # Keys and values [1, kv_heads, earlier positions, head_dim]; empty for a stage without cache
    history: tuple[np.ndarray, ...]
    expected: Values

    @property
    def one_call(self) -> tuple[int, ...]:
        """Return the chunks of a single call: all tokens up to the first shift of the cache."""
        is_full = self.history and self.history[0].shape[2]
        return CHUNKS[:1] if is_full else (sum(CHUNKS),)


def probe(
    model: ArtifactModel,
    manifest: Manifest,
    devices: Sequence[Device] = (),
    on_refusal: Callable[[Device, DeviceError], None] = lambda device, error: None,
) -> Iterator[StageErrors]:
    """Yield the errors of every stage; layers run with an empty cache and with a full one.

    Args:
        model: the artifact's graphs and weights.
        manifest: the artifact's manifest.
        devices: devices besides the CPU.
        on_refusal: called with a device that cannot run a stage, and the error; it may remove the
            device from `devices`.
    """
    for graph, spec in (
        (model.encoder, manifest.caches["encoder"]),
        (model.decoder, manifest.caches["decoder"]),
    ):
        full = spec.capacity - CHUNKS[0] * spec.rows_per_token
        for seed, stage in enumerate(graph.stages):
            # Draw cases
            session, compute = graph.load(stage, exact=True), model.computation(stage)
            starts = (0, full) if stage in graph.layers else (0,)
            vocab_size = manifest.config.decoder.vocab_size
            cases = [
                draw(session, compute, spec, start, vocab_size, np.random.default_rng(seed))
                for start in starts
            ]
            del compute  # frees its weights

            # Compare the exact graph with the module, in one call and call by call
            wanted = [expected_of(session, spec, case, sum(case.one_call)) for case in cases]
            exact = max(
                map(
                    worst_error, (run(session, spec, case, case.one_call) for case in cases), wanted
                )
            )
            wanted_at_last = (expected_of(session, spec, case, sum(CHUNKS)) for case in cases)
            streamed = max(
                map(
                    worst_error,
                    (run(session, spec, case, CHUNKS) for case in cases),
                    wanted_at_last,
                )
            )

            # Compare the shipped graph with the module, and other devices with the CPU
            session = graph.load(stage, exact=False)
            shipped = [run(session, spec, case, case.one_call) for case in cases]
            others = {}
            for device in tuple(devices):
                try:
                    session = graph.load(stage, exact=False, device=device)
                    made_there = [run(session, spec, case, case.one_call) for case in cases]
                except DeviceError as error:
                    on_refusal(device, error)
                else:
                    others[device.name] = max(map(worst_error, made_there, shipped))
            yield StageErrors(
                stage, exact, streamed, max(map(worst_error, shipped, wanted)), others
            )


def draw(
    session: StageSession,
    compute: Computation,
    spec: CacheSpec,
    start: int,
    vocab_size: int,
    rng: np.random.Generator,
) -> Case:
    """Return a case of random inputs.

    Args:
        session: the stage, whose inputs are drawn.
        compute: the module's computation, as `ArtifactModel.computation` returns it.
        spec: the cache's sizes and rules.
        start: absolute position of the first row, and so the number of rows in the cache.
        vocab_size: upper bound of token ids.
        rng: the generator.
    """
    feeds: Values = {}
    for tensor in session.inputs:
        shape = [_size(axis, sum(CHUNKS)) for axis in tensor.shape]
        if tensor.name == "input_ids":
            feeds[tensor.name] = rng.integers(0, vocab_size, shape)
        elif tensor.name == "num_delay_tokens":
            feeds[tensor.name] = rng.integers(1, MAX_DELAY_TOKENS + 1, shape)
        elif tensor.name == "blank_penalty":
            feeds[tensor.name] = rng.uniform(0, 8, shape).astype(np.float32)
        elif tensor.name not in POSITIONS and not tensor.name.startswith("past_key_values."):
            feeds[tensor.name] = rng.standard_normal(shape, np.float32)
    names = [tensor.name for tensor in session.inputs if tensor.name.startswith("past_key_values.")]
    before = (1, spec.num_key_value_heads, start, spec.head_dim)
    history = tuple(rng.standard_normal(before, np.float32) for _ in names)
    whole = dict(feeds)
    if names:
        rows = sum(CHUNKS) * spec.rows_per_token
        whole |= _positions(spec, start, rows, row=start, capacity=start + rows)
        padding = ((0, 0), (0, 0), (0, rows), (0, 0))
        whole |= {name: np.pad(part, padding) for name, part in zip(names, history, strict=True)}
    return Case(feeds, history, compute(whole))


def run(session: StageSession, spec: CacheSpec, case: Case, chunks: Sequence[int]) -> Values:
    """Call a stage on chunks of a case, and return the joined outputs by name.

    The cache is shifted when its buffer is full, by the manifest's rule. Caches and states are
    returned as they are after the last call.

    Args:
        session: the stage.
        spec: the cache's sizes and rules.
        case: the inputs.
        chunks: tokens of each call.
    """
    # Fill the caches
    caches = [
        np.zeros((*part.shape[:2], spec.capacity, part.shape[3]), part.dtype)
        for part in case.history
    ]
    names = [tensor.name for tensor in session.inputs if tensor.name.startswith("past_key_values.")]
    position = 0
    for buffer, part in zip(caches, case.history, strict=True):
        position = part.shape[2]
        buffer[:, :, :position] = part
    states = {name: value for name, value in case.feeds.items() if name.endswith("_state")}

    # Call
    calls: list[Values] = []
    ends = np.cumsum(chunks)
    for begin, end in zip(ends - chunks, ends, strict=True):
        feeds = {
            tensor.name: _tokens(case.feeds[tensor.name], tensor, begin, end)
            for tensor in session.inputs
            if tensor.name in case.feeds
        } | states
        rows = (end - begin) * spec.rows_per_token
        feeds |= _positions(spec, position, rows, spec.row(position), spec.capacity)
        feeds |= zip(names, caches, strict=True)
        position += rows
        outputs = session.call(feeds)
        states = {name: outputs[f"present_{name}"] for name in states}
        caches = [outputs.pop(name.replace("past_key_values", "present")) for name in names]
        if caches and spec.row(position - 1) == spec.capacity - 1:
            for buffer in caches:
                buffer[:, :, : spec.keep] = buffer[:, :, spec.capacity - spec.keep :].copy()
        calls.append(outputs)

    # Join the outputs
    joined = {}
    for tensor in session.outputs:
        if tensor.name in calls[0]:
            axis, parts = _token_axis(tensor)[0], [outputs[tensor.name] for outputs in calls]
            joined[tensor.name] = parts[-1] if axis is None else np.concatenate(parts, axis)
    for name, buffer in zip(names, caches, strict=True):
        joined[name.replace("past_key_values", "present")] = buffer[:, :, : spec.row(position)]
    return joined


def _positions(spec: CacheSpec, position: int, rows: int, row: int, capacity: int) -> Values:
    angles = np.arange(position, position + rows)[None, :, None] * spec.rope_theta ** (
        -np.arange(0, spec.head_dim, 2) / spec.head_dim
    )
    return {
        "cos": np.cos(angles).astype(np.float32),
        "sin": np.sin(angles).astype(np.float32),
        "seqlens_k": np.array([row + rows - 1], np.int32),
        "total_sequence_length": np.array(capacity, np.int32),
    }


def expected_of(session: StageSession, spec: CacheSpec, case: Case, tokens: int) -> Values:
    """Return the outputs that `run` should have returned for the first tokens of a case."""
    end = tokens * spec.rows_per_token + (case.history[0].shape[2] if case.history else 0)
    wanted = {}
    for tensor in session.outputs:
        values = case.expected[tensor.name]
        if tensor.name.startswith("present."):
            wanted[tensor.name] = values[:, :, end - spec.row(end) : end]
        elif _token_axis(tensor)[0] is not None:
            wanted[tensor.name] = _tokens(values, tensor, 0, tokens)
        elif tokens == sum(CHUNKS):  # a state: the module only returns the last one
            wanted[tensor.name] = values
    return wanted


def worst_error(made: Values, wanted: Values) -> float:
    """Return the largest `relative_error` among the wanted outputs.

    The ids in `step` are an output of their own. Its logprob and margin are differences of logits,
    so their errors are relative to the size of logits.
    """
    errors = []
    for name, values in wanted.items():
        if name != "step":
            errors.append(relative_error(made[name], values))
            continue
        size = float(
            np.sqrt(np.mean(np.square(wanted["logits"], dtype=np.float64)) * values[..., 0].size)
        )
        errors.append(relative_error(made[name][..., 0], values[..., 0]))
        errors += [relative_error(made[name][..., i], values[..., i], size) for i in (1, 2)]
    return max(errors)


def relative_error(got: np.ndarray, wanted: np.ndarray, size: float = 0.0) -> float:
    """Return |got - wanted| over the larger of |wanted| and `size`, in the L2 norm.

    It is infinite where a value is not finite.
    """
    difference = np.subtract(got, wanted, dtype=np.result_type(got, wanted, np.float32))
    error = _norm(difference) / max(_norm(wanted), size, 1e-30)
    return error if np.isfinite(error) else float("inf")


def _norm(values: np.ndarray) -> float:
    """Return the L2 norm, summed in float64 without a float64 copy of perhaps 10^7 values."""
    flat = values.reshape(-1)
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64)) ** 0.5


def _tokens(values: np.ndarray, tensor: TensorSpec, begin: int, end: int) -> np.ndarray:
    axis, factor = _token_axis(tensor)
    if axis is None:
        return values
    return values[(slice(None),) * axis + (slice(begin * factor, end * factor),)]


def _token_axis(tensor: TensorSpec) -> tuple[int | None, int]:
    """Return the axis of a tensor that counts tokens, and its number of rows a token."""
    for axis, size in enumerate(tensor.shape):
        if isinstance(size, str) and size.endswith(("chunk", "seq")):
            return axis, int(size.rpartition("*")[0] or 1)
    return None, 1


def _size(axis: int | str, tokens: int) -> int:
    if isinstance(axis, int):
        return axis
    return 1 if axis == "batch" else tokens * int(axis.rpartition("*")[0] or 1)
