"""Text of strangers: what terminals, lines and Markdown make of it."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from pathlib import PurePosixPath

import pytest
from markdown_it import MarkdownIt

from voxtral_onnx.escaping import code, described, markdown, one_line, printable, quoted

CLIPBOARD = "\x1b]52;c;ZXZpbA==\x07"
HOSTILE = (
    "<script>alert(1)</script>",
    "# heading",
    "text\n# heading\n\n- item\n",
    "===",
    "---",
    "1. item",
    "2) item",
    "+ item",
    "    code",
    "[link](https://evil.example)",
    "![image](https://evil.example/a.png)",
    "<https://evil.example>",
    "https://evil.example www.evil.example someone@evil.example",
    "`code` ``code``",
    "a | b | c",
    "__a__ (_b_) _",
    "*a* _b_ ~~c~~ $d$ &amp; \\",
    "```\nfence",
    "[^1]: note",
    CLIPBOARD,
)


def test_exactly_control_characters_are_written_out():
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    hidden = {chr(int(escape, 16)) for escape in re.findall(r"\\u(.{4})", printable(everything))}
    controls = {c for c in everything if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
    turning = {c for c in everything if unicodedata.bidirectional(c)[-1:] in ("E", "O", "F", "I")}
    embeds = {c for c in turning if unicodedata.category(c) == "Cf"}
    assert hidden == (controls | embeds) - {"\n", "\t"}
    assert one_line("a\nb\tc") == "a\\nb\tc"


def test_escapes_are_those_of_json():
    values = {"\u202e": CLIPBOARD + "\x9b2J\x7f\u2028 naïve é 日本"}
    for text in (json.dumps(values), json.dumps(values, ensure_ascii=False)):
        assert json.loads(printable(text)) == values
    assert printable(CLIPBOARD) == "\\u001b]52;c;ZXZpbA==\\u0007"
    assert printable(printable(CLIPBOARD)) == printable(CLIPBOARD)


def test_names_that_are_no_text_are_written_out():
    name = b"caf\xe9.wav".decode("utf-8", "surrogateescape")
    assert printable(name) == "caf\\udce9.wav"  # of which JSON is still JSON
    assert one_line(name) == "caf\\xe9.wav"
    ours = "日本\x9b".encode().decode("ascii", "surrogateescape")  # where the locale is C
    assert one_line(ours) == "日本\\u009b"


def parse(text: str):
    parser = MarkdownIt("js-default", {"html": True})
    return parser.parse(text)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("around", ["{}", "Before {} after.", "> {}"])
def test_markdown_shows_text_and_nothing_else(text, around):
    expected = [token.type for token in parse(around.format("word"))]
    found = parse(around.format(markdown(text)))
    assert [token.type for token in found] == expected
    (inline,) = [token for token in found if token.type == "inline"]
    assert {child.type for child in inline.children or ()} <= {"text", "text_special"}
    shown = "".join(child.content for child in inline.children or ())
    assert shown == around.removeprefix("> ").format(one_line(text).strip()).strip()


@pytest.mark.parametrize("text", HOSTILE)
def test_code_shows_text_and_nothing_else(text):
    found = parse(f"| a | b |\n| - | - |\n| {code(text)} | b |\n")
    cells = [token for token in found if token.type == "inline"][2:]
    assert len(cells) == 2
    (span,) = cells[0].children or []
    assert (span.type, span.content) == ("code_inline", one_line(text).strip())


@pytest.mark.parametrize("text", ["https://a.example", "ftp://a.example", "www.a.example", "a@b.c"])
def test_addresses_become_no_links(text):
    assert "\\" in markdown(text).replace(r"\\", "")


def test_a_plain_sentence_stays_as_it_is():
    sentence = (
        'for tests; it knows 60 words, "no more" (2026). Nothing else: no speech-to-text 0.2.0'
    )
    assert markdown(sentence) == sentence


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("gpu", "'gpu'"),
        ("a\nb\x1b\u202e", r"'a\nb\x1b\u202e'"),
        (7, "7"),
        (True, "True"),
        (None, "None"),
        (float("nan"), "nan"),
        (PurePosixPath("a b"), "'a b'"),
        (b"secret", "bytes"),
        (["secret"], "list"),
        (10**5000, "a number of thousands of digits"),
        (PurePosixPath, "type"),
        (re.compile("secret"), "re.Pattern"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_quotations_of_values(value, text):
    assert quoted(value) == text
    assert described(value).endswith(text)
    assert value is None or type(value).__qualname__ in described(value)


@pytest.mark.parametrize(
    "value", ["x" * 500_000, "\x1b" * 500_000, "\ud800" * 80, 10**4000], ids=range(4)
)
def test_quotations_are_short(value):
    assert len(quoted(value)) < 100 and quoted(value).endswith("…")
