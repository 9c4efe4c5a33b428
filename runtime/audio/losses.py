"""Records of what could not be heard of a recording, and where."""

from __future__ import annotations

NAMED = 3  # places that are named; further ones are counted


class Losses:
    """A record of what could not be heard of a recording, filled while it is read."""

    def __init__(self):
        self.offset = 0.0  # seconds before the part that is read, which are added to places
        self._places: list[float] = []
        self._reason = ""
        self._seconds = 0.0
        self._sentences: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._places or self._sentences)

    def damage(self, at: float, reason: str, seconds: float = 0.0) -> None:
        """Record a damaged place, `at` seconds; places within a second of each other are one."""
        at += self.offset
        self._reason = self._reason or reason
        self._seconds += seconds
        if all(abs(at - place) >= 1 for place in self._places[-NAMED:]):
            self._places.append(at)

    def say(self, sentence: str) -> None:
        """Record another loss as a sentence; one that is recorded already is not repeated."""
        if sentence not in self._sentences:
            self._sentences.append(sentence)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Return what to tell a user; empty if nothing was lost."""
        if not self._places:
            return tuple(self._sentences)
        places = [f"{place:.1f} s" for place in sorted(self._places)]
        named, more = places[:NAMED], len(places) - NAMED
        at = ", ".join(named) + (f" and {more} other places" if more > 0 else "")
        lost = f", {self._seconds:.1f} s are lost" if self._seconds >= 0.05 else ""
        return (f"damaged at {at} ({self._reason}){lost}", *self._sentences)
