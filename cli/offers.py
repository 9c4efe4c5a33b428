"""Offer the downloads of the released model where an export names no source, and remember which."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import typer
from msgspec import Struct

from ..config import RELEASED_NAME
from ..decode import decode, read_within
from ..errors import StorageError, UsageError, VoxtralOnnxError
from ..escaping import printable
from ..files import atomic_write, user_folder
from ..limits import STATE
from .exit_codes import INTERRUPTED
from .terminal import format_size, info, stderr, styled

NOTHING = "none"  # the answer that downloads nothing


@dataclass(frozen=True, slots=True)
class Offer:
    """A download of the released model."""

    name: str  # the answer that chooses it
    source: str  # as `export` takes it
    size: int  # bytes, shown where the repository cannot be asked
    files: tuple[str, ...]  # the large ones
    meaning: str

    @property
    def listed_size(self) -> int:
        """Return the bytes of the large files that the repository lists, or `size` without it."""
        from ..hub import find_repository, look_up

        repository = find_repository("/".join(self.source.split("/")[:2]))
        assert repository is not None
        try:
            files = look_up(repository).files
        except StorageError:
            return self.size
        return sum(files[name].size for name in self.files if name in files) or self.size


OFFERS = (
    Offer(
        "full",
        RELEASED_NAME,
        8_900_000_000,
        ("consolidated.safetensors",),
        "Mistral's weights in full, for any precision",
    ),
    Offer(
        "4-bit",
        "TrevorJS/voxtral-mini-realtime-gguf/voxtral-q4.gguf",
        2_500_000_000,
        ("voxtral-q4.gguf",),
        "already rounded to 4 bits (GGUF, Q4_0), kept bit by bit",
    ),
)


class _Choice(Struct):
    """The content of `download.json`."""

    download: str


def choose_source(*, yes: bool, asks: bool, offline: bool) -> str:
    """Return the source of an export that names none: as asked, as remembered, or the first offer.

    Args:
        yes: take the remembered or first offer without asking.
        asks: ask if something is to be downloaded; otherwise the offers are only printed.
        offline: do not ask the hub for sizes.

    Raises:
        UsageError: there is no terminal to ask on; the message has the commands to run.
        typer.Exit: the answer is to download nothing.
    """
    remembered = _recall()
    chosen = remembered or OFFERS[0]
    why = "as chosen before" if remembered else "the default"
    again = "to choose another, name it: voxtral-onnx export SOURCE"
    if yes or offline or (asks and _is_here(chosen)):
        info(f"source: {chosen.name}, {chosen.source}, {why}; {again}")
        return chosen.source
    lines = [
        f"{offer.name:5}  {format_size(offer.listed_size)}  {offer.meaning}" for offer in OFFERS
    ]
    if not asks:
        _print(lines)
        info(f"source: {chosen.name}, {why}; {again}")
        return chosen.source
    if not sys.stdin.isatty():
        commands = [f"  voxtral-onnx export --yes  # {chosen.name}, {why}"]
        for offer, line in zip(OFFERS, lines, strict=True):
            commands.append(f"  voxtral-onnx export {offer.source}  # {line}")
        raise UsageError(
            "nothing is downloaded without being asked for: name a folder, or run one of\n"
            + "\n".join(commands)
        )
    _print(lines)
    info("The artifact comes on top (--dry-run: how much). The answer is remembered.")
    return _ask(chosen).source


def _print(lines: list[str]) -> None:
    info("No source is named. The released model can be downloaded in two forms:")
    for offer, line in zip(OFFERS, lines, strict=True):
        info(f"  {line}")
        stderr.print(styled((f"         {offer.source}", "dim")))


def _ask(default: Offer) -> Offer:
    """Ask which download is wanted, and remember the answer.

    Raises:
        typer.Exit: none.
    """
    offers = {offer.name: offer for offer in OFFERS}
    numbers = {str(number): name for number, name in enumerate((*offers, NOTHING), 1)}
    question = f"Download {', '.join(offers)} or {NOTHING}?"
    answer = ""
    try:
        while answer not in (*offers, NOTHING):
            if answer:
                info(f"expected {', '.join(offers)} or {NOTHING}, got {printable(answer)}")
            answer = typer.prompt(question, default.name, err=True, prompt_suffix=" ").strip()
            answer = numbers.get(answer, answer)
    except typer.Abort:  # Ctrl-C or Ctrl-D, after which the line is not ended
        stderr.print()
        answer = NOTHING
    if answer == NOTHING:
        raise typer.Exit(INTERRUPTED)
    try:
        _remember(offers[answer])
    except StorageError as error:
        info(f"note: the answer is not remembered: {error}")
    return offers[answer]


def _is_here(offer: Offer) -> bool:
    """Return whether an offer's files were downloaded before; asks no hub."""
    from ..exporter.checkpoint.remote import find_remote

    try:
        remote = find_remote(offer.source, offline=True)
    except VoxtralOnnxError:
        return False
    return remote is not None and not remote.num_bytes


def _recall() -> Offer | None:
    try:
        content = read_within(_file(), STATE, ValueError)
        name = decode(_Choice, content, ValueError).download
    except (OSError, ValueError):
        return None
    return next((offer for offer in OFFERS if offer.name == name), None)


def _remember(offer: Offer) -> None:
    path = _file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path.parent}: cannot be made ({error.strerror or error})") from error
    atomic_write(path, json.dumps({"download": offer.name}).encode())


def _file() -> Path:
    return user_folder("state") / "download.json"
