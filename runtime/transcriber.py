"""Transcriber: an artifact loaded once, files and streams transcribed with it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np

from ..arguments import CALLBACK, PATH, Uncopied, accepts
from ..errors import UsageError
from ..escaping import quoted
from ..threads import check_threads
from .audio.files import AudioSource, open_audio
from .audio.mixing import CHANNELS, GAIN
from .audio.vad import SpeechFilter, detectors
from .channels import join_channels
from .decoder import Decoder
from .delay import delay_ms as milliseconds
from .delay import delay_tokens
from .device.cache import KVCache
from .device.open import open_device
from .encoder import Encoder
from .hotwords import DEFAULT_BIAS, Hotwords, check_lengths
from .kept import NOTHING, Kept
from .loading import load
from .locate import find_artifact, open_artifact
from .options import DELAY, LOADING, RECORDINGS
from .recordings import Recordings
from .sampler import TokenSampler
from .stream import Stream
from .stream_state import StreamState
from .tokens import Token
from .transcript import Transcript

if TYPE_CHECKING:
    from ..hub import Progress


DEFAULT_CONTEXT = 8192  # decoder positions kept, 10.9 minutes
# Draft tokens after a blank of a file. Source: docs/performance.md; not measured for WebGPU.
NUM_DRAFT_TOKENS = {"cpu": 1, "cuda": 3, "webgpu": 0}


class Transcriber(Uncopied):
    """A loaded model.

    Threads may share it: every transcript and every stream has caches of its own. What was begun
    before it is closed goes on; a process that was forked off loads its own.

    with Transcriber("tiny") as transcriber:
        for segment in transcriber.transcribe("clip.wav"):
            print(segment.end, segment.text)
    """

    @accepts(**LOADING)
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
                take less memory, and more are cut to it (`notes` say so).
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
        check_lengths(hotwords)
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
        if batch_size > 1 and not self.device.supports_batching:
            raise UsageError(
                "batch size: files advance together on CPU and CUDA, not on "
                f"{self.device_name}; leave it out"
            )
        self.num_delay_tokens = delay_tokens(manifest, delay_ms)
        self.context, self.batch_size, self.blank_guard = context, batch_size, blank_guard
        self.alternatives = alternatives
        self._new_detector = detectors(vad, self.sample_rate) if vad else None
        # By delay: states of streams behind the silence before the audio
        self._starts: dict[int, StreamState] = {}
        self._process, self._streams, self._lock = os.getpid(), WeakSet[Stream](), Lock()
        window = manifest.config.decoder.sliding_window
        if context > window and context != DEFAULT_CONTEXT:
            self.device.notes.append(
                f"context: the model sees {window} positions, not {quoted(context)}"
            )
        loaded = load(
            manifest,
            self.folder,
            self.precision,
            self.device,
            context=context,
            batch_size=batch_size,
            threads=threads,
            prepacked=prepacked,
        )
        self.weights, self.tokenizer = loaded.weights, loaded.tokenizer
        self.hotwords = (
            Hotwords(hotwords, self.tokenizer, manifest.tokens, hotword_bias) if hotwords else None
        )
        # None once it is closed
        self._stages: tuple[Encoder, Decoder] | None = (loaded.encoder, loaded.decoder)

    def __repr__(self) -> str:
        state = ", closed" if self.is_closed else ""
        delay = milliseconds(self.manifest, self.num_delay_tokens)
        return (
            f"<Transcriber of {quoted(self.folder)}: {self.precision} on {self.device_name}, "
            f"delay {delay} ms, context {self.context}{state}>"
        )

    def __enter__(self) -> Transcriber:
        self.require_open()
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Begin nothing any more; the sessions go when what was begun before is done."""
        self._stages = None
        self._starts.clear()
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            if stream.finished:
                stream.release()

    @property
    def is_closed(self) -> bool:
        """Tell whether it was closed."""
        return self._stages is None

    def require_open(self) -> tuple[Encoder, Decoder]:
        """Return both stages.

        Raises:
            UsageError: it was closed, or another process has loaded it.
        """
        self.require_own_process()
        if self._stages is None:
            raise UsageError(
                "the transcriber is closed: begin streams and transcripts before, or load another"
            )
        return self._stages

    def require_own_process(self) -> None:
        """Refuse to work in a process that was forked off, where sessions wait for ever.

        Raises:
            UsageError: another process has loaded the model.
        """
        if os.getpid() != self._process:
            raise UsageError(
                "the transcriber was loaded by the process that this one was forked off: load one "
                "in each process, or start processes with multiprocessing's method spawn"
            )

    @property
    def encoder(self) -> Encoder:
        """Return the first stage; raises as `require_open`."""
        return self.require_open()[0]

    @property
    def decoder(self) -> Decoder:
        """Return the second stage; raises as `require_open`."""
        return self.require_open()[1]

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

    @accepts(delay_ms=DELAY)
    def stream(self, delay_ms: int | None = None) -> Stream:
        """Open a new live stream; the model's end-of-text does not end it.

        Raises:
            UsageError: the transcriber is closed, or the delay is none of the model's.
        """
        return self._stream(self._delay(delay_ms))

    def _stream(
        self,
        num_delay_tokens: int,
        *,
        stop_at_eos: bool = False,
        decoder_cache: KVCache | None = None,
        stages: tuple[Encoder, Decoder] | None = None,
    ) -> Stream:
        """Open a stream behind the silence that comes before all audio.

        On the CPU the silence is run once for each delay; a device runs it sooner than whole
        buffers reach it.
        """
        device = self.device_name.partition(":")[0]
        num_draft_tokens = NUM_DRAFT_TOKENS[device] if stop_at_eos else 0
        stages = stages or self.require_open()
        stream = Stream(
            self,
            num_delay_tokens,
            stop_at_eos=stop_at_eos,
            num_draft_tokens=num_draft_tokens,
            decoder_cache=decoder_cache,
            stages=stages,
        )
        with self._lock:
            self._streams.add(stream)
        if device != "cpu":
            return stream
        if num_delay_tokens not in self._starts:
            silent = Stream(self, num_delay_tokens, stages=stages)
            silent.feed(np.zeros(0, np.float32))
            self._starts[num_delay_tokens] = silent.snapshot()
        stream.load_state(self._starts[num_delay_tokens])
        return stream

    def new_sampler(self) -> TokenSampler | None:
        """Return what samples a stream's tokens; None leaves that to the graph."""
        if not self.alternatives and self.hotwords is None:
            return None
        return TokenSampler(self.manifest.tokens, self.tokenizer, self.alternatives, self.hotwords)

    @accepts(delay_ms=DELAY)
    def speech_filter(self, delay_ms: int | None = None) -> SpeechFilter | None:
        """Return a filter of words without speech for a new stream, where `vad` was asked for."""
        return self._speech_filter(self._delay(delay_ms))

    def _speech_filter(self, num_delay_tokens: int) -> SpeechFilter | None:
        return (
            SpeechFilter(self._new_detector(), self.manifest, num_delay_tokens)
            if self._new_detector
            else None
        )

    @accepts(path=PATH, delay_ms=DELAY)
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

    @accepts(delay_ms=DELAY, gain=GAIN, channels=CHANNELS, on_token=CALLBACK)
    def transcribe(
        self,
        audio: Any,
        *,
        delay_ms: int | None = None,
        gain: str = "none",
        channels: str = "mix",
        on_token: Callable[[Token], None] = lambda token: None,
        kept: Kept = NOTHING,
    ) -> Transcript:
        """Begin to transcribe a recording.

        The transcript decodes while it is iterated; its fields decode what is left. `delay_ms`
        replaces the transcriber's. `on_token` sees every token as it is accepted, which is earlier
        than its segment is whole. Where channels are split, a `SplitTranscript` decodes one after
        the other, and then has segments of them all.

        Args:
            audio: what `open_audio` takes, or what it has opened.
            delay_ms: as for the transcriber.
            gain: as for `open_audio`.
            channels: as for `open_audio`.
            on_token: called with every token.
            kept: what a journal has of the beginning, behind which the transcript goes on.

        Raises:
            AudioError: the audio cannot be read or is not finite.
            UsageError: the transcriber is closed, or an option has a value that it cannot have.
        """
        recordings = self._recordings(self._delay(delay_ms))
        return recordings.begin(self._source(audio, gain, channels), on_token, kept)

    @accepts(audio=RECORDINGS, delay_ms=DELAY, gain=GAIN, channels=CHANNELS)
    def transcribe_many(
        self,
        audio: Iterable[Any],
        *,
        delay_ms: int | None = None,
        gain: str = "none",
        channels: str = "mix",
        on_token: Callable[[AudioSource, Token], None] = lambda source, token: None,
        kept: Callable[[AudioSource], Kept] = lambda source: NOTHING,
    ) -> Iterator[Transcript]:
        """Transcribe many files.

        `batch_size` files advance as a batch, a token each in one call of the decoder, which reads
        the weights once for all; each transcript comes as soon as it is whole. A file that ends
        leaves its slot to the next: only then is that one taken from `audio` and opened. Whatever a
        file raises while it is decoded is raised where its transcript is iterated. With one file at
        a time, transcripts decode while they are iterated.

        Args:
            audio: what `transcribe` takes; a generator of opened sources can pass over what cannot
                be opened.
            delay_ms: as for `transcribe`.
            gain: as for `transcribe`.
            channels: as for `transcribe`; split ones take a slot of the batch each.
            on_token: sees every token as it is accepted, with the source that it is of.
            kept: as for `transcribe`, asked for when a source is begun.

        Raises:
            AudioError: audio cannot be opened; it comes behind the files that were begun before.
            UsageError: as for `transcribe`, at once.
        """
        sources = (self._source(each, gain, channels) for each in audio)
        work = self._recordings(self._delay(delay_ms))
        if self.batch_size == 1:
            return (work.begin(each, partial(on_token, each), kept(each)) for each in sources)
        together = partial(work.advance, batch_size=self.batch_size, on_token=on_token, kept=kept)
        return join_channels(sources, together)

    def _recordings(self, num_delay_tokens: int) -> Recordings:
        """Return what begins recordings with the stages that are loaded now."""
        stages = self.require_open()
        new_stream = partial(self._stream, num_delay_tokens, stop_at_eos=True, stages=stages)
        new_filter = partial(self._speech_filter, num_delay_tokens)
        return Recordings(stages[1], new_stream, new_filter)

    def _source(self, audio: Any, gain: str, channels: str) -> AudioSource:
        return (
            audio
            if isinstance(audio, AudioSource)
            else open_audio(audio, self.sample_rate, gain=gain, channels=channels)
        )
