"""`voxtral-onnx diff`: how two artifacts differ."""

from __future__ import annotations

import typer

from ..errors import VerificationError
from . import options
from .terminal import write, write_json


def diff(
    a: options.FirstArtifact, b: options.SecondArtifact, as_json: options.Json = False
) -> None:
    """Compare two artifacts: manifests, recipes, graphs, and every tensor.

    Exit code 8 where they differ.
    """
    from .checkpoints import require_export_packages

    require_export_packages()
    from ..verification.diff import diff as run_diff

    difference = run_diff(a, b)
    if as_json:
        write_json(difference.to_dict())
    else:
        write(difference.render())
    if not difference.is_equal:
        raise typer.Exit(VerificationError.exit_code)
