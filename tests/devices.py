"""Devices that tests run on, or skip without."""

from __future__ import annotations

import pytest

from voxtral_onnx.errors import DeviceError
from voxtral_onnx.runtime.device import Device, open_device


def open_or_skip(name: str) -> Device:
    """The device; without it the test is skipped with what is missing."""
    try:
        return open_device(name)
    except DeviceError as error:
        pytest.skip(str(error))
