"""What is written where nobody speaks: words a minute in silence, noise, hum and music.

    python bench/nospeech.py [--minutes 10] [--precision q4f16]

Sounds are synthesised, the same in every run, and transcribed by the embedded model as live streams: with the blank
guard, without it, and with it and the energy gate of `--vad`. Clips of speech between the same sounds show that the
gate leaves their words as they are. Writes results/nospeech.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime.bench import SAMPLES, describe_machine, markdown_table
from voxtral_onnx.runtime.segments import Segment, group
from voxtral_onnx.runtime.stream import Token
from voxtral_onnx.runtime.vad import VoiceGate, detectors

RESULTS = Path(__file__).parent / "results" / "nospeech.json"
RATE = 16000
SOUNDS = ("silence", "noise", "hum", "music")
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
    """Word groups of a live stream, as it is and behind the energy gate, and what guard and gate did."""
    stream, manifest, tokens = transcriber.stream(), transcriber.manifest, []
    gate = VoiceGate(detectors("energy", RATE)(), manifest, stream.num_delay_tokens)
    passed: list[Token] = []
    for block in np.array_split(samples, max(1, len(samples) // RATE)):
        gate.hear(block)
        tokens += (new := stream.feed(block))
        passed += gate.words(iter(new))
    tokens += (new := stream.finish())
    passed += gate.words(iter(new))
    return {
        "segments": _ends(group(tokens, manifest.tokens)),
        "passed": _ends(group(passed, manifest.tokens)),
        "overrides": len(stream.overrides),
        "gated": round(gate.quiet_seconds / gate.seconds, 4),
    }


def _ends(segments: Iterable[Segment]) -> list[tuple[str, float]]:
    return [(segment.text, round(segment.end, 2)) for segment in segments]


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


def _words(segments: list[tuple[str, float]]) -> int:
    return sum(len(text.split()) for text, _ in segments)


def nospeech(
    minutes: Annotated[float, typer.Option(help="Of each sound.")] = 10.0,
    model: Annotated[str, typer.Option(help="An artifact.")] = "tiny",
    precision: Annotated[str, typer.Option(help="Of the artifact.")] = "q4f16",
) -> None:
    """Run it."""
    rows: dict[str, dict[str, Any]] = {}
    speech: dict[str, dict[str, Any]] = {}
    for name in SOUNDS:
        samples, (mixed, spans) = sound(name, 60 * minutes), between(name)
        with Transcriber(model, precision=precision, threads=1, blank_guard=False) as transcriber:
            unguarded = hear(transcriber, samples)
        with Transcriber(model, precision=precision, threads=1) as transcriber:
            guarded, spoken = hear(transcriber, samples), hear(transcriber, mixed)
        rows[name] = {
            "guard": _words(guarded["segments"]) / minutes,
            "no_guard": _words(unguarded["segments"]) / minutes,
            "guard_and_vad": _words(guarded["passed"]) / minutes,
            "decisions_of_the_guard": guarded["overrides"],
            "gated": guarded["gated"],
        }
        inside, passed = (
            [s for s in spoken[kind] if any(start <= s[1] <= end + 0.4 for start, end in spans)]
            for kind in ("segments", "passed")
        )
        speech[name] = {
            "groups_in_speech": len(inside),
            "the_same_with_vad": inside == passed,
            "groups_in_pauses": len(spoken["segments"]) - len(inside),
            "groups_in_pauses_with_vad": len(spoken["passed"]) - len(passed),
        }
    results = {
        "machine": describe_machine(),
        "precision": precision,
        "minutes": minutes,
        "words_a_minute": rows,
        "speech_between": speech,
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    table = [
        (
            name,
            *(f"{row[way]:g}" for way in ("guard", "no_guard", "guard_and_vad")),
            str(row["decisions_of_the_guard"]),
            f"{row['gated']:.0%}",
        )
        for name, row in rows.items()
    ]
    header = ("words a minute in", "guard", "no guard", "guard, `--vad`", "decisions of the guard", "gated")
    print(markdown_table(header, table))
    print(json.dumps(speech, indent=1))


if __name__ == "__main__":
    typer.run(nospeech)
