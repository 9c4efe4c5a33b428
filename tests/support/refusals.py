"""What every refusal of an argument has in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from voxtral_onnx.arguments import label
from voxtral_onnx.errors import VoxtralOnnxError


def assert_refuses(call: Callable[..., Any], argument: str, value: Any, **others: Any) -> None:
    """An error of ours in one short line, that names the argument, and the type or the value."""
    with pytest.raises(VoxtralOnnxError) as refused:
        call(**others, **{argument: value})
    message = str(refused.value)
    assert "\n" not in message and len(message) < 300
    assert message.startswith(label(argument)[:5])
    given = value if isinstance(value, list) and value else [value]
    assert any(words in message for each in [value, *given] for words in quotations(each)), message


def quotations(value: Any) -> Iterator[str]:
    """What a message may say of a value: its type, or a short one itself."""
    kind = type(value)
    if isinstance(value, str):
        yield repr(value)[:20]
    elif value is None:
        yield "got None"
    elif isinstance(value, int) and abs(value) > 1e10:
        yield "got a number of thousands of digits"
    elif isinstance(value, int | float):
        yield f"got {value}"
    yield f"got {kind.__name__}"
    yield f"got {kind.__module__}.{kind.__name__}"
