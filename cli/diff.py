"""The command `voxtral-onnx diff`, which compares two artifacts."""

from __future__ import annotations

import typer

from ..errors import VerificationError
from . import options
from .terminal import write, write_json


def diff(
    a: options.FirstArtifact,
    b: options.SecondArtifact,
    precision: options.ComparedPrecisions = None,
    as_json: options.Json = False,
) -> None:
    """Compare two artifacts: manifests, recipes, graphs, and every tensor.

    Exits with code 8 if they differ.
    """
    from ..exporter.packages import require_packages
    from .values import split_names

    require_packages("diff")
    from ..verification.diff import diff as run_diff

    difference = run_diff(a, b, precisions=split_names(precision))
    if as_json:
        write_json(difference.to_dict())
    else:
        write(difference.render())
    if not difference.is_equal:
        raise typer.Exit(VerificationError.exit_code)
