"""What clients of Mistral's dialect say."""

from __future__ import annotations

from random import Random

from messages.grammar import Grammar, Message, random_sound
from mistralai.extra.realtime import UnknownRealtimeEvent
from mistralai.extra.realtime.connection import parse_realtime_event

PATH = "/v1/audio/transcriptions/realtime"


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
