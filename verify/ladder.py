"""verify(): the rungs of the ladder, from single operators to words, and the certificate that they end in."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from .. import __version__
from ..errors import ArtifactError, CheckpointError, DeviceError, UsageError, VerificationError
from ..exporter.checkpoint import Checkpoint, open_checkpoint
from ..exporter.layerwise import Layerwise
from ..exporter.plan import resolve_source
from ..manifest import Manifest
from ..runtime.artifact import find_artifact, open_artifact
from ..runtime.bench import describe_machine
from ..runtime.session import import_onnxruntime
from ..runtime.transcribe import Transcriber, choose_precision
from . import thresholds
from .certificate import FAILED, NOT_JUDGED, NOT_RUN, PASSED, Certificate, Finding, hash_manifest
from .modules import compare_with_transformers, transformers_version
from .operators import probe_operators
from .probe import StageErrors, probe, relative_error
from .reference import ArtifactModel
from .runs import Clip, Run, decode, embedded_clips, encode, open_clips, stream
from .stages import CPU
from .thresholds import Threshold
from .weights import WeightError, compare_weights
from .words import count_edits, margin_histogram, normalize, softmax_divergence

RUNGS = {
    0: "files",
    1: "operators against PyTorch",
    2: "modules against transformers",
    3: "weights against the checkpoint, graphs against modules",
    4: "streams against whole recordings",
    5: "quantised against float",
    6: "words",
}
MAX_PASSES = 4  # of the float model over its own text, until that no longer changes
HIDDEN_PROVIDERS = {CPU, "AzureExecutionProvider"}  # the reference itself, and one that only calls web services


def verify(
    artifact: str | Path | None = None,
    *,
    checkpoint: str | Path | None = None,
    audio: Sequence[str | Path] = (),
    precisions: Sequence[str] | None = None,
    rungs: Sequence[int] = tuple(RUNGS),
    on_progress: Callable[[str], None] = lambda message: None,
) -> Certificate:
    """Check an artifact rung by rung and write `certificate.json` and `certificate.html` beside its manifest.

    Args:
        artifact: as `Transcriber` takes it.
        checkpoint: what it was exported from; without it weights are not compared, and rungs 5 and 6 need the
            artifact's own float32 precision.
        audio: recordings for rungs 4 to 6, the text of `a.wav` in `a.txt` beside it; by default the embedded samples.
        precisions: of the artifact; by default all.
        rungs: keys of RUNGS; the files are always checked.
        on_progress: told what is checked next.

    Raises:
        VerificationError: something failed; the certificate is written and says what.
        ArtifactError, AudioError, CheckpointError, StorageError, UsageError: as errors.py describes.
    """
    began = perf_counter()
    folder = find_artifact(artifact)
    manifest = open_artifact(folder)
    if unknown := sorted(set(rungs) - RUNGS.keys()):
        raise UsageError(f"rungs: expected some of {', '.join(map(str, RUNGS))}, got {unknown[0]}")
    chosen = [choose_precision(manifest, name) for name in precisions] if precisions else list(manifest.precisions)
    source = None if checkpoint is None else _open_source(checkpoint, manifest, folder)
    clips = open_clips(audio, _rate(manifest)) if audio else embedded_clips(_rate(manifest))
    hash_before = hash_manifest(folder)

    on_progress("files")
    findings, details = [_check_files(folder, manifest)], {}
    if findings[0].status == PASSED:
        if 2 in rungs:
            on_progress("modules against transformers")
            findings.append(_check_modules(manifest))
        for name in chosen:
            ladder = _Ladder(folder, manifest, name, source, clips, set(rungs), on_progress)
            findings += ladder.climb()
            details[name] = ladder.details
    certificate = Certificate(
        generator=f"voxtral-onnx {__version__}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        manifest_sha256=hash_before,
        fingerprint=manifest.fingerprint,
        checkpoint=None if checkpoint is None else Path(checkpoint).name,
        rungs=tuple(sorted({0, *rungs})),
        precisions=tuple(chosen),
        findings=tuple(sorted(findings, key=lambda finding: finding.rung)),
        not_checked=tuple(_not_checked(source, findings, manifest, chosen)),
        details=details,
        thresholds=[asdict(threshold) for threshold in thresholds.ALL],
        machine=_machine(),
        seconds=round(perf_counter() - began, 1),
    )
    certificate.write(folder)
    if failures := certificate.failures:
        first = failures[0]
        where = f"{first.precision}, " if first.precision else ""
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise VerificationError(
            f"{folder}: {where}rung {first.rung}, {first.check}: {first.summary}{more}; see {folder / 'certificate.html'}",
            certificate,
        )
    return certificate


class _Ladder:
    """One precision of an artifact."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        precision: str,
        source: Checkpoint | None,
        clips: Sequence[Clip],
        rungs: set[int],
        on_progress: Callable[[str], None],
    ):
        self.folder, self.manifest, self.precision, self.source = folder, manifest, precision, source
        self.clips, self.rungs = clips, rungs
        self.say = lambda message: on_progress(f"{precision}: {message}")
        self.details: dict[str, Any] = {}
        self.model = ArtifactModel(folder, manifest, precision)
        graphs = manifest.precisions[precision]
        self.is_exact = graphs.activation_dtype == "float32" and not graphs.recipe["rules"]
        self.providers = [
            name for name in import_onnxruntime().get_available_providers() if name not in HIDDEN_PROVIDERS
        ]

    def climb(self) -> Iterator[Finding]:
        """The findings of the rungs that were asked for."""
        if 1 in self.rungs:
            yield from self._operators()
        if 3 in self.rungs:
            yield self._weights()
        if self.rungs & {3, 4}:
            yield from self._stages()
        if self.rungs & {4, 5, 6}:
            yield from self._clips()

    def _finding(self, rung: int, check: str, status: str, summary: str) -> Finding:
        return Finding(rung, check, self.precision, status, summary)

    def _judge(self, rung: int, check: str, worst: tuple[float, str], threshold: Threshold) -> Finding:
        error, where = worst
        passed = error <= threshold.value
        place = f" in {where}" if where else ""
        limit = f"{'at most' if passed else 'more than'} {threshold.value:g}"
        return self._finding(rung, check, PASSED if passed else FAILED, f"{threshold.name} {error:.2g}{place}, {limit}")

    def _operators(self) -> Iterator[Finding]:
        self.say("operators")
        errors = list(probe_operators(self.model, self.manifest, [CPU, *self.providers]))
        self.details["operators"] = [asdict(error) for error in errors]
        for provider in (CPU, *self.providers):
            worst = max((error.error, error.name) for error in errors if error.provider == provider)
            yield self._judge(1, f"operators on {provider}", worst, thresholds.OPERATOR_ERROR)

    def _weights(self) -> Finding:
        check = "weights against the checkpoint"
        if self.source is None:
            return self._finding(3, check, NOT_RUN, "no --checkpoint to compare with")
        self.say("weights")
        errors = list(compare_weights(self.model, self.source))
        self.details["weights"] = [str(error) for error in errors]
        by_this = self.manifest.generator == f"voxtral-onnx {__version__}"
        wrong = [error for error in errors if by_this or _is_wrong(error)]
        if wrong:
            return self._finding(3, check, FAILED, "; ".join(map(str, wrong[:3])) + _more(wrong[3:]))
        count = sum(len(graph.graph.initializers) for graph in (self.model.encoder, self.model.decoder))
        if errors:
            return self._finding(
                3,
                check,
                PASSED,
                f"{len(errors)} of {count} tensors are rounded in the way of {self.manifest.generator}",
            )
        return self._finding(3, check, PASSED, f"all of {count} tensors are what an export writes")

    def _stages(self) -> Iterator[Finding]:
        stages: list[StageErrors] = []
        for errors in probe(self.model, self.manifest, self.providers):
            self.say(f"stage {errors.name}")
            stages.append(errors)
        self.details["stages"] = [asdict(errors) for errors in stages]

        def worst(kind: Callable[[StageErrors], float]) -> tuple[float, str]:
            return max((kind(errors), errors.name) for errors in stages)

        if 3 in self.rungs:
            yield self._judge(3, "graphs against modules", worst(lambda e: e.graph), thresholds.GRAPH_ERROR)
            yield self._judge(3, "graphs as shipped", worst(lambda e: e.shipped), thresholds.SHIPPED_ERROR)
            for provider in self.providers:
                yield self._judge(
                    3, f"{provider} against CPU", worst(lambda e, p=provider: e.providers[p]), thresholds.SHIPPED_ERROR
                )
        if 4 in self.rungs:
            yield self._judge(4, "stages call by call", worst(lambda e: e.streamed), thresholds.GRAPH_ERROR)

    def _clips(self) -> Iterator[Finding]:
        clips = self.clips if self.rungs & {5, 6} else self.clips[:1]
        check = "as shipped"
        try:
            transcriber = Transcriber(self.folder, "cpu", precision=self.precision)
        except DeviceError as error:
            yield self._finding(min(self.rungs & {4, 5, 6}), check, NOT_RUN, str(error))
            return
        with transcriber:
            self.say(f"{len(clips)} clips as shipped")
            mel = transcriber.encoder.mel
            tested = embedded_clips(_rate(self.manifest))[0]
            self.details["self_test"] = _self_test(tested, stream(transcriber, tested.samples), transcriber)
            runs = [stream(transcriber, clip.samples, logits=True) for clip in clips]
            pieces = stream(transcriber, clips[0].samples, in_pieces=True, logits=True)
            texts = [transcriber.tokenizer.decode(run.token_ids.tolist()) for run in runs]
            tokenizer = transcriber.tokenizer
        del transcriber
        gc.collect()  # or the sessions' memory stays beside that of the modules
        if 4 in self.rungs:
            yield self._pieces(runs[0], pieces)
            self.say("a whole clip in float32")
            embeds = encode(self.model, self.manifest, mel, clips[:1])
            yield self._whole(runs[0], decode(self.model, self.manifest, embeds, [runs[0].token_ids])[0])
        if self.rungs & {5, 6}:
            yield from self._float(clips, runs, texts, mel, tokenizer)

    def _pieces(self, whole: Run, pieces: Run) -> Finding:
        check = "a stream in pieces"
        same = whole.token_ids == pieces.token_ids
        if same.all():
            return self._finding(4, check, PASSED, f"{len(same)} identical tokens, fed at once or in odd pieces")
        at = int(same.argmin())  # up to here both had the same history
        is_tie, gap, noise = _tie(whole, pieces, at)
        summary = f"token {at}: {gap:.2g} between both choices, the noise of the logits is {noise:.2g}"
        return self._finding(4, check, PASSED if is_tie else FAILED, summary)

    def _whole(self, run: Run, offline: Run) -> Finding:
        check = "a stream against the whole clip"
        assert run.logits is not None and offline.logits is not None
        threshold = thresholds.EXACT_STREAM_ERROR if self.is_exact else thresholds.STREAM_ERROR
        error = relative_error(run.logits, offline.logits)
        other = np.flatnonzero(run.token_ids != offline.token_ids)
        broken = [at for at in other if not _tie(run, offline, int(at))[0]]
        finding = self._judge(
            4,
            check,
            (error, f"the logits, {len(run.token_ids) - len(other)} of {len(run.token_ids)} tokens the same"),
            threshold,
        )
        if finding.status == PASSED and broken:
            return self._finding(4, check, FAILED, f"token {broken[0]} differs beyond the noise of its logits")
        return finding

    def _float(
        self, clips: Sequence[Clip], runs: Sequence[Run], texts: Sequence[str], mel, tokenizer
    ) -> Iterator[Finding]:
        rungs = sorted(self.rungs & {5, 6})
        if self.is_exact:
            for rung in rungs:
                yield self._finding(rung, RUNGS[rung], NOT_JUDGED, "this precision is the float model")
            return
        model = self._float_model()
        if model is None:
            for rung in rungs:
                yield self._finding(rung, RUNGS[rung], NOT_RUN, "no float model: neither --checkpoint nor fp32 here")
            return
        self.say("the float model")
        embeds = encode(model, self.manifest, mel, clips)
        forced = decode(model, self.manifest, embeds, [run.token_ids for run in runs])
        written = [run.token_ids for run in forced]
        for _ in range(MAX_PASSES):  # its own text: what it says to its own tokens
            again = [run.token_ids for run in decode(model, self.manifest, embeds, written)]
            if all(map(np.array_equal, again, written)):
                break
            written = again
        float_texts = [tokenizer.decode(ids.tolist()) for ids in written]
        words = [_errors(clip, *pair) for clip, *pair in zip(clips, float_texts, texts, strict=True) if clip.text]
        self.details["clips"] = words
        rates = {
            name: sum(row[f"{name}_edits"] for row in words) / max(1, sum(row["characters"] for row in words))
            for name in ("float", "shipped")
        }
        margins = [np.concatenate([run.margins for run in kind]) for kind in (forced, runs)]
        self.details["margins"] = margin_histogram(*margins)
        judged = bool(words) and rates["float"] < thresholds.FLOAT_CER.value
        excuse = "no clip has a text" if not words else "the float model writes no words"
        if 5 in self.rungs:
            yield self._quantisation(forced, runs, margins, None if judged else excuse)
        if 6 in self.rungs:
            lost = rates["shipped"] - rates["float"]
            summary = f"characters wrong: float {rates['float']:.1%}, as shipped {rates['shipped']:.1%}"
            if not judged:
                yield self._finding(6, "words", NOT_JUDGED, f"{excuse} ({summary})" if words else excuse)
            else:
                yield self._finding(6, "words", PASSED if lost <= thresholds.CHARACTERS_LOST.value else FAILED, summary)

    def _quantisation(self, forced: Sequence[Run], runs: Sequence[Run], margins, excuse: str | None) -> Finding:
        divergence = np.concatenate([softmax_divergence(a.logits, b.logits) for a, b in zip(forced, runs, strict=True)])
        same = np.concatenate([a.token_ids == b.token_ids for a, b in zip(forced, runs, strict=True)])
        wanted, got = margins
        flips = (wanted > 0) != (got > 0)
        hard = int((flips & (np.abs(wanted) > 1)).sum())
        drift = float(np.abs(wanted - got).mean())
        numbers = {
            "tokens": len(same),
            "kl_mean": float(divergence.mean()),
            "kl_max": float(divergence.max()),
            "margin_drift": drift,
            "flips": int(flips.sum()),
            "hard_flips": hard,
            "agreement": float(same.mean()),
        }
        self.details["quantisation"] = numbers
        summary = (
            f"KL {divergence.mean():.2g} nats, margin drift {drift:.2g}, {hard} blank decisions turned over, "
            f"{same.mean():.1%} of {len(same)} tokens the same"
        )
        if excuse:
            return self._finding(5, "quantisation", NOT_JUDGED, f"{excuse} ({summary})")
        passed = (
            divergence.mean() <= thresholds.KL_DIVERGENCE.value
            and hard <= thresholds.BLANK_FLIPS.value
            and same.mean() >= thresholds.AGREEMENT.value
        )
        return self._finding(5, "quantisation", PASSED if passed else FAILED, summary)

    def _float_model(self) -> Layerwise | None:
        if self.source is not None:
            return Layerwise(self.source)
        if "fp32" in self.manifest.precisions:
            return ArtifactModel(self.folder, self.manifest, "fp32")
        return None


def _check_files(folder: Path, manifest: Manifest) -> Finding:
    try:
        manifest.check_files(folder, hashes=True)
    except ArtifactError as error:
        return Finding(0, "hashes of all files", None, FAILED, str(error))
    size = sum(file.size for file in manifest.files.values())
    return Finding(0, "hashes of all files", None, PASSED, f"{len(manifest.files)} files, {size / 1e6:,.1f} MB")


def _check_modules(manifest: Manifest) -> Finding:
    check = "modules against transformers"
    version = transformers_version()
    if version is None:
        return Finding(2, check, None, NOT_RUN, "transformers is missing")
    error, limit = compare_with_transformers(manifest), thresholds.MODULE_ERROR.value
    status = PASSED if error <= limit else FAILED
    return Finding(
        2, check, None, status, f"module error {error:.2g} against transformers {version}, at most {limit:g}"
    )


def _open_source(checkpoint: str | Path, manifest: Manifest, folder: Path) -> Checkpoint:
    source = open_checkpoint(resolve_source(checkpoint))
    if source.fingerprint() != manifest.fingerprint:
        raise CheckpointError(
            f"{checkpoint}: not the checkpoint that {folder} was exported from (fingerprint "
            f"{source.fingerprint()[:16]}…, expected {manifest.fingerprint[:16]}…); give that one with --checkpoint"
        )
    return source


def _not_checked(
    source: Checkpoint | None, findings: Sequence[Finding], manifest: Manifest, precisions: Sequence[str]
) -> Iterator[str]:
    """What a reader might take for granted."""
    if source is None:
        yield (
            "Whether the weights are the checkpoint's, for want of --checkpoint: swapped or reordered rows, a changed "
            "scale, code or bias and another table of delays agree with the graphs that read them."
        )
    if others := [name for name in manifest.precisions if name not in precisions]:
        yield f"The precisions {', '.join(others)}."
    for finding in findings:
        if finding.status in (NOT_RUN, NOT_JUDGED) and finding.summary != "no --checkpoint to compare with":
            of = f" of {finding.precision}" if finding.precision else ""
            yield f"Rung {finding.rung}{of}, {finding.check}: {finding.summary}."


def _is_wrong(error: WeightError) -> bool:
    """Whether another version's rounding cannot explain a difference."""
    return error.steps is None or error.steps > thresholds.ROUNDING_STEPS.value


def _more(rest: Sequence) -> str:
    return f"; and {len(rest)} more" if rest else ""


def _tie(a: Run, b: Run, at: int) -> tuple[bool, float, float]:
    """Whether two choices after the same history are a matter of rounding; the gap between them, and the noise."""
    assert a.logits is not None and b.logits is not None
    difference = a.logits[at].astype(np.float64) - b.logits[at]
    noise = float(np.sqrt(np.mean(difference**2)))
    gap = float(b.logits[at].max() - b.logits[at][a.token_ids[at]])
    return gap <= thresholds.TIE.value * noise, gap, noise


def _self_test(clip: Clip, run: Run, transcriber: Transcriber) -> dict[str, Any]:
    """What every host should write for the bundled clip."""
    return {
        "clip": clip.name,
        "device": "cpu",
        "num_delay_tokens": transcriber.num_delay_tokens,
        "token_ids": run.token_ids.tolist(),
        "blank_margins": [round(float(margin), 4) for margin in run.margins],
        "text": transcriber.tokenizer.decode(run.token_ids.tolist()),
    }


def _errors(clip: Clip, float_text: str, shipped_text: str) -> dict[str, Any]:
    wanted = normalize(clip.text or "")
    row: dict[str, Any] = {"clip": clip.name, "text": wanted, "characters": len(wanted), "words": len(wanted.split())}
    for name, text in (("float", float_text), ("shipped", shipped_text)):
        got = normalize(text)
        row[f"{name}_text"], row[f"{name}_edits"] = got, count_edits(wanted, got)
        row[f"{name}_word_edits"] = count_edits(wanted.split(), got.split())
    return row


def _machine() -> dict[str, Any]:
    packages = ("torch", "onnx", "onnx-ir")
    machine = describe_machine()
    return {**machine, "packages": {**machine["packages"], **{name: metadata.version(name) for name in packages}}}


def _rate(manifest: Manifest) -> int:
    return manifest.config.audio.sample_rate
