"""Hotwords: words that a user expects, whose tokens are made likelier."""

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

# Added to a logit; with more, words that were not said outnumber those found (bench/hotwords.py)
DEFAULT_BIAS = 4.0
# More than 20 exceeds the difference of any two words' logits, so that only hotwords are written
BIAS = number(0, 20, " logits")
# Share of the bias that a hotword's first token gets, because many other words begin with it
START_SHARE = 0.5
ROOT = 0  # node of the tree of tokens


class Hotwords:
    """A prefix tree of the token ids of words and phrases.

    Every word is in it with and without a space before it, as given and with a capital letter, and
    every phrase with and without a [STREAMING_WORD] between its words.
    """

    def __init__(
        self, words: Iterable[str], tokenizer: Tokenizer, ids: Tokens, bias: float = DEFAULT_BIAS
    ):
        """Encode words.

        Args:
            words: words or phrases; blank ones and repetitions are left out.
            tokenizer: of the model.
            ids: of the special tokens.
            bias: added to the logits of tokens that continue a hotword, 0 to 20.

        Raises:
            UsageError: there are no words, one is too long or cannot be encoded, or the bias is out
                of range.
        """
        self.bias, self.ids = np.float32(BIAS.check("hotword_bias", bias)), ids
        self.words = list(dict.fromkeys(" ".join(word.split()) for word in words if word.strip()))
        if not self.words:
            raise UsageError("hotwords: none given; write one word or phrase a line")
        check_lengths(self.words)
        # The tree: the child of a node by token id, and the ids of text tokens that a node has
        self._nodes: dict[tuple[int, int], int] = {}
        self._following = defaultdict[int, list[int]](list)
        self.longest = 1  # how many of the last tokens can be the beginning of a hotword
        encoder = TextEncoder(tokenizer)
        for word in self.words:
            for sequence in self._sequences(word, encoder):
                self._add(sequence)
        starts = sorted(self._following[ROOT])
        spaced = [i for i in starts if tokenizer.bytes_of(i).startswith(b" ")]
        # True: at the start of a segment; False: inside it
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
        """Return the ids of tokens that may begin a hotword after these tokens, int [n].

        Inside a segment these are only tokens with a space before the word.
        """
        return self._starts[not recent or recent[-1] == self.ids.streaming_word]

    def continuations(self, recent: Sequence[int]) -> np.ndarray:
        """Return the ids of tokens that continue a hotword begun by the last tokens, int [n]."""
        found: set[int] = set()
        for length in range(1, min(self.longest, len(recent)) + 1):
            node: int | None = ROOT
            for token_id in recent[-length:]:
                if (node := self._nodes.get((node, token_id))) is None:
                    break
            else:
                found.update(self._following.get(node, ()))
        return np.array(sorted(found), int)


def hotword_tree(
    words: Iterable[str], tokenizer: Tokenizer, ids: Tokens, bias: float = DEFAULT_BIAS
) -> Hotwords | None:
    """Return the tree of words as `Hotwords` makes it; None if there are none.

    Raises:
        UsageError: as `Hotwords`, or there are too many.
    """
    words = list(words)
    check_lengths(words)
    return Hotwords(words, tokenizer, ids, bias) if words else None


def check_lengths(words: Iterable[str]) -> None:
    """Refuse hotwords that are too long for words or phrases, and too many of them.

    Raises:
        UsageError: one is too long, or all together are.
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
    """Return the words and phrases of a UTF-8 file, which has one on each line.

    Raises:
        UsageError: the file cannot be read, is too large, or has no words.
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
