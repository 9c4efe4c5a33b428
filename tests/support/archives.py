"""The outputs of an archive."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn


def unexpected(*told: object) -> NoReturn:
    """Fail, for what nobody should be told."""
    raise AssertionError(told)


def read_table(output: Path) -> list[dict[str, Any]]:
    """The rows of an archive's table; each hash is that of its text."""
    rows = list(map(json.loads, (output / "transcripts.jsonl").read_text().splitlines()))
    for row in rows:
        text = row["text"]
        assert row["sha256"] == (text and hashlib.sha256(text.encode()).hexdigest())
    return rows


def hashes(output: Path) -> Counter[tuple[str, str]]:
    """How often the table has each recording with each hash of a text."""
    return Counter((row["id"], row["sha256"]) for row in read_table(output))
