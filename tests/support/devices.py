"""Devices that tests run on, or skip without."""

from __future__ import annotations

from itertools import count

import pytest

from voxtral_onnx.errors import DeviceError
from voxtral_onnx.runtime.device.base import Device
from voxtral_onnx.runtime.device.cpu import Cpu
from voxtral_onnx.runtime.device.cuda import Cuda
from voxtral_onnx.runtime.device.open import open_device
from voxtral_onnx.runtime.device.turns import Turns


def open_or_skip(name: str) -> Device:
    """The device; without it the test is skipped with what is missing."""
    try:
        return open_device(name)
    except DeviceError as error:
        pytest.skip(str(error))


class Imitation(Cuda):
    """All that is done for a CUDA device, with the CPU's memory and kernels."""

    place = "cpu"

    def __init__(self):
        self.name, self.index, self.notes, self._allows_cpu = "cuda:0", 0, [], False
        self.turns, self.capture_ids, self._helpers, self.locks = Turns(), count(1), {}, {}

    def open(self, path, options, *, captures):
        try:
            return Cpu().open(path, options, captures=captures)
        except Exception as error:  # onnxruntime's own exceptions share no narrower base
            if "NOT_IMPLEMENTED" in str(error):
                raise DeviceError(f"{path}: the CPU has no kernel for a node") from error
            raise

    def captures(self, session):
        return False

    def release_memory(self):
        pass

    def free_memory(self):
        return 1 << 40
