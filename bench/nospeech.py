"""What is written where nobody speaks: words a minute in silence, noise, hum and music.

    python bench/nospeech.py [--minutes 10] [--precision q4f16]

Sounds are synthesised, the same in every run, and transcribed by the embedded model as live streams: with the blank
guard, without it, and with it and the energy gate of `--vad`. Clips of speech between the same sounds show that the
gate leaves their words as they are. Writes results/nospeech.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime.bench import SAMPLES, describe_machine, markdown_table
from voxtral_onnx.runtime.live import Capture, Meter, listen
from voxtral_onnx.runtime.segments import Segment

RESULTS = Path(__file__).parent / "results" / "nospeech.json"
RATE = 16000
SOUNDS = ("silence", "noise", "hum", "music")
WAYS = {"guard": {}, "no guard": {"blank_guard": False}, "guard and vad": {"vad": "energy"}}
SPEECH = ("command-hibari.wav", "number-flite.wav", "person-digits.wav", "digits-espeak.wav")
PAUSE_SECONDS = 12.0  # around each clip


def sound(name: str, seconds: float) -> np.ndarray:
    """float32 [seconds * RATE] without speech."""
    rng, time = np.random.default_rng(2), np.arange(int(seconds * RATE)) / RATE
    match name:
        case "silence":
            return np.zeros(len(time), np.float32)
        case "noise":  # -40 dBFS
            return rng.normal(0, 0.01, len(time)).astype(np.float32)
        case "hum":  # of the mains, with harmonics
            harmonics = [0.05 / n * np.sin(2 * np.pi * 50 * n * time) for n in range(1, 6)]
            return np.sum(harmonics, 0).astype(np.float32)
    beats = len(time) // (RATE // 2) + 1  # music: two chords a second that fade, and a drum with each
    fade = np.exp(-3 * (time % 0.5))
    notes = 220 * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 11, 12], (beats, 3)) / 12)
    frequencies = notes.repeat(RATE // 2, 0)[: len(time)]
    chords = np.sin(2 * np.pi * np.cumsum(frequencies, 0) / RATE).sum(1) * fade
    drum = rng.normal(0, 1, len(time)) * np.exp(-40 * (time % 0.5))
    return (0.05 * chords + 0.03 * drum).astype(np.float32)


def hear(transcriber: Transcriber, samples: np.ndarray) -> dict[str, Any]:
    """Words of a live stream, with their ends, and what guard and gate did."""
    stream, gate, segments = transcriber.stream(), transcriber.voice_gate(), []
    blocks = np.array_split(samples, max(1, len(samples) // RATE))
    listen(
        stream,
        Capture(iter(blocks)),
        Meter(),
        lambda event: segments.append(event) if isinstance(event, Segment) else None,
        gate,
    )
    return {
        "segments": [(segment.text, round(segment.end, 2)) for segment in segments],
        "overrides": len(stream.overrides),
        "quiet": None if gate is None else round(gate.quiet_seconds / gate.seconds, 4),
        "left_out": None if gate is None else gate.left_out,
    }


def between(name: str) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Clips of speech with a sound in the pauses, at a tenth of its loudness under the clips; where the clips are."""
    from voxtral_onnx.runtime.audio import open_audio

    parts, spans, at = [], [], 0
    for file in SPEECH:
        clip = np.concatenate(list(open_audio(SAMPLES / file, RATE).blocks()))
        pause = sound(name, PAUSE_SECONDS)
        spans.append(((at + len(pause)) / RATE, (at + len(pause) + len(clip)) / RATE))
        parts += [pause, clip + 0.1 * sound(name, len(clip) / RATE + 1)[: len(clip)]]
        at += len(pause) + len(clip)
    return np.concatenate([*parts, sound(name, PAUSE_SECONDS)]), spans


def nospeech(
    minutes: Annotated[float, typer.Option(help="Of each sound.")] = 10.0,
    model: Annotated[str, typer.Option(help="An artifact.")] = "tiny",
    precision: Annotated[str, typer.Option(help="Of the artifact.")] = "q4f16",
) -> None:
    """Run it."""
    rows: dict[str, dict[str, Any]] = {name: {} for name in SOUNDS}
    speech: dict[str, dict[str, Any]] = {name: {} for name in SOUNDS}
    for way, options in WAYS.items():
        with Transcriber(model, precision=precision, threads=1, **options) as transcriber:
            for name in SOUNDS:
                heard = hear(transcriber, sound(name, 60 * minutes))
                words = sum(len(text.split()) for text, _ in heard.pop("segments"))
                rows[name][way] = {"words_a_minute": round(words / minutes, 2), **heard}
                if way != "no guard":
                    samples, spans = between(name)
                    heard = hear(transcriber, samples)
                    inside = [s for s in heard["segments"] if any(a <= s[1] <= b + 0.4 for a, b in spans)]
                    speech[name][way] = {"inside": inside, "outside": len(heard["segments"]) - len(inside)}
    same = {
        name: {
            "words_in_speech": len(found["guard"]["inside"]),
            "the_same_with_vad": found["guard"]["inside"] == found["guard and vad"]["inside"],
            "groups_in_pauses": found["guard"]["outside"],
            "groups_in_pauses_with_vad": found["guard and vad"]["outside"],
        }
        for name, found in speech.items()
    }
    results = {
        "machine": describe_machine(),
        "precision": precision,
        "minutes": minutes,
        "sounds": rows,
        "speech": same,
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    table = [
        (
            name,
            *(f"{rows[name][way]['words_a_minute']:g}" for way in WAYS),
            str(rows[name]["guard"]["overrides"]),
            f"{rows[name]['guard and vad']['quiet']:.0%}",
        )
        for name in SOUNDS
    ]
    header = ("words a minute in", "guard", "no guard", "guard, `--vad`", "decisions of the guard", "gated")
    print(markdown_table(header, table))
    print(json.dumps(same, indent=1))


if __name__ == "__main__":
    typer.run(nospeech)
