"""Inputs that are almost right: a good one, changed as damage, malice and other programs change it.

A seed number makes each of them, so that a find is reproduced by its number alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from random import Random

MOST_BYTES = 8 << 20
DEEP = 50_000
HEAD = 1 << 16  # bytes in which values are looked for
_TOKEN = re.compile(rb'"(?:[^"\\\n]|\\.)*"|-?\d[\d.eE+-]*|[A-Za-z_][\w.]*|[][{}]')
_KEY = re.compile(rb'(?:"(?:[^"\\\n]|\\.)*"|[\w.-]+)\s*[:=]\s*\Z')
_EDGES = [0, 1, *((1 << bits) + by for bits in (7, 8, 15, 16, 31, 32, 53, 63) for by in (-1, 0, 1))]
_NUMBERS = [
    *(str(sign * edge) for edge in (*_EDGES, 10**9, 10**20) for sign in (1, -1)),
    *("-0.0", "0.5", "1e308", "1e400", "-1e400", "1e-400", "NaN", "Infinity", "1.0", "01", "1_0"),
    "9" * 5000,
]
_STRINGS = [
    *("", " ", ".", "..", "../x", "../secret", "a/../../secret", "/etc/passwd", "//h/s", "./a"),
    *("C:\\\\x", "a\\\\b", "a:b", "http:127.0.0.1:9?x.m4a", "call:1.m4a", "%2e%2e/x", "a?b#c"),
    *("a\\nb", "\\u0000", "\\u001b]52;c;eA==\\u0007", "\\u202e", "\\u0085", "\\ud800", "\x7f"),
    *("__proto__", "constructor", "tekken.json", "nan", "null", "0" * 64, "F" * 64, "é" * 200),
    *("<script>", "mit\\nbase_model: x", "[bold]", "%s{0}", "*", "x" * 1000, "x" * 100_000),
]
_VALUES = [
    *("null", "true", "false", "[]", "{}", '[[]]', '{"": null}', "[null]", '{"__proto__": {}}'),
    "[" * DEEP + "]" * DEEP,
    "[" * DEEP,
    '{"a":' * DEEP + "0" + "}" * DEEP,
    "[" + "0," * DEEP + "0]",
]  # fmt: skip

Span = tuple[int, int]
Change = Callable[[Random, bytes, Sequence[bytes]], bytes]


def mutant(seeds: Mapping[str, bytes], target: str, number: int) -> bytes:
    """Make the input of a number; the first are the seeds themselves."""
    contents = list(seeds.values())
    if number < len(contents):
        return contents[number]
    rng = Random(f"{target}:{number}")
    content = rng.choice(contents)
    for _ in range(1 + min(int(rng.expovariate(1.5)), 8)):
        structured = rng.random() < (0.8 if _is_text(content) else 0.2)
        content = rng.choice(_STRUCTURED if structured else _RAW)(rng, content, contents)
    return content[:MOST_BYTES]


def _is_text(content: bytes) -> bool:
    head = content[:1000]
    return b"\0" not in head and sum(byte < 9 or byte > 126 for byte in head) <= len(head) // 2


# Bytes, whatever they mean


def _place(rng: Random, content: bytes | bytearray) -> int:
    """Choose a place, more often one near the beginning, where headers are."""
    return int(len(content) * rng.random() ** rng.choice((1, 4)))


def _times(rng: Random, part: bytes) -> bytes:
    return part * min(rng.choice((1, 2, 2, 3, 1000)), 1 + MOST_BYTES // 8 // (len(part) or 1))


def _flip(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(rng.choice((1, 1, 4, 16))):
        changed[min(_place(rng, changed), len(changed) - 1)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    return content[: _place(rng, content)]


def _cut(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    start = _place(rng, content)
    return content[:start] + content[start + rng.choice((1, 4, 100)) :]


def _repeat(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    start = _place(rng, content)
    part = content[start : start + rng.choice((1, 8, 1000))]
    return content[:start] + _times(rng, part) + content[start + len(part) :]


def _insert(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    at = _place(rng, content)
    size = rng.choice((1, 2, 8, 1000))
    new = rng.choice((rng.randbytes(size), bytes(size), b"\xff" * size, b"\n" * size))
    return content[:at] + new + content[at:]


def _splice(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    other = rng.choice(seeds)
    return content[: _place(rng, content)] + other[_place(rng, other) :]


def _integer(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """Write an integer of a boundary, as binary headers hold sizes."""
    width = rng.choice((1, 2, 4, 8))
    at = _place(rng, content) // width * width
    value = rng.choice((*_EDGES, 10**9, (1 << 64) - 1, len(content), len(content) + 1))
    bits = (value * rng.choice((1, 1, -1))) % (1 << 8 * width)
    return (
        content[:at]
        + bits.to_bytes(width, rng.choice(("little", "little", "big")))
        + (content[at + width :])
    )


def _noise(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    return rng.choice((b"", rng.randbytes(rng.choice((1, 10, 1000))), bytes(1000)))


# Words, numbers, strings and brackets: JSON, TOML, and what else is written in them


@lru_cache(maxsize=8)
def _spans(content: bytes) -> list[Span]:
    """Find the values at the beginning of a text: scalars, and containers between brackets."""
    spans, opened = [], []
    for token in _TOKEN.finditer(content, 0, HEAD):
        sign = token[0]
        if sign in b"[{":
            opened.append(token.start())
        elif sign in b"]}":
            spans += [(opened.pop(), token.end())] if opened else []
        else:
            spans.append(token.span())
    return spans or [(0, len(content))]


def _member(content: bytes, span: Span) -> Span:
    """Return a value with the key before it, where it has one."""
    key = _KEY.search(content, max(0, span[0] - 300), span[0])
    return (key.start(), span[1]) if key else span


def _number_like(rng: Random, old: bytes) -> str:
    try:
        number = int(old[:300])
    except ValueError:
        return rng.choice(_NUMBERS)
    near = (number + 1, number - 1, 2 * number, 1000 * number, -number, number // 2)
    same_width = rng.randrange(10 ** len(old[:300]))
    return str(rng.choice((*near, f"{same_width:0{len(old[:300])}}", rng.choice(_NUMBERS))))


def _replace(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """Give a value another value, of the same type or of another."""
    spans = _spans(content)
    start, end = rng.choice(spans)
    old = content[start:end]
    kind = rng.random()
    if kind < 0.4 and old[:1] == b'"':
        new = f'"{rng.choice(_STRINGS)}"'.encode()
    elif kind < 0.4:
        new = _number_like(rng, old).encode()
    elif kind < 0.6:
        again = rng.choice(spans)
        new = content[slice(*again)]
    elif kind < 0.7:
        new = rng.choice((b"[" + old + b"]", b'{"a": ' + old + b"}", b'"' + old.strip(b'"') + b'"'))
    else:
        string = f'"{rng.choice(_STRINGS)}"'
        new = rng.choice((rng.choice(_VALUES), rng.choice(_NUMBERS), string)).encode()
    return content[:start] + new + content[end:]


def _delete(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    start, end = _member(content, rng.choice(_spans(content)))
    before, after = content[:start], content[end:]
    if after.lstrip().startswith(b","):
        return before + after.lstrip()[1:]
    return before.rstrip().removesuffix(b",") + after


def _duplicate(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """Repeat an element, or a member under the same key or another."""
    start, end = _member(content, rng.choice(_spans(content)))
    part = content[start:end]
    if rng.random() < 0.5:
        other = f'"{rng.choice(_STRINGS)}"'.encode()
        part = re.sub(rb'\A"[^"\\]*"', lambda key: other, part)
    return content[:end] + _times(rng, b", " + part) + content[end:]


def _swap(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    (a, b), (c, d) = sorted(rng.choice(_spans(content)) for _ in range(2))
    if b > c:
        return content
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def _line(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """Delete, repeat, move or lengthen a line."""
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    line = lines.pop(at)
    changed = rng.choice(([], [_times(rng, line + b"\n")], [_times(rng, line)], [line + b"\t\0x"]))
    return b"\n".join([*lines[:at], *changed, *lines[at:]]) if len(lines) < 100_000 else content


_RAW: tuple[Change, ...] = (
    *(_flip, _flip, _truncate, _cut, _repeat, _insert, _splice, _integer, _integer),
    *(_noise,),
)
_STRUCTURED: tuple[Change, ...] = (
    *(_replace, _replace, _replace, _replace, _delete, _duplicate, _swap, _line),
)
