"""The names of the model, as clients of several protocols call it."""

from __future__ import annotations

# Names by which clients ask for a model that transcribes: OpenAI's, then the model's own
ALIASES = (
    "whisper-1",
    "gpt-transcribe",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-mini-transcribe-2025-12-15",
    "gpt-realtime-whisper",
    "gpt-live-transcribe",
    "mistralai/Voxtral-Mini-4B-Realtime-2602",
    "voxtral-mini-transcribe-realtime-2602",
    "voxtral-mini-transcribe-realtime-3",
    "voxtral-mini-transcribe-realtime-latest",
    "voxtral-mini-latest",
)


def names_of(model_name: str) -> tuple[str, ...]:
    """Return all names of a model that a server calls by one name, which stands first."""
    return tuple(dict.fromkeys((model_name, *ALIASES)))
