"""Measure the latency of live text: from the last sample that a token may use to its line.

    python bench/live.py [ARTIFACT] [--seconds 60] [--precision q4f16]

Sample clips are sent to `listen --stdin --stream-json` in real time, in blocks of 20 ms as a
microphone would, and the arrival of every printed line is timed in this process. The model's delay,
the speech that it hears before it writes a word, is not part of the latency. Writes
results/live.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
from threading import Thread
from time import perf_counter, sleep
from typing import Annotated, Any

import harness
import numpy as np
import typer

from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.bench import sample_clip

BLOCK_SECONDS = 0.02


def send(samples: np.ndarray, rate: int, pipe: Any, times: list[float]) -> None:
    """Write samples to a pipe in real time, and append to `times` when each block was written."""
    size = round(BLOCK_SECONDS * rate)
    began = perf_counter()
    for number, at in enumerate(range(0, len(samples), size)):
        sleep(max(0.0, began + (number + 1) * BLOCK_SECONDS - perf_counter()))
        pipe.write((samples[at : at + size] * 32767).astype("<i2").tobytes())
        pipe.flush()
        times.append(perf_counter())
    pipe.close()


def main(
    artifact: harness.Model = "tiny",
    seconds: Annotated[float, typer.Option(help="Seconds of speech to send.")] = 60.0,
    precision: Annotated[str, typer.Option(help="Precision of the artifact.")] = "q4f16",
    threads: Annotated[int | None, typer.Option(help="Threads of onnxruntime.")] = None,
    out: harness.Out = harness.RESULTS / "live.json",
) -> None:
    """Send speech to the command `listen`, and time the lines that it prints."""
    # Load the model in `listen`
    results = harness.describe("milliseconds from the last sample that a text may use to its line")
    folder = harness.find_model(artifact, precision)
    manifest = Manifest.read(folder)
    rules, audio = manifest.streaming, manifest.config.audio
    samples = sample_clip(audio.sample_rate, seconds)
    command = [
        sys.executable,
        "-m",
        "voxtral_onnx",
        "listen",
        "-m",
        str(folder),
        "--stdin",
        "--stream-json",
    ]
    command += ["--precision", precision, *(["--threads", str(threads)] if threads else [])]
    times: list[float] = []
    latencies, final = [], {}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        while b"delay" not in process.stderr.readline():  # until the model is loaded
            pass

        # Send speech, and time each line against the block that it needed
        Thread(target=process.stderr.read, daemon=True).start()
        sender = Thread(target=send, args=(samples, audio.sample_rate, process.stdin, times))
        sender.start()
        for line in process.stdout:
            now, event = perf_counter(), json.loads(line)
            if event["type"] == "partial":
                tokens = (
                    round(event["end"] * audio.sample_rate / audio.samples_per_token)
                    + rules.default_delay_tokens
                )
                needed = tokens * audio.samples_per_token + rules.look_ahead_samples
                block = -(-needed // round(BLOCK_SECONDS * audio.sample_rate)) - 1
                if needed <= len(samples):  # tokens that the padding decides wait for no sample
                    latencies.append(1000 * (now - times[block]))
            elif event["type"] == "final":
                final = event
        sender.join()

    # Write the results
    results |= {
        "artifact": artifact if artifact == "tiny" else folder.name,
        "precision": precision,
        "seconds": seconds,
        "latency_ms": harness.statistics(latencies, digits=1),
        "meter": {name: value for name, value in final.items() if name not in ("type", "text")},
        "words": len(final["text"].split()),
    }
    harness.write(out, results)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    harness.run(main)
