"""Keep a server of live speech busy for an hour: its memory stays flat, and no text is wrong.

    PYTHONPATH=tests python bench/server_soak.py [ARTIFACT] [--seconds 3600]

Clients speak sample clips in real time, one after the other, and each text is compared with what a
client alone was told. Beside them others leave in the middle of a word without a goodbye, connect
and say nothing, ask for whole recordings, and send random messages in each protocol, right ones and
wrong ones, spread over the time. The server's memory and its open streams are read every second,
and drawn as an SVG by `--picture`.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from time import perf_counter, sleep
from typing import Annotated, Any

import harness
import httpx
import numpy as np
import soundfile
import typer
from messages import grammar, mistral, openai, vllm, wyoming
from realtime_client import Session, Target, speak, speak_alone
from server_load import served, server_figures
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from voxtral_onnx.assets import SAMPLES
from voxtral_onnx.server.realtime.connection import TRY_LATER

WARM_SHARE = 0.2  # of the time, after which memory must not grow
TOLERANCE = 0.1  # of memory, as an allocator keeps what it once had
FAULTS = ("wrong", "failed", "upload wrong", "upload failed", "messages failed")
DIALECTS = {"openai": openai, "vllm": vllm, "mistral": mistral}
EXACT = "fp32"  # texts depend on nothing that the device does beside them
MOST_POINTS = 240  # of the picture
DRAWN = ("seconds", "memory", "streams")
LEFT, WIDTH, HEIGHT = 50, 700, 160  # of the picture's panels
TICKS = [m * 10**e for e in range(6) for m in (1, 2, 5)]
BURST = grammar.PER_CONNECTION  # random messages, then a pause


class Soak:
    """A server's clients of all kinds, until the time is over."""

    def __init__(
        self,
        target: Target,
        wyoming_port: int,
        *,
        seconds: float,
        speakers: int,
        messages: int,
        seed: int = 0,
    ):
        self.target, self.wyoming_port = target, wyoming_port
        self.seconds, self.speakers, self.messages = seconds, speakers, messages
        self.began = 0.0
        self.random, self.counts = random.Random(seed), Counter[str]()
        self.errors = Counter[str]()
        self.paths = sorted(SAMPLES.glob("*.wav"), key=lambda path: path.stat().st_size)[:6]
        self.sounds = [soundfile.read(path, dtype="float32")[0] for path in self.paths]
        self.texts: Sequence[str | None] = ()
        self.series = list[dict[str, float]]()

    def run(self) -> None:
        """Run all clients."""
        alone = speak_alone(self.target, self.sounds)
        assert all(each.text for each in alone), [each.error for each in alone]
        self.texts = [each.text for each in alone]
        asyncio.run(self._run())

    async def _run(self) -> None:
        self.began = perf_counter()
        kinds = [self._speak] * self.speakers
        kinds += [self._leave, self._leave, self._say_nothing, self._upload]
        watching = asyncio.create_task(self._watch())
        await asyncio.gather(
            *(self._repeat(kind) for kind in kinds),
            *(self._torment(name) for name in (*DIALECTS, "wyoming")),
        )
        watching.cancel()

    @property
    def _passed(self) -> float:
        return perf_counter() - self.began

    async def _repeat(self, kind: Callable[[], Awaitable[None]]) -> None:
        while self._passed < self.seconds:
            await kind()

    async def _watch(self) -> None:
        while True:
            figures = await asyncio.to_thread(server_figures, self.target.url)
            if figures:
                now = {"seconds": round(self._passed, 1), "load": os.getloadavg()[0]}
                self.series.append(now | figures)
            await asyncio.sleep(1.0)

    async def _speak(self) -> None:
        index = self.random.randrange(len(self.sounds))
        found = await speak(self.target, index, self.sounds[index], paced=True)
        self.counts[self._verdict(found)] += 1

    def _verdict(self, found: Session) -> str:
        if found.error:
            self.errors[found.error] += 1
            return "refused" if "capacity" in found.error else "failed"
        return "right" if found.text == self.texts[found.sound] else "wrong"

    async def _leave(self) -> None:
        """Leave in the middle, without closing anything."""
        speaking = asyncio.create_task(speak(self.target, 0, self.sounds[0], paced=True))
        await asyncio.sleep(self.random.uniform(0.1, 2.0))
        speaking.cancel()
        await asyncio.wait({speaking})
        self.counts["left"] += 1

    async def _torment(self, name: str) -> None:
        """Send random messages in a protocol, a burst each over a connection of its own."""
        first = 0
        while first < self.messages:
            due = self.seconds * first / self.messages
            await asyncio.sleep(max(0.0, due - self._passed))
            count = min(BURST, self.messages - first)
            try:
                if dialect := DIALECTS.get(name):
                    host = self.target.url.partition("/v1/")[0]
                    await grammar.torment(host + dialect.PATH, dialect.GRAMMAR, first, count)
                else:
                    await wyoming.torment(self.wyoming_port, first, count)
                self.counts[f"{name} messages"] += count
            except (AssertionError, OSError, WebSocketException) as error:
                if f"{TRY_LATER} " in str(error):  # by the code with which it was closed
                    self.counts["refused"] += 1
                    await asyncio.sleep(1.0)
                    continue
                self.counts["messages failed"] += 1
                self.errors[f"{name} messages: {type(error).__name__}: {error}"] += 1
            first += count

    async def _say_nothing(self) -> None:
        try:
            async with connect(self.target.url):
                await asyncio.sleep(self.random.uniform(0, 1))
        except (OSError, WebSocketException) as error:
            self.errors[f"nothing: {error}"] += 1
        self.counts["silent"] += 1

    async def _upload(self) -> None:
        index = self.random.randrange(len(self.sounds))
        address = self.target.url.replace("ws", "http", 1).replace(
            "realtime", "audio/transcriptions"
        )
        content = await asyncio.to_thread(self.paths[index].read_bytes)
        try:
            async with httpx.AsyncClient(timeout=300) as client:
                answer = await client.post(address, files={"file": ("clip.wav", content)})
        except httpx.HTTPError as error:
            self.errors[f"upload: {type(error).__name__}"] += 1
            self.counts["upload failed"] += 1
            return
        is_right = answer.status_code == 200 and answer.json()["text"] == self.texts[index]
        self.counts["uploaded" if is_right else "upload wrong"] += 1
        await asyncio.sleep(1.0)

    @property
    def growth(self) -> float:
        """Return by which share memory has grown since it was warm; medians of fifths."""
        memory = [each["memory"] for each in self.series if "memory" in each]
        part = max(1, int(len(memory) * WARM_SHARE))
        return float(np.median(memory[-part:]) / np.median(memory[part : 2 * part])) - 1


def thinned(series: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Return what is drawn: every so many seconds the medians of memory and streams."""
    size = -(-len(series) // MOST_POINTS)
    parts = [series[first : first + size] for first in range(0, len(series), size)]
    return [
        {name: float(np.median([each[name] for each in part])) for name in DRAWN} for part in parts
    ]


def picture_of(points: Sequence[dict[str, float]]) -> str:
    """Return an SVG of memory and streams over time, each from 0 on, one below the other."""
    minutes = points[-1]["seconds"] / 60
    step = next(each for each in (0.2, 1, 2, 5, 10, 20, 60) if minutes / each <= 6 or each == 60)
    parts = []

    # A panel for each
    for top, name, unit, scale, colour in (
        (20, "memory", "memory of the server, MB", 1e6, "#1976d2"),
        (220, "streams", "open streams", 1.0, "#ef6c00"),
    ):
        values = [each[name] / scale for each in points]
        tick = next(each for each in TICKS if max(values) / each <= 4)
        most = tick * max(1, -(-max(values) // tick))
        for number in range(round(most / tick) + 1):
            y = top + HEIGHT * (1 - number * tick / most)
            parts.append(f'<path stroke="#8884" d="M{LEFT} {y:.1f}h{WIDTH}"/>')
            label = f'x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end"'
            parts.append(f"<text {label}>{number * tick:g}</text>")
        line = " ".join(
            f"{LEFT + WIDTH * each['seconds'] / 60 / minutes:.1f},"
            f"{top + HEIGHT * (1 - value / most):.1f}"
            for each, value in zip(points, values, strict=True)
        )
        parts.append(f'<polyline fill="none" stroke="{colour}" points="{line}"/>')
        parts.append(f'<text x="{LEFT}" y="{top - 7}" style="fill:{colour}">{unit}</text>')

    # The time below both
    for number in range(int(minutes / step + 1e-6) + 1):
        x, y = LEFT + WIDTH * number * step / minutes, 220 + HEIGHT
        parts.append(f'<path stroke="#888" d="M{x:.1f} {y}v5"/>')
        label = f"{number * step:g}" + (" min" if number == 0 else "")
        parts.append(f'<text x="{x:.1f}" y="{y + 20}" text-anchor="middle">{label}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} '
        f'{HEIGHT + 250}" font-family="sans-serif" font-size="13">\n'
        f"<style>text{{fill:#777}}</style>\n{chr(10).join(parts)}\n</svg>\n"
    )


def main(
    artifact: harness.Model = "tiny",
    seconds: Annotated[float, typer.Option(min=5.0, help="Of the soak.")] = 3600.0,
    speakers: Annotated[int, typer.Option(min=1, help="Clients that speak.")] = 6,
    messages: Annotated[int, typer.Option(help="Random ones, of each protocol.")] = 100_000,
    precision: Annotated[str, typer.Option(help="Of the model.")] = EXACT,
    picture: Annotated[Path | None, typer.Option(help="SVG to draw.")] = None,
    out: harness.Out = harness.RESULTS / "server_soak.json",
) -> None:
    """Keep a server of live speech busy, and see that nothing grows and nothing is wrong."""
    # Keep it busy
    results: dict[str, Any] = harness.describe("a server of live speech, kept busy")
    folder = str(harness.find_model(artifact, precision))
    with socket.create_server(("127.0.0.1", 0)) as free:
        wyoming_port = free.getsockname()[1]
    options = ["--precision", precision, "--device", "cpu", "--slots", "16"]
    options += ["--model-name", "tiny", "--wyoming", str(wyoming_port)]
    with served(folder, options) as address:
        url = address.replace("http", "ws", 1) + "v1/realtime"
        soak = Soak(
            Target(url, "vllm", "whisper-1"),
            wyoming_port,
            seconds=seconds,
            speakers=speakers,
            messages=messages,
        )
        soak.run()
        deadline = perf_counter() + 5.0
        while (last := server_figures(url))["streams"] and perf_counter() < deadline:
            sleep(0.1)

    # Judge it
    points = thinned([each for each in soak.series if "memory" in each])
    results |= {
        "precision": precision,
        "seconds": seconds,
        "clients": dict(soak.counts),
        "errors": dict(soak.errors.most_common(5)),
        "memory_growth": round(soak.growth, 4),
        "streams_in_the_end": last["streams"],
        "series": points,
        "load_average": round(float(np.median([each["load"] for each in soak.series])), 1),
    }
    harness.write(out, results)
    if picture:
        picture.write_text(picture_of(points), "utf-8")
    assert not any(soak.counts[kind] for kind in FAULTS), results
    assert not last["streams"] and soak.growth < TOLERANCE, results


if __name__ == "__main__":
    harness.run(main)
