"""Slots of a common buffer are caches of their own."""

from __future__ import annotations

import numpy as np
from support.devices import Imitation

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime.device.cache import BatchedKVCache
from voxtral_onnx.runtime.device.cuda import CudaBuffer


def test_a_slot_shifts_by_itself(toy_artifact):
    with Transcriber(toy_artifact, "cpu", precision="fp32") as transcriber:
        decoder = transcriber.model.decoder
    slots = BatchedKVCache(decoder.session, decoder.spec, 2)
    first, second = slots.cache(0), slots.cache(1)
    for buffer in (*first.buffers, *second.buffers):
        buffer.write(np.random.default_rng(0).standard_normal(buffer.shape).astype(buffer.dtype))
    before = [buffer.read().copy() for buffer in second.buffers]
    first.position = decoder.spec.capacity - 1
    first.advance(1)
    assert np.array_equal(
        first.buffers[0].read(decoder.spec.keep), before[0][:, :, -decoder.spec.keep :]
    )
    assert all(
        np.array_equal(buffer.read(), values)
        for buffer, values in zip(second.buffers, before, strict=True)
    )
    assert slots.cache(1).position == 0


def test_slots_of_a_device_buffer():
    device, rng = Imitation(), np.random.default_rng(0)
    whole = CudaBuffer(device, (3, 2, 8, 4), np.dtype(np.float16))
    assert not whole.read().any()
    values = rng.standard_normal(whole.shape).astype(np.float16)
    for row in range(3):
        whole.slice_batch(row, row + 1).write(values[row : row + 1])
    assert np.array_equal(whole.read(), values)
    whole.slice_batch(1, 2).shift(3)
    values[1, :, :3] = values[1, :, 5:].copy()
    whole.slice_batch(2, 3).copy_from(whole.slice_batch(0, 1), 8)
    values[2] = values[0]
    assert np.array_equal(whole.read(), values)
    assert np.array_equal(whole.slice_batch(0, 2).read(5), values[:2, :, :5])
    whole.shift(2)
    values[:, :, :2] = values[:, :, 6:].copy()
    assert np.array_equal(whole.read(), values)
