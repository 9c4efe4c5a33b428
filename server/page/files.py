"""The site: the set of files that `serve` sends and `bundle` writes.

The page's own files are at the root, onnxruntime-web and its licence in `vendor`, the self-test's
clip in `samples`; `artifact` has the manifest, the files of some precisions, and the certificate if
there is one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Raw

from ...assets import SAMPLES, SELF_TEST_CLIP
from ...decode import decode, read_within
from ...errors import ArtifactError, StorageError, UsageError
from ...escaping import markdown
from ...files import fsync_dir, hash_file, is_below, make_partial_folder, require_disk
from ...limits import CERTIFICATE as MOST_BYTES
from ...manifest import CERTIFICATE, FILE_NAME, Manifest

PAGE = Path(__file__).parents[2] / "web"
CLIP = SAMPLES / SELF_TEST_CLIP
ARTIFACT = "artifact"  # where index.html looks for the model
INDEX = "index.html"
PRECISIONS = ("q4f16", "q4")  # those for browsers; others are used if an artifact has neither
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


# Origins in the syntax of content security policies, which has no IPv6 addresses
_ORIGIN = re.compile(r"https?://(\*\.)?([a-z0-9-]+\.)*[a-z0-9-]+(:[0-9]{1,5})?")
_POLICY = re.compile(r'http-equiv="Content-Security-Policy"\s+content="([^"]+)"')
_OWN_ADDRESSES = "connect-src 'self'"
_NO_ARTIFACTS = '<meta name="allowed-artifacts" content="" />'


def page_files() -> dict[str, Path]:
    """Return the page's own files, by their path in a site.

    Raises:
        ArtifactError: onnxruntime-web's files are missing.
    """
    if not (PAGE / "vendor" / "VERSION").is_file():
        raise ArtifactError(
            "the page runs on onnxruntime-web, which this source tree lacks; run: make web\n"
            "  (the installed package has it: pip install 'voxtral-onnx[serve]')"
        )
    own = [PAGE / name for name in (INDEX, "minimal.html", "page.css", "sw.js")]
    source = [*(PAGE / "src").glob("*/*.js"), *(PAGE / "src").glob("*/graphs/*.onnx")]
    paths = [*own, *sorted(source), *sorted((PAGE / "vendor").iterdir())]
    return {path.relative_to(PAGE).as_posix(): path for path in paths} | {
        f"samples/{CLIP.name}": CLIP
    }


def site_manifest(artifact: Path, precisions: Sequence[str] | None = None) -> Manifest:
    """Return an artifact's manifest, reduced to the named precisions and their native graphs.

    Without names, it keeps those of PRECISIONS whose files are in the folder; if it has neither,
    all whose files are there.

    Raises:
        ArtifactError: not an artifact, or files of a precision are missing or of another size.
        UsageError: the artifact lacks a named precision.
    """
    manifest = Manifest.read(artifact)
    held = manifest.held(artifact)
    chosen = precisions or [name for name in PRECISIONS if name in held] or held
    if unknown := [name for name in chosen if name not in held]:
        raise UsageError(
            f"precision {', '.join(unknown)}: expected one of {', '.join(held)}, "
            f"which {artifact} has"
        )
    native = {  # what the page runs
        name: replace(
            manifest.precisions[name], families={}, encoder_batch=None, encoder_paged=None
        )
        for name in chosen
    }
    manifest = replace(manifest, precisions=native)
    manifest = replace(manifest, files=manifest.files_of(chosen))
    manifest.check_files(artifact, chosen, no_links_out=True)
    return manifest


def absent_precisions(artifact: Path) -> list[str]:
    """Return the precisions for browsers that the manifest lists but whose files are missing.

    They are missing after a download of a single precision.
    """
    manifest = Manifest.read(artifact)
    held = manifest.held(artifact)
    return [name for name in PRECISIONS if name in manifest.precisions and name not in held]


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the bytes of a site's manifest file."""
    return (json.dumps(asdict(manifest), ensure_ascii=False) + "\n").encode()


def site_files(
    artifact: Path,
    precisions: Sequence[str] | None = None,
    *,
    space: bool = False,
    allowed_artifacts: Sequence[str] = (),
) -> tuple[Manifest, dict[str, Path | bytes]]:
    """Return the manifest of a site, and its files by their path in the site.

    Each file is a path on disk, or bytes. The arguments are those of `bundle`.

    Raises:
        ArtifactError: see `page_files` and `site_manifest`.
        UsageError: see `site_manifest` and `index_page`.
    """
    manifest = site_manifest(artifact, precisions)
    files: dict[str, Path | bytes] = {
        **page_files(),
        INDEX: index_page(allowed_artifacts),
        **{f"{ARTIFACT}/{name}": artifact / name for name in manifest.files},
        f"{ARTIFACT}/{FILE_NAME}": manifest_bytes(manifest),
    }
    if certificate := site_certificate(artifact, manifest):
        files[f"{ARTIFACT}/{CERTIFICATE[0]}"] = certificate
    if space:
        files["README.md"] = space_card(manifest).encode()
    return manifest, files


def index_page(allowed_artifacts: Sequence[str] = ()) -> bytes:
    """Return the index.html of a site whose page may also load artifacts from these origins.

    Raises:
        UsageError: one of them is not an origin.
    """
    page = (PAGE / INDEX).read_text("utf-8")
    if wrong := [origin for origin in allowed_artifacts if not _ORIGIN.fullmatch(origin)]:
        raise UsageError(
            f"{wrong[0]}: expected the origin of artifacts, as https://example.org, in lower case "
            "and without a path"
        )
    if allowed_artifacts:
        origins = " ".join(dict.fromkeys(allowed_artifacts))
        assert _OWN_ADDRESSES in page and _NO_ARTIFACTS in page
        page = page.replace(_OWN_ADDRESSES, f"{_OWN_ADDRESSES} {origins}")
        page = page.replace(_NO_ARTIFACTS, _NO_ARTIFACTS.replace('""', f'"{origins}"'))
    return page.encode()


def page_policy(page: bytes) -> str:
    """Return the content security policy in a page's meta element, as the value of a header."""
    found = _POLICY.search(page.decode())
    assert found, "a page without a policy"
    return " ".join(found[1].split())


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """A file in the state in which it was checked; `open` refuses any other state."""

    path: Path
    state: tuple[int, int, int, int]  # device, inode, bytes, nanoseconds

    @classmethod
    def of(cls, path: Path) -> CheckedFile:
        """Return a file in its present state.

        Raises:
            OSError: it does not exist.
        """
        return cls(path, _state(path.stat()))

    @property
    def size(self) -> int:
        """Return the size in bytes."""
        return self.state[2]

    def open(self) -> BinaryIO:
        """Open the file to read.

        Raises:
            ArtifactError: it has changed, or is gone.
            OSError: it cannot be read.
        """
        with suppress(FileNotFoundError):
            file = self.path.open("rb")
            if _state(os.fstat(file.fileno())) == self.state:
                return file
            file.close()
        raise ArtifactError(f"{self.path}: changed since it was checked; start again")


def _state(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def check_site(
    artifact: Path, manifest: Manifest, files: Mapping[str, Path | bytes]
) -> dict[str, CheckedFile | bytes]:
    """Compare the artifact's files in a site with their hashes.

    Returns:
        The site's files in the state in which they were compared.

    Raises:
        ArtifactError: naming every file that is absent or differs.
    """
    checked = {
        name: file if isinstance(file, bytes) else CheckedFile.of(file.resolve())
        for name, file in files.items()
    }
    manifest.check_files(artifact, manifest.precisions, hashes=True, no_links_out=True)
    return checked


def site_certificate(artifact: Path, manifest: Manifest) -> bytes | None:
    """Return the artifact's certificate with the hash of the site's manifest in it.

    The site's graphs and weights are the artifact's, so the certificate holds for them too. The
    result is None without a certificate, or with one of another artifact or an earlier version.
    """
    path = artifact / CERTIFICATE[0]
    try:
        values = decode(dict[str, Raw], read_within(path, MOST_BYTES, ArtifactError), ArtifactError)
        named = bytes(values["manifest_sha256"]).decode()
    except (FileNotFoundError, NotADirectoryError, ArtifactError, KeyError):
        return None
    if named != json.dumps(hash_file(artifact / FILE_NAME).sha256) or not is_below(artifact, path):
        return None
    own = hashlib.sha256(manifest_bytes(manifest)).hexdigest()
    values["manifest_sha256"] = Raw(json.dumps(own).encode())
    return msgspec.json.encode(values) + b"\n"


def bundle(
    artifact: Path,
    output: Path,
    precisions: Sequence[str] | None = None,
    *,
    space: bool = False,
    allowed_artifacts: Sequence[str] = (),
    on_file: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Path:
    """Write the page and an artifact as a folder that any static host serves.

    Args:
        artifact: folder of the artifact.
        output: folder to write; it appears when it is complete.
        precisions: precisions to write; None for those that browsers run.
        space: add the README.md that makes it a static Space of the Hugging Face hub.
        allowed_artifacts: origins, besides its own, that the page may load artifacts from when a
            link names one: https://example.org or https://*.example.org.
        on_file: called before each file with its name, the bytes done and all bytes.

    Returns:
        The output folder.

    Raises:
        ArtifactError: the artifact is incomplete, a file differs from its hash, or onnxruntime-web
            is missing.
        StorageError: the folder exists, cannot be written, or its disk is too small.
        UsageError: the artifact lacks a precision, or an origin is not valid.
    """
    # Check everything before anything is written
    manifest, named = site_files(
        artifact, precisions, space=space, allowed_artifacts=allowed_artifacts
    )
    if output.exists():
        raise StorageError(f"{output}: exists already; remove it or choose another folder")
    files = check_site(artifact, manifest, named)

    # Write a partial folder, then rename it
    partial = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = make_partial_folder(output.parent)
        sizes = {name: file_size(file) for name, file in files.items()}
        total, done = sum(sizes.values()), 0
        require_disk({output.parent: total})
        for name, file in files.items():
            on_file(name, done, total)
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(file, bytes):
                (partial / name).write_bytes(file)
            else:
                with file.open() as original, (partial / name).open("wb") as copy:
                    shutil.copyfileobj(original, copy, 1 << 20)
            done += sizes[name]
        partial.rename(output)
        fsync_dir(output.parent)
    except BaseException as error:  # a signal too
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        if not isinstance(error, OSError) or isinstance(error, StorageError):
            raise
        raise StorageError(f"{output}: cannot be written ({error.strerror or error})") from error
    return output


def file_size(file: Path | CheckedFile | bytes) -> int:
    """Return the size in bytes of a file that is given by its path or by its content."""
    if isinstance(file, bytes):
        return len(file)
    return file.size if isinstance(file, CheckedFile) else file.stat().st_size


def space_card(manifest: Manifest) -> str:
    """Return the README.md of a static Space of the Hugging Face hub."""
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
