"""Loading of the graphs of one precision, while their files are compared with their hashes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from ..contents import MappedFiles, verified
from ..errors import UsageError
from ..manifest import TOKENIZER, Manifest
from .decoder import Decoder
from .device.base import Device
from .device.cache import decoder_cache_spec
from .device.cpu import Cpu
from .device.prepacked import find_prepacked, make_prepacked
from .device.session import Session
from .encoder import Encoder
from .memory import require_memory
from .text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The loaded parts of a model, with which streams compute."""

    encoder: Encoder
    decoder: Decoder
    tokenizer: Tokenizer
    weights: MappedFiles  # whose changes are noticed


def load(
    manifest: Manifest,
    folder: Path,
    precision: str,
    device: Device,
    *,
    context: int,
    batch_size: int,
    threads: int | None,
    prepacked: str | Path | None,
) -> Loaded:
    """Load an artifact; the options are those of `Transcriber`.

    Raises:
        ArtifactError: files are damaged or do not fit the manifest.
        DeviceError: the device cannot run the graphs, or they do not fit into its memory.
        StorageError: packed weights cannot be saved.
        UsageError: `context` is too small, or the device does not support an option.
    """
    # Refuse options that the device does not support
    if prepacked and device.name != "cpu":
        raise UsageError(
            f"prepacked: weights are packed for the CPU, not for {device.name}; add --device cpu"
        )
    if batch_size > 1 and not device.supports_batching:
        raise UsageError(
            f"batch size: files advance together on CPU and CUDA, not on {device.name}; "
            "leave it out"
        )

    # Find or make packed weights
    graphs, notes = manifest.precisions[precision], device.notes
    decoder_cache, stages = decoder_cache_spec(manifest, context), (graphs.encoder, graphs.decoder)
    saved = []
    if prepacked:
        saved = [find_prepacked(manifest, each, Path(prepacked), notes) for each in stages]
    # Weights saved packed are mapped from a file, and the system can drop their pages: they always
    # fit
    if not saved or None in saved:
        require_memory(manifest, precision, context, device, batch_size)
    packed = [
        found or make_prepacked(manifest, folder, each, Path(prepacked or ""))
        for found, each in zip(saved, stages, strict=False)
    ]

    # Load the graphs, and meanwhile compare the files with their hashes
    names = {TOKENIZER, *manifest.mel.files, *(() if packed else graphs.files)}
    files = {folder / name: manifest.files[name] for name in names}
    mapped = {folder / name: manifest.files[name] for name in names & manifest.weights}
    for each in packed:
        files |= each.files
        mapped |= each.weights
    weights, began = MappedFiles(mapped), perf_counter()
    with verified(files, mapped, threads=threads, notes=notes):
        mel = Session(folder, manifest.mel, Cpu(), threads)  # small; exact on the CPU
        paths = [each.path for each in packed] or [None, None]
        encoder, decoder = (
            Session(folder, graph, device, threads, path=path)
            for graph, path in zip(stages, paths, strict=True)
        )
        tokenizer = Tokenizer(folder / TOKENIZER, manifest.tokens)
    tokenizer.check_sizes(manifest.config.decoder.vocab_size)
    _log.debug("%s: loaded in %.2f s", folder, perf_counter() - began)
    return Loaded(
        Encoder(manifest, mel, encoder), Decoder(decoder, decoder_cache), tokenizer, weights
    )
