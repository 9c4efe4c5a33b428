"""Measure on tiny where turns of a conversation are heard to end, and what flushes do to words.

    apt-get install espeak-ng flite && pip install hibari-tts
    python bench/turns.py

Held-out sentences, as bench/wer.py speaks them, are joined to conversations with pauses of 0.2 to
2 s, and transcribed in q4: clean, and with white noise 20 dB below the speech. Turns end after
0.5 s; without flushes, with one at the end of each turn, and with flushes at random moments of
random pauses. The delay of an end is in seconds of sound that came after the last word; computing
takes milliseconds more. An end is false within a sentence, and missed in a pause of 0.6 s or more.
Intervals of word error rates are those of bench/wer.py. Writes results/turns.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import harness
import numpy as np
import typer
import wer

from voxtral_onnx import Transcriber
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.live.events import Event, TurnEnd
from voxtral_onnx.runtime.live.session import LiveSession
from voxtral_onnx.runtime.live.turns import TurnRules
from voxtral_onnx.runtime.tokens import Token
from voxtral_onnx.verification.evaluation.rates import SEED, interval, resample_rates

CACHE = harness.BUILD / "wer" / "wav"
SYNTHESIZERS = ("espeak-ng", "flite")  # the quick ones
PRECISION, RATE = "q4", 16_000
SENTENCES = 8  # of a conversation
PAUSES = (0.2, 2.0)  # seconds
PIECE = 320  # samples that are fed at a time
NOISES = {"clean": None, "noise at 20 dB": 20.0}
WAYS = ("not flushed", "flushed at ends of turns", "flushed at random")
NEAR = 0.3  # seconds around the end of a sentence in which the end of a turn may be


@dataclass(frozen=True, slots=True)
class Conversation:
    """Sentences with pauses between."""

    clip: wer.Clip  # its text is all of theirs
    samples: np.ndarray
    sentences: list[tuple[float, float]]  # where each begins and ends, in seconds
    flushes: list[int]  # samples, at random moments of random pauses


def trimmed(clip: wer.Clip) -> np.ndarray:
    """Return the samples of a clip without the silence around it."""
    samples = np.concatenate(list(open_audio(str(clip.path), RATE).blocks()))
    frames = np.abs(samples[: len(samples) // PIECE * PIECE]).reshape(-1, PIECE).max(1)
    loud = np.flatnonzero(frames > 0.02 * frames.max())
    return samples[loud[0] * PIECE : (loud[-1] + 1) * PIECE]


def converse(clips: list[wer.Clip], noise: float | None, rng: np.random.Generator) -> Conversation:
    """Join clips to a conversation, with noise so many decibels below the speech."""
    # Join them
    parts, sentences, flushes, at = [np.zeros(RATE, np.float32)], [], [], RATE
    speech = [trimmed(clip) for clip in clips]
    for samples in speech:
        pause = int(rng.uniform(*PAUSES) * RATE)
        sentences.append((at / RATE, (at + len(samples)) / RATE))
        at += len(samples)
        moment = at + int(rng.integers(pause))
        if rng.random() < 0.5:
            flushes.append(moment)
        parts += [samples, np.zeros(pause, np.float32)]
        at += pause

    # Add noise
    joined = np.concatenate(parts)
    floor = 1e-5  # a microphone is never quite silent
    if noise is not None:
        floor = float(np.sqrt(np.mean(np.square(np.concatenate(speech))))) * 10 ** (-noise / 20)
    joined += floor * rng.standard_normal(len(joined), np.float32)
    first, text = clips[0], " ".join(clip.text for clip in clips)
    clip = wer.Clip(first.kind, text, first.synthesizer, first.voice, first.path)
    return Conversation(clip, joined, sentences, flushes)


def listen(
    transcriber: Transcriber, conversation: Conversation, way: str
) -> tuple[str, list[tuple[float, TurnEnd]]]:
    """Return the text of a conversation, and the ends of turns with the sound that had come."""
    # A stream that can be flushed, as those of an engine are
    stream, events = transcriber.stream(), list[Event]()
    tokens = list[Token]()

    def flush() -> int:
        per_token, first = stream.audio.samples_per_token, stream.num_samples
        pads = stream.num_delay_tokens + stream.rules.right_pad_tokens
        size = -first % per_token + pads * per_token
        stream.writer.put_silence_in(first, size)
        tokens.extend(stream.feed(np.zeros(size, np.float32)))
        return -(-first // per_token) + stream.rules.right_pad_tokens - 1

    flushes = flush if way == WAYS[1] else None
    session = LiveSession(stream, events.append, turns=TurnRules(), flush=flushes)

    # Feed it
    ends, texts = list[tuple[float, TurnEnd]](), list[str]()
    moments = list(conversation.flushes) if way == WAYS[2] else []
    for at in range(0, len(conversation.samples), PIECE):
        taken = session.take(conversation.samples[at : at + PIECE])
        for piece in session.pieces(taken):
            tokens += stream.feed(piece)
        if moments and at >= moments[0]:
            moments.pop(0)
            flush()
        seconds = (at + PIECE) / RATE
        _accept(session, tokens)
        ends += [(seconds, event) for event in events if isinstance(event, TurnEnd)]
        texts += [event.text for event in events if isinstance(event, Token)]
        events.clear()
    tokens += stream.finish()
    _accept(session, tokens)
    session.end()
    texts += [event.text for event in events if isinstance(event, Token)]
    return "".join(texts).strip(), ends


def _accept(session: LiveSession, tokens: list[Token]) -> None:
    for token in tokens:
        session.accept_token(token)
    tokens.clear()


def judge(found: list[tuple[Conversation, list[tuple[float, TurnEnd]]]]) -> dict[str, Any]:
    """Return how late ends of turns were told, and how many are false or missing."""
    delays, missed, pauses, false, sentences = list[float](), 0, 0, 0, 0
    for conversation, ends in found:
        spoken = conversation.sentences
        sentences += len(spoken)
        false += sum(
            any(begin + NEAR < end.time < stop - NEAR for begin, stop in spoken) for _, end in ends
        )
        for (_, stop), (begin, _) in pairwise(spoken):
            if begin - stop < TurnRules().min_silence + 0.1:
                continue
            pauses += 1
            told = [came - stop for came, end in ends if stop - NEAR <= end.time < begin]
            delays += told[:1]
            missed += not told
    percentiles = {f"p{q}": round(float(np.percentile(delays, q)), 2) for q in (50, 95)}
    return {
        "sentences": sentences,
        "pauses": pauses,
        "missed": missed,
        "false": false,
        "delay_seconds": percentiles,
    }


def differing(one: str, other: str) -> int:
    """Return how many words of two texts differ."""
    return wer.count_errors(one, other).word_errors


def main(
    limit: Annotated[int, typer.Option(min=4, help="Sentences of each kind to speak.")] = 120,
    out: harness.Out = harness.RESULTS / "turns.json",
) -> None:
    """Measure on tiny where turns are heard to end, and what flushes do to words."""
    # Speak the sentences
    versions = wer.find_synthesizers()
    results = harness.describe("ends of turns, and words with flushes", "jiwer")
    planned = wer.plan_clips(wer.read_sentences(limit), CACHE, versions)
    clips = [clip for clip in planned if clip.synthesizer in SYNTHESIZERS]
    for clip in clips:
        wer.speak(clip)
    artifact = harness.find_model("tiny", PRECISION)
    results |= {"checkpoint": Manifest.read(artifact).fingerprint, "clips": len(clips)}
    order = np.random.default_rng(SEED).permutation(len(clips))
    groups = [
        [clips[i] for i in order[at : at + SENTENCES]] for at in range(0, len(order), SENTENCES)
    ]

    # Transcribe them in each way
    results["results"] = rows = []
    with Transcriber(artifact, "cpu", precision=PRECISION) as transcriber:
        for name, noise in NOISES.items():
            rng = np.random.default_rng(SEED)
            conversations = [converse(group, noise, rng) for group in groups]
            runs = {way: [listen(transcriber, each, way) for each in conversations] for way in WAYS}
            texts = [[run[i][0] for run in runs.values()] for i in range(len(conversations))]
            errors, words = wer.count_word_errors([each.clip for each in conversations], texts)
            resampled = resample_rates(errors, words)
            for column, (way, run) in enumerate(runs.items()):
                ends = [(each, ends) for each, (_, ends) in zip(conversations, run, strict=True)]
                row = {
                    "sound": name,
                    "way": way,
                    **judge(ends),
                    "words": int(words.sum()),
                    "words_changed": sum(differing(each[0], each[column]) for each in texts),
                    "wer": round(float(100 * errors[:, column].sum() / words.sum()), 2),
                    "difference_interval": interval(resampled[:, column] - resampled[:, 0]),
                }
                print(row)
                rows.append(row)
    harness.write(out, results)


if __name__ == "__main__":
    harness.run(main)
