"""Run the command line until a stream's token INDEX, and print the seconds of each phase until it.

    python bench/first_word_start.py BEGAN INDEX transcribe --model ARTIFACT FILE

Started by first_word.py. BEGAN is `time.monotonic()` when the process was started. The last line on
stdout is JSON: the seconds of each phase, and the processor seconds of all threads.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from time import monotonic, process_time
from typing import Any

from voxtral_onnx.cli import main
from voxtral_onnx.runtime import transcriber
from voxtral_onnx.runtime.writer import TokenWriter

BEGAN, INDEX = float(sys.argv[1]), int(sys.argv[2])
phases: dict[str, tuple[float, float]] = {}
last = BEGAN, 0.0


def end_phase(name: str) -> None:
    """Note a phase, which began where the last one ended."""
    global last
    now = monotonic(), process_time()
    phases[name] = now[0] - last[0], now[1] - last[1]
    last = now


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose time is a phase; what came before it is another."""

    def call(*arguments: Any, **options: Any) -> Any:
        end_phase(f"before {name}")
        found = function(*arguments, **options)
        end_phase(name)
        return found

    return call


def write(self: TokenWriter, sampled: Any) -> Any:
    """Write a token; behind the one that was asked for, print the phases and end the process."""
    token = write_token(self, sampled)
    if token.index == INDEX:
        end_phase("sound")
        spent = self.timings
        found = {"encode": spent.encode_seconds, "decode": spent.decode_seconds, "phases": phases}
        print("\n" + json.dumps(found), flush=True)
        os._exit(0)
    return token


if __name__ == "__main__":
    end_phase("start and import")
    write_token, TokenWriter.write = TokenWriter.write, write
    transcriber.load_model = timed("load", transcriber.load_model)
    transcriber.silent_start = timed("silence", transcriber.silent_start)
    del sys.argv[1:3]
    main()
