"""Words that a user expects, as tokens to be made likelier."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..errors import UsageError
from ..manifest import Tokens
from .text.bpe import TextEncoder
from .text.tokenizer import Tokenizer

DEFAULT_BIAS = 4.0  # of a logit; source: bench/hotwords.py
MAX_BIAS = 20.0  # beyond what separates any two words, so that hotwords would be all there is
# Of the bias for a hotword's first token, which any similar sound would begin with
START_SHARE = 0.5


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
            UsageError: none, one that the tokenizer cannot write, or a bias out of range.
        """
        if not 0 < bias <= MAX_BIAS:
            raise UsageError(
                f"hotword bias: expected more than 0 and at most {MAX_BIAS:.0f} "
                f"logits, got {bias:g}"
            )
        self.bias, self.ids = np.float32(bias), ids
        self.words = list(dict.fromkeys(" ".join(word.split()) for word in words if word.strip()))
        if not self.words:
            raise UsageError("hotwords: none given; write one word or phrase a line")
        encoder, following = TextEncoder(tokenizer), defaultdict[tuple[int, ...], set[int]](set)
        spaced: set[int] = set()
        for word in self.words:
            for sequence in self._sequences(word, encoder):
                if tokenizer.bytes_of(sequence[0]).startswith(b" "):
                    spaced.add(sequence[0])
                for length, token_id in enumerate(sequence):
                    if token_id >= ids.first_text:
                        following[sequence[:length]].add(token_id)
        self.longest = max(1, *map(len, following))  # tokens that a decision depends on
        self._following = {prefix: np.array(sorted(found)) for prefix, found in following.items()}
        # by: at the start of a word?
        self._starts = {True: self._following[()], False: np.array(sorted(spaced), int)}

    def _sequences(self, phrase: str, encoder: TextEncoder) -> set[tuple[int, ...]]:
        sequences = set()
        for written in (phrase, phrase[0].upper() + phrase[1:]):
            first, *rest = written.split(" ")
            for start in (f" {first}", first):
                for between in ([], [self.ids.streaming_word]):
                    tokens = encoder.encode(start)
                    for word in rest:
                        tokens += [*between, *encoder.encode(f" {word}")]
                    sequences.add(tuple(tokens))
        return sequences

    def starts(self, recent: Sequence[int]) -> np.ndarray:
        """Ids that begin a hotword behind these tokens.

        Inside a segment only those with a space.
        """
        return self._starts[not recent or recent[-1] == self.ids.streaming_word]

    def continuations(self, recent: Sequence[int]) -> np.ndarray:
        """Ids that continue a hotword whose beginning the last tokens are."""
        found = [
            self._following[prefix]
            for length in range(1, min(self.longest, len(recent)) + 1)
            if (prefix := tuple(recent[-length:])) in self._following
        ]
        return np.unique(np.concatenate(found)) if found else np.zeros(0, int)


def read_hotwords(path: Path) -> list[str]:
    """The words and phrases of a UTF-8 file, one a line.

    Raises:
        UsageError: unreadable, or nothing in it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"hotwords: {path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"hotwords: {path}: expected UTF-8 text, one word or phrase a line ({error})"
        ) from error
    if not (words := [line.strip() for line in lines if line.strip()]):
        raise UsageError(f"hotwords: {path}: holds no words; write one word or phrase a line")
    return words
