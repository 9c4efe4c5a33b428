"""The command `voxtral-onnx bundle`, which writes the page and a model for a web host."""

from __future__ import annotations

from . import options
from .terminal import info, write_path


def bundle(
    artifact: options.NamedArtifact,
    output: options.SiteFolder,
    precision: options.PagePrecisions = None,
    offline: options.Offline = False,
    space: options.Space = False,
    allow_artifacts: options.AllowedArtifacts = None,
) -> None:
    """Write a folder with the page and a model for any static web host; print its path."""
    from ..server.page.files import PRECISIONS
    from ..server.page.files import bundle as write_site
    from .models import find_model
    from .progress import StatusSpinner
    from .values import split_names

    names = split_names(precision)
    folder = find_model(artifact, names or list(PRECISIONS[:1]), offline)
    with StatusSpinner() as steps:
        steps.show("comparing the files with their hashes, and copying them")
        site = write_site(
            folder, output, names, space=space, allowed_artifacts=allow_artifacts or ()
        )
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    info(f"{size / 1e6:,.1f} MB")
    write_path(site)
