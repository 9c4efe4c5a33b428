"""Addresses of pages and files on the Hugging Face hub, as a browser shows them.

https://huggingface.co/ORG/NAME
https://huggingface.co/ORG/NAME/tree/REVISION
https://huggingface.co/ORG/NAME/blob/REVISION/FILE
https://huggingface.co/ORG/NAME/resolve/REVISION/FILE?download=true
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants

from .errors import UsageError

REPOSITORY_ID = r"[a-z0-9][\w.-]*/[a-z0-9][\w.-]*"  # ORG/NAME, in capitals or not
REPOSITORY = re.compile(rf"({REPOSITORY_ID})(?:@(.+))?", re.ASCII | re.IGNORECASE)

_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co", "www.hf.co")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_NOT_MODELS = {"api", "blog", "collections", "datasets", "docs", "models", "papers", "spaces"}
_VIEWS = {"tree", "blob", "resolve", "raw"}


@dataclass(frozen=True, slots=True)
class Address:
    """A repository of the hub that a user has named, and perhaps a file in it."""

    repo_id: str  # ORG/NAME
    revision: str | None = None
    file: str | None = None  # its path in the repository

    def __str__(self) -> str:
        is_default = self.revision in (None, constants.DEFAULT_REVISION)
        return self.repo_id if is_default else f"{self.repo_id}@{self.revision}"


def read_name(source: str | Path) -> Address | None:
    """Read ORG/NAME[@REVISION] or an address; return None for a path and other forms of names.

    A name that ends like a GGUF's is a path, though none that exists.

    Raises:
        UsageError: as `read_address`.
    """
    if (address := read_address(source)) is not None:
        return address
    match = REPOSITORY.fullmatch(str(source))
    is_path = isinstance(source, Path) or Path(source).exists()
    if is_path or match is None or match[0].lower().endswith(".gguf"):
        return None
    return Address(match[1], match[2])


def read_address(source: str | Path) -> Address | None:
    """Read the address of a repository or of a file in one; return None for what is no address.

    Addresses of huggingface.co hold for a mirror too: its files are taken from HF_ENDPOINT.

    Raises:
        UsageError: the address of another server, or of a page that is no model's.
    """
    # Tell it from a path; the scheme may be left out
    text = str(source)
    if isinstance(source, Path) or Path(text).exists():
        return None
    host, _, rest = text.partition("/")
    if host.lower() in _HOSTS and rest.strip("/"):
        text = f"https://{text}"
    if not _SCHEME.match(text):
        return None

    # Require the hub's host, and take its path apart
    expected = (
        f"{source}: expected https://huggingface.co/ORG/NAME, or that with /tree/REVISION, or with "
        "/blob/REVISION/FILE"
    )
    try:
        url, endpoint = urlsplit(text), urlsplit(constants.ENDPOINT)
        host = url.hostname
    except ValueError as error:
        raise UsageError(f"{expected}, got no address ({error})") from error
    path = url.path
    is_web = url.scheme.lower() in ("https", "http")
    if is_web and url.netloc.lower() == endpoint.netloc.lower():
        path = path.removeprefix(endpoint.path.rstrip("/"))
    elif host not in _HOSTS or not is_web:
        raise UsageError(
            f"{expected}, got the address of another server; download what it leads to and name "
            "the file or folder"
        )
    parts = [unquote(part) for part in path.split("/") if part]

    # Read repository, revision and file
    repo_id, view, names = "/".join(parts[:2]), parts[2:3], parts[3:]
    if parts[:1] and parts[0] in _NOT_MODELS:
        raise UsageError(f"{expected}, got a page under /{parts[0]}, which is no model's")
    if not re.fullmatch(REPOSITORY_ID, repo_id, re.ASCII | re.IGNORECASE):
        raise UsageError(f"{expected}, got no repository")
    if not view:
        return Address(repo_id)
    if view[0] not in _VIEWS or not names:
        raise UsageError(f"{expected}, got another page of {repo_id}; name {repo_id}")
    num_parts = 3 if names[0] == "refs" else 1  # refs/pr/1 is one revision
    revision, file = "/".join(names[:num_parts]), "/".join(names[num_parts:])
    if bool(file) == (view[0] == "tree"):
        kind = "a folder of it" if file else "a file without its name"
        raise UsageError(f"{expected}, got {kind}; name {Address(repo_id, revision)}")
    return Address(repo_id, revision, file or None)
