"""What clients of OpenAI's dialect say."""

from __future__ import annotations

from random import Random

from messages.grammar import Grammar, Message, random_sound
from support.openai_client import check_event

PATH = "/v1/realtime?intent=transcription"


def update(rng: Random) -> Message:
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


def append(rng: Random) -> Message:
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
