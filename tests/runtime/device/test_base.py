"""onnxruntime as it is imported."""

import sys

import onnxruntime

from voxtral_onnx.runtime.device.base import import_onnxruntime


def test_reports_are_off_on_windows_too(monkeypatch):
    """There onnxruntime reads no variable, and reports through the system from the call on."""
    calls = []
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: calls.append(1))
    assert import_onnxruntime() is onnxruntime and len(calls) == (sys.platform == "win32")
    monkeypatch.setattr(sys, "platform", "win32")
    import_onnxruntime()
    assert calls
