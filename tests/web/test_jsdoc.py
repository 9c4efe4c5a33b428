"""The comments of the page's functions: each has one, and it begins with a verb."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

WEB = Path(__file__).parents[2] / "web"
SOURCES = sorted([*WEB.glob("*.js"), *WEB.glob("src/*/*.js")])
FUNCTION = re.compile(  # a function of the file or a method of a class, but no statement
    r"^(?:(?:export )?(?:async )?function\*? |  (?:static )?(?:async )?(?:get )?\*?)"
    r"(?!constructor|if|for|while|switch)(\w+)\(.*\{$"
)
VERB = re.compile(r"[A-Z][a-z-]+(?<!(?<!s)s)")  # one word: "Pass", but no plural as "Rows"
NO_VERB = re.compile(
    "A|All|An|As|Audio|Buffers|Delay|Each|Everything|How|In|Of|One|Some|Text|That|The|This|What|"
    "Where|Whether|Which|Whole"
)


def undocumented(text: str) -> list[str]:
    """Return the functions whose comment is missing or does not begin with a verb."""
    lines, found = text.splitlines(), []
    for number, line in enumerate(lines):
        if function := FUNCTION.match(line):
            first = opening(lines[:number])
            is_verb = VERB.fullmatch(first) and not NO_VERB.fullmatch(first)
            if not (is_verb or first == "@type"):  # of an interface, whose comment says it
                found.append(f"{function[1]}: {first}")
    return found


def opening(lines: list[str]) -> str:
    """Return the first word of the comment that ends a file's lines; a tag says types alone."""
    if not lines or not lines[-1].endswith("*/"):
        return ""
    start = next(i for i in range(len(lines) - 1, -1, -1) if lines[i].lstrip().startswith("/**"))
    words = " ".join(lines[start:]).replace("*", " ").replace("/", " ").split()
    return words[0].rstrip(",:;.") if words else ""


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(WEB)) for path in SOURCES])
def test_comments_of_functions_begin_with_a_verb(path):
    assert undocumented(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("comment", "found"),
    [
        ("/** Return the rows. */", []),
        ("/**\n * Count rows, one by one.\n */", []),
        ("/** @type {Binding['run']} */", []),
        ("/** The rows of a cache. */", ["f: The"]),
        ("/** Rows of a cache. */", ["f: Rows"]),
        ("/** @param {number} rows */", ["f: @param"]),
        ("", ["f: "]),
    ],
)
def test_other_comments_are_found(comment, found):
    assert undocumented(f"{comment}\nexport function f(rows) {{\n}}") == found
    method = "\n".join(f"  {line}" for line in comment.splitlines())
    assert undocumented(f"class C {{\n{method}\n  async f(rows) {{\n    if (rows) {{") == found
