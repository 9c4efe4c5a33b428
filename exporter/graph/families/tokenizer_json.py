"""Convert a Tekken tokenizer to `tokenizer.json`, which Hugging Face's libraries read.

Tekken merges the two neighbours whose joined bytes are the token of the lowest rank.
`tokenizer.json` lists every pair that may be merged, in the order of the tokens that result.
Reference: transformers' `MistralConverter`.
"""

from __future__ import annotations

import json
from typing import Any

from ....errors import CheckpointError
from ....tekken import Tekken


def tokenizer_json(tekken: Tekken) -> bytes:
    """Return the content of `tokenizer.json`.

    Raises:
        CheckpointError: the Tekken tokenizer lacks the pattern that splits text, or has two tokens
            of one name.
    """
    # Number the tokens, special ones first
    specials, tokens = tekken.names, tekken.pieces
    if tekken.config.pattern is None:
        raise CheckpointError(
            "tekken.json: no pattern that splits text; take the file that belongs to the checkpoint"
        )
    names = [_spell(token) for token in tokens]
    ids = {name: rank for rank, name in enumerate(names, len(specials))}
    ids |= {content: rank for rank, content in enumerate(specials)}
    if len(ids) != len(specials) + len(names):
        raise CheckpointError(
            "tekken.json: a special token has the name of a text token; take the file that belongs "
            "to the checkpoint"
        )

    # Describe the pipeline
    result = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": rank,
                "content": content,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for rank, content in enumerate(specials)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": tekken.config.pattern},
                    "behavior": "Isolated",
                    "invert": False,
                },
                _byte_level(),
            ],
        },
        "post_processor": _byte_level(add_prefix_space=True, trim_offsets=False, use_regex=True),
        "decoder": _byte_level(add_prefix_space=True, use_regex=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # a piece that is itself a token stays whole
            "vocab": ids,
            "merges": _merges(tokens),
        },
    }
    return json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode()


def _merges(tokens: list[bytes]) -> list[list[str]]:
    """Return the pairs of tokens that join to a token, by its rank, then by their own ranks."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    merges = []
    for token in tokens:
        splits = ((token[:at], token[at:]) for at in range(1, len(token)))
        pairs = sorted((ranks[a], ranks[b]) for a, b in splits if a in ranks and b in ranks)
        merges += [[_spell(tokens[a]), _spell(tokens[b])] for a, b in pairs]
    return merges


def _byte_level(**options: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
        **options,
    }


def _letters() -> list[str]:
    """Return a visible character for every byte.

    A byte that is visible in Latin-1 stands for itself; the others are numbered from U+0100 on.
    Source: GPT-2's `bytes_to_unicode`.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(256)]


_LETTERS = dict(enumerate(_letters()))


def _spell(token: bytes) -> str:
    return token.decode("latin-1").translate(_LETTERS)
