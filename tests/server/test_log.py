"""What a server says: little, and in plain characters."""

from __future__ import annotations

import io
import logging

import pytest

from voxtral_onnx.server import log

NAME = "voxtral_onnx.server.test"


@pytest.fixture
def said(monkeypatch, caplog):
    """What is written to stderr while servers log."""
    for name in log.LOGGERS:
        caplog.set_level(logging.WARNING, name)
    caplog.set_level(logging.WARNING, "uvicorn.error")  # other servers in this process set it
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with log.logging_to_stderr():
        yield stream


def test_control_characters_are_escapes(said):
    """OSC 52 writes the clipboard, and a line break makes a line that nobody said."""
    logging.getLogger(NAME).warning("%s: refused", "a\x1b]52;c;ZXZpbA==\x07\r\nb\x9b\u202ec")
    line = said.getvalue()
    assert line.endswith(
        " warning: a\\u001b]52;c;ZXZpbA==\\u0007\\u000d\\nb\\u009b\\u202ec: refused\n"
    )
    assert line.count("\n") == 1


def test_control_characters_in_a_traceback(said):
    try:
        raise KeyError("a\x1b[2Jb")
    except KeyError:
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application\n")
    assert "Traceback" in said.getvalue() and "\x1b" not in said.getvalue()


def test_a_line_of_a_kind_a_minute(said, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    for i in range(5000):
        logging.getLogger("asyncio").error("socket.accept() out of system resource\n%d", i)
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    assert said.getvalue().count("\n") == 2
    now[0] += 61
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    assert said.getvalue().endswith("received. (and 4,999 more like it before)\n")
    assert said.getvalue().count("\n") == 3


def test_handlers_are_taken_away_again():
    loggers = [logging.getLogger(name) for name in log.LOGGERS]
    before = [list(logger.handlers) for logger in loggers]
    with log.logging_to_stderr():
        assert [len(logger.handlers) for logger in loggers] == [len(held) + 1 for held in before]
    assert [logger.handlers for logger in loggers] == before
