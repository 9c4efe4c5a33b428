"""5,000 random messages to OpenAI's dialect."""

from __future__ import annotations

import asyncio
from random import Random
from threading import Thread

from support.commands import CLIP, TEXT
from support.messages import Grammar, random_sound, torment
from support.openai_client import check_event, connected
from support.servers import until

SEED, COUNT = 22, 5000


def update(rng: Random) -> dict:
    """A change of the session, of which most can be."""
    form = rng.choice(("audio/pcm", "audio/pcmu", "audio/pcma"))
    turns = {"type": "server_vad", "threshold": rng.random(), "silence_duration_ms": 200}
    words = {"keywords": rng.sample(["Ada", "Grace Hopper", "café"], 2), "delay": "low"}
    parts = {
        "format": {"type": form},
        "transcription": {"model": "tiny", "language": "en", **words},
        "turn_detection": rng.choice((turns, None)),
        "noise_reduction": None,
    }
    names = rng.sample(sorted(parts), rng.randrange(1, 4))
    heard = {"input": {name: parts[name] for name in names}}
    session = {"type": "transcription", "audio": heard, "include": rng.choice((None, []))}
    return {"type": "session.update", "session": session}


def append(rng: Random) -> dict:
    message = {"type": "input_audio_buffer.append", "audio": random_sound(rng)}
    return message | ({"event_id": "mine"} if rng.randrange(2) else {})


GRAMMAR = Grammar(
    right={
        append: 60,
        update: 4,
        lambda rng: {"type": "input_audio_buffer.commit"}: 1,
        lambda rng: {"type": "input_audio_buffer.clear", "event_id": "mine"}: 1,
    },
    wrong=(
        {"type": "session.update", "model": "tiny"},
        {"type": "session.update", "session": {"type": "realtime"}},
        {"type": "session.update", "session": {"audio": {"input": {"volume": 1}}}},
        {"type": "input_audio_buffer.commit", "final": True},
        {"type": "input_audio_buffer.append", "audio": "?"},
        {"type": "input_audio_buffer.append"},
        {"type": "transcription_session.update", "session": {}},
        {"type": "response.create"},
        {"type": "input_audio.append", "audio": ""},
    ),
    check=check_event,
)


def test_random_messages(api):
    """None ends a connection or changes what another client hears; all slots are free after."""
    address = f"ws://127.0.0.1:{api.port}/v1/realtime?intent=transcription"
    found = list[int]()
    thread = Thread(
        target=lambda: found.append(asyncio.run(torment(address, GRAMMAR, SEED, COUNT)))
    )
    texts = []
    with connected(api.port) as client:
        thread.start()
        while thread.is_alive() or not texts:
            texts.append(client.transcript(CLIP))
    thread.join()
    assert found and found[0] > COUNT / 4
    assert set(texts) == {TEXT}
    until(lambda: not api.engines.live and not api.engines.engines[0].metrics.streams)
