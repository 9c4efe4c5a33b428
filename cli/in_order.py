"""Show the texts of several files on stdout in the files' order, whichever of them comes first."""

from __future__ import annotations

from dataclasses import dataclass, field

from .screen import LiveScreen


@dataclass
class _Text:
    """The text of one file that is not shown yet."""

    heading: str = ""
    words: list[str] = field(default_factory=list)
    are_words: bool = False  # shown as they come, on a line of their own
    ending: str | None = None  # last words, or whole lines; None while there is more to come


class TextsInOrder:
    """Texts of files that are numbered from 1; the words of the file whose turn it is come at once.

    What comes of later files waits until every earlier one has ended.
    """

    def __init__(self, screen: LiveScreen, *, are_spaced: bool):
        """Begin with the first file; `are_spaced` puts an empty line between two texts."""
        self._screen, self._are_spaced = screen, are_spaced
        self._turn, self._texts, self._is_sent = 1, dict[int, _Text](), False

    def begin(self, number: int, heading: str) -> None:
        """Begin a file whose words come as they are decoded."""
        self._texts[number] = _Text(heading, are_words=True)
        self._go_on()

    def show(self, number: int, words: str) -> None:
        """Append words to a file that has begun."""
        if words:
            self._texts[number].words.append(words)
            self._go_on()

    def end(self, number: int, text: str = "") -> None:
        """End a file: with its last words if it has begun, else with lines, which are its text."""
        self._texts.setdefault(number, _Text()).ending = text
        self._go_on()

    def has_ended(self, number: int) -> bool:
        """Return whether a file has ended; its text may still wait for its turn."""
        text = self._texts.get(number)
        return number < self._turn if text is None else text.ending is not None

    def close(self) -> None:
        """Show what is left: the words of the file whose turn it is, and later texts that ended."""
        if text := self._texts.get(self._turn):
            text.ending = text.ending or ""
        self._texts = {n: text for n, text in self._texts.items() if text.ending is not None}
        while self._texts:
            self._turn = min(self._texts)
            self._go_on()

    def _go_on(self) -> None:
        while text := self._texts.get(self._turn):
            if text.are_words:
                heading, words = text.heading, "".join(text.words)
                text.heading, text.words = "", []
                self._send(heading)
                self._screen.show(words)
            if text.ending is None:
                return
            if text.are_words:
                self._screen.end(text.ending)
            else:
                self._send(text.ending)
            del self._texts[self._turn]
            self._turn += 1

    def _send(self, text: str) -> None:
        if not text:
            return
        self._screen.write("\n" * (self._are_spaced and self._is_sent) + text)
        self._is_sent = True
