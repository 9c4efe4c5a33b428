"""The command `voxtral-onnx evaluate`, which measures error rates on your own recordings."""

from __future__ import annotations

import typer

from . import options
from .exit_codes import SOME_FAILED


def evaluate(
    models: options.Artifacts,
    data: options.Data,
    precision: options.ManyPrecisions = None,
    offline: options.Offline = False,
    output_dir: options.ReportFolder = None,
    delay: options.Delay = None,
    gain: options.Gain = "none",
    device: options.Device = "auto",
    threads: options.Threads = None,
    batch_size: options.BatchSize = 1,
    no_split: options.NoSplit = False,
    as_json: options.Json = False,
) -> None:
    """Count the words that models get wrong on your own recordings, with confidence intervals."""
    from dataclasses import asdict

    from ..verification.evaluation.evaluate import evaluate as run_evaluate
    from ..verification.evaluation.report_html import write_report
    from .progress import StatusSpinner
    from .tables import print_evaluation
    from .terminal import write_json
    from .values import split_names

    # Transcribe all recordings with each model
    with StatusSpinner() as steps:
        found = run_evaluate(
            models,
            data,
            precisions=split_names(precision),
            delay_ms=delay,
            device=device,
            threads=threads,
            batch_size=batch_size,
            split=not no_split,
            gain=gain,
            offline=offline,
            on_file=lambda system, done, total, name: steps.show(
                f"{system.name}: {done} of {total}, {name}"
            ),
        )

    # Write and print the error rates
    if output_dir is not None:
        write_report(found, output_dir)
    if as_json:
        write_json(asdict(found))
    else:
        print_evaluation(found)
    if found.failed:
        raise typer.Exit(SOME_FAILED)
