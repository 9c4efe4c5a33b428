"""What clients of vLLM's dialect say."""

from __future__ import annotations

from random import Random

from messages.grammar import Grammar, Message, random_sound

PATH = "/v1/realtime"
# The fields of each event: those that it has, and those that it may have
EVENTS = {
    "session.created": ({"id", "created", "event_id", "session"}, set[str]()),
    "session.updated": ({"model"}, {"timestamp_granularities", "warnings"}),
    "transcription.delta": ({"delta"}, {"segments"}),
    "transcription.done": ({"text", "usage"}, {"segments"}),
    "error": ({"error", "code"}, set[str]()),
}
CODES = (
    *("invalid_json", "invalid_event", "invalid_audio", "model_not_found"),
    *("model_not_validated", "unknown_event", "processing_error", "at_capacity"),
)


def update(rng: Random) -> Message:
    parts = {
        "temperature": 0.0,
        "language": "en",
        "timestamp_granularities": rng.choice(([], ["segment"])),
        "every_token": rng.random() < 0.5,
    }
    names = rng.sample(sorted(parts), rng.randrange(3))
    return {"type": "session.update", "model": "tiny", **{name: parts[name] for name in names}}


def check(event: Message) -> None:
    needed, allowed = EVENTS[event["type"]]
    assert needed <= set(event) - {"type"} <= needed | allowed, event
    if event["type"] == "error":
        assert isinstance(event["error"], str) and event["code"] in CODES, event


GRAMMAR = Grammar(
    right={
        lambda rng: {"type": "input_audio_buffer.append", "audio": random_sound(rng)}: 60,
        update: 4,
        lambda rng: {"type": "input_audio_buffer.commit", "final": False}: 1,
        lambda rng: {"type": "input_audio_buffer.commit", "final": True}: 1,
    },
    wrong=(
        {"type": "session.update"},
        {"type": "session.update", "model": "whisper-9"},
        {"type": "session.update", "model": "tiny", "temperature": 1},
        {"type": "session.update", "model": "tiny", "timestamp_granularities": ["word"]},
        {"type": "session.update", "session": {"type": "transcription"}},
        {"type": "input_audio_buffer.append", "audio": ""},
        {"type": "input_audio_buffer.append", "audio": "?"},
        {"type": "input_audio_buffer.append"},
        {"type": "input_audio_buffer.commit", "final": "yes"},
        {"type": "input_audio_buffer.clear"},
        {"type": "input_audio.append", "audio": ""},
    ),
    check=check,
    opening=({"type": "session.update", "model": "tiny"},),
    is_strict=False,
)
