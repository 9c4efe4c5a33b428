"""The page and an artifact as one set of files: what `serve` sends and `bundle` writes.

The page's own files stand at the root, onnxruntime-web with its licence in `vendor`, the clip of
its self-test in `samples`, and in `artifact` the manifest, the files of some precisions, and the
certificate where there is one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ..assets import SAMPLES, SELF_TEST_CLIP
from ..errors import ArtifactError, StorageError, UsageError
from ..escaping import markdown
from ..files import fsync_dir, hash_file, require_disk
from ..manifest import CERTIFICATE, FILE_NAME, Manifest

PAGE = Path(__file__).parent.parent / "web"
CLIP = SAMPLES / SELF_TEST_CLIP
ARTIFACT = "artifact"  # where index.html looks for the model
PRECISIONS = ("q4f16", "q4")  # what browsers run; others are served where an artifact has neither
SPACE_CARD = """\
---
title: {title}
emoji: 🎙️
colorFrom: indigo
colorTo: gray
sdk: static
app_file: index.html
license: apache-2.0
custom_headers:
  cross-origin-embedder-policy: require-corp
  cross-origin-opener-policy: same-origin
  cross-origin-resource-policy: cross-origin
---
Speech to text in this browser tab: the model ({size}) is downloaded once and runs on this
computer's GPU; no sound leaves it. Made with {generator}.{scope} The page and onnxruntime-web come
under their own licences: `vendor/LICENSE`.
"""  # source of the keys: huggingface.co/docs/hub/spaces-config-reference


def page_files() -> dict[str, Path]:
    """The page's own files, by their path in a site.

    Raises:
        ArtifactError: onnxruntime-web's files are not there.
    """
    if not (PAGE / "vendor" / "VERSION").is_file():
        raise ArtifactError(
            "the page runs on onnxruntime-web, which this checkout does not hold; run: make web\n"
            "  (the wheel has it: pip install 'voxtral-onnx[serve]')"
        )
    own = [PAGE / name for name in ("index.html", "minimal.html", "page.css", "sw.js")]
    paths = [*own, *sorted((PAGE / "src").glob("*/*.js")), *sorted((PAGE / "vendor").iterdir())]
    return {path.relative_to(PAGE).as_posix(): path for path in paths} | {
        f"samples/{CLIP.name}": CLIP
    }


def site_manifest(artifact: Path, precisions: Sequence[str] | None = None) -> Manifest:
    """An artifact's manifest with some of its precisions.

    Those named, or of what is there what browsers run.

    Raises:
        ArtifactError: not an artifact, or files of a precision are missing or of another size.
        UsageError: a precision that the artifact does not have.
    """
    manifest = Manifest.read(artifact)
    held = manifest.held(artifact)
    chosen = precisions or [name for name in PRECISIONS if name in held] or held
    if unknown := [name for name in chosen if name not in held]:
        raise UsageError(
            f"precision {', '.join(unknown)}: expected one of {', '.join(held)}, "
            f"which {artifact} has"
        )
    files = manifest.files_of(chosen)
    native = {name: replace(manifest.precisions[name], families={}) for name in chosen}
    manifest = replace(manifest, precisions=native, files=files)
    manifest.check_files(artifact, chosen)
    return manifest


def absent_precisions(artifact: Path) -> list[str]:
    """Return the precisions that browsers run and this folder does not hold.

    They are precisions of the artifact that are absent, as after a download of one precision.
    """
    manifest = Manifest.read(artifact)
    held = manifest.held(artifact)
    return [name for name in PRECISIONS if name in manifest.precisions and name not in held]


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as a site holds it."""
    return (json.dumps(asdict(manifest), ensure_ascii=False) + "\n").encode()


def site_files(
    artifact: Path, precisions: Sequence[str] | None = None, *, space: bool = False
) -> tuple[Manifest, dict[str, Path | bytes]]:
    """The manifest of a site, and its files by their paths in it.

    Where each stands, or what it holds.

    Raises:
        ArtifactError, UsageError: as `page_files` and `site_manifest`.
    """
    manifest = site_manifest(artifact, precisions)
    files: dict[str, Path | bytes] = {
        **page_files(),
        **{f"{ARTIFACT}/{name}": artifact / name for name in manifest.files},
        f"{ARTIFACT}/{FILE_NAME}": manifest_bytes(manifest),
    }
    if certificate := site_certificate(artifact, manifest):
        files[f"{ARTIFACT}/{CERTIFICATE[0]}"] = certificate
    if space:
        files["README.md"] = space_card(manifest).encode()
    return manifest, files


def site_certificate(artifact: Path, manifest: Manifest) -> bytes | None:
    """Return the artifact's certificate, naming the site's manifest.

    The site's graphs and weights are the artifact's. Without a certificate the result is None.

    A certificate that is of another artifact, or of this one before it changed, is none.
    """
    try:
        values = json.loads((artifact / CERTIFICATE[0]).read_bytes())
        if values["manifest_sha256"] != hash_file(artifact / FILE_NAME).sha256:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    values["manifest_sha256"] = hashlib.sha256(manifest_bytes(manifest)).hexdigest()
    return (json.dumps(values, ensure_ascii=False) + "\n").encode()


def bundle(
    artifact: Path,
    output: Path,
    precisions: Sequence[str] | None = None,
    *,
    space: bool = False,
    on_file: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Path:
    """Write the page and an artifact as a folder that any static host serves.

    Args:
        artifact: its folder.
        output: the site's folder; it appears when it is whole.
        precisions: of the artifact; None for what browsers run.
        space: add the card that makes it a static Space of the Hugging Face hub.
        on_file: called before each file with its name, the bytes done and all bytes.

    Raises:
        ArtifactError: not a whole artifact, a file that differs from its hash, or no
            onnxruntime-web.
        StorageError: the folder exists, cannot be written, or its disk is too small.
        UsageError: a precision that the artifact does not have.
    """
    manifest, files = site_files(artifact, precisions, space=space)
    if output.exists():
        raise StorageError(f"{output}: exists already; remove it or choose another folder")
    partial = output.with_name(output.name + ".partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        sizes = {name: file_size(file) for name, file in files.items()}
        total, done = sum(sizes.values()), 0
        require_disk({output.parent: total})
        for name, file in files.items():
            on_file(name, done, total)
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(file, bytes):
                (partial / name).write_bytes(file)
            else:
                shutil.copyfile(file, partial / name)
            done += sizes[name]
        for name, expected in manifest.files.items():
            if hash_file(partial / ARTIFACT / name).sha256 != expected.sha256:
                raise ArtifactError(
                    f"{artifact / name}: differs from its sha256; download or export it again"
                )
        partial.rename(output)
        fsync_dir(output.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{output}: cannot be written ({error.strerror or error})") from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return output


def file_size(file: Path | bytes) -> int:
    """Bytes of a file, given by its place or by what it holds."""
    return len(file) if isinstance(file, bytes) else file.stat().st_size


def space_card(manifest: Manifest) -> str:
    """The README.md of a static Space."""
    size = max(
        sum(file.size for file in manifest.files_of([name]).values())
        for name in manifest.precisions
    )
    return SPACE_CARD.format(
        title="Speech to text in this tab",
        size=f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB",
        generator=markdown(manifest.generator),
        scope=f" {markdown(manifest.scope)}." if manifest.scope else "",
    )
