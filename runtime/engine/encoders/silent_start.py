"""How the encoder of a live stream begins: behind the silence before all audio."""

from __future__ import annotations

from ...device.base import Buffer, Device
from ...device.cache import KVCache
from ...model import LoadedModel
from ...stream_state import StreamState


class SilentStart:
    """The encoder's state behind the silence before all audio, which is copied to a cache."""

    def __init__(self, model: LoadedModel, state: StreamState):
        self.position = state.position.encoder
        self._device: Device = model.device
        self._arrays = [rows for name, rows in state.arrays.items() if name.startswith("encoder_")]
        self._buffers: list[Buffer] = []  # keys and values, in the device's memory

    def write(self, cache: KVCache) -> None:
        """Bring a cache into this state."""
        if not self._device.supports_batching:
            cache.restore(self.position, self._arrays)
            return
        count = len(cache.states)
        if not self._buffers:
            self._buffers = [self._device.buffer(rows) for rows in self._arrays[count:]]
        for state, values in zip(cache.states, self._arrays[:count], strict=True):
            state.write(values)
        self._device.copy_all(self._buffers, cache.buffers, self._buffers[0].shape[2])
        cache.position = self.position
