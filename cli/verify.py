"""The command `voxtral-onnx verify`, which checks an artifact against its checkpoint."""

from __future__ import annotations

from ..errors import VerificationError
from . import options
from .terminal import write_json


def verify(
    artifact: options.LocalArtifact = None,
    precision: options.VerifiedPrecisions = None,
    checkpoint: options.Checkpoint = None,
    audio: options.VerifyAudio = None,
    rungs: options.Rungs = "0-6",
    require: options.Require = None,
    as_json: options.Json = False,
) -> None:
    """Check an artifact, from single operators to words, and write its certificate beside it.

    Checks 1, 2, 5 and 6 and parts of 3 and 4 need PyTorch; without it they are left open.
    """
    from .checkpoints import require_export_packages
    from .progress import StatusSpinner
    from .tables import print_certificate
    from .values import parse_numbers, split_names

    # Check the options
    wanted = parse_numbers("rungs", rungs, last=6)
    required = parse_numbers("require", require, last=6) if require else []
    require_export_packages("verify")
    from ..verification.verify import verify as run_verify

    # Run the checks; a certificate is written for those that fail too
    failed = None
    with StatusSpinner() as steps:
        try:
            certificate = run_verify(
                artifact,
                checkpoint=checkpoint,
                audio=audio or (),
                precisions=split_names(precision),
                rungs=wanted,
                require=required,
                on_progress=steps.show,
            )
        except VerificationError as error:
            failed, certificate = error, error.report

    # Print the certificate
    if as_json:
        write_json(certificate.to_dict())
    else:
        print_certificate(certificate)
    if failed:
        raise failed
