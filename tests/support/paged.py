"""Pages on the CPU: the exporter's module in place of CUDA's kernels, which no other device has."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from reference.eager import eager_encoder
from support.devices import Imitation

from voxtral_onnx.assets import TINY
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.exporter.model.voxtral import PagedEncoder
from voxtral_onnx.manifest import GraphSpec, Manifest
from voxtral_onnx.runtime.device.base import OneByOne
from voxtral_onnx.runtime.device.cpu import Cpu, HostBuffer


class PagingImitation(OneByOne, Imitation):
    """A CUDA device whose sessions are modules; a batch is padded to few sizes, as there."""

    def bind(self, session) -> Any:
        return ModuleBinding(session) if hasattr(session, "module") else Cpu().bind(session)

    def buffer(self, values) -> Any:
        return HostBuffer(values)


class Pages(HostBuffer):
    """Pages as a buffer."""

    def as_rows(self, first: int, count: int) -> HostBuffer:
        part = self.array[first : first + count]
        return HostBuffer(part.reshape(1, 1, part.shape[0] * part.shape[1], -1))


class ModuleBinding:
    """The inputs and outputs of a module."""

    def __init__(self, session: Any):
        self.session, self.buffers = session, {}

    def bind_pages(self, past, present, shape, dtype):
        self.buffers[past] = pages = Pages(np.full(shape, np.nan, dtype))
        return pages

    def bind_state(self, past, present, shape, dtype, *, appends):
        self.buffers[past] = state = HostBuffer(np.zeros(shape, dtype))
        return state

    def slice_batch(self, first, last):
        part = ModuleBinding(self.session)
        for name, buffer in self.buffers.items():
            is_pages = isinstance(buffer, Pages)
            part.buffers[name] = buffer if is_pages else HostBuffer(buffer.array[first:last])
        return part

    def run(self, feeds, fetch):
        arrays = {**feeds, **{name: buffer.array for name, buffer in self.buffers.items()}}
        inputs = [spec.name for spec in self.session.graph.inputs]
        outputs = [spec.name for spec in self.session.graph.outputs]
        assert arrays.keys() == set(inputs)
        with torch.no_grad():
            found = self.session.module(*(torch.from_numpy(arrays[name]) for name in inputs))
        found = dict(zip(outputs, found, strict=True))
        for name, buffer in self.buffers.items():
            present = name.replace("past_key_values", "present").replace("conv", "present_conv")
            buffer.array[:] = found[present]
        return found[fetch].numpy()


def module_session(device: PagingImitation, artifact) -> Any:
    """A session of *tiny*'s graph with pages, in float32."""
    graph = Manifest.read(artifact).precisions["fp16"].encoder_paged
    assert graph is not None
    module = eager_encoder(PagedEncoder, open_checkpoint(TINY))
    ort = SimpleNamespace(graph=in_float32(graph), module=module)
    return SimpleNamespace(graph=ort.graph, device=device, ort=ort)


def in_float32(graph: GraphSpec) -> GraphSpec:
    """A graph's description with values of float32."""

    def widened(specs):
        return tuple(
            replace(spec, dtype=spec.dtype.replace("float16", "float32")) for spec in specs
        )

    return replace(graph, inputs=widened(graph.inputs), outputs=widened(graph.outputs))
