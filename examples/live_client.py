"""Speak a clip to a server of live speech, and again where the server ends, is full or is lost.

    pip install websockets
    python examples/live_client.py ws://127.0.0.1:8000/v1/realtime clip.wav

The sound is kept until its text is whole. So whatever cuts the connection, another one gets the
same sound, at once as far as it was spoken, and the same text comes.
"""

import asyncio
import base64
import json
import os
import random
import sys
import wave

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

PIECE_SECONDS = 0.08
TRIES = 20
LONGEST_WAIT = 8.0  # seconds between two tries
# Codes of closing that mean another try: lost without a word (a killed server or network), an error
# of the server's own, about to end (connect to another one), all streams taken
LOST, FAILED, MOVE, FULL = 1006, 1011, 1012, 1013


class Speech:
    """Sound in pieces, as a microphone brings them, all of which are kept."""

    def __init__(self, sound: bytes, rate: int):
        size = 2 * round(PIECE_SECONDS * rate)
        self.pieces = [sound[at : at + size] for at in range(0, len(sound), size)]
        self.began = asyncio.get_running_loop().time()

    async def piece(self, number: int) -> bytes:
        """Return a piece when it is spoken; at once if it was."""
        due = self.began + (number + 1) * PIECE_SECONDS
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        return self.pieces[number]


async def transcribe(url: str, speech: Speech) -> str:
    """Return the text of speech, in as many connections as it takes."""
    for number in range(TRIES):
        try:
            return await _once(url, speech)
        except InvalidStatus as error:  # in the handshake
            if error.response.status_code < 500:
                raise  # a wrong key, a wrong path
            code = FULL
        except (ConnectionClosed, OSError, TimeoutError) as error:
            code = LOST
            if isinstance(error, ConnectionClosed) and error.rcvd:
                code = error.rcvd.code
        if code not in (LOST, FAILED, MOVE, FULL):
            raise SystemExit(f"the connection was closed with code {code}")
        wait = min(LONGEST_WAIT, 0.25 * 2**number)
        if code == MOVE and number == 0:
            wait = 0.0
        print(f"connecting anew: code {code}", file=sys.stderr, flush=True)
        await asyncio.sleep(wait * random.uniform(0.5, 1.5))  # not all clients at once
    raise SystemExit(f"no text in {TRIES} tries")


async def _once(url: str, speech: Speech) -> str:
    """Return the text of speech from one connection."""
    key = os.environ.get("API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else None
    async with connect(url, additional_headers=headers) as socket:
        await _send(socket, "session.update", model="whisper-1")
        await _send(socket, "input_audio_buffer.commit")
        sending = asyncio.create_task(_speak(socket, speech))
        try:
            async for message in socket:
                event = json.loads(message)
                if event["type"] == "transcription.delta":
                    print(event["delta"], end="", file=sys.stderr, flush=True)
                elif event["type"] == "transcription.done":
                    return event["text"].strip()
                elif event["type"] == "error":  # a closing follows where it ends the connection
                    print(f"\n{event['error']}", file=sys.stderr, flush=True)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    raise ConnectionError("closed before the text was whole")


async def _speak(socket, speech: Speech) -> None:
    for number in range(len(speech.pieces)):
        piece = await speech.piece(number)
        await _send(socket, "input_audio_buffer.append", audio=base64.b64encode(piece).decode())
    await _send(socket, "input_audio_buffer.commit", final=True)


async def _send(socket, kind: str, **fields) -> None:
    await socket.send(json.dumps({"type": kind, **fields}))


async def main() -> None:
    """Speak the clip that the command line names."""
    url, path = sys.argv[1:]
    with wave.open(path) as clip:
        if (clip.getframerate(), clip.getnchannels(), clip.getsampwidth()) != (16_000, 1, 2):
            raise SystemExit(f"{path}: expected 16 bits, mono, at 16 kHz")
        sound = clip.readframes(clip.getnframes())
    text = await transcribe(url, Speech(sound, 16_000))
    print(file=sys.stderr)
    print(text)


if __name__ == "__main__":
    asyncio.run(main())
