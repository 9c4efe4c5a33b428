"""A loaded model: the graphs of one precision, which streams and batches compute with.

While they are loaded, their files are compared with their hashes.
"""

from __future__ import annotations

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from time import perf_counter

from ..contents import MappedFiles, verified
from ..errors import UsageError
from ..manifest import TOKENIZER, Manifest
from .decoder import Decoder
from .device.base import Device
from .device.cache import decoder_cache_spec
from .device.cpu import Cpu
from .device.session import Session
from .encoder import Encoder
from .grid import EncoderGrid
from .memory import require_memory
from .stream_state import StreamState
from .text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The facts about a loaded model, without what computes with it."""

    folder: Path
    manifest: Manifest
    precision: str
    device_name: str  # "cpu", "cuda:N" or "webgpu:0"
    context: int  # positions of 80 ms that the decoder sees, as asked for
    tokenizer: Tokenizer


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class LoadedModel:
    """The graphs and facts that transcribers, streams, the engine and verification share."""

    facts: ModelFacts  # which transcripts keep when the model is freed
    device: Device
    encoder: Encoder
    decoder: Decoder
    weights: MappedFiles  # whose changes are noticed
    grid: EncoderGrid  # of the encoder's calls for recordings
    process: int = field(default_factory=os.getpid)  # that has loaded it
    # Set when no further streams are begun, so that those that end free their part
    closed: Event = field(default_factory=Event)
    # States of streams after the silence that precedes all audio; filled by `silent_start`
    starts: dict[tuple[int, bool], StreamState] = field(default_factory=dict)

    @property
    def manifest(self) -> Manifest:
        """Return the manifest."""
        return self.facts.manifest

    def require_own_process(self) -> None:
        """Refuse to work in a forked process, in which onnxruntime's sessions would hang.

        Raises:
            UsageError: another process has loaded the model.
        """
        if os.getpid() != self.process:
            raise UsageError(
                "the transcriber was loaded by the process that this one was forked off: load one "
                "in each process, or start processes with multiprocessing's method spawn"
            )

    def identity(self, num_delay_tokens: int, grid: EncoderGrid | None = None) -> str:
        """Return a sha256 of all that a stream's state depends on.

        That is the files, the delay, the context and, for recordings, the grid of encoder calls.
        """
        graphs = self.manifest.precisions[self.facts.precision]
        stages = [f for g in (graphs.encoder, graphs.decoder) for f in (g.path, *g.data)]
        hashes = [self.manifest.files[f].sha256 for f in (self.manifest.mel.path, *stages)]
        rule = [] if grid is None else [f"{grid.first}+{grid.chunk}"]
        facts = " ".join([*hashes, str(num_delay_tokens), str(self.facts.context), *rule])
        return hashlib.sha256(facts.encode()).hexdigest()


def load_model(
    manifest: Manifest,
    folder: Path,
    precision: str,
    device: Device,
    *,
    context: int,
    batches: bool,
    threads: int | None,
) -> LoadedModel:
    """Load an artifact; the options are those of `Transcriber`.

    `batches` says whether several recordings are to be decoded together.

    Raises:
        ArtifactError: files are damaged or do not fit the manifest.
        DeviceError: the device cannot run the graphs, or they do not fit into its memory.
        UsageError: `context` is too small, or the device does not support an option.
    """
    # Refuse what the device does not support, or has no memory for
    decoder_cache = decoder_cache_spec(manifest, context)
    if batches and not device.supports_batching:
        raise UsageError(
            f"batch size: files advance together on CPU and CUDA, not on {device.name}; "
            "leave it out"
        )
    require_memory(manifest, precision, context, device)

    # Load the graphs, and meanwhile compare the files with their hashes
    graphs = manifest.precisions[precision]
    names = {TOKENIZER, *manifest.mel.files, *graphs.files}
    files = {folder / name: manifest.files[name] for name in names}
    mapped = {folder / name: manifest.files[name] for name in names & manifest.weights}
    weights, began = MappedFiles(mapped), perf_counter()
    with verified(files, mapped, threads=threads, notes=device.notes):
        mel = Session(folder, manifest.mel, Cpu(), threads)  # small; exact on the CPU
        # At the same time where memory is the machine's own
        with ThreadPoolExecutor(2 if device.name == "cpu" else 1) as pool:
            encoder, decoder = pool.map(
                lambda graph: Session(folder, graph, device, threads),
                (graphs.encoder, graphs.decoder),
            )
        tokenizer = Tokenizer(folder / TOKENIZER, manifest.tokens)
    tokenizer.check_sizes(manifest.config.decoder.vocab_size)
    _log.debug("%s: loaded in %.2f s", folder, perf_counter() - began)
    return LoadedModel(
        ModelFacts(folder, manifest, precision, device.name, context, tokenizer),
        device,
        Encoder(manifest, mel, encoder),
        Decoder(decoder, decoder_cache),
        weights,
        EncoderGrid.of(manifest, device.encoder_calls, device.calls_between_shifts),
    )
