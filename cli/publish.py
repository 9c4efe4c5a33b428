"""The command `voxtral-onnx publish`, which uploads an artifact or the page to the hub."""

from __future__ import annotations

from . import options
from .terminal import confirm, format_size, info, stderr, write, write_line


def publish(
    artifact: options.NamedArtifact,
    repository: options.Repository,
    offline: options.Offline = False,
    space: options.Space = False,
    private: options.Private = False,
    base_model: options.BaseModel = None,
    dry_run: options.PublishDryRun = False,
    yes: options.YesUpload = False,
) -> None:
    """Upload an artifact with a model card, or the page with it; print the address."""
    from huggingface_hub.utils import disable_progress_bars

    from ..manifest import Manifest
    from ..publish.upload import plan_publication
    from ..server.page.files import PRECISIONS
    from .models import find_model
    from .progress import StatusSpinner

    # Plan the upload
    folder = find_model(artifact, list(PRECISIONS[:1]) if space else ["all"], offline)
    with StatusSpinner() as steps:
        steps.show("comparing the files with their hashes")
        publication = plan_publication(folder, repository, space=space, base_model=base_model)
    sizes = publication.sizes
    if dry_run:
        write(publication.card + "\n")
        for name, size in sizes.items():
            write_line(f"{size:>15,}  {name}")
        return

    # Tell who will read what, and ask
    readers = "for you and those you let in" if private else "for everyone to read"
    terms = Manifest.read(folder).license or "terms that the artifact does not name"
    size = format_size(sum(sizes.values()))
    info(f"{len(sizes)} files, {size}, to the {publication.kind} {repository}, {readers},")
    info(f"the weights under {terms}, which the checkpoint's card.json sets before the export")
    if not yes:
        confirm(
            "Upload them?",
            "nothing is uploaded without being asked for: add --yes, or --dry-run to see it",
        )

    # Upload, telling of each file
    def show(name: str, done: int, total: int) -> None:
        info(
            f"{name}: {format_size(sizes[name])}; {format_size(done)} of {format_size(total)} sent"
        )

    if not stderr.is_terminal:
        disable_progress_bars()  # huggingface_hub's own, one per file
    url = publication.upload(private=private, on_file=show)
    write_line(url)
