"""Journals: segments written to disk as they are decoded, so that an interrupted run loses nothing.

`.NAME.journal.jsonl` is a hidden file in the output folder, locked by the process that writes it.
Its first line is a `Header`, and every segment adds a `Line` as soon as it is decoded. The file is
removed when the outputs are complete. An interrupted transcription can be continued after the last
segment in its journal (see kept.py).
"""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import msgspec
from msgspec import Meta

from ..decode import Count, Sha256, decode
from ..errors import StorageError
from ..files import atomic_write, fitted_name, open_locked
from ..limits import JOURNAL, MB
from ..manifest import Manifest, TokenId, Tokens
from .grid import EncoderGrid
from .kept import NOTHING, keep
from .text.segments import Grouper, Segment
from .tokens import Token

# Names, for messages, of options in a header that are not spelt as the user's
SHOWN = {
    "encoder_call": "kind of device",  # to which the grid of encoder calls belongs
    "split": "decoding in pieces (--batch-size, --no-split)",
}
SUFFIX, SET_ASIDE = ".journal.jsonl", ".journal.old.jsonl"


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a journal: the recording, the model and the options."""

    journal: Literal[1]  # the format's version
    input: str
    size: Count | None  # of the recording, in bytes; None if it is no file, such as a pipe
    sha256: Sha256 | None  # of its first and last MiB; None as above
    model: Sha256  # `LoadedModel.identity`
    options: dict[str, Any]
    is_stream: bool = False  # a live stream, whose audio is not kept

    def differences(self, other: Header) -> list[str]:
        """Return the names of what differs from another header, so that a run cannot continue."""
        names = {*self.options, *other.options}
        found = [
            SHOWN.get(name, name)
            for name in sorted(names)
            if self.options.get(name) != other.options.get(name)
        ]
        if self.size is None or (self.size, self.sha256) != (other.size, other.sha256):
            found.insert(0, "recording")
        if self.model != other.model and not found:
            found.append("model")
        return found


@dataclass(frozen=True, slots=True)
class Line:
    """A segment, with the ids of all tokens since the previous one, blanks included."""

    segment: Segment
    token_ids: Annotated[tuple[TokenId, ...], Meta(max_length=1 << 24)]
    # Where a later run has continued after this segment, in seconds
    resumed_at: float | None = None


class Journal:
    """The journal of one recording; nothing is written if it has no path."""

    def __init__(self, path: Path | None = None, handle: int = -1, tokens: Tokens | None = None):
        """Take over an open and locked file; called by `open_journal` and `claim_journal`.

        Args:
            path: of the file; None for a journal that writes nothing.
            handle: the file's descriptor.
            tokens: ids of the model's special tokens; `push` needs them.
        """
        self.path, self.kept, self.is_empty = path, NOTHING, False
        self.end = 0.0  # of the last segment in it, in seconds
        self.handle, self._token_ids = handle, list[int]()
        self._grouper = Grouper(tokens) if tokens else None

    def begin(self, header: Header) -> None:
        """Write the header, and remove everything else from the file."""
        os.ftruncate(self.handle, 0)
        os.lseek(self.handle, 0, os.SEEK_SET)
        self.is_empty = True
        self._append(header)

    def go_on(self, content: bytes, header: Header, manifest: Manifest, grid: EncoderGrid) -> None:
        """Keep the segments in the file, and write new ones after them.

        Args:
            content: of the file.
            header: of the run that continues; it must equal the file's.
            manifest: of the model.
            grid: of the encoder's calls.

        Raises:
            StorageError: the journal is damaged, or its header differs.
        """
        # Compare the headers
        assert self.path is not None
        found, lines = read_journal(self.path, content)
        if differing := found.differences(header):
            raise StorageError(
                f"cannot go on, because the {' and the '.join(differing)} differs from what "
                f"{self.path} was written with; take the same, or leave out --resume to begin again"
            )
        if not lines:
            self.begin(header)
            return

        # Take over the segments
        ids = [token_id for line in lines for token_id in line.token_ids]
        before = [line.resumed_at for line in lines if line.resumed_at is not None]
        self.kept = keep(manifest, grid, [line.segment for line in lines], ids, before)
        self._grouper = self.kept.grouper(manifest.tokens)

        # Write the last line again, with the time at which this run continues
        whole = content[: content.rindex(b"\n") + 1].splitlines(keepends=True)
        size = sum(map(len, whole[:-1]))
        os.ftruncate(self.handle, size)
        os.lseek(self.handle, size, os.SEEK_SET)
        self._append(replace(lines[-1], resumed_at=self.kept.start))
        self.end = lines[-1].segment.end

    def push(self, token: Token) -> None:
        """Take the next token of the recording; if it closes a segment, write that.

        Raises:
            StorageError: the file cannot be written.
        """
        if self.path is None:
            return
        assert self._grouper is not None
        self._token_ids.append(token.token_id)
        if segment := self._grouper.push(token):
            self.add(segment)

    def add(self, segment: Segment) -> None:
        """Write a segment, with the ids of the tokens that were pushed since the previous one."""
        if self.path is not None:
            token_ids, self._token_ids = tuple(self._token_ids), []
            self._append(Line(segment, token_ids))
            self.is_empty, self.end = False, segment.end

    def close(self) -> None:
        """Close and unlock the file, and remove it if it has no segments."""
        if self.handle >= 0:
            if self.is_empty:
                self._unlink()
            os.close(self.handle)
            self.handle = -1

    def remove(self) -> None:
        """Remove the file, when the outputs are complete."""
        self.is_empty = True
        if self.path is not None:
            with suppress(OSError):
                _set_aside_path(self.path).unlink(missing_ok=True)
        self.close()

    def _unlink(self) -> None:
        if self.path is not None:
            with suppress(OSError):  # Windows removes no open file; an empty one does no harm
                self.path.unlink(missing_ok=True)

    def _append(self, value: Header | Line) -> None:
        content = memoryview(msgspec.json.encode(value) + b"\n")
        try:
            while content:
                content = content[os.write(self.handle, content) :]
        except OSError as error:
            raise StorageError(
                f"{self.path}: cannot be written ({error.strerror or error})"
            ) from error


def journal_path(folder: Path, name: str) -> Path:
    """Return the path of the journal for output files of this name."""
    return folder / f".{fitted_name(name, 1 + len(SET_ASIDE))}{SUFFIX}"


def open_journal(
    path: Path,
    manifest: Manifest,
    grid: EncoderGrid,
    header: Header,
    *,
    resume: bool,
    say: Callable[[str], None],
) -> Journal:
    """Open and lock the journal of a recording that is about to be transcribed.

    Args:
        path: of the journal.
        manifest: of the model.
        grid: of the encoder's calls.
        header: for the journal.
        resume: continue a journal that is there; otherwise it is renamed.
        say: called with a sentence for the user about a journal that is there.

    Raises:
        StorageError: another process has locked it, it cannot be written, or it cannot be continued
            because it is damaged or has another header.
    """
    handle = open_locked(path, "another process writes its outputs; choose another folder")
    journal = Journal(path, handle, manifest.tokens)
    try:
        content = _read(journal)
        if content.count(b"\n") < 2:  # nothing was decoded
            journal.begin(header)
        elif resume:
            journal.go_on(content, header, manifest, grid)
            say(f"goes on at {journal.kept.start:.1f} s")
        else:
            old = _set_aside_path(path)
            atomic_write(old, content)
            journal.begin(header)
            say(f"was interrupted, and begins again without --resume; its journal is now {old}")
    except BaseException:
        journal.close()
        raise
    return journal


def claim_journal(
    folder: Path,
    name: str,
    header: Header,
    is_taken: Callable[[str], bool],
    say: Callable[[str], None],
    tokens: Tokens | None = None,
) -> tuple[str, Journal]:
    """Choose a free name for a live stream's outputs, and open and lock its journal.

    Args:
        folder: of the outputs.
        name: the first that is tried, before `name-2`, `name-3` and so on.
        header: for the journal.
        is_taken: returns whether output files of a name exist.
        say: called with sentences for the user about names that are not free.
        tokens: ids of the model's special tokens.

    Returns:
        the name and the journal.

    Raises:
        StorageError: the journal cannot be written.
    """
    for number in itertools.count(1):
        free = name if number == 1 else f"{name}-{number}"
        if is_taken(free):
            continue
        journal = _locked_journal(journal_path(folder, free), tokens)
        if journal is None:
            continue
        journal.is_empty = _read(journal).count(b"\n") < 2
        if journal.is_empty and not is_taken(free):  # asked again, now that it is locked
            journal.begin(header)
            if free != name:
                say(f"note: {folder} holds {name} already: this one is {free}.*")
            return free, journal
        journal.close()
        if not journal.is_empty:
            say(
                f"note: {journal.path} holds an interrupted stream; to write its text, run: "
                f"voxtral-onnx listen --resume -o {folder}"
            )
    raise AssertionError("numbers do not end")


def leftover_journals(folder: Path) -> Iterator[tuple[str, Journal, list[Segment]]]:
    """Yield the name, the locked journal and the segments of each interrupted live stream.

    A journal is closed when the next one is asked for.

    Raises:
        StorageError: a journal is damaged.
    """
    for path in sorted(folder.glob(f".*{SUFFIX}")):
        if (journal := _locked_journal(path)) is None:
            continue  # another process writes it
        try:
            content = _read(journal)
            journal.is_empty = content.count(b"\n") < 2
            if not journal.is_empty:
                header, lines = read_journal(path, content)
                if header.is_stream:
                    name = path.name.removeprefix(".").removesuffix(SUFFIX)
                    yield name, journal, [line.segment for line in lines]
        finally:
            journal.close()


def _locked_journal(path: Path, tokens: Tokens | None = None) -> Journal | None:
    """Return a journal, open and locked; None if another process has locked it."""
    try:
        return Journal(path, open_locked(path, ""), tokens)
    except StorageError as error:
        if str(error):
            raise
        return None


def read_journal(path: Path, content: bytes) -> tuple[Header, list[Line]]:
    """Return the header and the lines of a journal; a last line without its end is ignored.

    Raises:
        StorageError: the journal is damaged in any other way.
    """
    number = 0

    def fail(reason: str) -> NoReturn:
        raise StorageError(
            f"{path}: line {number} is damaged ({reason}); remove the file to begin again"
        )

    def damaged(reason: str) -> StorageError:
        fail(reason)

    first, *rest = content[: content.rindex(b"\n")].split(b"\n")
    number, header, lines, ended = 1, decode(Header, first, damaged), list[Line](), 0.0
    for number, row in enumerate(rest, 2):  # noqa: B007, `fail` reads it
        line = decode(Line, row, damaged)
        if line.segment.id != len(lines) or not ended <= line.segment.start < line.segment.end:
            fail("its segment does not follow from the line before")
        ended = line.segment.end
        lines.append(line)
    return header, lines


def fingerprint(path: Path) -> tuple[int | None, str | None]:
    """Return a file's size in bytes and the sha256 of its first and last MiB; None for no file."""
    try:
        if path == Path("-") or not stat.S_ISREG(path.stat().st_mode):
            return None, None
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(MB))
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MB))
            digest.update(file.read(MB))
        return size, digest.hexdigest()
    except OSError:
        return None, None


def _read(journal: Journal) -> bytes:
    size = os.fstat(journal.handle).st_size
    if size > JOURNAL:
        raise StorageError(f"{journal.path}: expected at most {JOURNAL:,} bytes; remove the file")
    os.lseek(journal.handle, 0, os.SEEK_SET)
    content = b""
    while piece := os.read(journal.handle, size + 1):
        content += piece
    return content


def _set_aside_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(SUFFIX) + SET_ASIDE)
