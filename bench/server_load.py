"""Measure a server of live speech under load: latencies, refusals, wrong texts, by its streams.

    python bench/server_load.py tiny --precision q4                   # starts `serve`
    python bench/server_load.py --url ws://HOST:8000/v1/realtime --model NAME --streams 1,8,64

Clients in processes of their own send sound as it is spoken, by vLLM's realtime protocol or
OpenAI's (`--protocol`), so any server of these can be measured. What each is told is compared with
what a client alone was told of the same sound. Of a server of ours there are its own figures too:
ticks, capacity, memory. Pieces that the clients could not send in time are counted: there the
clients' machine was the limit.
"""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any

import harness
import numpy as np
import typer
from realtime_client import RATES, Session, Target, speak_alone, speak_together

from voxtral_onnx.assets import SAMPLES
from voxtral_onnx.cli.values import parse_numbers
from voxtral_onnx.errors import DeviceError, UsageError
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.machine import describe_machine

SPEECH = SAMPLES / "long-mixed.wav"
MOST_SOUNDS = 8  # that differ
PERCENTS = {"p50": 50, "p95": 95, "p99": 99, "max": 100}
FIGURES = (
    "voxtral_capacity",
    "voxtral_streams",
    "voxtral_late_ticks_total",
    "voxtral_ticks_total",
)


@contextmanager
def served(artifact: str, options: list[str]) -> Iterator[str]:
    """Run `serve` with an artifact, and give its address."""
    command = [sys.executable, "-m", "voxtral_onnx", "serve", artifact, "--api-only"]
    with subprocess.Popen(
        [*command, "--port", "0", *options], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            address = process.stdout.readline().strip()
            assert address.startswith("http"), "serve has not started"
            yield address
        finally:
            process.terminate()


def server_figures(url: str) -> dict[str, float]:
    """Return the figures of a server of ours; none of another."""
    address = re.sub(r"^ws", "http", url).split("/v1/")[0] + "/metrics"
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, _, value = line.rpartition(" ")
        label = re.search(r'quantile="0?\.(\d+)"', name)
        if name.startswith("voxtral_tick_seconds") and label:
            found[f"tick_p{label[1]:0<2}_ms"] = round(1000 * float(value), 1)
        if name.partition("{")[0] in FIGURES:
            found[name.partition("{")[0].removeprefix("voxtral_")] = float(value)
        if name == "process_resident_memory_bytes":
            found["memory"] = float(value)
    return found


def summary(sessions: list[Session], texts: list[str | None]) -> dict[str, Any]:
    """Return figures of some clients together; latencies in milliseconds."""
    served_ones = [each for each in sessions if each.error is None]
    refused = [each for each in sessions if each.error and "capacity" in each.error]

    def percentiles(values: list[float]) -> dict[str, float] | None:
        if not values:
            return None
        return {k: round(1000 * float(np.percentile(values, q)), 1) for k, q in PERCENTS.items()}

    return {
        "served": len(served_ones),
        "refused": len(refused),
        "failed": len(sessions) - len(served_ones) - len(refused),
        "errors": sorted({each.error for each in sessions if each.error})[:3],
        "wrong_texts": sum(each.text != texts[each.sound] for each in served_ones),
        "first_word_ms": percentiles([each.first_word for each in served_ones if each.first_word]),
        "word_lag_ms": percentiles([lag for each in served_ones for lag in each.lags]),
        "last_word_ms": percentiles([each.last_word for each in served_ones if each.last_word]),
        "late_pieces": sum(each.late for each in sessions),
    }


def described(row: dict[str, Any]) -> str:
    """Return a line about a number of clients."""
    times = ", ".join(
        f"{name.removesuffix('_ms').replace('_', ' ')} p50 {row[name]['p50']:.0f} p99 "
        f"{row[name]['p99']:.0f} ms"
        for name in ("first_word_ms", "last_word_ms")
        if row[name]
    )
    return (
        f"{row['clients']} clients: {row['served']} served, {row['refused']} refused, "
        f"{row['failed']} failed, {row['wrong_texts']} wrong texts; {times}"
    )


def main(
    artifact: harness.Model = "tiny",
    url: Annotated[str, typer.Option(help="Of a server that runs; instead of ARTIFACT.")] = "",
    protocol: Annotated[str, typer.Option(help=f"One of {', '.join(RATES)}.")] = "vllm",
    model: Annotated[str, typer.Option(help="Its name, as the server calls it.")] = "whisper-1",
    key: Annotated[str, typer.Option(help="API key.")] = "",
    streams: Annotated[str, typer.Option(help="Numbers of clients at a time.")] = "1,8,16,32,64",
    seconds: Annotated[float, typer.Option(min=1.0, help="Of speech of each client.")] = 30.0,
    processes: Annotated[int, typer.Option(min=1, help="That the clients share.")] = 1,
    precision: Annotated[str, typer.Option(help="Of the model, if it is started here.")] = "q4",
    device: Annotated[str, typer.Option(help="The same.")] = "cpu",
    slots: Annotated[str, typer.Option(help="The same.")] = "auto",
    out: harness.Out = harness.RESULTS / "server_load.json",
) -> None:
    """Measure a server of live speech under load."""
    # Make the sounds
    if protocol not in RATES:
        raise UsageError(f"protocol: expected {' or '.join(RATES)}, got {protocol!r}")
    counts = parse_numbers("streams", streams, last=10_000)
    results = harness.describe("live speech at a server, by the number of clients")
    sound = np.concatenate(list(open_audio(SPEECH, 16_000).blocks()))
    size = int(seconds * 16_000)
    sounds = [
        np.resize(np.roll(sound, -number * len(sound) // MOST_SOUNDS), size)
        for number in range(MOST_SOUNDS)
    ]
    # Measure, with texts of a client alone to compare with
    options = ["--precision", precision, "--device", device, "--slots", slots]
    folder = "" if url else str(harness.find_model(artifact, precision))
    with nullcontext(url) if url else served(folder, options) as address:
        place = url or re.sub(r"^http", "ws", address) + "v1/realtime"
        target = Target(place, protocol, model, key)
        alone = speak_alone(target, sounds)
        if errors := [each.error for each in alone if each.error]:
            raise DeviceError(f"{place}: a client alone was told: {errors[0]}")
        texts = [each.text for each in alone]
        results |= {"protocol": protocol, "seconds": seconds, "processes": processes}
        results |= {} if url else {"precision": precision, "device": device}
        results["results"] = []
        for count in counts:
            before = server_figures(place)
            sessions = speak_together(target, sounds, count, processes)
            row = {"clients": count, **summary(sessions, texts)}
            row["server"] = _since(before, server_figures(place))
            results["results"].append(row)
            harness.stderr.print(described(row))
            if row["refused"]:
                break
    results["load_average"] = describe_machine()["load_average"]
    harness.write(out, results)


def _since(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    counted = {name for name in after if name.endswith("_total")}
    return {
        name: value - before.get(name, 0.0) if name in counted else value
        for name, value in after.items()
    }


if __name__ == "__main__":
    harness.run(main)
