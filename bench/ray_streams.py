"""Measure what Ray's proxy adds to live streams: processor time a stream, beside the plain server.

    .venv-ray/bin/python bench/ray_streams.py --streams 8

Clients of this machine speak 27 s as it is spoken, to `serve` and to `serve --engine ray`. The time
is that of each process while they do.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import harness
import soundfile
import typer
from realtime_client import PIECE_SECONDS, Session, Target, speak_together

CLIP = harness.ROOT / "assets" / "tiny" / "samples" / "long-mixed.wav"
PROCESSES = {"ray::ProxyActor": "proxy", "ray::ServeReplica": "replica", "haproxy": "haproxy"}
TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(*options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run `serve`; gives its process and its port."""
    command = [sys.executable, "-m", "voxtral_onnx", "serve", "tiny", "--api-only", "--port", "0"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, text=True, env=os.environ | environment
    ) as process:
        try:
            assert process.stdout
            found = re.fullmatch(r"http://\S+:(\d+)/\n", process.stdout.readline())
            assert found, "serve does not start"
            yield process, int(found[1])
        finally:
            process.send_signal(signal.SIGINT)


def processor_seconds(parent: int) -> dict[str, float]:
    """Return the processor time of a server's processes so far, by what they are."""
    command = ["ps", "-eo", "pid,ppid,args"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = [line.split(None, 2) for line in listed.splitlines()[1:]]
    below = {parent}
    while more := {int(pid) for pid, above, _ in found if int(above) in below} - below:
        below |= more
    spent = dict[str, float]()
    for pid, _, args in found:
        program = args.split()[0].rpartition("/")[2]
        name = next((PROCESSES[each] for each in PROCESSES if program.startswith(each)), "")
        name = "serve" if int(pid) == parent else name
        if name and int(pid) in below:
            fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
            spent[name] = spent.get(name, 0.0) + (int(fields[11]) + int(fields[12])) / TICKS
    return spent


def measure(streams: int, *options: str, **environment: str) -> dict[str, object]:
    """Return the processor time that a second of a stream takes of each process."""
    sound, _ = soundfile.read(CLIP, dtype="float32")
    seconds = len(sound) / 16_000
    with serving(*options, **environment) as (process, port):
        target = Target(f"ws://127.0.0.1:{port}/v1/realtime", "vllm", "tiny")
        before = processor_seconds(process.pid)
        sessions: list[Session] = speak_together(target, [sound], streams, 1)
        after = processor_seconds(process.pid)
    if errors := [each.error for each in sessions if each.error]:
        raise SystemExit(f"clients failed: {errors[0]}")
    return {
        "streams": streams,
        "milliseconds_a_stream_second": {
            name: round(1000 * (value - before.get(name, 0.0)) / streams / seconds, 2)
            for name, value in after.items()
        },
        "last_word_ms": sorted(round(1000 * (each.last_word or 0)) for each in sessions),
        "texts": len({each.text for each in sessions}),
    }


def main(
    streams: Annotated[int, typer.Option(help="Clients at a time.", min=1)] = 8,
    out: harness.Out = harness.RESULTS / "ray_streams.json",
) -> None:
    """Measure the plain server, Ray's proxy, and HAProxy in its place."""
    slots = ("--slots", str(streams), "--threads", str(os.cpu_count() or 1))
    found: dict[str, object] = {
        "plain": measure(streams, *slots),
        "ray": measure(streams, *slots, "--engine", "ray"),
    }
    slots += ("--host", "0.0.0.0", "--insecure")  # where HAProxy listens in any case
    environment = {"RAY_SERVE_ENABLE_HA_PROXY": "1"}
    found["ray, HAProxy"] = measure(streams, *slots, "--engine", "ray", **environment)
    head = harness.describe("processor time of a second of a live stream", "ray", "onnxruntime")
    harness.write(out, {**head, "messages_a_second": 1 / PIECE_SECONDS, "servers": found})
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    harness.run(main)
