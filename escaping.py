"""The escaping of untrusted text for terminals, for single lines and for Markdown.

Untrusted are file names, manifests, certificates, answers of a hub and tokens of a tokenizer: any
of them may hold control characters or markup.
"""

from __future__ import annotations

import os
import re
from numbers import Number

MOST_QUOTED = 80  # characters of a value that a message quotes

# Characters that a terminal interprets instead of showing them: the control characters of C0 and C1
# but for line feed and tab, the bidirectional controls (U+202A to 202E, U+2066 to 2069) and the
# line separators (U+2028, 2029). Surrogates are included because they cannot be encoded as UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_BYTES = re.compile("[\udc80-\udcff]+")  # what Python has in their place. Source: PEP 383
# Characters with a meaning in CommonMark and in GitHub's dialect of it, anywhere or at the start of
# a line. Colons, dots and at signs are included where GitHub would make a link of an address; an
# underscore inside a word is not, because it does not begin emphasis there.
_MARKUP = re.compile(
    r"[\\`*\[\]<>&|~$]|[:@](?=\S)|\.(?=[^\s\d])|^[-+=#]|(?<=\d)[.)](?=\s|$)"
    r"|(?<![^\W_])_|_(?![^\W_])"
)


def printable(text: str) -> str:
    r"""Return a text whose control characters but \n and \t are written as JSON escapes (\u001b).

    Applied to a JSON document, it leaves the document's meaning unchanged.
    """
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def readable(text: str) -> str:
    r"""Return a text in which the bytes of names that are no text are UTF-8, or written as \xe9."""
    return _BYTES.sub(
        lambda match: match[0].encode(errors="surrogateescape").decode(errors="backslashreplace"),
        text,
    )


def one_line(text: str) -> str:
    r"""Return a printable text whose line feeds are written as \n, so that it stays on one line."""
    return printable(readable(text)).replace("\n", "\\n")


def quoted(value: object) -> str:
    """Return a value as error messages quote it: on one line, cut after 80 characters.

    Strings, paths and numbers are shown by value, other objects by the name of their type, because
    their representation may be of any length.
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
    """Return a value as `quoted` does, behind the name of its type unless that is in it."""
    kind, text = type(value).__qualname__, quoted(value)
    return text if value is None or kind in text else f"{kind} {text}"


def markdown(text: str) -> str:
    """Return a text escaped for a line of Markdown, which then shows the text as it is."""
    return _MARKUP.sub(r"\\\g<0>", one_line(text).strip())


def code(text: str) -> str:
    """Return a text as a code span of Markdown that is also valid in the cell of a table."""
    text = one_line(text).strip() or " "
    runs = re.findall("`+", text)
    fence = "`" * (max(map(len, runs), default=0) + 1)
    space = " " if runs else ""  # separates backticks from the fence; renderers remove it
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|")
