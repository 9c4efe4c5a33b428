"""The delay, by which text follows the audio, in tokens and in milliseconds."""

from __future__ import annotations

from ..arguments import INTEGER
from ..errors import UsageError
from ..escaping import quoted
from ..manifest import Manifest, Streaming


def delay_tokens(manifest: Manifest, milliseconds: int | None) -> int:
    """Return a delay in tokens; None stands for the model's own.

    Raises:
        UsageError: it is not a multiple of a token's length, or out of the model's range.
    """
    rules = manifest.streaming
    if milliseconds is None:
        return rules.default_delay_tokens
    step = _ms_per_token(manifest)
    asked: int = INTEGER.check("delay_ms", milliseconds)
    tokens, rest = divmod(asked, step)
    if rest or not 1 <= tokens <= rules.max_delay_tokens:
        longest = rules.max_delay_tokens * step
        raise UsageError(
            f"delay: expected a multiple of {step} ms from {step} to {longest}, got "
            f"{quoted(asked)} ms"
        )
    return tokens


def delay_ms(manifest: Manifest, tokens: int) -> int:
    """Return a delay in milliseconds."""
    return tokens * _ms_per_token(manifest)


def untrained_delay(manifest: Manifest, tokens: int) -> str | None:
    """Return a warning if the model was not trained with this delay, else None."""
    rules: Streaming = manifest.streaming
    if tokens in rules.trained_delay_tokens:
        return None
    trained = ", ".join(str(delay_ms(manifest, tokens)) for tokens in rules.trained_delay_tokens)
    return (
        f"the model was not trained with a delay of {delay_ms(manifest, tokens)} ms, but with "
        f"{trained}"
    )


def _ms_per_token(manifest: Manifest) -> int:
    return 1000 * manifest.config.audio.samples_per_token // manifest.config.audio.sample_rate
