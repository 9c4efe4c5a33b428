"""The function `verify`, which checks an artifact rung by rung, from single operators to words."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

from .._version import __version__
from ..arguments import CALLBACK, INTEGER, MODEL, NAMES, PATH, PATHS, accepts, optional, several
from ..errors import ArtifactError, CheckpointError, UsageError, VerificationError
from ..escaping import quoted
from ..exporter.checkpoint.open import Checkpoint, open_checkpoint, resolve_source
from ..exporter.packages import missing, say_missing
from ..manifest import Manifest
from ..runtime.locate import choose_precisions, find_artifact
from ..runtime.machine import describe_machine
from . import thresholds
from .certificate import HTML_NAME, JSON_NAME, Certificate, hash_manifest
from .certificate_html import format_error
from .checks import WEIGHTS, PrecisionChecks
from .clips import embedded_clips, open_clips
from .verdict import ALL_RUNGS, FAILED, NOT_RUN, PASSED, Finding, explain, judge, name_rungs

UNSEEN_WEIGHTS = (
    "Whether the weights are the checkpoint's: no checkpoint was given, and without one, reordered "
    "rows, changed scales, codes or biases and a shifted table of delays cannot be noticed."
)


@accepts(
    artifact=optional(MODEL),
    checkpoint=optional(PATH),
    audio=PATHS,
    precisions=optional(NAMES),
    rungs=several(INTEGER, f"a list of numbers from 0 to {ALL_RUNGS[-1]}"),
    on_progress=CALLBACK,
)
def verify(
    artifact: str | Path | None = None,
    *,
    checkpoint: str | Path | None = None,
    audio: Sequence[str | Path] = (),
    precisions: Sequence[str] | None = None,
    rungs: Sequence[int] = ALL_RUNGS,
    require: Sequence[int] = (),
    on_progress: Callable[[str], None] = lambda message: None,
) -> Certificate:
    """Check an artifact rung by rung and write its certificate.

    `certificate.json` and `certificate.html` are written beside the artifact's manifest. A
    certificate of the same files by the same version is kept, with a warning, if it passed all that
    this run passed and more, and this run found no failure and heard no other recordings. The
    rungs:

    - 0: hashes of all files
    - 1: single operators on onnxruntime against PyTorch
    - 2: the exporter's PyTorch modules against transformers, if that is installed
    - 3: weights against the checkpoint, and each stage's graph against its module
    - 4: streams against whole recordings
    - 5: logits of the quantised model against those of the float model
    - 6: words of both against the text of the recordings

    Rungs 1, 2, 5 and 6, and all comparisons with modules, need PyTorch: without it they are left
    open, and the certificate names them. Rungs 5 and 6 are judged only if the float model
    transcribes the recordings at all.

    Args:
        artifact: folder or name of the artifact, as for `Transcriber`.
        checkpoint: the checkpoint that it was exported from; without it weights are not compared,
            and rungs 5 and 6 need the artifact's own precision fp32.
        audio: recordings for rungs 4 to 6, with the text of `a.wav` in `a.txt` beside it; by
            default the embedded samples.
        precisions: precisions to check; by default all that the artifact has.
        rungs: rungs to run; rung 0 always runs.
        require: rungs that must be run and judged completely, and pass.
        on_progress: called with the name of each check before it begins.

    Returns:
        The certificate of this run, also where a fuller one was kept.

    Raises:
        VerificationError: a check failed, or a required rung did not pass completely; the
            certificate is treated as any other, and is the error's `report`.
        ArtifactError: not an artifact, or files are missing.
        AudioError: a recording cannot be read.
        CheckpointError: the checkpoint is not the one that was exported.
        StorageError: the certificate cannot be written.
        UsageError: a rung or a precision does not exist, or a required rung would not run.
    """
    # Check the request, and open what it names
    began = perf_counter()
    if unknown := sorted({*rungs, *require} - set(ALL_RUNGS)):
        raise UsageError(f"rungs: expected some of 0 to {ALL_RUNGS[-1]}, got {quoted(unknown[0])}")
    if absent := sorted(set(require) - {0, *rungs}):
        raise UsageError(
            f"require: {name_rungs(absent)} would not run, because --rungs asks for "
            f"{name_rungs(sorted({0, *rungs}))} only; leave it out, or name them there too"
        )
    folder = find_artifact(artifact)
    manifest, manifest_sha256 = Manifest.read(folder), hash_manifest(folder)
    chosen = choose_precisions(manifest, list(precisions or manifest.precisions))
    manifest.check_files(folder)
    source = None if checkpoint is None else _open_source(checkpoint, manifest, folder)
    rate = manifest.config.audio.sample_rate
    clips = (
        open_clips(audio, rate) if audio else embedded_clips(rate) if {4, 5, 6} & set(rungs) else []
    )

    # Run the checks
    kind = _checks()
    on_progress("files")
    findings, details = [_check_files(folder, manifest)], {}
    if findings[0].status == PASSED:
        if 2 in rungs:
            on_progress("modules against transformers")
            findings.append(_check_modules(manifest))
        for name in chosen:
            checks = kind(folder, manifest, name, source, clips, on_progress)
            findings += checks.run(set(rungs))
            details[name] = checks.details

    # Judge them, and write the certificate
    left_out = tuple(name for name in manifest.precisions if name not in chosen)
    judgement = judge(findings, chosen, asked=rungs, left_out=left_out)
    has_unseen = any(row.check == WEIGHTS and row.status == NOT_RUN for row in findings)
    certificate = Certificate(
        generator=f"voxtral-onnx {__version__}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        manifest_sha256=manifest_sha256,
        fingerprint=manifest.fingerprint,
        checkpoint=None if checkpoint is None else Path(checkpoint).name,
        rungs=tuple(sorted({0, *rungs})),
        precisions=tuple(chosen),
        findings=tuple(sorted(findings, key=lambda finding: finding.rung)),
        not_checked=(*judgement.left_open, *([UNSEEN_WEIGHTS] if has_unseen else [])),
        details=details,
        thresholds=[asdict(threshold) for threshold in thresholds.ALL],
        machine=_machine(),
        seconds=round(perf_counter() - began, 1),
        left_out=left_out,
    )
    _write(certificate, folder, has_own_clips=bool(audio and {4, 5, 6} & set(rungs)))

    # Raise what failed
    if certificate.failures:
        raise VerificationError(_message(folder, manifest, certificate), certificate)
    if missing := sorted(set(require) - set(judgement.passed_rungs)):
        raise VerificationError(_unmet(folder, missing, certificate), certificate)
    return certificate


def _write(certificate: Certificate, folder: Path, *, has_own_clips: bool) -> None:
    """Write a certificate, unless the folder has one that says all of it and more."""
    fuller = None if has_own_clips else certificate.find_fuller(folder)
    if fuller is None:
        certificate.write(folder)
        return
    found = fuller.judge(folder)
    warnings.warn(
        f"kept the certificate of {fuller.created[:10]}, which passed all of this and more "
        f"({', '.join(found.precisions)}; {len(found.passed_rungs)} of {len(ALL_RUNGS)} rungs); to "
        f"replace it, delete {folder / JSON_NAME} and verify again",
        stacklevel=4,  # whoever called verify, which is wrapped
    )


def _check_files(folder: Path, manifest: Manifest) -> Finding:
    check = "hashes of all files"
    try:
        manifest.check_files(folder, hashes=True)
    except ArtifactError as error:
        return Finding(0, check, None, FAILED, str(error))
    size = sum(file.size for file in manifest.files.values())
    return Finding(0, check, None, PASSED, f"{len(manifest.files)} files, {size / 1e6:,.1f} MB")


def _checks() -> type[PrecisionChecks]:
    """Return the checks that this environment has the packages for."""
    if missing(["torch"]):
        return PrecisionChecks
    from .module_checks import ModuleChecks

    return ModuleChecks


def _check_modules(manifest: Manifest) -> Finding:
    check = "modules against transformers"
    if lost := missing(["torch", "transformers"]):
        return Finding(2, check, None, NOT_RUN, say_missing(lost), tuple(lost))
    from .transformers_parity import compare_with_transformers

    version = metadata.version("transformers")
    error, limit = compare_with_transformers(manifest), thresholds.MODULE_ERROR.value
    status, bound = (PASSED, "at most") if error <= limit else (FAILED, "more than")
    measured = f"module error {format_error(error)} against transformers {version}"
    return Finding(2, check, None, status, f"{measured}, {bound} {format_error(limit)}")


def _open_source(checkpoint: str | Path, manifest: Manifest, folder: Path) -> Checkpoint:
    source = open_checkpoint(resolve_source(checkpoint))
    if (found := source.fingerprint()) != manifest.fingerprint:
        raise CheckpointError(
            f"{checkpoint}: expected the checkpoint that {folder} was exported from, with the "
            f"fingerprint {manifest.fingerprint[:16]}…, got one with {found[:16]}…; give the "
            "other, or leave --checkpoint out"
        )
    return source


def _message(folder: Path, manifest: Manifest, certificate: Certificate) -> str:
    failures = certificate.failures
    first = failures[0]
    where = f"{first.precision}, " if first.precision else ""
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    what = f"{folder}: {where}rung {first.rung}, {first.check}: {first.summary}{more}"
    return f"{what}; see {folder / HTML_NAME}; {_advice(manifest, certificate)}"


def _advice(manifest: Manifest, certificate: Certificate) -> str:
    """Return what to do about the failures of a certificate."""
    if min(row.rung for row in certificate.failures) < 5:
        return "export it again, and report it if that fails too"
    if open_rungs := sorted({0, 1, 2, 3, 4} - {*certificate.judgement.passed_rungs}):
        return (
            "the artifact is wrong or its recipe too coarse: pass "
            f"{name_rungs(open_rungs)} to tell which"
        )
    kinds = [manifest.precisions[row.precision] for row in certificate.failures if row.precision]
    recipes = {kind.recipe.name for kind in kinds if kind.recipe.rules}
    if not recipes:
        return "float16 is too coarse for this model: export it with --precision fp32"
    return (
        "the artifact computes what its recipe makes of the checkpoint, so recipe "
        f"{', '.join(sorted(recipes))} is too coarse for this model: export it with "
        "--recipe quality, --precision q8 or --precision fp16"
    )


def _unmet(folder: Path, missing: Sequence[int], certificate: Certificate) -> str:
    what = f"{folder}: {name_rungs(missing)}: required, but not all of it was run and judged"
    why = explain(certificate.findings, certificate.precisions, set(missing))
    return "; ".join([what, *why])


def _machine() -> dict[str, Any]:
    machine = describe_machine()
    packages = {
        name: metadata.version(name)
        for name in ("torch", "onnx", "onnx-ir")
        if not missing([name.replace("-", "_")])
    }
    return {**machine, "packages": {**machine["packages"], **packages}}
