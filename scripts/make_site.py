"""Build the documentation site of docs/ with Zensical into build/site; broken links are errors.

Links in the pages are relative paths that hold in the repository (`../Makefile`), so that pages can
be read there too. Files outside of docs/ that pages link to are copied to `repository/` in the
site, and the links are rewritten. The package's modules are linked into a folder of their own,
because the generator of the API reference would otherwise walk everything in the repository.

Usage: python scripts/make_site.py
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS, PAGES = ROOT / "docs", ROOT / "build" / "pages"
PACKAGE = ROOT / "build" / "package" / "voxtral_onnx"
COPIES = "repository"  # folder of the site for files outside of docs/
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s:]+)(#[^)\s]*)?\)")  # text, path, anchor


def lay_pages(folder: Path) -> None:
    """Copy all pages and the files that they link to into a folder, with links that hold there.

    Args:
        folder: the folder to write, which is the root of the site.

    Raises:
        SystemExit: pages link to files that do not exist; each link is printed.
    """
    waiting, laid, broken = sorted(file for file in DOCS.rglob("*") if file.is_file()), set(), []
    while waiting:
        source = waiting.pop()
        if source in laid:
            continue

        # Copy a file that is no page
        laid.add(source)
        target = folder / path_on_site(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix != ".md":
            shutil.copyfile(source, target)
            continue

        # Rewrite a page's links, and queue the files that they lead to
        def lead(match: re.Match[str], source: Path = source) -> str:
            found = (source.parent / match[2]).resolve()
            if found.is_dir():  # folders are not copied, so only the link's text stays
                return match[1]
            if not found.is_file():
                broken.append(f"{source.relative_to(ROOT)}: no file {match[2]}")
                return match[0]
            waiting.append(found)
            path = os.path.relpath(path_on_site(found), path_on_site(source).parent)
            return f"[{match[1]}]({Path(path).as_posix()}{match[3] or ''})"

        target.write_text(LINK.sub(lead, source.read_text("utf-8")), "utf-8")
    if broken:
        sys.exit("\n".join(broken))


def path_on_site(found: Path) -> Path:
    """Return the path in the site of a file in the repository."""
    if found.is_relative_to(DOCS):
        return found.relative_to(DOCS)
    return COPIES / found.relative_to(ROOT)


def lay_package(folder: Path) -> None:
    """Make a folder with symbolic links to the package's modules and subpackages."""
    folder.mkdir(parents=True)
    for part in (*ROOT.glob("*.py"), *(found.parent for found in ROOT.glob("*/__init__.py"))):
        (folder / part.name).symlink_to(part)


def main() -> None:
    """Build the site anew in build/site."""
    for made in (PAGES, PACKAGE, ROOT / "build" / "site", ROOT / ".cache"):
        shutil.rmtree(made, ignore_errors=True)
    lay_pages(PAGES)
    lay_package(PACKAGE)
    program = Path(sys.executable).with_name("zensical")
    subprocess.run([program, "build", "--strict"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
