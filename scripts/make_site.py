"""Build the site of docs/ with Zensical into build/site; broken links are errors.

Pages link as they do in the repository (`../bench/results/load.json`), so that they can be read
there too. What they link to outside of docs/ is laid into `repository/` of the site. The package is
laid apart from what else is in the repository's root, as the reference's reader walks all of it.

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
COPIES = "repository"
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s:]+)(#[^)\s]*)?\)")  # text, path, anchor


def lay_pages(folder: Path) -> None:
    """Lay all pages, and what they link to, into a folder, with links that hold there.

    Raises:
        SystemExit: a link to a file that is not there.
    """
    waiting, laid, broken = sorted(file for file in DOCS.rglob("*") if file.is_file()), set(), []
    while waiting:
        source = waiting.pop()
        if source in laid:
            continue
        laid.add(source)
        target = folder / path_on_site(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix != ".md":
            shutil.copyfile(source, target)
            continue

        def lead(match: re.Match[str], source: Path = source) -> str:
            found = (source.parent / match[2]).resolve()
            if found.is_dir():  # is named, not laid
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
    """Return where a file of the repository is laid."""
    if found.is_relative_to(DOCS):
        return found.relative_to(DOCS)
    return COPIES / found.relative_to(ROOT)


def lay_package(folder: Path) -> None:
    """Lay links to the modules and rooms of the package into a folder."""
    folder.mkdir(parents=True)
    for part in (*ROOT.glob("*.py"), *(found.parent for found in ROOT.glob("*/__init__.py"))):
        (folder / part.name).symlink_to(part)


def main() -> None:
    """Build the site."""
    for made in (PAGES, PACKAGE, ROOT / "build" / "site", ROOT / ".cache"):
        shutil.rmtree(made, ignore_errors=True)
    lay_pages(PAGES)
    lay_package(PACKAGE)
    program = Path(sys.executable).with_name("zensical")
    subprocess.run([program, "build", "--strict"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
