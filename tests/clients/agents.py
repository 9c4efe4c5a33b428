"""Let LiveKit's and Pipecat's plugins for Mistral transcribe two utterances from a real server.

`make test-clients` runs it in an environment of its own, as both need mistralai 2. They stand on a
real clock, with a detector of speech (LiveKit) or the frames that one sends (Pipecat), and must get
each utterance as a final text of its own. With `--record FILE` it writes what they sent, of sound
only how much: tests/golden/agents.json, which tests/server/realtime/test_mistral.py replays.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import subprocess
import sys
import wave
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mistralai.client import Mistral
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

SAMPLES = Path(__file__).parents[2] / "assets" / "tiny" / "samples"
CLIPS = ("command-hibari.wav", "date-hibari.wav")
TEXTS = [
    "turn on the music in the bathroom",
    "thursday the seventeenth of november nineteen forty one",
]
MODEL = "voxtral-mini-transcribe-realtime-2602"
RATE, CHUNK = 16_000, 640  # Hz; bytes of 20 ms, as microphones give them
PAUSE = bytes(2 * RATE * 3 // 2)
TIMEOUT = 60.0  # seconds

Messages = list[dict[str, Any]]


def clip(name: str) -> bytes:
    with wave.open(str(SAMPLES / name)) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (RATE, 2, 1)
        return file.readframes(file.getnframes())


async def paced(sound: bytes) -> AsyncIterator[bytes]:
    """Yield sound in pieces, as fast as it was spoken."""
    clock = asyncio.get_running_loop()
    begun = clock.time()
    for at in range(0, len(sound), CHUNK):
        yield sound[at : at + CHUNK]
        await asyncio.sleep(begun + (at + CHUNK) / (2 * RATE) - clock.time())


async def livekit(address: str) -> list[str]:
    """Return the final texts that LiveKit's plugin gives, with Silero's detector of speech."""
    from livekit import rtc
    from livekit.agents.stt import SpeechEventType
    from livekit.plugins import mistralai, silero

    client = Mistral(api_key="none", server_url=address)
    stt = mistralai.STT(client=client, model=MODEL, vad=silero.VAD.load())
    stream, finals = stt.stream(), list[str]()

    async def speak() -> None:
        for name in CLIPS:
            async for piece in paced(clip(name) + PAUSE):
                stream.push_frame(rtc.AudioFrame(piece, RATE, 1, len(piece) // 2))
        stream.end_input()

    speaking = asyncio.create_task(speak())
    async for event in stream:  # until the server closes the connection
        if event.type == SpeechEventType.FINAL_TRANSCRIPT:
            finals.append(event.alternatives[0].text)
            words = event.alternatives[0].words or []
            assert "".join(words) == finals[-1], words
    await speaking
    await stt.aclose()
    return finals


async def pipecat(address: str) -> list[str]:
    """Return the final texts that Pipecat's service gives."""
    from pipecat.frames.frames import (
        EndFrame,
        Frame,
        InputAudioRawFrame,
        TranscriptionFrame,
        VADUserStartedSpeakingFrame,
        VADUserStoppedSpeakingFrame,
    )
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.worker import PipelineParams, PipelineWorker
    from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
    from pipecat.services.mistral.stt import MistralSTTService
    from pipecat.workers.runner import WorkerRunner

    finals, come = list[str](), asyncio.Queue[None]()

    class Collector(FrameProcessor):
        """What comes after the service."""

        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, TranscriptionFrame):
                finals.append(frame.text)
                come.put_nowait(None)
            await self.push_frame(frame, direction)

    service = MistralSTTService(api_key="none", base_url=address)
    params = PipelineParams(audio_in_sample_rate=RATE)
    worker, runner = PipelineWorker(Pipeline([service, Collector()]), params=params), WorkerRunner()

    async def speak() -> None:
        for name in CLIPS:
            await worker.queue_frame(VADUserStartedSpeakingFrame())
            async for piece in paced(clip(name)):
                await worker.queue_frame(InputAudioRawFrame(piece, RATE, 1))
            await worker.queue_frame(VADUserStoppedSpeakingFrame())
            await come.get()
            async for piece in paced(PAUSE):
                await worker.queue_frame(InputAudioRawFrame(piece, RATE, 1))
        await worker.queue_frame(EndFrame())

    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), speak())
    return finals


@asynccontextmanager
async def recorded(address: str) -> AsyncIterator[tuple[str, Messages]]:
    """Pass clients' messages on to a server, and note them; gives its address and the notes."""
    noted: Messages = []

    def note(text: str) -> None:
        message = json.loads(text)
        if "audio" not in message:
            noted.append(message)
            return
        size = len(base64.b64decode(message.pop("audio")))
        if noted and noted[-1].get("bytes") == size:
            noted[-1]["times"] += 1
        else:
            noted.append({**message, "bytes": size, "times": 1})

    async def relay(client: ServerConnection) -> None:
        assert client.request
        there = f"ws{address.removeprefix('http').rstrip('/')}{client.request.path}"
        noted.append({"path": client.request.path})
        async with connect(there) as server:

            async def answer() -> None:
                async for text in server:
                    await client.send(text)
                await client.close()

            answering = asyncio.create_task(answer())
            try:
                async for text in client:
                    assert isinstance(text, str)
                    note(text)
                    await server.send(text)
            except ConnectionClosed:
                pass
            await server.close()
            await answering

    async with serve(relay, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}", noted


CLIENTS: dict[str, tuple[str, Callable[[str], Coroutine[Any, Any, list[str]]]]] = {
    "livekit": ("livekit-plugins-mistralai", livekit),
    "pipecat": ("pipecat-ai", pipecat),
}


async def run(address: str) -> dict[str, Any]:
    """Run all clients, and return what they sent."""
    found = dict[str, Any]()
    for name, (package, speak) in CLIENTS.items():
        async with recorded(address) as (place, messages), asyncio.timeout(TIMEOUT):
            finals = await speak(place)
        print(f"{package} {version(package)}: {finals}")
        assert [text for text in finals if text] == TEXTS, f"{name}: expected {TEXTS}"
        found[name] = {"package": f"{package} {version(package)}", "messages": messages}
    return found


def main() -> None:
    """Start a server, run the clients, and end it."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "serve", nargs=argparse.REMAINDER, help="command that serves tiny, and prints its address"
    )
    parser.add_argument("--record", type=Path, help="file for what the clients sent")
    asked = parser.parse_args()
    with subprocess.Popen(asked.serve, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            address = server.stdout.readline().strip()
            assert urlsplit(address).port, "the server did not start"
            found = asyncio.run(run(address))
        finally:
            server.terminate()
    if asked.record:
        sound = {"rate": RATE, "clips": CLIPS, "pause_bytes": len(PAUSE), "texts": TEXTS}
        asked.record.write_text(json.dumps({**sound, **found}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
