"""Values of options that are more than a number or a name."""

from __future__ import annotations

import pytest

from voxtral_onnx.cli.values import parse_size, split_names
from voxtral_onnx.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MiB", 512 << 20),
        ("1gib", 1 << 30),
        ("2GB", 2 * 10**9),
        (" 1.5 GiB", 3 << 29),
        ("1048576", 1 << 20),
        ("4MB", 4 * 10**6),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "1e9999", "3 XB", "1023KiB", "-1GB"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match="size: expected"):
        parse_size(text)


def test_names():
    assert split_names(None) is None
    assert split_names("q4, q8") == ["q4", "q8"]
