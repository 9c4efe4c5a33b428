"""Results of the command line, what every refusal has in common, and what a process says."""

from __future__ import annotations

import json
import os
import re
import select
import time
from dataclasses import dataclass
from pathlib import Path

from voxtral_onnx import SILENCED

SAMPLES = Path(__file__).parents[2] / "assets" / "tiny" / "samples"
TEXTS = {
    sample["file"]: sample["model_text"]
    for sample in json.loads((SAMPLES / "transcripts.json").read_text())["samples"]
}
CLIP = SAMPLES / "command-hibari.wav"
TEXT = TEXTS[CLIP.name]
LONG_CLIP = SAMPLES / "long-mixed.wav"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    def assert_refused(self, code: int, *parts: str) -> None:
        """One error with this exit code, whose message holds these parts.

        Nothing on stdout, no traceback.
        """
        assert self.code == code, self.err
        assert "Traceback" not in self.err
        assert len(re.findall("^error: ", self.err, re.MULTILINE)) == 1, self.err
        message = self.err[self.err.index("error: ") :]
        for part in parts:
            assert part in message
        assert self.out == ""

    def assert_misused(self, *parts: str) -> None:
        """Assert that the option parser refused the command line.

        It draws a box that breaks lines, and its words depend on its version.
        """
        assert self.code == 2, self.err
        flat = " ".join(re.sub("[│╭╮╰╯─]", " ", self.err).split())
        for part in parts:
            assert part.lower() in flat.lower()


def user_environment() -> dict[str, str]:
    """Return the environment without what these tests, or a machine that runs them, have set."""
    ours = {"VOXTRAL_ONNX_MODEL", "CI", *SILENCED}
    return {name: value for name, value in os.environ.items() if name not in ours}


def clean_environment(state: Path, **extra: str) -> dict[str, str]:
    own = {"XDG_STATE_HOME": str(state / "state"), "XDG_CACHE_HOME": str(state / "cache")}
    return user_environment() | own | {"PYTHONIOENCODING": "utf-8"} | extra


def make_homeless(monkeypatch) -> None:
    """Make this user one that the system does not know, as in a container with an id of its own."""
    import pwd

    def unknown(number: int):
        raise KeyError(number)

    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def read_word(file: int, seconds: float = 60) -> str:
    """What a file descriptor gives until a first word is whole."""
    text, deadline = b"", time.monotonic() + seconds
    while b" " not in text:
        assert select.select([file], [], [], deadline - time.monotonic())[0], (
            f"no word after {seconds} s"
        )
        text += (piece := os.read(file, 1))
        assert piece, f"ended with {text!r}"
    return text.decode()
