"""What transcripts are written as, and where: checked before the work, written after it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..errors import StorageError, UsageError
from ..escaping import quoted
from .terminal import info


@dataclass(frozen=True, slots=True)
class Outputs:
    """Formats of a transcript, and the folder that gets a file of each."""

    formats: tuple[str, ...]
    folder: Path | None = None  # None: the one format goes to stdout

    @classmethod
    def choose(cls, name: str, folder: Path | None) -> Outputs:
        """Return the format of this name, or all.

        Raises:
            UsageError: an unknown format, or several without a folder.
        """
        from ..runtime.text.captions import FORMATS

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
    def shows_words(self) -> bool:
        """Return whether stdout gets words as they come; else it gets the whole in its format."""
        return self.folder is not None or self.formats == ("txt",)

    def make_folder(self) -> None:
        """Make the folder, if there is one to make.

        Raises:
            StorageError: it cannot be made.
        """
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{self.folder}: cannot be made ({error.strerror or error})"
            ) from error

    def refuse_clashes(self, audio: list[str]) -> None:
        """Refuse recordings that would be written into the same file.

        Raises:
            UsageError: two of them have one name.
        """
        counts = Counter(map(output_name, audio))
        clashes = [name for name, count in counts.items() if count > 1]
        if self.folder is not None and clashes:
            name = f"{clashes[0]}.*"
            raise UsageError(
                f"several inputs would be written as {name}: transcribe them into different folders"
            )

    def leave_out_done(self, audio: list[str]) -> list[str]:
        """Return recordings of which the folder does not hold a file of each format.

        Raises:
            UsageError: there is no folder.
        """
        folder = self.folder
        if folder is None:
            raise UsageError(
                "--skip-existing looks for outputs in a folder: add --output-dir FOLDER"
            )

        def is_done(path: str) -> bool:
            name = output_name(path)
            return all((folder / f"{name}.{kind}").is_file() for kind in self.formats)

        left = [path for path in audio if not is_done(path)]
        done = len(audio) - len(left)
        info(f"{done} skipped, their output stands in {folder}; {len(left)} to do")
        return left

    def write(self, name: str, texts: dict[str, str]) -> None:
        """Write each format's text into the folder, whole or not at all."""
        from ..files import atomic_write

        if self.folder is not None:
            for kind, text in texts.items():
                atomic_write(self.folder / f"{name}.{kind}", text.encode())


def output_name(path: str) -> str:
    """Return the name of a recording's outputs, without their suffix."""
    return "stdin" if path == "-" else Path(path).stem
