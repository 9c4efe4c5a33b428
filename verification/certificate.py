"""The certificate: what verify found, written beside the manifest, and read back.

`certificate.json` and `certificate.html` name the manifest's sha256, so a certificate of another
artifact, or of this one before it changed, is seen to be stale. One is the word of whoever ran
verify: this user's own are known by their hashes in the state folder, all others are claims.
Reading one needs neither torch nor onnx.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from .. import limits
from ..decode import Name, RelativeName, Sha256, decode, read_within
from ..errors import ArtifactError
from ..files import atomic_write, hash_file, user_folder
from ..manifest import CERTIFICATE, FILE_NAME, Delay, Role, TokenId
from ..runtime.locate import downloaded_from

FORMAT = 1
JSON_NAME, HTML_NAME = CERTIFICATE
Status = Literal["passed", "failed", "not judged", "not run"]
PASSED: Status = "passed"
FAILED: Status = "failed"
NOT_JUDGED: Status = "not judged"
NOT_RUN: Status = "not run"
# In every certificate, because it may be read far from where it was made
CLAIM = "what its maker's machine found; verify it yourself: voxtral-onnx verify FOLDER"

Rung = Annotated[int, Meta(ge=0, le=6)]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check of one rung says, of one precision or of the whole artifact."""

    rung: Rung
    check: Name
    precision: Role | None
    status: Status
    summary: str  # with the measured number; a failure names the stage or tensor


def _verdict(findings: Iterable[Finding]) -> Status:
    """Return passed where something beyond the hashes did and nothing failed."""
    found = {(finding.status, finding.rung > 0) for finding in findings}
    if {(FAILED, True), (FAILED, False)} & found:
        return FAILED
    return PASSED if (PASSED, True) in found else NOT_JUDGED


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What every host should write for a bundled clip."""

    clip: RelativeName
    num_delay_tokens: Delay
    token_ids: tuple[TokenId, ...]
    blank_margins: tuple[float, ...]  # of each token

    def __post_init__(self):
        if len(self.token_ids) != len(self.blank_margins):
            raise ValueError("self_test: expected a margin for each token")


@dataclass(frozen=True, slots=True)
class _Details:
    self_test: SelfTest | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """What is read of a certificate; whose word it is stands elsewhere."""

    created: Annotated[str, Meta(pattern=r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T")]
    manifest_sha256: Sha256
    rungs: tuple[Rung, ...]
    precisions: tuple[Role, ...]
    findings: tuple[Finding, ...]
    details: Mapping[str, _Details]
    is_own: bool = False  # this user's verify wrote it; nothing that a file can say

    @classmethod
    def read(cls, folder: Path) -> Claim | None:
        """Read an artifact's certificate; None where it has none.

        Raises:
            ArtifactError: it cannot be read, or is not one.
        """
        path = folder / JSON_NAME

        def refuse(reason: str) -> ArtifactError:
            return ArtifactError(f"{path}: not a certificate ({reason}); run: {_how(folder)}")

        try:
            content = read_within(path, limits.CERTIFICATE, refuse)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return replace(decode(cls, content, refuse), is_own=_is_own(content))

    def says(self, folder: Path) -> str:
        """Return in one line what the certificate says of the artifact in a folder."""
        if self.manifest_sha256 != hash_manifest(folder):
            return (
                "not verified: the certificate is of another artifact, or of this one before it "
                "changed"
            )
        verdict = _verdict(self.findings)
        if verdict == NOT_JUDGED:
            return "not verified: the certificate judges nothing but the hashes of the files"
        when = f"here on {self.created[:10]}" if self.is_own else f"on {self.created[:10]}"
        if verdict == FAILED:
            first = next(found for found in self.findings if found.status == FAILED)
            return f"FAILED {when}: {first.summary}"
        rungs = ", ".join(map(str, self.rungs))
        return f"verified {when}: {', '.join(self.precisions)} on rungs {rungs}"


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
    def verdict(self) -> Status:
        """For all findings: passed where something beyond the hashes did and nothing failed."""
        return _verdict(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the verdict first."""
        return {"verdict": self.verdict, "claim": CLAIM, **asdict(self)}

    def write(self, folder: Path) -> None:
        """Write both files into the artifact's folder, and remember them as this user's own.

        Raises:
            StorageError: the folder cannot be written.
        """
        from .certificate_html import render

        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        atomic_write(folder / HTML_NAME, render(self, folder.resolve().name).encode())
        atomic_write(folder / JSON_NAME, text.encode())
        try:
            record = _record(text.encode())
            record.parent.mkdir(parents=True, exist_ok=True)
            record.touch()
        except OSError as error:
            why = f"not remembered ({error})"
            warnings.warn(f"{why}: the certificate will count as another's here", stacklevel=2)


def _is_own(content: bytes) -> bool:
    try:
        return _record(content).exists()
    except OSError:  # no home, or none that may be looked into
        return False


def _record(content: bytes) -> Path:
    """Return the empty file that says that a certificate was made by this user."""
    return user_folder("state") / "certificates" / hashlib.sha256(content).hexdigest()


def hash_manifest(folder: Path) -> str:
    """The sha256 of the manifest's bytes."""
    return hash_file(folder / FILE_NAME).sha256


def read_self_tests(folder: Path) -> dict[str, dict[str, Any]]:
    """What hosts should write for the bundled clip, by precision.

    Nothing where no certificate is of this artifact.
    """
    try:
        claim = Claim.read(folder)
    except ArtifactError:
        return {}
    if claim is None or claim.manifest_sha256 != hash_manifest(folder):
        return {}
    return {
        name: asdict(found.self_test) for name, found in claim.details.items() if found.self_test
    }


def read_verdict(folder: Path, *, published: bool = False) -> str:
    """Return in one line what an artifact's certificate says, and whose word that is.

    Args:
        folder: the artifact's.
        published: for readers elsewhere, to whom each certificate is its maker's word.
    """
    try:
        claim = Claim.read(folder)
    except ArtifactError:
        return f"not verified: {JSON_NAME} cannot be read; run: {_how(folder)}"
    if claim is None:
        return "not verified"
    if published:
        claim, how = replace(claim, is_own=False), _how("FOLDER")
    else:
        how = _how(folder)
    said = claim.says(folder)
    if claim.is_own or said.startswith("not verified"):
        return said
    source = downloaded_from(folder)
    who = f"its publisher, {source}," if source and not published else "its maker"
    return f"{who} says: {said}; verify it yourself: {how}"


def _how(folder: Path | str) -> str:
    return f"voxtral-onnx verify {folder}"
