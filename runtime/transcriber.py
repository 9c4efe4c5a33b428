"""Transcriber: an artifact loaded once, files and streams transcribed with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..contents import MappedFiles, verified
from ..errors import UsageError
from ..limits import MOST_STREAMS
from ..manifest import TOKENIZER
from ..threads import check_threads
from .audio.files import AudioSource, open_audio
from .audio.vad import SpeechFilter, detectors, filtered_blocks
from .batch import BatchSlot, advance_together
from .decoder import Decoder
from .device.cache import KVCache, decoder_cache_spec
from .device.cpu import Cpu
from .device.open import open_device
from .device.prepacked import find_prepacked, make_prepacked
from .device.session import Session
from .encoder import Encoder
from .hotwords import DEFAULT_BIAS, Hotwords
from .locate import find_artifact, open_artifact
from .memory import require_memory
from .sampler import TokenSampler, check_alternatives
from .stream import Stream
from .stream_state import StreamState
from .text.tokenizer import Tokenizer
from .tokens import Token

if TYPE_CHECKING:
    from ..hub import Progress
from .delay import delay_tokens
from .transcript import Transcript

DEFAULT_CONTEXT = 8192  # decoder positions kept, 10.9 minutes
# Draft tokens after a blank of a file. Source: docs/performance.md; not measured for WebGPU.
NUM_DRAFT_TOKENS = {"cpu": 1, "cuda": 3, "webgpu": 0}


class Transcriber:
    """A loaded model.

    Threads may share it: every transcript and every stream has caches of its own.

    with Transcriber("tiny") as transcriber:
        for segment in transcriber.transcribe("clip.wav"):
            print(segment.end, segment.text)
    """

    def __init__(
        self,
        model: str | Path | None = None,
        device: str = "auto",
        delay_ms: int | None = None,
        context: int = DEFAULT_CONTEXT,
        *,
        batch_size: int = 1,
        precision: str | None = None,
        threads: int | None = None,
        prepacked: str | Path | None = None,
        blank_guard: bool = True,
        alternatives: int = 0,
        hotwords: Iterable[str] = (),
        hotword_bias: float = DEFAULT_BIAS,
        vad: str | Path | None = None,
        allow_fallback: bool = False,
        offline: bool = False,
        on_download: Callable[[Progress], None] = lambda progress: None,
    ):
        """Load an artifact.

        Args:
            model: its folder, "tiny", or ORG/NAME[@REVISION] of the hub, of which the files of one
                precision are downloaded; None takes $VOXTRAL_ONNX_MODEL or the last finished
                export.
            device: "cpu", "cuda", "cuda:N" or "webgpu"; "auto" takes CUDA where it is there and
                computes in this precision.
            delay_ms: how long the model listens before it writes, a multiple of 80 up to 2400; None
                for the model's own, 480.
            context: decoder positions of 80 ms that attention sees; fewer than the model's window
                take less memory.
            batch_size: files that `transcribe_many` advances together, on CPU or CUDA; each takes
                caches of its own.
            precision: which of the artifact's; None takes the first of q4f16, q4, q8, fp16, fp32.
            threads: for onnxruntime, at most 4 a core; None for one a core.
            prepacked: a folder for weights packed as this machine's kernels take them, made on
                first use; they load faster and processes share their memory. For the CPU.
            blank_guard: after 16 s without a word, make blanks less likely step by step
                (`Stream.overrides` holds where that changed a decision).
            alternatives: how many of the best tokens each token of text comes with, 1 to 10; 0 for
                none.
            hotwords: words and phrases that are made likelier.
            hotword_bias: what their tokens' logits gain.
            vad: leave out words where nobody speaks: "energy" goes by loudness, or the path
                of Silero's model, version 5 or 6. For `transcribe`; live streams take a
                `speech_filter`.
            allow_fallback: run what the device cannot on the CPU, and say so in `notes`, instead of
                raising.
            offline: ask no hub, take what was downloaded before.
            on_download: called for every MiB of a download.

        Raises:
            ArtifactError, DeviceError, StorageError, UsageError: as errors.py describes.
        """
        if threads is not None:
            check_threads(threads)
        asked = None if precision is None else [precision]
        self.folder = find_artifact(model, asked, offline=offline, on_download=on_download)
        self.manifest, (self.precision,) = open_artifact(self.folder, asked)
        manifest = self.manifest
        graphs = manifest.precisions[self.precision]
        self.device = open_device(device, graphs.activation_dtype, allow_fallback=allow_fallback)
        if prepacked and self.device_name != "cpu":
            raise UsageError(
                f"prepacked: weights are packed for the CPU, not for {self.device_name}; "
                "add --device cpu"
            )
        if not 1 <= batch_size <= MOST_STREAMS:
            raise UsageError(f"batch size: expected 1 to {MOST_STREAMS} files, got {batch_size}")
        if batch_size > 1 and not self.device.supports_batching:
            raise UsageError(
                "batch size: files advance together on CPU and CUDA, not on "
                f"{self.device_name}; leave it out"
            )
        self.num_delay_tokens = delay_tokens(manifest, delay_ms)
        self.context, self.batch_size, self.blank_guard = context, batch_size, blank_guard
        self.alternatives = check_alternatives(alternatives)
        self._new_detector = detectors(vad, self.sample_rate) if vad else None
        # By delay: states of streams behind the silence before the audio
        self._starts: dict[int, StreamState] = {}
        decoder_cache = decoder_cache_spec(manifest, context)
        stages, notes = (graphs.encoder, graphs.decoder), self.device.notes
        saved = []
        if prepacked:
            saved = [find_prepacked(manifest, each, Path(prepacked), notes) for each in stages]
        # Weights saved packed are pages of a file, which processes share and the system can drop:
        # they fit always
        if not saved or None in saved:
            require_memory(manifest, self.precision, context, self.device, batch_size)
        packed = [
            found or make_prepacked(manifest, self.folder, each, Path(prepacked or ""))
            for found, each in zip(saved, stages, strict=False)
        ]

        names = {TOKENIZER, *manifest.mel.files, *(() if packed else graphs.files)}
        files = {self.folder / name: manifest.files[name] for name in names}
        mapped = {self.folder / name: manifest.files[name] for name in names & manifest.weights}
        for each in packed:
            files |= each.files
            mapped |= each.weights
        self.weights = MappedFiles(mapped)
        with verified(files, mapped, threads=threads, notes=notes):
            mel = Session(self.folder, manifest.mel, Cpu(), threads)  # small, and exact there
            paths = [each.path for each in packed] or [None, None]
            encoder, decoder = (
                Session(self.folder, graph, self.device, threads, path=path)
                for graph, path in zip(stages, paths, strict=True)
            )
            self.tokenizer = Tokenizer(self.folder / TOKENIZER, manifest.tokens)
        self.tokenizer.check_sizes(manifest.config.decoder.vocab_size)
        words = [hotwords] if isinstance(hotwords, str) else list(hotwords)
        self.hotwords = (
            Hotwords(words, self.tokenizer, manifest.tokens, hotword_bias) if words else None
        )
        self.encoder = Encoder(manifest, mel, encoder)
        self.decoder = Decoder(decoder, decoder_cache)

    def __enter__(self) -> Transcriber:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Release the sessions; what is still streaming keeps them until it is done."""
        self.__dict__.pop("encoder", None)
        self.__dict__.pop("decoder", None)
        self._starts.clear()

    @property
    def device_name(self) -> str:
        """Return where graphs run: "cpu", "cuda:N" or "webgpu:0"."""
        return self.device.name

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what runs otherwise than it was asked for, and what could not be kept."""
        return tuple(self.device.notes)

    @property
    def sample_rate(self) -> int:
        """Return the Hz that `stream()` and arrays must have."""
        return self.manifest.config.audio.sample_rate

    def stream(self, delay_ms: int | None = None) -> Stream:
        """Open a new live stream; the model's end-of-text does not end it."""
        return self._stream(self._delay(delay_ms))

    def _stream(
        self,
        num_delay_tokens: int,
        *,
        stop_at_eos: bool = False,
        decoder_cache: KVCache | None = None,
    ) -> Stream:
        """Open a stream behind the silence that comes before all audio.

        On the CPU the silence is run once for each delay; a device runs it sooner than whole
        buffers reach it.
        """
        device = self.device_name.partition(":")[0]
        num_draft_tokens = NUM_DRAFT_TOKENS[device] if stop_at_eos else 0
        stream = Stream(
            self,
            num_delay_tokens,
            stop_at_eos=stop_at_eos,
            num_draft_tokens=num_draft_tokens,
            decoder_cache=decoder_cache,
        )
        if device != "cpu":
            return stream
        if num_delay_tokens not in self._starts:
            silent = Stream(self, num_delay_tokens)
            silent.feed(np.zeros(0, np.float32))
            self._starts[num_delay_tokens] = silent.snapshot()
        stream.load_state(self._starts[num_delay_tokens])
        return stream

    def new_sampler(self) -> TokenSampler | None:
        """Return what samples a stream's tokens; None leaves that to the graph."""
        if not self.alternatives and self.hotwords is None:
            return None
        return TokenSampler(self.manifest.tokens, self.tokenizer, self.alternatives, self.hotwords)

    def speech_filter(self, delay_ms: int | None = None) -> SpeechFilter | None:
        """Return a filter of words without speech for a new stream, where `vad` was asked for."""
        return self._speech_filter(self._delay(delay_ms))

    def _speech_filter(self, num_delay_tokens: int) -> SpeechFilter | None:
        return (
            SpeechFilter(self._new_detector(), self.manifest, num_delay_tokens)
            if self._new_detector
            else None
        )

    def load_stream(self, path: str | Path, delay_ms: int | None = None) -> Stream:
        """Open a stream that goes on where `Stream.save` wrote it.

        Raises:
            ArtifactError: not a saved stream, or one of another artifact, precision, delay or
                context.
        """
        stream = Stream(self, self._delay(delay_ms))
        stream.restore(path)
        return stream

    def identity(self, num_delay_tokens: int) -> str:
        """Return a hash of all that a stream's state depends on."""
        graphs = self.manifest.precisions[self.precision]
        names = [
            self.manifest.mel.path,
            *(f for g in (graphs.encoder, graphs.decoder) for f in (g.path, *g.data)),
        ]
        facts = [
            *(self.manifest.files[name].sha256 for name in names),
            str(num_delay_tokens),
            str(self.context),
        ]
        return hashlib.sha256(" ".join(facts).encode()).hexdigest()

    def _delay(self, milliseconds: int | None) -> int:
        return (
            self.num_delay_tokens
            if milliseconds is None
            else delay_tokens(self.manifest, milliseconds)
        )

    def transcribe(
        self,
        audio: str | Path | np.ndarray | AudioSource,
        *,
        delay_ms: int | None = None,
        gain: str = "none",
        on_token: Callable[[Token], None] = lambda token: None,
    ) -> Transcript:
        """Begin to transcribe a file, an array (float [n] at the model's rate) or an opened source.

        The transcript decodes while it is iterated; its fields decode what is left. `delay_ms`
        replaces the transcriber's. `on_token` sees every token as it is accepted, which is earlier
        than its segment is whole.

        Raises:
            AudioError: the audio cannot be read or is not finite.
        """
        source, num_delay_tokens = self._source(audio, gain), self._delay(delay_ms)
        stream = self._stream(num_delay_tokens, stop_at_eos=True)
        speech_filter = self._speech_filter(num_delay_tokens)
        tokens = _decoded(stream, source, speech_filter)
        if speech_filter:
            tokens = speech_filter.filter(tokens)
        return Transcript(source, stream, tokens, on_token, speech_filter)

    def transcribe_many(
        self,
        audio: Iterable[str | Path | np.ndarray | AudioSource],
        *,
        delay_ms: int | None = None,
        gain: str = "none",
        on_token: Callable[[AudioSource, Token], None] = lambda source, token: None,
    ) -> Iterator[Transcript]:
        """Transcribe many files.

        `batch_size` files advance as a batch, a token each in one call of the decoder, which reads
        the weights once for all; each transcript comes as soon as it is whole. A file that ends
        leaves its slot to the next: only then is that one taken from `audio` and opened. What one
        file raises, as AudioError where its sound turns out to be damaged, is raised where its
        transcript is iterated. With one file at a time, transcripts decode while they are iterated.

        Args:
            audio: what `transcribe` takes; a generator of opened sources can pass over what cannot
                be opened.
            delay_ms: as for `transcribe`.
            gain: as for `transcribe`.
            on_token: sees every token as it is accepted, with the source that it is of.

        Raises:
            AudioError: audio cannot be opened.
        """
        num_delay_tokens = self._delay(delay_ms)
        sources = (self._source(each, gain) for each in audio)

        def begin(cache: KVCache) -> BatchSlot | None:
            if (source := next(sources, None)) is None:
                return None
            stream = self._stream(num_delay_tokens, stop_at_eos=True, decoder_cache=cache)
            return BatchSlot(source, stream, self._speech_filter(num_delay_tokens), on_token)

        if self.batch_size == 1:
            for source in sources:
                yield self.transcribe(source, delay_ms=delay_ms, on_token=partial(on_token, source))
            return
        for slot in advance_together(self.decoder, self.batch_size, begin):
            yield Transcript(
                slot.source, slot.stream, slot.result(), lambda token: None, slot.speech_filter
            )

    def _source(self, audio: str | Path | np.ndarray | AudioSource, gain: str) -> AudioSource:
        return (
            audio
            if isinstance(audio, AudioSource)
            else open_audio(audio, self.sample_rate, gain=gain)
        )


def _decoded(
    stream: Stream, source: AudioSource, speech_filter: SpeechFilter | None
) -> Iterator[Token]:
    for block in filtered_blocks(source, speech_filter):
        yield from stream.iter_feed(block)
        if stream.finished:  # the model said that the text has ended
            return
    yield from stream.iter_finish()
