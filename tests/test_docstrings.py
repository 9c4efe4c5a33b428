"""Docstrings and long bodies that a stranger can read, in the folders and files that are done."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DONE = (  # folders and files below the root
    "bench",
    "cli",
    "cluster",
    "examples",
    "exporter",
    "publish",
    "quant",
    "runtime/audio",
    "scripts",
    "server",
    "verification",
    "runtime/device",
    "runtime/live",
    "runtime/text",
    *sorted(file.relative_to(ROOT).as_posix() for file in ROOT.glob("runtime/*.py")),
    *sorted(file.name for file in ROOT.glob("*.py")),
)
VERB = re.compile(r"[A-Z][a-z]+(?<!(?<!s)s)")  # one word: "Pass", but no plural as "Rows"
NO_VERB = re.compile(
    "A|All|An|And|As|Audio|Both|Each|Every|Everything|For|From|How|If|In|Its|Logits|No|None|Not|"
    "Nothing|Of|On|One|Our|Rule|Same|See|Some|Something|That|The|Their|These|They|This|Those|To|"
    "What|When|Where|Whether|Which|Who|Whose|With"
)
NO_SENTENCE = re.compile(r"(How|Of|Say|See|That|Whether|What|Where|Which|Who|Whose)\b")
MOST_LINES = 25  # of a body without steps

Function = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.mark.parametrize("place", DONE)
def test_a_function_s_docstring_begins_with_a_verb(place):
    openings = [
        (path, node.name, first_line)
        for path, node, first_line in documented(place)
        if isinstance(node, Function) and not is_verb(first_line.split()[0])
    ]
    assert not openings


@pytest.mark.parametrize("place", DONE)
def test_a_docstring_s_first_line_is_a_whole_sentence(place):
    fragments = [
        (path, first_line)
        for path, _, first_line in documented(place)
        if not first_line.endswith((".", ":")) or NO_SENTENCE.match(first_line)
    ]
    assert not fragments


@pytest.mark.parametrize("place", DONE)
def test_a_long_body_announces_its_steps(place):
    unannounced = [
        (path, node.name)
        for path, text, tree in sources(place)
        for node in ast.walk(tree)
        if isinstance(node, Function) and is_long(node) and not steps_of(node, text)
    ]
    assert not unannounced


@pytest.mark.parametrize(
    "word", ["What", "Of", "Whether", "Rows", "float32", "[in_features,", "(norm(x),", "X", "The"]
)
def test_these_are_no_verbs(word):
    assert not is_verb(word)


@pytest.mark.parametrize("word", ["Return", "Yield", "Pass", "Check"])
def test_these_are_verbs(word):
    assert is_verb(word)


def is_verb(word: str) -> bool:
    return VERB.fullmatch(word) is not None and NO_VERB.fullmatch(word) is None


def sources(place: str) -> Iterator[tuple[str, str, ast.Module]]:
    listed = subprocess.run(
        ["git", "ls-files", "--", place], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [path for path in listed.stdout.split() if path.endswith(".py")]
    assert paths, f"{place}: no such files"
    for path in paths:
        text = (ROOT / path).read_text(encoding="utf-8")
        yield path, text, ast.parse(text)


def documented(place: str) -> Iterator[tuple[str, ast.AST, str]]:
    for path, _, tree in sources(place):
        for node in ast.walk(tree):
            if isinstance(node, Function | ast.ClassDef | ast.Module) and (
                docstring := ast.get_docstring(node)
            ):
                yield path, node, docstring.splitlines()[0]


def body_of(node: Function) -> list[ast.stmt]:
    return node.body[1:] if ast.get_docstring(node) is not None else node.body


def is_long(node: Function) -> bool:
    body = body_of(node)
    return bool(body) and (body[-1].end_lineno or 0) - body[0].lineno >= MOST_LINES


def steps_of(node: Function, text: str) -> int:
    """Count the comments that begin a block or stand behind a blank line."""
    before = node.body[0].end_lineno if ast.get_docstring(node) is not None else node.lineno
    lines = text.splitlines()[(before or 0) : node.end_lineno]
    previous = ["", *lines]
    return sum(
        line.lstrip().startswith("#") and (not above.strip() or above.rstrip().endswith(":"))
        for above, line in zip(previous, lines, strict=False)
    )
