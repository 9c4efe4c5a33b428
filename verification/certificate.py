"""The certificate: the findings of `verify`, written beside an artifact's manifest and read back.

`certificate.json` and `certificate.html` name the manifest's sha256, so that a certificate of
another artifact, or of this one before it changed, is recognised as stale. A certificate says what
was found on the machine of whoever ran `verify`. Those that this user has made are recognised by
their hashes in the user's state folder; all others are only claims. Reading a certificate needs
neither torch nor onnx.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from .. import limits
from ..assets import TINY_ARTIFACT
from ..decode import RelativeName, Sha256, decode, read_within
from ..errors import ArtifactError
from ..files import atomic_write, hash_file, user_folder
from ..manifest import CERTIFICATE, FILE_NAME, Delay, Manifest, Role, TokenId
from ..runtime.locate import downloaded_from
from .verdict import FAILED, NOT_JUDGED, NOT_RUN, PASSED, Finding, Judgement, Rung, Verdict, judge

FORMAT = 2
JSON_NAME, HTML_NAME = CERTIFICATE
# Part of every certificate, because people may read it who did not run `verify`
CLAIM = "self-reported by whoever ran verify; verify it yourself: voxtral-onnx verify FOLDER"


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The expected tokens of a packaged clip, which every host should generate."""

    clip: RelativeName
    num_delay_tokens: Delay
    token_ids: tuple[TokenId, ...]
    blank_margins: tuple[float, ...]  # the blank's logit less the best other one, for each token

    def __post_init__(self):
        if len(self.token_ids) != len(self.blank_margins):
            raise ValueError("self_test: expected a margin for each token")


@dataclass(frozen=True, slots=True)
class _Details:
    self_test: SelfTest | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """The parts of a certificate that are read back, as unverified statements of its maker."""

    created: Annotated[str, Meta(pattern=r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T")]
    manifest_sha256: Sha256
    rungs: tuple[Rung, ...]
    precisions: tuple[Role, ...]
    findings: tuple[Finding, ...]
    details: Mapping[str, _Details]
    format: Annotated[int, Meta(ge=1)] = 1
    verdict: str | None = None  # as it is written; `judge` computes it from the findings
    passed_rungs: tuple[Rung, ...] = ()
    left_out: tuple[Role, ...] = ()  # the artifact's precisions that were not verified
    generator: str = ""
    is_own: bool = False  # whether this user's `verify` wrote it; never read from the file

    @classmethod
    def read(cls, folder: Path) -> Claim | None:
        """Read an artifact's certificate; return None if there is none.

        Raises:
            ArtifactError: the file cannot be read or is not a certificate.
        """
        path = folder / JSON_NAME

        def refuse(reason: str) -> ArtifactError:
            return ArtifactError(f"{path}: not a certificate ({reason}); run: {_how(folder)}")

        try:
            content = read_within(path, limits.CERTIFICATE, refuse)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return replace(decode(cls, content, refuse), is_own=_is_own(content))

    def judge(self, folder: Path) -> Judgement:
        """Return the verdict that its findings give by this version's rules.

        Precisions that the artifact in the folder has and the certificate does not name are left
        out.
        """
        try:
            held = Manifest.read(folder).precisions
        except ArtifactError:
            held = {}
        others = [name for name in held if name not in self.precisions]
        left_out = dict.fromkeys([*self.left_out, *others])
        return judge(self.findings, self.precisions, asked=self.rungs, left_out=left_out)

    def contradicts(self, judgement: Judgement) -> bool:
        """Return whether its written verdict differs from the one that its findings give."""
        if self.format == 1:  # which derived verdicts by other rules; only failures are the same
            return self.verdict == FAILED and judgement.verdict != FAILED
        return (self.verdict, self.passed_rungs) != (judgement.verdict, judgement.passed_rungs)


@dataclass(frozen=True, slots=True)
class Standing:
    """The standing of an artifact's certificate: whether it is valid, and what it says."""

    status: Verdict | Literal["none", "unreadable", "stale", "contradictory"]
    line: str  # all of it, in words
    judgement: Judgement | None = None  # None without a valid certificate of this artifact
    is_own: bool = False  # whether this user's `verify` wrote it

    @property
    def is_wrong(self) -> bool:
        """Return whether there is a certificate that failed or is not valid for the artifact."""
        return self.status in (FAILED, "unreadable", "stale", "contradictory")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        found = self.judgement
        return {
            "status": self.status,
            "is_own": self.is_own,
            "precisions": found.precisions if found else (),
            "passed_rungs": found.passed_rungs if found else (),
            "not_checked": found.left_open if found else (),
        }


@dataclass(frozen=True, slots=True)
class Certificate:
    """The content of certificate.json: all findings of one run of `verify`, as plain values."""

    generator: str
    created: str  # UTC, ISO 8601
    manifest_sha256: str
    fingerprint: str  # of the checkpoint, as in the manifest
    checkpoint: str | None  # name of the checkpoint that the weights were compared with
    rungs: tuple[int, ...]  # the requested ones
    precisions: tuple[str, ...]
    findings: tuple[Finding, ...]
    not_checked: tuple[str, ...]  # sentences that say what was not checked, and why
    details: Mapping[str, Any]  # by precision: stages, operators, margins, clips, self_test
    thresholds: Sequence[Mapping[str, Any]]
    machine: Mapping[str, Any]
    seconds: float
    left_out: tuple[str, ...] = ()  # the artifact's other precisions
    format: int = field(default=FORMAT)

    @property
    def lacks(self) -> list[str]:
        """Return the packages for want of which checks were not run."""
        return sorted({name for finding in self.findings for name in finding.lacks})

    @property
    def failures(self) -> list[Finding]:
        """Return the findings that failed."""
        return [finding for finding in self.findings if finding.status == FAILED]

    @property
    def judgement(self) -> Judgement:
        """Return the verdict on all findings, with the rungs that passed and what is open."""
        return judge(self.findings, self.precisions, asked=self.rungs, left_out=self.left_out)

    @property
    def verdict(self) -> Verdict:
        """Return the verdict: PASSED only if every rung was run on everything and passed."""
        return self.judgement.verdict

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with the verdict first."""
        found = self.judgement
        heads = {"verdict": found.verdict, "passed_rungs": found.passed_rungs, "claim": CLAIM}
        return {**heads, **asdict(self)}

    def find_fuller(self, folder: Path) -> Claim | None:
        """Return the folder's certificate if it says all that this one does, and more.

        It is of the same manifest and by the same generator, contradicts nothing, has no failure,
        and passed all that this one passed and something else. A certificate with a failure is
        never without something to say.
        """
        try:
            claim = Claim.read(folder)
        except ArtifactError:
            return None
        ours = (self.manifest_sha256, self.generator)
        if claim is None or (claim.manifest_sha256, claim.generator) != ours:
            return None
        found = claim.judge(folder)
        if found.verdict == FAILED or claim.contradicts(found):
            return None
        said, known = _said(self.findings), _said(claim.findings)
        tested = {name for name, part in self.details.items() if part.get("self_test")}
        has_tests = tested <= {name for name, part in claim.details.items() if part.self_test}
        more = {row for row in known - said if row[-1] == PASSED}
        return claim if said <= known and more and has_tests else None

    def write(self, folder: Path) -> None:
        """Write both files into the artifact's folder, and record that this user made them.

        If the record cannot be written, this only warns.

        Raises:
            StorageError: the artifact's folder cannot be written.
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


def _said(findings: Sequence[Finding]) -> set[tuple[int, str, str | None, str]]:
    """Return what was judged, or could not be: rungs, checks, precisions and their statuses."""
    rows = (row for row in findings if row.status != NOT_RUN)
    return {(row.rung, row.check, row.precision, row.status) for row in rows}


def _is_own(content: bytes) -> bool:
    try:
        return _record(content).exists()
    except OSError:  # no home, or none that may be looked into
        return False


def _record(content: bytes) -> Path:
    """Return the path of the empty file whose existence says that this user made a certificate."""
    return user_folder("state") / "certificates" / hashlib.sha256(content).hexdigest()


def hash_manifest(folder: Path) -> str:
    """Return the sha256 of the manifest's file in an artifact folder."""
    return hash_file(folder / FILE_NAME).sha256


def read_self_test(folder: Path, precision: str) -> dict[str, Any] | str:
    """Return the self-test of a precision as plain values, or the reason why there is none."""
    try:
        claim = Claim.read(folder)
    except ArtifactError:
        return f"{JSON_NAME} cannot be read"
    if claim is None:
        return "no certificate"
    if claim.manifest_sha256 != hash_manifest(folder):
        return "its certificate is stale: of another artifact, or of this one before it changed"
    if (details := claim.details.get(precision)) is None:
        return f"its certificate says nothing of {precision}"
    if details.self_test is None:
        return "its certificate has no self-test, which comes with rungs 4, 5 and 6"
    return asdict(details.self_test)


def read_verdict(folder: Path, *, published: bool = False) -> Standing:
    """Return whether an artifact has a valid certificate, what it says, and who made it.

    Args:
        folder: folder of the artifact.
        published: whether the result is for people who download the artifact; for them, no
            certificate is one that they have made themselves.
    """
    # Find a certificate of this artifact
    how = _how("FOLDER" if published else folder)
    try:
        claim = Claim.read(folder)
    except ArtifactError:
        return Standing("unreadable", f"not verified: {JSON_NAME} cannot be read; run: {how}")
    if claim is None:
        return Standing("none", "not verified")
    if claim.manifest_sha256 != hash_manifest(folder):
        return Standing(
            "stale",
            "not verified: the certificate is of another artifact, or of this one before it "
            f"changed; run: {how}",
        )

    # Compare what it says with its findings
    found, is_own = claim.judge(folder), claim.is_own and not published
    if found.verdict != FAILED and claim.contradicts(found):
        return Standing(
            "contradictory",
            "not verified: the certificate says something else than its findings, so it was "
            f"changed after it was written; run: {how}",
            found,
        )

    # Say what it says, and who says so
    said = _in_words(claim, found, f"{'here ' if is_own else ''}on {claim.created[:10]}")
    if not is_own and found.verdict != NOT_JUDGED:
        source = None if published else _source(folder)
        who = f"its publisher, {source}," if source else "its maker"
        said = f"{who} says: {said}; verify it yourself: {how}"
    return Standing(found.verdict, said, found, is_own)


def _in_words(claim: Claim, found: Judgement, when: str) -> str:
    if found.verdict == NOT_JUDGED:
        return "not verified: the certificate judges nothing but the hashes of the files"
    if found.verdict == FAILED:
        first = next(row for row in claim.findings if row.status == FAILED)
        return f"FAILED {when}: {first.summary}"
    stamp = "verified" if found.verdict == PASSED else found.stamp
    return "; ".join([f"{stamp} {when}: {found.scope}", *found.left_open])


def _source(folder: Path) -> str | None:
    """Return the name of an artifact's publisher, or None if it is not known."""
    if folder.resolve() == TINY_ARTIFACT.resolve():
        return "voxtral-onnx"
    return downloaded_from(folder)


def _how(folder: Path | str) -> str:
    return f"voxtral-onnx verify {folder}"
