"""Measure how far the ends of segments are from the true ends of words in synthesized speech.

    apt-get install espeak-ng flite && pip install hibari-tts
    python bench/times.py [ARTIFACT]

Held-out sentences are spoken in two ways. *Whole*: eSpeak NG's library reports when each word
begins, and flite when each phone ends; a word's number of phones is that of the word spoken alone.
*Joined*: words are spoken one by one, trimmed and joined with gaps of 60 to 200 ms, so that their
ends are exact whatever a synthesizer reports. Clips whose text is not exact are left out and
counted. Writes results/times.json.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import harness
import numpy as np
import soundfile
import soxr
import typer
import wer

from voxtral_onnx import Transcriber
from voxtral_onnx.verification.text_metrics import normalize

RATE = 16000
DELAY_MS = 480
GAPS = (0.06, 0.2)  # seconds
QUIET = 10 ** (-35 / 20)  # of a word's peak, below which it has ended
FRAME = RATE // 200  # samples, 5 ms
PAUSES = ("_", "pau")  # prefixes of the names of silent phones


@dataclass(frozen=True, slots=True)
class Spoken:
    """Speech and the second at which each word ends, None where it is unknown."""

    samples: np.ndarray
    ends: list[float | None]


class _Event(ctypes.Structure):
    """The structure espeak_EVENT of espeak-ng's speak_lib.h."""

    class Id(ctypes.Union):
        _fields_ = (
            ("number", ctypes.c_int),
            ("string", ctypes.c_char * 8),
            ("name", ctypes.c_char_p),
        )

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", Id),
    )


class _Voice(ctypes.Structure):
    """The structure espeak_VOICE of espeak-ng's speak_lib.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


_WORD, _PHONEME = 1, 7
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@cache
def load_espeak() -> tuple[ctypes.CDLL, int]:
    """Load eSpeak NG's library and return it with its sample rate in Hz."""
    library = ctypes.CDLL("libespeak-ng.so.1")
    retrieval, phoneme_events = 1, 1
    return library, library.espeak_Initialize(retrieval, 0, None, phoneme_events)


def select_voice(library: ctypes.CDLL, voice: str) -> None:
    """Select a voice as the program espeak-ng does: by its name, else by its language."""
    wanted = _Voice(languages=voice.encode())
    if library.espeak_SetVoiceByName(voice.encode()) and library.espeak_SetVoiceByProperties(
        ctypes.byref(wanted)
    ):
        raise SystemExit(f"espeak-ng: no voice {voice}")


def speak_espeak(text: str, voice: str) -> Spoken:
    """Speak with eSpeak NG.

    A word ends where the next one begins, or where a silence before that begins.
    """
    # Synthesize, and collect samples and events
    library, rate = load_espeak()
    chunks: list[np.ndarray] = []
    events: list[
        tuple[int, int, float, str]
    ] = []  # type, position in the text, second, name of a phoneme

    def take(samples, count, found) -> int:
        if samples and count:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        i = 0
        while found[i].type:
            event = found[i]
            name = event.id.string.decode() if event.type == _PHONEME else ""
            events.append((event.type, event.text_position - 1, event.sample / rate, name))
            i += 1
        return 0

    callback, content = _CALLBACK(take), text.encode() + b"\0"
    library.espeak_SetSynthCallback(callback)
    select_voice(library, voice)
    position_of_characters, is_utf8 = 1, 1
    library.espeak_Synth(
        content, ctypes.c_size_t(len(content)), 0, position_of_characters, 0, is_utf8, None, None
    )
    library.espeak_Synchronize()

    # Find the end of each word
    words, starts = text.split(), _word_starts(text)
    begun = {place: second for kind, place, second, _ in events if kind == _WORD}
    silences = [
        second for kind, _, second, name in events if kind == _PHONEME and name.startswith(PAUSES)
    ]
    ends: list[float | None] = []
    for number in range(len(words)):
        next_begin = begun.get(starts[number + 1]) if number + 1 < len(words) else np.inf
        own_begin = begun.get(starts[number], 0.0)
        if next_begin is None:  # spoken as one with the next word
            ends.append(None)
            continue
        ends.append(
            min([next_begin, *(second for second in silences if own_begin < second < next_begin)])
        )
    samples = np.concatenate(chunks).astype(np.float32) / 32768
    return Spoken(soxr.resample(samples, rate, RATE), ends)


def speak_flite(text: str, voice: str) -> Spoken:
    """Speak with flite.

    A word ends with its last phone. Ends are unknown where the sentence has another number of
    phones than its words have alone.
    """
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        command = ["flite", "-voice", voice, "-psdur", "-t", text, "-o", file.name]
        phones = [item.rpartition(":") for item in wer.ask(*command).split()]
        samples = _read(file.name)
    ends = [float(end) for name, _, end in phones if name not in PAUSES]
    counts = [_count_phones(word, voice) for word in text.split()]
    if sum(counts) != len(ends):
        return Spoken(samples, [None] * len(counts))
    return Spoken(samples, [ends[last - 1] for last in np.cumsum(counts)])


@cache
def _count_phones(word: str, voice: str) -> int:
    printed = wer.ask("flite", "-voice", voice, "-ps", "-t", f"{word} ", "-o", "none")
    return sum(name not in PAUSES for name in printed.split())


SPEAKERS: dict[str, Callable[[str, str], Spoken]] = {
    "espeak-ng": speak_espeak,
    "flite": speak_flite,
}


def join(text: str, synthesizer: str, voice: str, rng: np.random.Generator) -> Spoken:
    """Speak words one by one and join them with gaps of silence."""
    parts, ends, length = [], [], 0
    for word in text.split():
        samples = _speak_word(word, synthesizer, voice)
        gap = np.zeros(int(rng.uniform(*GAPS) * RATE), np.float32)
        parts += [samples, gap]
        ends.append((length + len(samples)) / RATE)
        length += len(samples) + len(gap)
    return Spoken(np.concatenate(parts), ends)


@cache
def _speak_word(word: str, synthesizer: str, voice: str) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "word.wav"
        wer.SPEAKERS[synthesizer](wer.Clip("", word, synthesizer, voice, path), path)
        samples = _read(path)
    loud = np.flatnonzero(np.abs(samples) > QUIET * np.abs(samples).max())
    start, end = loud[0] // FRAME * FRAME, -(-(loud[-1] + 1) // FRAME) * FRAME
    return samples[start:end]


def _read(path: str | Path) -> np.ndarray:
    samples, rate = soundfile.read(path, dtype="float32")
    return soxr.resample(samples, rate, RATE)


def _word_starts(text: str) -> list[int]:
    starts, at = [], 0
    for word in text.split():
        starts.append(text.index(word, at))
        at = starts[-1] + len(word)
    return starts


def clips(sentences: list[str]) -> Iterator[tuple[str, str, str, Spoken]]:
    """Yield the synthesizer, the way of speaking, the text and the speech of each clip."""
    rng = np.random.default_rng(0)
    for synthesizer, voices in wer.VOICES.items():
        for number, text in enumerate(sentences):
            voice = voices[number % len(voices)]
            if synthesizer in SPEAKERS:
                yield synthesizer, "whole", text, SPEAKERS[synthesizer](text, voice)
            yield synthesizer, "joined", text, join(text, synthesizer, voice, rng)


def group_errors(transcriber: Transcriber, text: str, spoken: Spoken) -> list[float] | None:
    """Return the seconds from the end of each segment's last word to the segment's end.

    The result is None where the transcript is not exact.
    """
    transcript = transcriber.transcribe(spoken.samples, delay_ms=DELAY_MS)
    if normalize(transcript.text) != normalize(text):
        return None
    errors, count = [], 0
    for segment in transcript.segments:
        count += len(segment.text.split())
        if (end := spoken.ends[count - 1]) is not None:
            errors.append(segment.end - end)
    return errors


def summarize(synthesizer: str, way: str, found: list[list[float] | None]) -> dict[str, Any]:
    """Return one row of results, in milliseconds."""
    errors = 1000 * np.array([error for clip in found if clip is not None for error in clip])
    return {
        "synthesizer": synthesizer,
        "way": way,
        "clips": len(found),
        "exact_clips": sum(clip is not None for clip in found),
        "groups": len(errors),
        "median_ms": round(float(np.median(np.abs(errors)))),
        "p90_ms": round(float(np.percentile(np.abs(errors), 90))),
        "median_signed_ms": round(float(np.median(errors))),
    }


def main(
    artifact: harness.Model = "tiny",
    sentences: Annotated[int, typer.Option(help="Number of domain sentences.")] = 60,
    out: harness.Out = harness.RESULTS / "times.json",
) -> None:
    """Compare ends of segments with ends of words."""
    versions = wer.find_synthesizers()
    results = harness.describe(
        "milliseconds between the end of a segment and that of its last word"
    )
    folder = harness.find_model(artifact, "q4f16")
    texts = [text for kind, text in wer.read_sentences(sentences) if kind == "domain"]

    # Speak and transcribe each clip
    found: dict[tuple[str, str], list[list[float] | None]] = {}
    with Transcriber(folder, "cpu") as transcriber:
        precision = transcriber.precision
        for synthesizer, way, text, spoken in clips(texts):
            found.setdefault((synthesizer, way), []).append(group_errors(transcriber, text, spoken))

    # Sum up, write and print
    rows = [summarize(*key, errors) for key, errors in found.items()]
    rows.append(summarize("all", "both", [clip for errors in found.values() for clip in errors]))
    results |= {
        "precision": precision,
        "delay_ms": DELAY_MS,
        "synthesizers": versions,
        "results": rows,
    }
    harness.write(out, results)
    for row in rows:
        print(
            f"{row['synthesizer']:10} {row['way']:6}  median {row['median_ms']} ms, p90 "
            f"{row['p90_ms']} ms, {row['median_signed_ms']:+} ms; {row['groups']} groups of "
            f"{row['exact_clips']} of {row['clips']} clips"
        )


if __name__ == "__main__":
    harness.run(main)
