"""Measure on tiny what a recording's text owes to its decoder's being cut in pieces.

    apt-get install espeak-ng flite && pip install hibari-tts
    python bench/pieces.py

Held-out sentences, as bench/wer.py speaks them, are joined by silence of known length with faint
noise. The encoder runs through; the decoder is cut in the middle of silence, after each sentence
or, where silence is long enough to cut there, after each eighth. Words are compared with those of
the uncut run, end-of-text off. Three rules say how many tokens the left piece writes after the cut,
which must be blanks (else it goes on into the next piece, so that nothing is cut there): none, as
many as the silence goes on, and ten. Long silence shows the blank guard that starts at the
silence's length or at 0. Words near a cut are those that begin within a second of it; words other
than spoken say whether what differs elsewhere is worse. Writes results/pieces.json.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import harness
import numpy as np
import typer
import wer
from rich.progress import track

from voxtral_onnx import Transcriber
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.bench import markdown_table
from voxtral_onnx.runtime.pieces.cutter import LEGAL_SECONDS, Cut
from voxtral_onnx.runtime.pieces.piece import MOST_CHECKED, Piece
from voxtral_onnx.verification.evaluation.rates import count_errors
from voxtral_onnx.verification.text_metrics import normalize

CACHE = harness.BUILD / "wer" / "wav"
SYNTHESIZERS = ("espeak-ng", "flite")  # the quick ones
PRECISIONS = ("fp32", "q4")
GAPS = (1.0, 0.6, 0.4)  # seconds of silence
LONG_GAP = 24.0  # behind which the blank guard has its whole penalty
NEAR = 12  # tokens from a cut, within which a word may be lost or doubled there
NOISE = 0.0005  # RMS of what is in the silence; speech has a peak of 0.5
AUDIBLE = 0.01  # from the first to the last such sample a clip is taken


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording to make: which sentences, how they are joined, and where it is cut."""

    precision: str
    kind: str  # of sentences: of tiny's domain, where it is sure of its words, or free
    gap: float  # seconds
    sentences: int
    every: int  # sentences to a piece
    seed: int


@dataclass(frozen=True, slots=True)
class Count:
    """Counts of one rule in one recording."""

    rule: str
    cuts: int
    joined: int  # cuts at which the left piece went on, because it wrote more than blanks
    words: int  # of the uncut run
    other: int  # words other than uncut: substituted, missing or added
    near: int  # of them near a cut
    missing: int  # of those
    added: int  # of those
    tokens: int  # other than uncut
    uncut_errors: int  # words of the uncut run other than spoken
    errors: int  # words other than spoken


@cache
def load_transcriber(artifact: Path, precision: str) -> Transcriber:
    """Return a transcriber of one thread, loaded once in each process."""
    return Transcriber(artifact, "cpu", precision=precision, threads=1)


class Uncut:
    """The uncut run of a recording, and runs of its pieces on the same embeddings."""

    def __init__(self, transcriber: Transcriber, samples: np.ndarray):
        self.transcriber = transcriber
        stream = transcriber.stream()
        stream._take(samples)
        chunks = [chunk.copy() for chunk in (*stream._encode(), *stream._encode_tail())]
        self.delay = stream.num_delay_tokens
        self.left_pad = transcriber.manifest.streaming.left_pad_tokens
        # Streams on the CPU begin behind the silent prefix
        silent = np.zeros((self.left_pad - 1, chunks[0].shape[1]), np.float32)
        self.embeds = np.concatenate((silent, *chunks))  # by position
        self.tokens, _ = self.in_pieces([], 0, guarded=True)

    def in_pieces(
        self, cuts: Sequence[tuple[int, int, int]], most_checked: int | None, *, guarded: bool
    ) -> tuple[list[int], int]:
        """Return the tokens of all pieces, and the number of cuts at which the left one went on.

        Args:
            cuts: first token of the right piece, tokens of silence before it, and after it.
            most_checked: blanks that the left piece must write; None for those of the silence.
            guarded: whether the blank guard starts at the silence's length.
        """
        # List the pieces
        pieces = deque([Piece(self.left_pad, self.delay)])
        for at, before, after in cuts:
            left, right = pieces.pop().split(Cut(at, before if guarded else 0, after))
            if most_checked is not None:
                left = replace(left, checked=most_checked)
            pieces += left, right

        # Write each, or several as one where the left one writes more than blanks after its end
        kept, joined, blank = [], 0, self.transcriber.manifest.tokens.streaming_pad
        while pieces:
            piece, written, stream = pieces.popleft(), [], self.transcriber.stream()
            at, stream.writer.blanks = piece.positions(len(self.embeds)).start, piece.blanks
            assert stream.decoder_cache.position == piece.own(at)
            while True:
                stop = max(at, piece.positions(len(self.embeds)).stop)
                written += [token.token_id for token in stream.decode(self.embeds[at:stop])]
                own = len(written) if piece.end is None else piece.end - piece.begin
                if all(each == blank for each in written[own : own + piece.checked]):
                    break
                piece, joined, at = piece.join(pieces.popleft()), joined + 1, stop
            kept += written[:own]
        return kept, joined


def join(
    clips: list[wer.Clip], recording: Recording, rate: int
) -> tuple[np.ndarray, list[tuple[int, int]], str]:
    """Return samples, first and last sample of each silence, and the text that is spoken."""
    rng = np.random.default_rng(recording.seed)
    clips = [clip for clip in clips if clip.kind == recording.kind]
    parts, gaps, texts, length = [], [], [], 0
    for at in rng.choice(len(clips), recording.sentences, replace=False):
        wer.speak(clips[at])
        texts.append(normalize(clips[at].text))
        samples = np.concatenate(list(open_audio(clips[at].path, rate).blocks()))
        samples *= 0.5 / np.abs(samples).max()
        loud = np.flatnonzero(np.abs(samples) > AUDIBLE)
        parts += [samples[loud[0] : loud[-1]], np.zeros(round(recording.gap * rate), np.float32)]
        gaps.append((length + len(parts[-2]), length + len(parts[-2]) + len(parts[-1])))
        length = gaps[-1][1]
    noise = NOISE * rng.standard_normal(length)
    return (np.concatenate(parts) + noise).astype(np.float32), gaps, " ".join(texts)


def words_of(transcriber: Transcriber, tokens: list[int]) -> list[tuple[str, int]]:
    """Return the words of tokens, each with the index of its first token."""
    ids = transcriber.manifest.tokens
    words, text, begin = [], [], 0
    for index, token in enumerate([*tokens, ids.streaming_word]):
        if token == ids.streaming_word:
            spelt = transcriber.tokenizer.decode(text)
            words += [(word, begin) for word in normalize(spelt).split()]
            text, begin = [], index
        elif token >= ids.first_text:
            text.append(token)
    return words


def compare(
    uncut: list[tuple[str, int]], cut: list[tuple[str, int]], places: Sequence[int]
) -> tuple[int, int, int, int]:
    """Return how many words differ, and how many near the given tokens: all, missing, added."""
    import jiwer

    before, after = (" ".join(word for word, _ in each) for each in (uncut, cut))
    aligned = jiwer.process_words(before, after)
    counts = Counter()
    for chunk in aligned.alignments[0]:
        is_added = chunk.type == "insert"
        words = (
            cut[chunk.hyp_start_idx : chunk.hyp_end_idx]
            if is_added
            else uncut[chunk.ref_start_idx : chunk.ref_end_idx]
        )
        if chunk.type != "equal":
            near = sum(min(abs(at - place) for place in places) <= NEAR for _, at in words)
            counts.update({"other": len(words), "near": near, chunk.type: near})
    return counts["other"], counts["near"], counts["delete"], counts["insert"]


def measure(artifact: Path, clips: list[wer.Clip], recording: Recording) -> list[Count]:
    """Return the counts of each rule in a recording."""
    transcriber = load_transcriber(artifact, recording.precision)
    per_token = transcriber.manifest.config.audio.samples_per_token
    samples, gaps, spoken = join(clips, recording, transcriber.sample_rate)
    uncut, cuts = Uncut(transcriber, samples), []
    for first, end in gaps[recording.every - 1 : -1 : recording.every]:
        at = round((first + end) / 2 / per_token)
        cuts.append((at, int(at - first / per_token), int(end / per_token - at)))

    rules = {"D + 1": (0, True), "silence": (None, True), "D + 11": (MOST_CHECKED, True)}
    if recording.gap == LONG_GAP:
        rules = {"guard at silence": (None, True), "guard at 0": (None, False)}
    words, counts = words_of(transcriber, uncut.tokens), []
    for rule, (most_checked, guarded) in rules.items():
        tokens, joined = uncut.in_pieces(cuts, most_checked, guarded=guarded)
        assert len(tokens) == len(uncut.tokens)
        found = words_of(transcriber, tokens)
        other = compare(words, found, [at for at, _, _ in cuts])
        differ = sum(a != b for a, b in zip(tokens, uncut.tokens, strict=True))
        errors = [
            count_errors(spoken, " ".join(word for word, _ in each)).word_errors
            for each in (words, found)
        ]
        counts.append(Count(rule, len(cuts), joined, len(words), *other, differ, *errors))
    return counts


def summarize(recordings: list[Recording], counted: list[list[Count]]) -> list[dict[str, Any]]:
    """Return a row for each precision, silence, piece and rule, with the counts of all seeds."""
    rows: dict[tuple, dict[str, Any]] = {}
    for recording, counts in zip(recordings, counted, strict=True):
        for count in counts:
            kind = {
                "precision": recording.precision,
                "sentences": recording.kind,
                "silence_seconds": recording.gap,
                "sentences_a_piece": recording.every,
                "rule": count.rule,
            }
            row = rows.setdefault(tuple(kind.values()), kind)
            for name, value in asdict(count).items():
                if name != "rule":
                    row[name] = row.get(name, 0) + value
    return list(rows.values())


HEADINGS = (
    "precision, sentences, silence, sentences a piece",
    "rule",
    "cuts",
    "of them joined",
    "words",
    "other",
    "near a cut",
    "missing",
    "added",
    "tokens other",
    "errors uncut",
    "errors",
)


def cells(row: dict[str, Any]) -> Sequence[str]:
    """Return a row of the table."""
    kind = f"{row['silence_seconds']:g} s, {row['sentences_a_piece']}"
    numbers = [row[field.name] for field in fields(Count)[1:]]
    return f"{row['precision']}, {row['sentences']}, {kind}", row["rule"], *map(str, numbers)


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Recordings of each kind.")] = 2,
    sentences: Annotated[int, typer.Option(min=16, help="Sentences of the short pieces.")] = 48,
    jobs: Annotated[
        int, typer.Option(min=1, help="Number of processes of one thread.")
    ] = os.cpu_count() or 1,
    out: harness.Out = harness.RESULTS / "pieces.json",
) -> None:
    """Measure on tiny what a recording's text owes to its decoder's being cut in pieces."""
    # Plan the recordings
    versions = wer.find_synthesizers()
    results = harness.describe("words other than in the uncut run, by rule", "jiwer")
    planned = wer.plan_clips(wer.read_sentences(None), CACHE, versions)
    clips = [clip for clip in planned if clip.synthesizer in SYNTHESIZERS]
    artifact = harness.find_model("tiny", *PRECISIONS)

    kinds = [(gap, sentences, 1) for gap in GAPS]
    kinds += [(gap, 3 * sentences, 8) for gap in GAPS if gap >= LEGAL_SECONDS]
    recordings = [
        Recording(precision, kind, gap, count, every, seed)
        for precision in PRECISIONS
        for kind in ("domain", "free")
        for gap, count, every in [*kinds, (LONG_GAP, sentences // 4, 1)]
        for seed in range(seeds)
    ]

    # Measure them
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        arguments = [artifact] * len(recordings), [clips] * len(recordings), recordings
        counting = pool.map(measure, *arguments)
        counted = list(track(counting, "cutting", len(recordings), console=harness.stderr))

    # Write the results
    rows = summarize(recordings, counted)
    print(markdown_table(HEADINGS, [cells(row) for row in rows]))
    harness.write(
        out,
        results
        | {
            "checkpoint": Manifest.read(artifact).fingerprint,
            "synthesizers": {name: versions[name] for name in SYNTHESIZERS},
            "seeds": seeds,
            "noise_rms": NOISE,
            "near_tokens": NEAR,
            "results": rows,
        },
    )


if __name__ == "__main__":
    harness.run(main)
