"""Transcribe speech as it is spoken, from a microphone or a pipe, into words or JSON events."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING

import typer

from ..errors import AudioError, StorageError, UsageError, VoxtralOnnxError
from .ending import STOPS
from .outputs import Outputs
from .screen import LiveScreen, PauseKey, live_line
from .tables import vad_line
from .terminal import format_size, info, write, write_json

if TYPE_CHECKING:
    from ..runtime.audio.microphone import Microphone
    from ..runtime.journal import Journal
    from ..runtime.live.capture import Capture
    from ..runtime.live.events import Event
    from ..runtime.transcriber import Transcriber


def open_microphone(device: str | None, sample_rate: int) -> Microphone:
    """Open a microphone by its number or name, and tell the user to speak.

    Raises:
        DeviceError: there is none of that name, or it cannot be opened.
    """
    from ..runtime.audio.microphone import Microphone

    number = int(device) if device and re.fullmatch("[0-9]{1,4}", device) else device
    microphone = Microphone(number, sample_rate)
    is_same = microphone.rate == sample_rate
    resampled = "" if is_same else f", resampled from {microphone.rate} Hz"
    keys = "space pauses, Ctrl-C ends it" if sys.stdin.isatty() else "Ctrl-C ends it"
    info(f"{microphone.name}{resampled}: speak; {keys}")
    return microphone


def capture_stdin(sample_format: str, rate: int, sample_rate: int) -> Capture:
    """Begin to read samples from standard input as they arrive, at the model's rate.

    Args:
        sample_format: of raw samples: s16le, f32le, mulaw or alaw.
        rate: of raw samples, in Hz.
        sample_rate: the model's, in Hz.
    """
    from ..runtime.audio.pipes import raw_blocks
    from ..runtime.live.capture import Capture

    stdin = os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0)
    notes = SimpleQueue[str]()
    return Capture(raw_blocks(stdin, sample_format, rate, sample_rate, notes.put), notes)


def transcribe_live(
    transcriber: Transcriber,
    capture: Capture,
    microphone: Microphone | None,
    outputs: Outputs,
    stream_json: bool,
) -> None:
    """Transcribe live speech until it ends; Ctrl-C or a signal ends the capture, and loses nothing.

    Args:
        transcriber: the loaded model.
        capture: the audio, as it arrives.
        microphone: the one that is captured; None for standard input.
        outputs: the formats and the folder of the transcript, written at the end.
        stream_json: whether stdout gets JSON events instead of words.

    Raises:
        AudioError: the input failed; what came before is written.
        typer.Exit: a signal ended the capture.
    """
    from ..memory import peak_memory
    from ..runtime.live.events import StreamWarning
    from ..runtime.live.session import StreamSession
    from ..runtime.live.turns import TurnRules
    from ..runtime.text.captions import Recording, render
    from ..runtime.text.segments import Segment, within
    from ..runtime.tokens import Token

    stream = transcriber.stream()
    speech_filter = transcriber.speech_filter()
    screen = LiveScreen(lambda columns: live_line(session.metrics))
    recording = Recording([])
    name, journal = _claim_journal(transcriber, "mic" if microphone else "stdin", outputs)
    is_kept = True
    shows_words = outputs.shows_words and not stream_json
    keeps = outputs.folder is not None or not shows_words

    def keep(segment: Segment) -> None:
        nonlocal is_kept
        try:
            if is_kept:
                journal.add(segment)
        except StorageError as error:  # a full disk does not interrupt the speaker
            is_kept = False
            screen.info(f"note: {error}: what is said from here on is not kept before the end")

    def show(event: Event) -> None:
        if isinstance(event, StreamWarning):
            screen.info(f"note: {event.text}")
        if isinstance(event, Segment) and keeps:
            recording.segments.append(event)
            keep(event)
        if stream_json:
            write_json(_event_values(event))
        elif isinstance(event, Token) and shows_words:
            screen.show(event.text)

    session = StreamSession(stream, show, speech_filter, TurnRules() if stream_json else None)
    metrics = session.metrics
    broken: VoxtralOnnxError | None = None
    with _closing(journal):
        # Transcribe while the audio arrives
        with _signals_stop(capture) as stopped_by:
            try:
                with screen, PauseKey(microphone, screen, metrics):
                    session.run(capture)
            except AudioError as error:
                broken = error  # what was captured before is transcribed

        # Write the whole transcript
        recording.duration, recording.info = metrics.captured, metrics.summary()
        recording.segments = [within(each, metrics.captured) for each in recording.segments]
        if stream_json:
            write_json({"type": "final", "text": recording.text, **recording.info})
        elif shows_words:
            screen.end(stream.writer.text.flush())
        formats = outputs.formats if keeps else ()
        texts = {kind: render(recording, kind, file=name) for kind in formats}
        outputs.write(name, texts)
        journal.remove()
        if outputs.folder is None and not shows_words and not stream_json:
            write(texts[outputs.shown])

    # Report losses and timings, and the reason of the end
    if microphone and (lost := microphone.overflows):
        info(f"note: the microphone lost audio {lost} times: the machine was too busy to take it")
    if speech_filter:
        info(vad_line(speech_filter))
    info(f"{metrics}, {format_size(peak_memory())} of memory")
    if broken is not None:
        raise broken
    if codes := [STOPS[number] for number in stopped_by if number in STOPS]:
        raise typer.Exit(codes[0])


def write_interrupted(outputs: Outputs) -> None:
    """Write the transcripts of live streams whose processes were killed, from their journals.

    Raises:
        StorageError: a journal is damaged, or the disk is full.
        UsageError: there is no folder to look in.
    """
    from ..runtime.journal import leftover_journals
    from ..runtime.text.captions import Recording, render

    if (folder := outputs.folder) is None:
        raise UsageError("--resume looks for outputs in a folder: add --output-dir FOLDER")
    names = []
    for name, journal, segments in leftover_journals(folder):
        end = segments[-1].end
        recording = Recording(segments, end, {"broken_off_at": round(end, 3)})
        # An output that exists is complete: the process was killed while it wrote the next
        formats = [kind for kind in outputs.formats if not (folder / f"{name}.{kind}").exists()]
        outputs.write(name, {kind: render(recording, kind, file=name) for kind in formats})
        journal.remove()
        names.append(f"{name} up to {end:.2f} s")
    info(f"{folder}: {', '.join(names) or 'no stream was interrupted'}")


def _claim_journal(transcriber: Transcriber, name: str, outputs: Outputs) -> tuple[str, Journal]:
    """Return a name for the output files that no other stream has, and its journal."""
    from ..runtime.journal import Header, Journal, claim_journal

    if outputs.folder is None:
        return name, Journal()
    model = transcriber.model.identity(transcriber.num_delay_tokens)
    header = Header(1, name, None, None, model, {}, is_stream=True)
    return claim_journal(outputs.folder, name, header, outputs.is_taken, info)


@contextmanager
def _closing(journal: Journal) -> Iterator[None]:
    """Close a journal after the block, and print where it is if it still holds text."""
    try:
        yield
    finally:
        journal.close()
        if journal.path and not journal.is_empty:
            folder = journal.path.parent
            said = f"what was said up to {journal.end:.2f} s"
            info(f"{journal.path} holds {said}; listen --resume -o {folder} writes it")


@contextmanager
def _signals_stop(capture: Capture) -> Iterator[list[signal.Signals]]:
    """Make Ctrl-C and the signals of STOPS end a capture; yield the list of received ones."""
    came: list[signal.Signals] = []

    def stop(number: int, frame) -> None:
        if came:  # the second one: do not wait for the transcription
            raise KeyboardInterrupt
        came.append(signal.Signals(number))
        capture.stop()

    handlers = {
        number: signal.signal(number, stop)
        for number in (signal.SIGINT, *STOPS)
        # SIGHUP stays ignored under nohup; SIGINT, ignored in a shell's background, is handled
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield came
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _event_values(event: Event) -> dict[str, object]:
    """Return an event of a live stream as `--stream-json` writes it."""
    from ..runtime.live import events
    from ..runtime.text.captions import segment_values
    from ..runtime.text.segments import Segment
    from ..runtime.tokens import Token

    match event:
        case Segment():
            return {"type": "group", **segment_values(event)}
        case Token():
            return {"type": "partial", "end": round(event.end, 3), "text": event.text}
        case events.Silence():
            return {"type": "silence", "start": round(event.start, 3)}
        case events.StreamWarning():
            return {"type": "notice", "text": event.text}
        case events.TurnEnd():
            return {"type": "turn_end", "time": round(event.time, 3), "reason": event.reason}
    names = {
        events.SpeechStart: "speech_start",
        events.TurnStart: "turn_start",
        events.TurnEagerEnd: "turn_eager_end",
        events.TurnResume: "turn_resume",
    }
    return {"type": names[type(event)], "time": round(event.time, 3)}
