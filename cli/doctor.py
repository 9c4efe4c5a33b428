"""The command `voxtral-onnx doctor`, which checks what this machine can run."""

from __future__ import annotations

import typer

from ..errors import DeviceError, VerificationError
from . import options
from .terminal import write_json


def doctor(
    artifact: options.LocalArtifact = None,
    precision: options.ManyPrecisions = None,
    device: options.Device = "auto",
    context: options.Context = 8192,
    as_json: options.Json = False,
) -> None:
    """Check whether the 4B model will run here, how fast, and what else this machine can run.

    Exits with code 7 if something needed is missing, and with 8 if a check fails.
    """
    from dataclasses import asdict

    from ..runtime import doctor as examining
    from ..runtime.forecast import forecast
    from ..verification.certificate import read_self_test
    from .progress import StatusSpinner
    from .tables import print_checks
    from .values import split_names

    # Run the checks, and put the headline first
    checks, precisions = [], split_names(precision)
    with StatusSpinner() as steps:
        steps.show("looking at this machine")
        for check in examining.doctor(
            artifact,
            precisions=precisions,
            device=device,
            context=context,
            read_self_test=read_self_test,
        ):
            checks.append(check)
            steps.show(f"{check.topic}: {check.name}")
    checks.insert(0, forecast(checks, precisions=precisions, device=device, context=context))

    # Print them, and choose the exit code
    if as_json:
        write_json([asdict(check) for check in checks])
    else:
        print_checks(checks)
    found = {check.status for check in checks}
    if examining.FAILED in found:
        raise typer.Exit(VerificationError.exit_code)
    if examining.MISSING in found:
        raise typer.Exit(DeviceError.exit_code)
