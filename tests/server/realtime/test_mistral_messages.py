"""5,000 random messages to Mistral's dialect."""

from __future__ import annotations

import asyncio
from random import Random
from threading import Thread

import soundfile
from mistralai.client import Mistral
from mistralai.client.models import TranscriptionStreamDone
from mistralai.extra.realtime import UnknownRealtimeEvent
from mistralai.extra.realtime.connection import parse_realtime_event
from support.commands import CLIP, TEXT
from support.messages import Grammar, Message, random_sound, torment
from support.servers import until

from voxtral_onnx.server.realtime.mistral import PATH

SEED, COUNT = 22, 5000


def update(rng: Random) -> Message:
    """Settings, of which most can be."""
    form = {"encoding": rng.choice(("pcm_s16le", "pcm_alaw")), "sample_rate": 16_000}
    parts = {
        "audio_format": form,
        "target_streaming_delay_ms": rng.choice((80, 480, 2_400, None)),
        "context_bias": rng.sample(["Ada", "Grace Hopper", "café"], 2),
        "turn_detection": rng.choice((None, {}, {"min_silence_ms": 200})),
        "language": "en",
        "diarize": False,
    }
    names = rng.sample(sorted(parts), rng.randrange(1, 5))
    return {"type": "session.update", "session": {name: parts[name] for name in names}}


def check(event: Message) -> None:
    assert not isinstance(parse_realtime_event(event), UnknownRealtimeEvent), event


GRAMMAR = Grammar(
    right={
        lambda rng: {"type": "input_audio.append", "audio": random_sound(rng)}: 40,
        update: 4,
        lambda rng: {"type": "input_audio.flush"}: 2,
    },
    wrong=(
        {"type": "session.update"},
        {"type": "session.update", "session": {"diarize": True}},
        {"type": "session.update", "session": {"audio_format": {"encoding": "mp3"}}},
        {"type": "session.update", "session": {"turn_detection": {"end_threshold": 1.0}}},
        {"type": "session.update", "session": {"prompt": "x"}},
        {"type": "input_audio.append", "audio": "?"},
        {"type": "input_audio.append"},
        {"type": "input_audio_buffer.append", "audio": ""},
        {"type": "input_audio_buffer.commit"},
    ),
    check=check,
    is_strict=False,
)


async def said():
    samples, _ = soundfile.read(CLIP, dtype="int16")
    yield samples.tobytes()


def test_random_messages(api):
    """None ends a connection or changes what another client hears; all slots are free after."""
    address, found = f"ws://127.0.0.1:{api.port}{PATH}", list[int]()
    thread = Thread(
        target=lambda: found.append(asyncio.run(torment(address, GRAMMAR, SEED, COUNT)))
    )
    client, texts = Mistral(api_key="none", server_url=api.address).audio.realtime, []

    async def transcript() -> str:
        *_, done = [event async for event in client.transcribe_stream(said(), "tiny")]
        assert isinstance(done, TranscriptionStreamDone)
        return done.text

    thread.start()
    while thread.is_alive() or not texts:
        texts.append(asyncio.run(transcript()))
    thread.join()
    assert found and found[0] > COUNT / 4
    assert set(texts) == {TEXT}
    until(lambda: not api.engines.live and not api.engines.engines[0].metrics.streams)
