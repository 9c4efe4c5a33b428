"""Bytes from outside become typed values, or an error that says what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtral_onnx.decode import (
    Count,
    RelativeName,
    Sha256,
    decode,
    decode_toml,
    is_relative_name,
    read_within,
)
from voxtral_onnx.errors import ArtifactError

OUTSIDE = (
    "",
    ".",
    "..",
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a/..",
    "./a",
    "a//b",
    "a/",
    "/",
    "//h/s",
)
ODD = ("C:x", "a\\b", "a:stream", "a\nb", "a\n", "\x1b]52;c;eA==\x07", "a\x00", "a\x85", "\u202ea")
PLAIN = ("tekken.json", "onnx/encoder_q4.onnx", "..a", "a..b", ".hidden", "a/.b", "ü/é.onnx_data_1")


@dataclass(frozen=True, slots=True)
class File:
    size: Count
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class Files:
    files: Mapping[RelativeName, File]

    def __post_init__(self):
        if len(self.files) > 1:
            raise ValueError("expected one file")


@pytest.mark.parametrize("name", (*OUTSIDE, *ODD))
def test_names_that_lead_elsewhere_or_are_commands_to_something(name):
    assert not is_relative_name(name)


@pytest.mark.parametrize("name", PLAIN)
def test_names_of_files_below_the_folder(name):
    assert is_relative_name(name)


@given(st.text())
def test_no_relative_name_leaves_its_folder(name):
    if is_relative_name(name):
        parts = name.split("/")
        assert all(parts) and not {".", ".."} & {*parts} and "\\" not in name and ":" not in name
        assert name.isprintable() or not any(ord(sign) < 32 for sign in name)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "truncated"),
        (b"\xff", "malformed"),
        (b"[]", "Expected `object`, got `array`"),
        (b"[" * 100_000, "Expected `object`"),
        (b'{"files": ' + b'{"a":' * 100_000, "Expected|deep"),
        (b'{"x": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"files": {"../a": {}}}', "a file below the folder"),
        (b'{"files": {"a": {"size": -1}}}', "Expected `int` >= 0"),
        (b'{"files": {"a": {"size": %d}}}' % (1 << 53), "Expected `int` <"),
        (b'{"files": {"a": {"size": true}}}', "got `bool`"),
        (b'{"files": {"a": {"size": 1e400}}}', "Number out of range"),
        (b'{"files": {"a": {"size": NaN}}}', "malformed"),
        (b'{"files": {"a": {"size": 1, "sha256": "00"}}}', "a sha256 in hexadecimal digits"),
        (
            b'{"files": {"a": {"size": 1, "sha256": "%s\\n"}}}' % (b"0" * 64),
            "a sha256 in hexadecimal digits",
        ),
        (
            b'{"files": {"a": {"size": 1, "sha256": "%s"}, "b": {"size": 1, "sha256": "%s"}}}'
            % (b"0" * 64, b"0" * 64),
            "expected one file",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_the_caller_s_error(content, reason):
    with pytest.raises(ArtifactError, match=reason) as caught:
        decode(Files, content, lambda reason: ArtifactError(f"here: {reason}"))
    assert str(caught.value).startswith("here: ") and "regex" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"a = ", b"\xff", b"a = " + b"9" * 5000, b"a = " + b"[" * 50_000, b"a = 'text'"]
)
def test_toml_too(content):
    with pytest.raises(ArtifactError):
        decode_toml(dict[str, int], content, ArtifactError)


def test_no_more_is_read_than_the_budget(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    assert read_within(path, 100, ArtifactError) == bytes(100)
    with pytest.raises(ArtifactError, match="expected at most 99 bytes"):
        read_within(path, 99, ArtifactError)
    with pytest.raises(FileNotFoundError):
        read_within(tmp_path / "none", 99, ArtifactError)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_within(tmp_path, 99, ArtifactError)
