"""The command `voxtral-onnx inspect`, which shows what an artifact holds."""

from __future__ import annotations

import typer

from ..errors import DeviceError, VerificationError
from . import options
from .terminal import info, print_error, write_json


def inspect(
    artifact: options.Artifact = None,
    offline: options.Offline = False,
    check: options.CheckHashes = False,
    hosts: options.Hosts = False,
    as_json: options.Json = False,
) -> None:
    """Show what an artifact holds; check file sizes and graphs, with --check every byte.

    Exits with code 8 if its certificate records a failure, or belongs to other files.
    """
    from dataclasses import asdict

    from ..manifest import Manifest
    from ..runtime.device.base import ONLY_ON_CUDA, lacks_lengths
    from ..runtime.device.session import check_graph
    from ..verification.certificate import read_verdict
    from .models import find_model
    from .tables import print_artifact, print_hosts, print_standing

    folder = find_model(artifact, [], offline)
    manifest = Manifest.read(folder)
    if hosts:
        print_hosts(manifest, as_json=as_json)
        return

    # Check the certificate, the files and the graphs
    certificate = read_verdict(folder)
    if certificate.is_wrong:
        print_error(f"{folder}: {certificate.line}")
        if not as_json:
            print_standing(certificate)
    held = manifest.held(folder)
    manifest.check_files(folder, held)
    checked = ["sizes"]
    try:
        for graph in manifest.graphs(held):
            # Downloads leave out other programs' graphs, and some load on CUDA alone
            if not (folder / graph.path).exists() or ONLY_ON_CUDA in graph.operators:
                continue
            if reason := lacks_lengths(graph):
                info(f"{graph.path}: not checked: {reason}")
            else:
                check_graph(folder, graph)
        checked.append("graphs")
    except DeviceError as error:
        info(f"inputs and outputs of the graphs not checked: {error}")
    if check:
        manifest.check_files(folder, held, hashes=True)
        checked.append("hashes")

    # Print what was found
    if as_json:
        facts = {"folder": str(folder), "held": held, "checked": checked}
        facts |= {"certificate": certificate.line, "verification": certificate.to_dict()}
        write_json({**facts, **asdict(manifest)})
    else:
        print_artifact(folder, manifest, held, checked)
        if not certificate.is_wrong:
            print_standing(certificate)
    if certificate.is_wrong:
        raise typer.Exit(VerificationError.exit_code)
