"""`voxtral-onnx verify`: whether an artifact computes what its checkpoint does."""

from __future__ import annotations

import re

from ..errors import UsageError, VerificationError
from ..escaping import quoted
from . import options
from .terminal import write_json


def verify(
    artifact: options.LocalArtifact = None,
    precision: options.VerifiedPrecisions = None,
    checkpoint: options.Checkpoint = None,
    audio: options.VerifyAudio = None,
    rungs: options.Rungs = "0,1,2,3,4,5,6",
    as_json: options.Json = False,
) -> None:
    """Check an artifact, from single operators to words, and write its certificate beside it."""
    from .checkpoints import require_export_packages
    from .progress import StatusSpinner
    from .tables import print_certificate
    from .values import split_names

    require_export_packages()
    from ..verification.verify import verify as run_verify

    if not re.fullmatch("[0-9](,[0-9])*", rungs):
        raise UsageError(f"rungs: expected numbers from 0 to 6 with commas, got {quoted(rungs)}")
    failed = None
    with StatusSpinner() as steps:
        try:
            certificate = run_verify(
                artifact,
                checkpoint=checkpoint,
                audio=audio or (),
                precisions=split_names(precision),
                rungs=[int(rung) for rung in rungs.split(",")],
                on_progress=steps.show,
            )
        except VerificationError as error:
            failed, certificate = error, error.report
    if as_json:
        write_json(certificate.to_dict())
    else:
        print_certificate(certificate)
    if failed:
        raise failed
