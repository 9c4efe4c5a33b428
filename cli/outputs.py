"""Formats, names and folder of transcripts: checked before the work, written after it."""

from __future__ import annotations

import os
import stat
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import StorageError, UsageError
from ..escaping import quoted, readable
from .terminal import info

STDIN = "stdin"  # name of the outputs of standard input
NOT_JOINED = ("srt", "vtt", "tsv", "lrc")  # formats that hold one recording only


@dataclass(frozen=True, slots=True)
class Outputs:
    """The formats of transcripts, and the folder that gets a file of each."""

    formats: tuple[str, ...]
    folder: Path | None = None  # None: the one format goes to stdout

    @classmethod
    def choose(cls, name: str, folder: Path | str | None) -> Outputs:
        """Return the outputs for the name of a format, or for `all`.

        Raises:
            UsageError: an unknown format, several without a folder, a file's name for a folder, or
                the address of a bucket.
        """
        from ..runtime.text.captions import FORMATS

        if isinstance(folder, str):
            raise UsageError(
                f"--output-dir {folder}: expected a folder; transcribe --engine ray "
                "writes to an address"
            )
        kind = folder.suffix.lower().removeprefix(".") if folder else ""
        if folder and kind in FORMATS and not folder.is_dir():
            raise UsageError(
                f"--output-dir {folder}: expected a folder, got the name of a file; files are "
                f"named after their recordings: -f {kind} -o FOLDER"
            )
        if name == "all":
            if folder is None:
                raise UsageError("--output-format all writes files: add --output-dir FOLDER")
            return cls(FORMATS, folder)
        if name not in FORMATS:
            raise UsageError(
                f"output format: expected one of {', '.join(FORMATS)}, all, got {quoted(name)}"
            )
        return cls((name,), folder)

    @property
    def shown(self) -> str:
        """Return the format that stdout gets."""
        return "txt" if self.folder else self.formats[0]

    @property
    def shows_words(self) -> bool:
        """Return whether stdout gets words as they are decoded; if not, the whole at the end."""
        return self.shown == "txt"

    @contextmanager
    def made_folder(self) -> Iterator[None]:
        """Make the output folder, if one is named; if nothing is written there, remove it again.

        Raises:
            StorageError: it cannot be made.
        """
        if self.folder is None:
            yield
            return
        try:
            made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{self.folder}: cannot be made ({error.strerror or error})"
            ) from error
        try:
            yield
        finally:
            with suppress(OSError):  # one that holds something stays
                for path in made:
                    path.rmdir()

    def name(self, audio: list[str]) -> list[str]:
        """Return the name of each recording's outputs, without a format's suffix.

        It is the recording's name without its suffix. Recordings whose names would then be the
        same on some file system keep their suffixes; where these are the same too, both names get
        a checksum of their paths. Names that are too long are shortened.

        Raises:
            UsageError: a recording is named twice or would be replaced by an output, or standard
                output would get several recordings in a format that holds one.
        """
        if self.folder is None:
            if len(audio) > 1 and self.shown in NOT_JOINED:
                raise UsageError(
                    f"{self.shown} on standard output holds one recording, not {len(audio)}: "
                    "add --output-dir FOLDER"
                )
            return [_stem(path) for path in audio]
        from ..files import fitted_name

        longest = max(len(f".{kind}") for kind in self.formats)
        names = [fitted_name(name, longest) for name in _distinct(audio)]
        for path, name in zip(audio, names, strict=True):
            if name not in (Path(path).stem, STDIN):
                info(f"note: {path} is written as {name}.*")
        inputs = {_identity(Path(path)): path for path in audio if path != "-"}
        for path in (path for name in names for path in self.paths(name)):
            if (output := _identity(path)) and (recording := inputs.get(output)):
                raise UsageError(
                    f"{recording}: would be replaced by an output, {path}: choose another folder"
                )
        return names

    def paths(self, name: str) -> list[Path]:
        """Return the output files of a name, one per format; none without a folder."""
        return [self.folder / f"{name}.{kind}" for kind in self.formats] if self.folder else []

    def describe(self, name: str, texts: dict[str, str]) -> Iterator[str]:
        """Yield the beginning of a line on each output file: its path, and how many subtitles.

        Text in subtitles has no arrow: both formats escape it.
        """
        for path, kind in zip(self.paths(name), self.formats, strict=False):
            count = texts[kind].count(" --> ")
            of = f"{count} subtitle{'s' * (count != 1)}, " if kind in ("srt", "vtt") else ""
            yield f"{path}: {of}"

    def are_written(self, name: str) -> bool:
        """Return whether the output files of all formats exist."""
        return all(path.is_file() for path in self.paths(name))

    def is_taken(self, name: str) -> bool:
        """Return whether an output file of any format exists."""
        from ..runtime.text.captions import FORMATS

        return any(path.exists() for path in Outputs(FORMATS, self.folder).paths(name))

    def require_places(self, name: str) -> None:
        """Refuse a name whose outputs cannot be written, before the work.

        Raises:
            StorageError: a folder stands where an output file would.
        """
        for path in self.paths(name):
            if path.is_dir():
                raise StorageError(f"{path}: cannot be written (Is a directory)")

    def write(self, name: str, texts: dict[str, str]) -> None:
        """Write each format's text into the folder; each file is written whole or not at all.

        Raises:
            StorageError: the disk is full, or the folder cannot be written.
        """
        from ..files import atomic_write

        if self.folder is not None:
            for kind, text in texts.items():
                atomic_write(self.folder / f"{name}.{kind}", text.encode())


def is_stream(path: str) -> bool:
    """Return whether a recording can be read only once: standard input, a pipe or a device."""
    if path == "-":
        return True
    with suppress(OSError, ValueError):
        mode = Path(path).stat().st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


def shown_name(path: str) -> str:
    """Return a recording's path as text, in which bytes that are not UTF-8 are escaped."""
    return readable(path)


def _distinct(audio: list[str]) -> list[str]:
    """Return output names of which no two differ only in case or Unicode composition."""
    names = [_stem(path) for path in audio]
    while True:
        counts = Counter(map(_folded, names))
        clashes = [i for i, name in enumerate(names) if counts[_folded(name)] > 1]
        if not clashes:
            break
        files = [i for i in clashes if audio[i] != "-"]
        longer = {
            i: name
            for i in files
            if names[i] == _stem(audio[i]) and (name := Path(audio[i]).name) != names[i]
        }
        if not longer:  # in other folders, or in other case: paths tell them apart
            longer = {i: f"{names[i]}.{zlib.crc32(os.fsencode(audio[i])):08x}" for i in files}
            if len({os.fsencode(audio[i]) for i in clashes}) < len(clashes):
                raise UsageError(f"{audio[clashes[0]]}: is named twice, and can be written once")
        for i, name in longer.items():
            names[i] = name
    return names


def _stem(path: str) -> str:
    return STDIN if path == "-" else Path(path).stem


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _identity(path: Path) -> tuple[int, int] | None:
    """Return a file's device and inode, the same for all its names; None if there is none."""
    with suppress(OSError, ValueError):
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            return status.st_dev, status.st_ino
    return None
