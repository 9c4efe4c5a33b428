"""The blank guard: words become likelier where nothing but blanks has been written for long.

The model can fall into a rut in which every blank makes the next more likely, while people speak.
True silence keeps its margin above the largest penalty. Source: vLLM issue 47614 and pull request
47615.
"""

from __future__ import annotations

# In a row, 16 s; pauses in speech were seen up to 165 (vLLM pull request 47615)
BLANKS_UNPENALISED = 200
BLANK_PENALTY_STEP = 0.5  # of a logit, for each blank beyond
MAX_BLANK_PENALTY = 7.0


def blank_penalty(blanks: int) -> float:
    """Return what the blank's logit loses behind so many blanks in a row."""
    beyond = blanks - BLANKS_UNPENALISED
    return min(MAX_BLANK_PENALTY, BLANK_PENALTY_STEP * beyond) if beyond > 0 else 0.0
