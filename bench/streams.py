"""Measure live streams in an engine: ticks, latencies and memory by the number of streams.

    python bench/streams.py tiny --device cpu --precision q4         # until it refuses one
    python bench/streams.py ARTIFACT --streams 64,128,256 --seconds 600   # on a CUDA device
    python bench/streams.py tiny --device cpu --precision q4 --flush 3 --out flush.json

One thread feeds every stream 80 ms of sound every 80 ms, another takes tokens. For each number
of streams, given or doubled until the engine refuses one, figures are of all ticks and tokens of
the last `--seconds`. A tick lasts from when it was due until its tokens were decoded; the latency
of a token, from the arrival of the last sample that it depends on until it can be read. With
`--flush`, every eighth stream is flushed so often, and the latencies are those of the others; a
flush lasts until all words before it can be read. Streams of
less than the context have shorter caches than long ones, whose cost the engine's own measurement
at the start tells. ARTIFACT is an export of twin.py's random checkpoint, or made by skeleton.py.
"""

from __future__ import annotations

import threading
from time import perf_counter, sleep
from typing import Annotated, Any

import harness
import numpy as np
import typer

from voxtral_onnx import Engine, Transcriber
from voxtral_onnx.assets import SAMPLES
from voxtral_onnx.errors import DeviceError
from voxtral_onnx.memory import peak_memory
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.engine.stream import EngineStream
from voxtral_onnx.runtime.machine import describe_machine

SPEECH = SAMPLES / "long-mixed.wav"
PERCENTS = {"p50": 50, "p99": 99, "max": 100}


class Fed:
    """A stream with the times at which its samples have arrived."""

    def __init__(self, stream: EngineStream, sound: np.ndarray, shift: int):
        self.stream, self.sound = stream, np.roll(sound, -shift)
        self.arrivals: list[float] = []  # of all pieces, each as long as a token
        self.taken = 0  # tokens
        self.flushes: list[tuple[int, float]] = []  # tokens when all words are there; when it began

    def flush(self) -> None:
        """Let the words so far come."""
        began = perf_counter()
        self.flushes.append((self.stream.flush(), began))

    def feed(self, samples: int) -> None:
        """Feed the next piece."""
        at = len(self.arrivals) * samples % (len(self.sound) - samples)
        self.arrivals.append(perf_counter())
        self.stream.feed(self.sound[at : at + samples])


def run_streams(
    engine: Engine, count: int, seconds: float, sound: np.ndarray, flush: float = 0.0
) -> dict[str, Any]:
    """Feed so many streams for a while in real time, and return figures.

    Args:
        engine: in which they are opened.
        count: of streams.
        seconds: for which they run.
        sound: that each is fed, from another place on.
        flush: seconds from one flush to the next of every eighth stream; 0 for none.
    """
    # Open them in the course of a tick, as they come
    manifest = engine.transcriber.manifest
    audio, rules = manifest.config.audio, manifest.streaming
    per_token, step = audio.samples_per_token, audio.samples_per_token / audio.sample_rate
    delay = engine.transcriber.num_delay_tokens
    pieces_needed = delay + -(-rules.look_ahead_samples // per_token)  # after a token's own
    streams = [Fed(engine.open(), sound, 997 * i) for i in range(count)]
    flushed = streams[::8] if flush else []
    is_over, latencies, num_behind = threading.Event(), list[float](), [0]
    flush_seconds = list[float]()

    def feed() -> None:
        due, every = perf_counter(), round(flush / step) if flush else 0
        while not is_over.is_set():
            for i, each in enumerate(streams):
                each.feed(per_token)
                if each in flushed and (len(each.arrivals) + 5 * i) % every == 0:
                    each.flush()
            due += step
            num_behind[0] += perf_counter() > due
            sleep(max(0.0, due - perf_counter()))

    def read() -> None:
        while not is_over.is_set():
            for each in streams:
                while len(each.stream.events):
                    next(each.stream.events)
                    if each not in flushed:
                        last_needed = each.arrivals[each.taken + pieces_needed]
                        latencies.append(perf_counter() - last_needed)
                    each.taken += 1
                while each.flushes and each.flushes[0][0] <= each.taken:
                    flush_seconds.append(perf_counter() - each.flushes.pop(0)[1])
            sleep(0.002)

    # Let them run, and look at the last seconds
    threads = [threading.Thread(target=work) for work in (feed, read)]
    for thread in threads:
        thread.start()
    sleep(3 + delay * step)
    before, first = engine.metrics, len(latencies)
    began = perf_counter()
    sleep(seconds)
    took = perf_counter() - began
    after, found = engine.metrics, latencies[first:]
    num_ticks = after.ticks - before.ticks
    durations = 1000 * np.array(list(engine.ticker.metrics.seconds)[-num_ticks:])
    is_over.set()
    for thread in threads:
        thread.join()
    for each in streams:
        each.stream.close()
    while engine.metrics.streams:
        sleep(0.01)
    percentiles = {
        name: {k: round(1000 * float(np.percentile(each, q)), 1) for k, q in PERCENTS.items()}
        for name, each in (("latency_ms", found), ("flush_ms", flush_seconds))
        if each
    }
    return {
        "streams": count,
        "flushes": len(flush_seconds),
        "seconds": round(took, 1),
        "ticks": num_ticks,
        "tick_ms": {k: round(float(np.percentile(durations, q)), 1) for k, q in PERCENTS.items()},
        "late_ticks": after.late_ticks - before.late_ticks,
        "tokens": len(found),
        "tokens_expected": int((count - len(flushed)) * took / step),
        **percentiles,
        "encode_ms_a_tick": round(
            1000 * (after.encode_seconds - before.encode_seconds) / max(1, num_ticks), 2
        ),
        "decode_ms_a_tick": round(
            1000 * (after.decode_seconds - before.decode_seconds) / max(1, num_ticks), 2
        ),
        "feeder_behind": num_behind[0],
        "peak_memory": peak_memory(),
    }


def main(
    artifact: harness.Model = "tiny",
    device: Annotated[str, typer.Option(help="As for transcribe.")] = "auto",
    precision: Annotated[str, typer.Option(help="Of the model.")] = "q4f16",
    streams: Annotated[str, typer.Option(help="Numbers of streams, or double until full.")] = "",
    slots: Annotated[int, typer.Option(min=1, help="Of the engine.")] = 256,
    context: Annotated[int, typer.Option(help="Positions that a stream sees.")] = 1024,
    tick: Annotated[int, typer.Option(help="80 or 160 ms.")] = 80,
    seconds: Annotated[float, typer.Option(min=1.0, help="For each number.")] = 30.0,
    flush: Annotated[float, typer.Option(help="Seconds between flushes of a stream.")] = 0.0,
    out: harness.Out = harness.RESULTS / "streams.json",
) -> None:
    """Measure live streams in an engine."""
    # Start the engine
    results = harness.describe("live streams in an engine, by their number")
    folder = harness.find_model(artifact, precision)
    sound = np.concatenate(list(open_audio(SPEECH, 16_000).blocks()))
    with Transcriber(folder, device, precision=precision) as transcriber:
        began = perf_counter()
        engine = Engine(transcriber, slots=slots, context=context, tick_ms=tick)
        results |= {
            "precision": precision,
            "device": transcriber.device_name,
            "context": context,
            "tick": tick,
            "slots": slots,
            "notes": [*transcriber.notes, *engine.notes],
            "seconds_to_start": round(perf_counter() - began, 2),
            "curve_ms": {n: round(1000 * cost, 2) for n, cost in engine.curve.items()},
            "capacity": engine.capacity,
            "results": [],
        }

        # Measure
        given = [int(each) for each in streams.split(",") if each]
        with engine:
            count = given.pop(0) if given else 1
            while True:
                results["load_average"] = describe_machine()["load_average"]
                try:
                    for each in {0.0, flush}:
                        figures = run_streams(engine, count, seconds, sound, each)
                        results["results"].append(figures)
                except DeviceError as error:
                    results["refused"] = {"streams": count, "reason": str(error)}
                    break
                if count == engine.capacity or (streams and not given):
                    break
                count = given.pop(0) if given else min(2 * count, engine.capacity)
    harness.write(out, results)


if __name__ == "__main__":
    harness.run(main)
