"""The certificate: what verify found, written beside the manifest, and read back.

`certificate.json` and `certificate.html` name the manifest's sha256, so a certificate of another
artifact, or of this one before it changed, is seen to be stale. Reading one needs neither torch nor
onnx.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..files import atomic_write
from ..manifest import CERTIFICATE, FILE_NAME

FORMAT = 1
JSON_NAME, HTML_NAME = CERTIFICATE
PASSED, FAILED, NOT_JUDGED, NOT_RUN = "passed", "failed", "not judged", "not run"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check of one rung says, of one precision or of the whole artifact."""

    rung: int
    check: str
    precision: str | None
    status: str  # PASSED, FAILED, NOT_JUDGED, NOT_RUN
    summary: str  # with the measured number; a failure names the stage or tensor


@dataclass(frozen=True, slots=True)
class Certificate:
    """All that was found; plain values only."""

    generator: str
    created: str  # UTC, ISO 8601
    manifest_sha256: str
    fingerprint: str  # of the checkpoint, as the manifest has it
    checkpoint: str | None  # how the weights were compared: the source that was given
    rungs: tuple[int, ...]  # that were asked for
    precisions: tuple[str, ...]
    findings: tuple[Finding, ...]
    not_checked: tuple[str, ...]  # what these findings leave open, and why
    details: Mapping[str, Any]  # by precision: stages, operators, margins, clips, self_test
    thresholds: Sequence[Mapping[str, Any]]
    machine: Mapping[str, Any]
    seconds: float
    format: int = field(default=FORMAT)

    @property
    def failures(self) -> list[Finding]:
        """The findings that failed."""
        return [finding for finding in self.findings if finding.status == FAILED]

    @property
    def verdict(self) -> str:
        """For all findings: passed where something beyond the hashes did and nothing failed."""
        if self.failures:
            return FAILED
        return (
            PASSED
            if any(row.status == PASSED and row.rung > 0 for row in self.findings)
            else NOT_JUDGED
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the verdict first."""
        return {"verdict": self.verdict, **asdict(self)}

    def write(self, folder: Path) -> None:
        """Write both files into the artifact's folder.

        Raises:
            StorageError: the folder cannot be written.
        """
        from .certificate_html import render

        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        atomic_write(folder / HTML_NAME, render(self, folder.resolve().name).encode())
        atomic_write(folder / JSON_NAME, text.encode())


def hash_manifest(folder: Path) -> str:
    """The sha256 of the manifest's bytes."""
    return hashlib.sha256((folder / FILE_NAME).read_bytes()).hexdigest()


def read_self_tests(folder: Path) -> dict[str, dict[str, Any]]:
    """What hosts should write for the bundled clip, by precision.

    Nothing where no certificate is of this artifact.
    """
    try:
        values = json.loads((folder / JSON_NAME).read_bytes())
        if values["manifest_sha256"] != hash_manifest(folder):
            return {}
        return {
            name: found["self_test"]
            for name, found in values["details"].items()
            if "self_test" in found
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def read_verdict(folder: Path) -> str:
    """What an artifact's certificate says of it, in one line."""
    try:
        values = json.loads((folder / JSON_NAME).read_bytes())
        verdict, manifest, created = values["verdict"], values["manifest_sha256"], values["created"]
        rungs, precisions = values["rungs"], values["precisions"]
        failed = [
            finding["summary"] for finding in values["findings"] if finding["status"] == FAILED
        ]
    except FileNotFoundError:
        return "not verified"
    except (OSError, ValueError, KeyError, TypeError):
        return f"not verified: {JSON_NAME} cannot be read; run: voxtral-onnx verify {folder}"
    if manifest != hash_manifest(folder):
        return (
            "not verified: the certificate is of another artifact, or of this one before it changed"
        )
    if verdict == NOT_JUDGED:
        return "not verified: the certificate judges nothing but the hashes of the files"
    if verdict != PASSED:
        return f"FAILED on {created[:10]}: {failed[0] if failed else 'see the certificate'}"
    return (
        f"verified on {created[:10]}: {', '.join(precisions)} on rungs {', '.join(map(str, rungs))}"
    )
