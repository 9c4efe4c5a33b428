"""Find the audio files that inputs name: folders, patterns, single files."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ...errors import AudioError, UsageError
from .container.media import MEDIA_SUFFIXES

# Suffixes by which audio is found in folders; a file that is named itself may have any
SUFFIXES = tuple(
    dict.fromkeys(
        (
            *(".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".mp3", ".mp2", ".mpga", ".ogg"),
            *(".oga", ".ogx", ".ogv", ".spx", ".opus", ".aif", ".aiff", ".aifc", ".au", ".snd"),
            *(".caf", ".voc", ".ape", ".tta", ".dts", ".eac3", ".ts", ".vob", ".mxf", ".3g2"),
            *(".tak", ".ra", ".rm", ".weba", ".mpc", ".thd", ".mlp", ".dsf", ".m4r", ".f4v"),
            *(".gsm", ".adx"),
            *MEDIA_SUFFIXES,
        )
    )
)
# Of what stands beside recordings and is none
_OTHER_SUFFIXES = frozenset(
    (
        *(".txt", ".srt", ".vtt", ".json", ".jsonl", ".tsv", ".lrc", ".csv", ".md", ".rst", ".log"),
        *(".xml", ".html", ".htm", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".pdf", ".doc"),
        *(".docx", ".odt", ".rtf", ".xls", ".xlsx", ".jpg", ".jpeg", ".png", ".gif", ".webp"),
        *(".svg", ".bmp", ".tif", ".tiff", ".heic", ".zip", ".gz", ".bz2", ".xz", ".7z", ".rar"),
        *(".tar", ".py", ".sh", ".js", ".css", ".cue", ".m3u", ".m3u8", ".pls", ".nfo", ".ass"),
        *(".ssa", ".sub", ".textgrid", ".eaf", ".part", ".tmp", ".bak", ".db", ".torrent", ".url"),
        *(".npy", ".npz", ".onnx", ".safetensors", ".gguf", ".exe", ".dll", ".lnk", ".md5"),
        *(".sha256", ".ds_store"),
    )
)
_KNOWN_NAMES = frozenset(("readme", "license", "makefile", "desktop.ini", "copying"))
_APPLE_DOUBLE = b"\x00\x05\x16\x07"


def _raise(name: str, error: AudioError) -> None:
    raise error


def find_audio(
    inputs: Iterable[str],
    on_failure: Callable[[str, AudioError], None] = _raise,
    on_others: Callable[[list[str]], None] = lambda names: None,
) -> list[str]:
    """Return every file that inputs name.

    A folder stands for the audio files below it, through links too, and a pattern for the files
    that it matches. AppleDouble files, which macOS writes beside others (`._a.wav`), are no audio.

    Args:
        inputs: names of files, folders and patterns, and `-`.
        on_failure: called with an input, or a folder below one, that cannot be searched, and with
            the error; raises it unless given.
        on_others: called with the files of folders that may hold sound and have no known suffix.

    Raises:
        UsageError: an empty name, which would be the folder that one is in.
    """
    found, others = list[str](), list[Path]()
    for name in inputs:
        if not name:
            raise UsageError("the name of a file is empty; is a variable of the shell not set?")
        path, failures = Path(name), dict[str, AudioError]()
        try:
            is_folder, exists = path.is_dir(), path.exists()
        except (OSError, ValueError):  # such as too long a name: opening it reports that
            is_folder, exists = False, True

        # Search a folder, match a pattern, or take the name of a file
        if is_folder:
            files = sorted(_audio_below(path, set(), failures, others))
            lacking = f"{name}: a folder without audio files ({', '.join(SUFFIXES)})"
        elif name != "-" and not exists and glob.has_magic(name):
            matches = map(Path, glob.glob(name, recursive=True))  # noqa: PTH207, whose patterns cannot be absolute
            files = sorted(file for file in matches if not is_apple_double(file))
            lacking = f"{name}: no such file, and as a pattern it matches none"
        elif name != "-" and is_apple_double(path):
            files = []
            lacking = (
                f"{name}: holds what macOS keeps beside a file (AppleDouble), no sound; name the "
                "file without ._"
            )
        else:
            found.append(name)
            continue

        # Report what cannot be searched, and inputs that stand for no file
        if not (files or failures):
            failures[name] = AudioError(lacking)
        for place, failure in failures.items():
            on_failure(place, failure)
        # A file that a pattern matched is not standard input
        found += ["./-" if str(file) == "-" else str(file) for file in files]
    if others:
        on_others(sorted(map(str, others)))
    return found


def _audio_below(
    folder: Path,
    seen: set[tuple[int, int]],
    failures: dict[str, AudioError],
    others: list[Path],
) -> Iterator[Path]:
    """Yield the audio files below a folder, each folder searched once, however links lead to it."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        _refuse(folder, error, failures)
        return
    for entry in found:
        at = folder / entry.name
        try:
            is_folder = entry.is_dir()
        except OSError as error:  # such as a link to itself, which keeps none of the others back
            _refuse(at, error, failures)
            continue
        if is_folder:
            yield from _audio_below(at, seen, failures, others)
        elif at.suffix.lower() in SUFFIXES and _may_be_sound(at):
            yield at
        elif _may_be_other_sound(at):
            others.append(at)


def _refuse(place: Path, error: OSError, failures: dict[str, AudioError]) -> None:
    """Record that a place cannot be searched."""
    reason = f"{place}: cannot be searched ({error.strerror or error})"
    failures[str(place)] = AudioError(reason)


def _may_be_sound(path: Path) -> bool:
    """Return whether a file of a folder is to be opened: a broken link is, a pipe is not."""
    with suppress(OSError):  # without permission to ask, opening it reports that
        return not path.exists() or (path.is_file() and not is_apple_double(path))
    return True


def _may_be_other_sound(path: Path) -> bool:
    """Tell whether a file of a folder is neither hidden nor known to be something else."""
    name = path.name.lower()
    if name.startswith(".") or name in _KNOWN_NAMES or path.suffix.lower() in _OTHER_SUFFIXES:
        return False
    with suppress(OSError):
        return path.is_file() and path.stat().st_size > 0
    return False


def is_apple_double(path: Path) -> bool:
    """Return whether a file is macOS's AppleDouble, by its name and its first bytes."""
    with suppress(OSError):
        if path.name.startswith("._") and path.is_file():
            with path.open("rb") as file:
                return file.read(len(_APPLE_DOUBLE)) == _APPLE_DOUBLE
    return False
