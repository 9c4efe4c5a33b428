"""Transcribe recordings whose text is known with several artifacts, and count the errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ..._version import __version__
from ...errors import VoxtralOnnxError
from ...manifest import Manifest
from ...runtime.audio.files import open_audio, require_whole
from ...runtime.locate import choose_precisions, find_artifact
from ...runtime.machine import describe_machine
from ...runtime.transcriber import Transcriber
from .rates import (
    NORMALIZER,
    RESAMPLES,
    SEED,
    Errors,
    Rate,
    count_errors,
    error_rates,
    import_jiwer,
    worst,
)
from .references import Reference, read_references

WORST = 20  # recordings that a report shows for each system


@dataclass(frozen=True, slots=True)
class System:
    """An artifact in one precision, on one device and with one delay."""

    model: str  # folder or name, as the user gave it
    precision: str
    fingerprint: str  # of the checkpoint's weights
    device: str
    delay_ms: int

    @property
    def name(self) -> str:
        """Return the name that tables show: that of the model's folder, and the precision."""
        return f"{Path(self.model).name} {self.precision}"


@dataclass(frozen=True, slots=True)
class Score:
    """The error rates and the speed of one system over all recordings."""

    system: System
    wer: Rate  # word error rate
    cer: Rate  # character error rate
    wer_above_first: Rate | None  # paired difference to the first system; None for that one
    cer_above_first: Rate | None
    words: int  # of the references
    word_errors: int
    audio_seconds: float
    seconds: float  # of transcribing, without loading the model

    @property
    def real_time_factor(self) -> float:
        """Return the seconds of transcribing for each second of audio."""
        return self.seconds / max(self.audio_seconds, 1e-9)


@dataclass(frozen=True, slots=True)
class Row:
    """One recording with its reference text and the text of each system."""

    file: str
    reference: str
    audio_seconds: float
    texts: tuple[str, ...]  # in the order of the systems
    errors: tuple[Errors, ...]  # in the order of the systems


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The error rates of several systems on the same recordings."""

    generator: str
    created: str  # UTC, ISO 8601
    data: str  # folder or table of the recordings
    normalizer: str  # how texts are normalised before they are compared
    bootstrap: Mapping[str, Any]  # parameters of the confidence intervals
    scores: tuple[Score, ...]
    rows: tuple[Row, ...]
    worst: tuple[tuple[int, ...], ...]  # for each system, indices in `rows`, the worst first
    failed: tuple[tuple[str, str], ...]  # files that could not be transcribed, and why
    without_text: tuple[str, ...]  # audio files of the folder that have no text beside them
    machine: Mapping[str, Any]


def evaluate(
    models: Sequence[str | Path],
    data: Path,
    *,
    precisions: Sequence[str] | None = None,
    delay_ms: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    batch_size: int | str = 1,
    split: bool = True,
    gain: str = "none",
    offline: bool = False,
    on_file: Callable[[System, int, int, str], None] = lambda system, done, total, name: None,
) -> Evaluation:
    """Transcribe recordings with every precision of every model, and count the errors.

    A recording that one system cannot transcribe is left out of the rates of all systems.

    Args:
        models: folders or names of artifacts, as for `Transcriber`.
        data: a folder, .tsv or .jsonl, as references.py describes.
        precisions: precisions of each model; None for the first one, `["all"]` for all.
        delay_ms: the model's delay, as for `Transcriber`.
        device: device to run on, as for `Transcriber`.
        threads: threads of the CPU, as for `Transcriber`.
        batch_size: recordings that are transcribed at once, as for `Transcriber`.
        split: decode long ones in pieces, as for `Transcriber.transcribe_many`.
        gain: change of loudness, as for `Transcriber.transcribe`.
        offline: use only what was downloaded before.
        on_file: called after each file with the system, the number of files done, the number of all
            files and the file's name.

    Raises:
        UsageError: there are no recordings with texts, or as for `Transcriber`.
        ArtifactError, StorageError: as for `Transcriber`.
        DeviceError: as for `Transcriber`, or jiwer is not installed.
    """
    # Read the references
    import_jiwer()
    references, without_text = read_references(data)
    systems, texts, seconds, failed = [], [], [], {}
    lengths: dict[Path, float] = {}
    options = {
        "device": device,
        "delay_ms": delay_ms,
        "threads": threads,
        "batch_size": batch_size,
    }

    # Transcribe with each system
    for model in models:
        folder = find_artifact(model, precisions, offline=offline)
        for precision in choose_precisions(Manifest.read(folder), precisions):
            with Transcriber(folder, precision=precision, **options) as transcriber:
                system = _system(str(model), transcriber)
                began = perf_counter()
                found: dict[Path, str] = {}
                for path, result in _transcribe(transcriber, references, gain, split):
                    if isinstance(result, VoxtralOnnxError):
                        failed.setdefault(path, str(result))
                    else:
                        found[path], lengths[path] = result
                    on_file(system, len(found) + len(failed), len(references), path.name)
            systems.append(system)
            texts.append(found)
            seconds.append(perf_counter() - began)

    # Count errors in the recordings that all systems could transcribe
    rows = [
        Row(
            str(reference.path),
            reference.text,
            round(lengths[reference.path], 3),
            tuple(found[reference.path] for found in texts),
            tuple(count_errors(reference.text, found[reference.path]) for found in texts),
        )
        for reference in references
        if reference.path not in failed
    ]
    return Evaluation(
        generator=f"voxtral-onnx {__version__}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data=str(data),
        normalizer=NORMALIZER,
        bootstrap={"unit": "recording", "resamples": RESAMPLES, "seed": SEED, "interval": "95 %"},
        scores=tuple(_scores(systems, rows, seconds)),
        rows=tuple(rows),
        worst=tuple(
            tuple(worst([row.errors[i] for row in rows], WORST)) for i in range(len(systems))
        ),
        failed=tuple((str(path), reason) for path, reason in failed.items()),
        without_text=tuple(map(str, without_text)),
        machine=describe_machine(),
    )


def _system(model: str, transcriber: Transcriber) -> System:
    audio = transcriber.manifest.config.audio
    ms_per_token = 1000 * audio.samples_per_token // audio.sample_rate
    return System(
        model,
        transcriber.precision,
        transcriber.manifest.fingerprint,
        transcriber.device_name,
        transcriber.num_delay_tokens * ms_per_token,
    )


def _transcribe(
    transcriber: Transcriber, references: Sequence[Reference], gain: str, split: bool
) -> Iterator[tuple[Path, tuple[str, float] | VoxtralOnnxError]]:
    """Yield each file with its text and its seconds of audio, or with the error that it caused."""
    opened: dict[int, Path] = {}
    refused: list[tuple[Path, VoxtralOnnxError]] = []

    def sources():
        for reference in references:
            try:
                if reference.failure:
                    raise reference.failure
                source = open_audio(reference.path, transcriber.sample_rate, gain=gain)
                require_whole(source)  # its text is of all that was said
            except VoxtralOnnxError as error:
                refused.append((reference.path, error))
                continue
            opened[id(source)] = reference.path
            yield source

    for transcript in transcriber.transcribe_many(sources(), split=split):
        path = opened.pop(id(transcript.source))
        try:
            yield path, (transcript.text, transcript.duration)
        except VoxtralOnnxError as error:
            yield path, error
    yield from refused


def _scores(
    systems: Sequence[System], rows: Sequence[Row], seconds: Sequence[float]
) -> Iterator[Score]:
    if not rows:
        return
    words, characters = (
        np.array([getattr(row.errors[0], name) for row in rows], float)
        for name in ("words", "characters")
    )
    word_errors, character_errors = (
        np.array([[getattr(found, name) for found in row.errors] for row in rows], float)
        for name in ("word_errors", "character_errors")
    )
    wer, wer_above = error_rates(word_errors, words)
    cer, cer_above = error_rates(character_errors, characters)
    audio_seconds = round(sum(row.audio_seconds for row in rows), 3)
    for i, system in enumerate(systems):
        yield Score(
            system,
            wer[i],
            cer[i],
            wer_above[i],
            cer_above[i],
            int(words.sum()),
            int(word_errors[:, i].sum()),
            audio_seconds,
            round(seconds[i], 3),
        )
