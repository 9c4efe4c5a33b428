"""Find the audio files that inputs name: folders, patterns, single files."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

from ...errors import AudioError, UsageError
from .media import MEDIA_SUFFIXES

SUFFIXES = (
    ".wav",
    ".flac",
    ".mp3",
    ".ogg",
    ".oga",
    ".opus",
    ".aif",
    ".aiff",
    ".au",
    ".caf",
    ".w64",
    *MEDIA_SUFFIXES,
)


def find_audio(inputs: Iterable[str]) -> list[str]:
    """Every file that inputs name.

    A folder stands for the audio files below it, a pattern for what it matches.

    Raises:
        AudioError: a folder without audio, or a pattern that matches nothing.
        UsageError: an empty name, which would be the folder that one is in.
    """
    found: list[str] = []
    for name in inputs:
        if not name:
            raise UsageError("the name of a file is empty; is a variable of the shell not set?")
        path = Path(name)
        try:
            is_folder, exists = path.is_dir(), path.exists()
        except OSError:  # too long a name: opening it says so
            is_folder, exists = False, True
        if is_folder:
            files = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in SUFFIXES and file.is_file()
            )
            lacking = f"{name}: a folder without audio files ({', '.join(SUFFIXES)})"
        elif name != "-" and not exists and glob.has_magic(name):
            files = sorted(map(Path, glob.glob(name, recursive=True)))  # noqa: PTH207, whose patterns cannot be absolute
            lacking = f"{name}: no such file, and as a pattern it matches none"
        else:
            found.append(name)
            continue
        if not files:
            raise AudioError(lacking)
        # A file that a pattern matched is not standard input
        found += ["./-" if str(file) == "-" else str(file) for file in files]
    return found
