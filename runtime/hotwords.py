"""Words that a user expects, as tokens to be made likelier."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from .. import limits
from ..arguments import number
from ..decode import read_within
from ..errors import UsageError
from ..manifest import Tokens
from .text.bpe import TextEncoder
from .text.tokenizer import Tokenizer

DEFAULT_BIAS = 4.0  # of a logit; more invents more than it finds (bench/hotwords.py)
# Beyond 20 it separates any two words, so that hotwords would be all there is
BIAS = number(0, 20, " logits")
# Of the bias for a hotword's first token, which any similar sound would begin with
START_SHARE = 0.5
ROOT = 0  # of the tree of tokens


class Hotwords:
    """Words and phrases as token ids: what may begin one, and what continues one that was begun.

    A word is expected with the space before it and without, as it is given and with a capital; a
    phrase with a [STREAMING_WORD] between its words, and without.
    """

    def __init__(
        self, words: Iterable[str], tokenizer: Tokenizer, ids: Tokens, bias: float = DEFAULT_BIAS
    ):
        """Encode words.

        Raises:
            UsageError: none, one that is too long or that the tokenizer cannot write, or a bias
                out of range.
        """
        self.bias, self.ids = np.float32(BIAS.check("hotword_bias", bias)), ids
        self.words = list(dict.fromkeys(" ".join(word.split()) for word in words if word.strip()))
        if not self.words:
            raise UsageError("hotwords: none given; write one word or phrase a line")
        check_lengths(self.words)
        # A tree of tokens: the node behind a node and a token, and the text that goes on at a node
        self._nodes: dict[tuple[int, int], int] = {}
        self._following = defaultdict[int, list[int]](list)
        self.longest = 1  # tokens that a decision depends on
        encoder = TextEncoder(tokenizer)
        for word in self.words:
            for sequence in self._sequences(word, encoder):
                self._add(sequence)
        starts = sorted(self._following[ROOT])
        spaced = [i for i in starts if tokenizer.bytes_of(i).startswith(b" ")]
        # by: at the start of a word?
        self._starts = {True: np.array(starts, int), False: np.array(spaced, int)}

    def _add(self, sequence: Sequence[int]) -> None:
        node = ROOT
        for token_id in sequence:
            if (node, token_id) not in self._nodes:
                self._nodes[node, token_id] = len(self._nodes) + 1
                if token_id >= self.ids.first_text:
                    self._following[node].append(token_id)
            node = self._nodes[node, token_id]
        self.longest = max(self.longest, len(sequence) - 1)

    def _sequences(self, phrase: str, encoder: TextEncoder) -> set[tuple[int, ...]]:
        first, *words = phrase.split(" ")
        rest, sequences = [encoder.encode(f" {word}") for word in words], set()
        for written in (first, first[0].upper() + first[1:]):
            for start in (f" {written}", written):
                begun = encoder.encode(start)
                for between in ((), (self.ids.streaming_word,)):
                    sequences.add((*begun, *(i for word in rest for i in (*between, *word))))
        return sequences

    def starts(self, recent: Sequence[int]) -> np.ndarray:
        """Ids that begin a hotword behind these tokens.

        Inside a segment only those with a space.
        """
        return self._starts[not recent or recent[-1] == self.ids.streaming_word]

    def continuations(self, recent: Sequence[int]) -> np.ndarray:
        """Ids that continue a hotword whose beginning the last tokens are."""
        found: set[int] = set()
        for length in range(1, min(self.longest, len(recent)) + 1):
            node: int | None = ROOT
            for token_id in recent[-length:]:
                if (node := self._nodes.get((node, token_id))) is None:
                    break
            else:
                found.update(self._following.get(node, ()))
        return np.array(sorted(found), int)


def check_lengths(words: Iterable[str]) -> None:
    """Refuse words or phrases that are none, and more than a list of them holds.

    Raises:
        UsageError: too long.
    """
    left = limits.HOTWORDS
    for word in words:
        if len(word) > limits.LONGEST_HOTWORD:
            raise UsageError(
                f"hotwords: {word[:20]!r}…: expected at most {limits.LONGEST_HOTWORD} characters, "
                f"got {len(word)}; write one word or phrase a line"
            )
        left -= len(word.encode(errors="replace"))
        if left < 0:
            raise UsageError(
                f"hotwords: expected at most {limits.HOTWORDS:,} bytes in all, got more"
            )


def read_hotwords(path: Path) -> list[str]:
    """The words and phrases of a UTF-8 file, one a line.

    Raises:
        UsageError: unreadable, larger than a list of words, or nothing in it.
    """

    def refused(reason: str) -> UsageError:
        return UsageError(f"hotwords: {path}: {reason}")

    try:
        lines = read_within(path, limits.HOTWORDS, refused).decode("utf-8-sig").splitlines()
    except OSError as error:
        raise refused(f"cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise refused(f"expected UTF-8 text, one word or phrase a line ({error})") from error
    if not (words := [line.strip() for line in lines if line.strip()]):
        raise refused("holds no words; write one word or phrase a line")
    check_lengths(words)
    return words
