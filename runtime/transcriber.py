"""Transcriber: a loaded model, with which files and streams are transcribed."""

from __future__ import annotations

import hashlib
import logging
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
from .delay import delay_tokens, untrained_delay
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


_log = logging.getLogger(__name__)

DEFAULT_CONTEXT = 8192  # decoder positions kept, 10.9 minutes
# Blanks that a call of the decoder tries in advance after a blank of a file. Source:
# docs/performance.md; not measured for WebGPU.
NUM_DRAFT_TOKENS = {"cpu": 1, "cuda": 3, "webgpu": 0}


class Transcriber(Uncopied):
    """A loaded model, which transcribes recordings and live streams.

    Several threads may use it at a time, because every transcript and every stream has caches of
    its own. Transcripts and streams that were begun before it is closed can still be finished. A
    forked process must load its own.

    ```python
    with Transcriber("tiny") as transcriber:
        for segment in transcriber.transcribe("clip.wav"):
            print(segment.end, segment.text)
    ```
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
        """Load a model that was exported to ONNX.

        Args:
            model: the folder of an exported model; "tiny", the small test model; or
                ORG/NAME[@REVISION] on the Hugging Face hub, of which the files of one precision
                are downloaded. None takes $VOXTRAL_ONNX_MODEL, else the last finished export.
            device: "cpu", "cuda", "cuda:N", "webgpu", or "auto": CUDA if it is available and
                supports the precision, else the CPU.
            delay_ms: milliseconds by which text follows the audio, a multiple of 80 up to 2400;
                None for the model's own, 480.
            context: how many past positions of 80 ms the decoder sees; fewer take less memory,
                more than the model's window are reduced to it, with a note.
            batch_size: files that `transcribe_many` decodes together, on CPU or CUDA; each takes
                memory for its own caches.
            precision: one that the model was exported in; None takes the first available of q4f16,
                q4, q8, fp16, fp32.
            threads: of onnxruntime, at most 4 per core; None for one per core.
            prepacked: a folder in which to keep weights in the layout of this machine's CPU, made
                on first use; they load faster, and processes share their memory.
            blank_guard: after 16 s without text, make text likelier step by step, in case the model
                is stuck; `Stream.overrides` lists where that has changed the text.
            alternatives: how many of the likeliest tokens to return with each token of text, up to
                10; 0 for none.
            hotwords: words and phrases that are made likelier.
            hotword_bias: number that is added to the logits of their tokens, 0 to 20.
            vad: leave out words that were written while nobody speaks, as detected by loudness
                ("energy") or by Silero's model (its path; version 5 or 6). For recordings; live
                streams need a `speech_filter`.
            allow_fallback: run on the CPU, with a note, what the device cannot run; otherwise that
                raises a DeviceError.
            offline: do not connect to the hub; use files that were downloaded before.
            on_download: called for every MiB of a download.

        Raises:
            ArtifactError: there is no such model, or its files are damaged.
            DeviceError: the device is not available, or the model does not fit into memory.
            StorageError: the model cannot be downloaded, or the weights cannot be saved.
            UsageError: an option has a value that it cannot have.
        """
        # Find the model and the device
        if threads is not None:
            check_threads(threads)
        check_lengths(hotwords)
        asked = None if precision is None else [precision]
        self.folder = find_artifact(model, asked, offline=offline, on_download=on_download)
        self.manifest, (self.precision,) = open_artifact(self.folder, asked)
        manifest = self.manifest
        graphs = manifest.precisions[self.precision]
        self.device = open_device(device, graphs.activation_dtype, allow_fallback=allow_fallback)

        # Keep the options
        self.num_delay_tokens = delay_tokens(manifest, delay_ms)
        self.context, self.batch_size, self.blank_guard = context, batch_size, blank_guard
        self.alternatives = alternatives
        self._new_detector = detectors(vad, self.sample_rate) if vad else None
        # States of streams after the silence that precedes all audio, by delay in tokens
        self._starts: dict[int, StreamState] = {}
        self._process, self._streams, self._lock = os.getpid(), WeakSet[Stream](), Lock()
        window = manifest.config.decoder.sliding_window
        if context > window and context != DEFAULT_CONTEXT:
            self.device.notes.append(
                f"context: the model sees {window} positions, not {quoted(context)}"
            )

        # Load the graphs
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
        # None after it is closed
        self._stages: tuple[Encoder, Decoder] | None = (loaded.encoder, loaded.decoder)

        # Log what a user should know
        _log.info("%s: %s on %s", self.folder, self.precision, self.device_name)
        untrained = untrained_delay(manifest, self.num_delay_tokens)
        for note in filter(None, (*self.notes, manifest.scope, untrained)):
            _log.info("%s: %s", self.folder, note)

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
        """Refuse new streams and transcripts; memory is freed when those begun before are done."""
        self._stages = None
        self._starts.clear()
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            if stream.finished:
                stream.release()

    @property
    def is_closed(self) -> bool:
        """Return whether it was closed."""
        return self._stages is None

    def require_open(self) -> tuple[Encoder, Decoder]:
        """Return the encoder and the decoder.

        Raises:
            UsageError: the transcriber is closed, or another process has loaded it.
        """
        self.require_own_process()
        if self._stages is None:
            raise UsageError(
                "the transcriber is closed: begin streams and transcripts before, or load another"
            )
        return self._stages

    def require_own_process(self) -> None:
        """Refuse to work in a forked process, in which onnxruntime's sessions would hang.

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
        """Return the encoder; raises as `require_open`."""
        return self.require_open()[0]

    @property
    def decoder(self) -> Decoder:
        """Return the decoder; raises as `require_open`."""
        return self.require_open()[1]

    @property
    def device_name(self) -> str:
        """Return the device on which the model runs: "cpu", "cuda:N" or "webgpu:0"."""
        return self.device.name

    @property
    def notes(self) -> tuple[str, ...]:
        """Return sentences about options that were not followed and caches that were not kept."""
        return tuple(self.device.notes)

    @property
    def sample_rate(self) -> int:
        """Return the sample rate, in Hz, that streams expect and that arrays are taken to have."""
        return self.manifest.config.audio.sample_rate

    @accepts(delay_ms=DELAY)
    def stream(self, delay_ms: int | None = None) -> Stream:
        """Open a new live stream, which goes on even if the model writes its end-of-text token.

        Args:
            delay_ms: as for the transcriber, whose delay is the default.

        Raises:
            UsageError: the transcriber is closed, or the model does not have this delay.
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
        """Open a stream and, on the CPU, let it process the silence that precedes all audio.

        The state after that silence is computed once for each delay. Other devices compute it
        faster than the buffers could be copied to them.
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
        """Return a sampler for a new stream; None if the graph samples."""
        if not self.alternatives and self.hotwords is None:
            return None
        return TokenSampler(self.manifest.tokens, self.tokenizer, self.alternatives, self.hotwords)

    @accepts(delay_ms=DELAY)
    def speech_filter(self, delay_ms: int | None = None) -> SpeechFilter | None:
        """Return a filter for a new stream, which drops words written while nobody speaks.

        None without the option `vad`.
        """
        return self._speech_filter(self._delay(delay_ms))

    def _speech_filter(self, num_delay_tokens: int) -> SpeechFilter | None:
        if self._new_detector is None:
            return None
        return SpeechFilter(self._new_detector(), self.manifest, num_delay_tokens)

    @accepts(path=PATH, delay_ms=DELAY)
    def load_stream(self, path: str | Path, delay_ms: int | None = None) -> Stream:
        """Open a stream that continues from the state that `Stream.save` has written.

        Args:
            path: the saved file.
            delay_ms: as it was for the saved stream.

        Raises:
            ArtifactError: it is no saved stream, or one of another model, precision, delay or
                context.
            UsageError: the transcriber is closed.
        """
        stream = Stream(self, self._delay(delay_ms))
        stream.restore(path)
        return stream

    def identity(self, num_delay_tokens: int) -> str:
        """Return a sha256 of all that a stream's state depends on: files, delay and context."""
        graphs = self.manifest.precisions[self.precision]
        stages = [f for g in (graphs.encoder, graphs.decoder) for f in (g.path, *g.data)]
        hashes = [self.manifest.files[f].sha256 for f in (self.manifest.mel.path, *stages)]
        facts = " ".join([*hashes, str(num_delay_tokens), str(self.context)])
        return hashlib.sha256(facts.encode()).hexdigest()

    def _delay(self, milliseconds: int | None) -> int:
        if milliseconds is None:
            return self.num_delay_tokens
        return delay_tokens(self.manifest, milliseconds)

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
        """Return the transcript of a recording, which is decoded as it is iterated.

        The properties of the transcript, such as `text`, decode what is left.

        Args:
            audio: a path, "-" for standard input, the bytes or the open binary file of a recording,
                samples (array, list or tensor; float [n] or [n, channels] at `sample_rate`), or
                `(samples, rate)`; or an `AudioSource`.
            delay_ms: as for the transcriber, whose delay is the default.
            gain: "auto" raises quiet speech to a usual loudness; "none" leaves it.
            channels: "mix" transcribes the average of all channels, or one of them if they cancel
                each other out; "left" and "right" the first and the second; "split" transcribes
                every channel on its own, and segments have the number of their channel.
            on_token: called with every token at once, before its segment is complete.
            kept: the beginning of the transcript, from the journal of an interrupted run, so that
                only the rest is transcribed (the command line's `--resume`). By default there is
                none.

        Raises:
            AudioError: the audio cannot be read, or has values that are not finite.
            DeviceError: a package that is needed to read the audio is not installed.
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
        """Transcribe several recordings, `batch_size` of them at a time.

        The recordings of a batch advance together, by a token in each call of the decoder, which
        reads the weights only once for all of them. Each transcript is yielded when it is complete,
        which need not be in the order of `audio`. The next recording is taken from `audio` and
        opened when another has ended. An error while one recording is decoded is raised when its
        transcript is iterated, and does not affect the others. With a `batch_size` of 1,
        transcripts come in order and are decoded as they are iterated.

        Args:
            audio: recordings, each as `transcribe` takes it. Pass a generator of `AudioSource`s to
                skip recordings that cannot be opened.
            delay_ms: as for `transcribe`.
            gain: as for `transcribe`.
            channels: as for `transcribe`; each channel that is split takes a place in the batch.
            on_token: called with every token at once, and with the source that it belongs to.
            kept: returns the beginning of a transcript, as for `transcribe`; called with each
                source when it is begun.

        Raises:
            AudioError: a recording cannot be opened; raised after those begun before are complete.
            UsageError: as for `transcribe`; raised at once.
        """
        sources = (self._source(each, gain, channels) for each in audio)
        work = self._recordings(self._delay(delay_ms))
        if self.batch_size == 1:
            return (work.begin(each, partial(on_token, each), kept(each)) for each in sources)
        together = partial(work.advance, batch_size=self.batch_size, on_token=on_token, kept=kept)
        return join_channels(sources, together)

    def _recordings(self, num_delay_tokens: int) -> Recordings:
        """Return a factory of transcripts, which still works after the transcriber is closed."""
        stages = self.require_open()
        new_stream = partial(self._stream, num_delay_tokens, stop_at_eos=True, stages=stages)
        new_filter = partial(self._speech_filter, num_delay_tokens)
        return Recordings(stages[1], new_stream, new_filter)

    def _source(self, audio: Any, gain: str, channels: str) -> AudioSource:
        """Open a recording that is not open yet, and log what was found."""
        if not isinstance(audio, AudioSource):
            audio = open_audio(audio, self.sample_rate, gain=gain, channels=channels)
        for note in audio.notes:
            _log.info("%s: %s", audio.name, note)
        for loss in audio.losses:
            _log.warning("%s: %s", audio.name, loss)
        return audio
