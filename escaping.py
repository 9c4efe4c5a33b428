"""Text of strangers, written so that it stays text: on terminals, in lines, in Markdown.

File names, manifests, certificates, answers of a hub, and the words of a tokenizer hold anything.
"""

from __future__ import annotations

import os
import re
from numbers import Number

MOST_QUOTED = 80  # characters of a value that a message quotes

# What a terminal obeys instead of showing it: the control characters of C0 and C1 but for the line
# feed and the tab, what turns the order of the characters behind it (U+202A to 202E, U+2066 to
# 2069) or ends a line (U+2028, 2029), and halves of characters, which have no bytes to be sent as.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# What begins something in CommonMark and GitHub's dialect of it: anywhere, and in a line's first
# place. Colons, dots and at signs make links of addresses where something follows; an underscore in
# a word is none.
_MARKUP = re.compile(
    r"[\\`*\[\]<>&|~$]|[:@](?=\S)|\.(?=[^\s\d])|^[-+=#]|(?<=\d)[.)](?=\s|$)"
    r"|(?<![^\W_])_|_(?![^\W_])"
)


def printable(text: str) -> str:
    r"""Return a text with its control characters as JSON writes them, \u001b, but for \n and \t.

    So JSON stays the same JSON.
    """
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def one_line(text: str) -> str:
    """Return a printable text with its line feeds written as well, so that it cannot begin one."""
    return printable(text).replace("\n", "\\n")


def quoted(value: object) -> str:
    """Return a value as messages quote it: on one line, at most some 80 characters.

    Texts, paths and numbers are quoted; all else, whose text may be anything, is named by its type.
    """
    kind = type(value)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        text = repr(str(value[: MOST_QUOTED + 1]))
    elif value is None or isinstance(value, Number):
        try:
            text = str(value)
        except ValueError:
            text = "a number of thousands of digits"
    else:
        is_known = kind.__module__ == "builtins"
        text = kind.__qualname__ if is_known else f"{kind.__module__}.{kind.__qualname__}"
    return one_line(text if len(text) <= MOST_QUOTED + 2 else f"{text[:MOST_QUOTED]}…")


def described(value: object) -> str:
    """Return a value as messages quote it, behind its type where that is not all of it."""
    kind, text = type(value).__qualname__, quoted(value)
    return text if value is None or kind in text else f"{kind} {text}"


def markdown(text: str) -> str:
    """Return a text as a line of Markdown that shows it, without headings, links or HTML."""
    return _MARKUP.sub(r"\\\g<0>", one_line(text).strip())


def code(text: str) -> str:
    """Return a text as a code span of Markdown, which may stand in a table."""
    text = one_line(text).strip() or " "
    runs = re.findall("`+", text)
    fence = "`" * (max(map(len, runs), default=0) + 1)
    space = " " if runs else ""  # taken off again by whoever reads it
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|")
