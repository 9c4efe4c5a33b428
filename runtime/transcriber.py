"""Transcriber: a loaded model, with which files and streams are transcribed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ..arguments import CALLBACK, FLAG, PATH, WORDS, Uncopied, accepts
from ..errors import UsageError
from ..escaping import quoted
from ..manifest import Manifest
from ..threads import check_threads
from .audio.files import AudioSource
from .audio.mixing import CHANNELS, GAIN
from .audio.vad import SpeechFilter, detectors
from .channels import join_channels
from .delay import delay_ms as milliseconds
from .delay import delay_tokens, untrained_delay
from .device.open import open_device
from .engine.work import Work
from .grid import EncoderGrid
from .hotwords import DEFAULT_BIAS, check_lengths, hotword_tree
from .kept import NOTHING, Kept
from .locate import find_artifact, open_artifact
from .model import LoadedModel, load_model
from .opening import open_source, open_sources
from .options import AUTO, DELAY, LOADING, RECORDINGS
from .recordings import Recordings
from .stream import Stream, silent_start
from .text.tokenizer import Tokenizer
from .tokens import Token
from .transcript import Transcript
from .writer import StreamOptions, new_sampler

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
        batch_size: int | str = 1,
        precision: str | None = None,
        threads: int | None = None,
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
            batch_size: files, or pieces of long ones, that `transcribe_many` decodes together, on
                CPU or CUDA; each takes memory for its own caches. "auto" takes as many as suit the
                device and its free memory.
            precision: one that the model was exported in; None takes the first available of q4f16,
                q4, q8, fp16, fp32.
            threads: of onnxruntime, at most 4 per core; None for one per core.
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
            StorageError: the model cannot be downloaded.
            UsageError: an option has a value that it cannot have.
        """
        # Find the model and the device
        if threads is not None:
            check_threads(threads)
        check_lengths(hotwords)
        asked = None if precision is None else [precision]
        folder = find_artifact(model, asked, offline=offline, on_download=on_download)
        manifest, (chosen,) = open_artifact(folder, asked)
        graphs = manifest.precisions[chosen]
        opened = open_device(device, graphs.activation_dtype, allow_fallback=allow_fallback)

        # Check the options
        num_delay_tokens = delay_tokens(manifest, delay_ms)
        self.batch_size = batch_size
        rate = manifest.config.audio.sample_rate
        self._new_detector = detectors(vad, rate) if vad else None
        self._streams, self._lock = WeakSet[Stream](), Lock()
        self.metrics = Work()  # where the time of `transcribe_many` went
        window = manifest.config.decoder.sliding_window
        if context > window and context != DEFAULT_CONTEXT:
            opened.notes.append(
                f"context: the model sees {window} positions, not {quoted(context)}"
            )

        # Load the graphs
        loaded = load_model(
            manifest,
            folder,
            chosen,
            opened,
            context=context,
            batches=batch_size != 1,
            threads=threads,
        )
        self.facts, self.device = loaded.facts, opened
        self._model: LoadedModel | None = loaded  # None after it is closed
        tokenizer, ids = loaded.facts.tokenizer, manifest.tokens
        self.options = StreamOptions(
            num_delay_tokens,
            blank_guard,
            alternatives,
            hotword_tree(hotwords, tokenizer, ids, hotword_bias),
        )

        # Log what a user should know
        _log.info("%s: %s on %s", folder, chosen, self.device_name)
        untrained = untrained_delay(manifest, num_delay_tokens)
        for note in filter(None, (*self.notes, manifest.scope, untrained)):
            _log.info("%s: %s", folder, note)

    def __repr__(self) -> str:
        state = ", closed" if self.is_closed else ""
        delay = milliseconds(self.manifest, self.num_delay_tokens)
        return (
            f"<Transcriber of {quoted(self.folder)}: {self.precision} on {self.device_name}, "
            f"delay {delay} ms, context {self.context}{state}>"
        )

    def __enter__(self) -> Transcriber:
        _ = self.model  # raises if it is closed
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Refuse new streams and transcripts; memory is freed when those begun before are done."""
        model, self._model = self._model, None
        if model is None:
            return
        model.closed.set()
        model.starts.clear()
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            if stream.finished:
                stream.release()

    @property
    def is_closed(self) -> bool:
        """Return whether it was closed."""
        return self._model is None

    @property
    def model(self) -> LoadedModel:
        """Return the loaded model.

        Raises:
            UsageError: the transcriber is closed, or another process has loaded it.
        """
        if self._model is None:
            raise UsageError(
                "the transcriber is closed: begin streams and transcripts before, or load another"
            )
        self._model.require_own_process()
        return self._model

    @property
    def folder(self) -> Path:
        """Return the artifact's folder."""
        return self.facts.folder

    @property
    def manifest(self) -> Manifest:
        """Return the artifact's manifest."""
        return self.facts.manifest

    @property
    def precision(self) -> str:
        """Return the precision that runs."""
        return self.facts.precision

    @property
    def context(self) -> int:
        """Return how many past positions of 80 ms the decoder sees, as asked for."""
        return self.facts.context

    @property
    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer."""
        return self.facts.tokenizer

    @property
    def num_delay_tokens(self) -> int:
        """Return the delay in tokens."""
        return self.options.num_delay_tokens

    @property
    def device_name(self) -> str:
        """Return the device on which the model runs: "cpu", "cuda:N" or "webgpu:0"."""
        return self.facts.device_name

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
        return self._stream(self.model, self.stream_options(delay_ms))

    def stream_options(
        self,
        delay_ms: int | None = None,
        hotwords: Iterable[str] | None = None,
        hotword_bias: float = DEFAULT_BIAS,
    ) -> StreamOptions:
        """Return the options of streams with a delay and hotwords; None for the transcriber's.

        Raises:
            UsageError: the model does not have this delay, or the hotwords cannot be.
        """
        options = self.options
        if delay_ms is not None:
            options = replace(options, num_delay_tokens=delay_tokens(self.manifest, delay_ms))
        if hotwords is None:
            return options
        words = WORDS.check("hotwords", hotwords)
        tree = hotword_tree(words, self.tokenizer, self.manifest.tokens, hotword_bias)
        return replace(options, hotwords=tree)

    def _stream(
        self, model: LoadedModel, options: StreamOptions, grid: EncoderGrid | None = None
    ) -> Stream:
        """Open a stream behind the silence that precedes all audio.

        Only the CPU copies the state after it; other devices compute it faster than its buffers
        could be copied to them.
        """
        stream = Stream(model, options, sampler=new_sampler(self.facts, options), grid=grid)
        with self._lock:
            self._streams.add(stream)
        if self.device_name == "cpu":
            stream.load_state(silent_start(model, options.num_delay_tokens, grid))
        return stream

    @accepts(delay_ms=DELAY)
    def speech_filter(self, delay_ms: int | None = None) -> SpeechFilter | None:
        """Return a filter for a new stream, which drops words written while nobody speaks.

        None without the option `vad`.
        """
        return self._speech_filter(self.stream_options(delay_ms).num_delay_tokens)

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
        options = self.stream_options(delay_ms)
        stream = Stream(self.model, options, sampler=new_sampler(self.facts, options))
        stream.restore(path)
        return stream

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
        source = open_source(audio, self.sample_rate, gain=gain, channels=channels)
        return self.recordings(self.stream_options(delay_ms)).begin(source, on_token, kept)

    @accepts(audio=RECORDINGS, delay_ms=DELAY, gain=GAIN, channels=CHANNELS, split=FLAG)
    def transcribe_many(
        self,
        audio: Iterable[Any],
        *,
        delay_ms: int | None = None,
        gain: str = "none",
        channels: str = "mix",
        split: bool = True,
        on_token: Callable[[AudioSource, Token], None] = lambda source, token: None,
        on_progress: Callable[[AudioSource, float], None] = lambda source, seconds: None,
        kept: Callable[[AudioSource], Kept] = lambda source: NOTHING,
    ) -> Iterator[Transcript]:
        """Transcribe several recordings, `batch_size` of them at a time.

        The recordings of a batch advance together, by a token in each call of the decoder, which
        reads the weights only once for all of them. Each transcript is yielded when it is complete,
        which need not be in the order of `audio`. Recordings are taken from `audio` a few ahead of
        those that are decoded. An error while one recording is decoded is raised when its
        transcript is iterated, and does not affect the others. With a `batch_size` of 1,
        transcripts come in order and are decoded as they are iterated.

        Args:
            audio: recordings, each as `transcribe` takes it. Pass a generator of `AudioSource`s to
                skip recordings that cannot be opened.
            delay_ms: as for `transcribe`.
            gain: as for `transcribe`.
            channels: as for `transcribe`; each channel that is split takes a place in the batch.
            split: decode recordings of more than five minutes in pieces, which begin and end in
                silence and advance together; False keeps each whole.
            on_token: called with every token, in order, and with the source that it belongs to.
            on_progress: called with a source and its seconds done, unless `batch_size` is 1.
            kept: returns the beginning of a transcript, as for `transcribe`; called with each
                source when it is begun.

        Raises:
            AudioError: a recording cannot be opened; raised after those begun before are complete.
            UsageError: as for `transcribe`; raised at once.
        """
        work = self.recordings(self.stream_options(delay_ms))
        sound = {"rate": self.sample_rate, "gain": gain, "channels": channels}
        if self.batch_size == 1:
            sources = (open_source(each, **sound) for each in audio)
            return (work.begin(each, partial(on_token, each), kept(each)) for each in sources)
        together = partial(
            work.many,
            batch_size=None if self.batch_size == AUTO else int(self.batch_size),
            splits=split,
            on_token=on_token,
            on_progress=on_progress,
            kept=kept,
        )
        return join_channels(open_sources(iter(audio), **sound), together)

    def recordings(self, options: StreamOptions) -> Recordings:
        """Return a factory of transcripts, which still works after the transcriber is closed."""
        model = self.model
        options = replace(
            options,
            stop_at_eos=True,
            num_draft_tokens=NUM_DRAFT_TOKENS[self.device_name.partition(":")[0]],
        )
        new_stream = partial(self._stream, model, options, model.grid)
        new_filter = partial(self._speech_filter, options.num_delay_tokens)
        sampler = partial(new_sampler, model.facts, options)
        return Recordings(model, options, new_stream, sampler, new_filter, self.metrics)
