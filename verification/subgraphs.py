"""Cut an artifact's graph into stages that run one at a time, with one layer's weights in memory.

A stage has the nodes, attributes and weight locations of the graph's file. It runs as shipped, or
*exactly*: with every float16 as float32 and matrix products in float, so that only the order of
additions differs from the PyTorch module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Lock

import numpy as np
import onnx_ir as ir

from ..config import VoxtralConfig
from ..errors import ArtifactError, DeviceError
from ..exporter.checkpoint.external_data import read_initializers
from ..exporter.model.parameters import PartFactory
from ..manifest import GraphSpec, Manifest, TensorSpec
from ..quant.recipe import Recipe
from ..runtime.device.base import SILENT, Device, import_onnxruntime
from ..runtime.device.cpu import Cpu

STEM, PROJECTOR = "audio_tower.embedder", "multi_modal_projector"
EMBEDDING, HEAD = "language_model.embed_tokens", "language_model.norm"
# Names of the values that a stage reads from the previous one: the residual stream, and the branch
# that is to be added to it
RESIDUAL = "residual"
BRANCH = "branch"
NEXT = "next_"  # prefix of their names as outputs of the stage that writes them
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


class StagedGraph:
    """A graph of an artifact that can be cut into stages, with their names in running order."""

    def __init__(self, folder: Path, spec: GraphSpec, config: VoxtralConfig):
        """Read the graph but not its weights.

        Raises:
            ArtifactError: the file does not parse, or lacks layers with the exporter's names.
        """
        # Read the graph
        self.path, self.spec, self.lock = folder / spec.path, spec, Lock()
        read_initializers(folder, spec)  # checks that all data is in the artifact's own files
        try:
            self.graph = ir.load(self.path).graph
        except Exception as error:  # protobuf's own errors share no narrower base
            raise ArtifactError(
                f"{self.path}: not a readable graph ({error}); export again"
            ) from error

        # Name the stages, and find the seams between them: values that pass from one to the next
        self.is_encoder = any(tensor.name == "input_features" for tensor in spec.inputs)
        name, stack = (
            ("audio_tower", config.encoder)
            if self.is_encoder
            else ("language_model", config.decoder)
        )
        first, last = (STEM, PROJECTOR) if self.is_encoder else (EMBEDDING, HEAD)
        self.layers = tuple(f"{name}.layers.{i}" for i in range(stack.num_hidden_layers))
        self.stages = (first, *self.layers, last)
        norms = [
            *(f"{layer}.input_layernorm.weight" for layer in self.layers),
            f"{name}.norm.weight",
        ]
        self.seams = [self._read_by_norm(weight) for weight in norms]

        # Declare type and shape of the values that pass the seams
        cos = next(tensor for tensor in spec.inputs if tensor.name == "cos")
        self.dtype = cos.dtype
        self.rows = cos.shape[1]
        self.width = stack.hidden_size

    def _read_by_norm(self, weight: str) -> list[ir.Value]:
        for node in self.graph:
            if any(value is not None and value.name == weight for value in node.inputs):
                return [
                    value for value in node.inputs if value is not None and value.name != weight
                ]
        raise ArtifactError(
            f"{self.path}: no node reads {weight}; not a graph of this exporter: export again"
        )

    def stored(self, name: str) -> np.ndarray:
        """Return an initializer's values, mapped from its data file until `release`.

        Raises:
            ArtifactError: the graph has no such initializer, or its data file lacks the values.
        """
        value = self.graph.initializers.get(name)
        tensor = value.const_value if value is not None else None
        if tensor is None:
            raise ArtifactError(f"{self.path}: no initializer {name}; export again")
        try:
            with self.lock:  # a tensor may be mapped by one thread only
                return tensor.numpy()
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{self.path}: {name}: its data cannot be read ({error}); export again"
            ) from error

    def release(self) -> None:
        """Unmap the data files, whose pages would pile up to the size of all weights."""
        for value in self.graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value.release()

    def weights(self, name: str, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return a copy of an initializer's values, all or some rows of its first axis.

        Raises:
            ArtifactError: as `stored`.
        """
        values = np.array(self.stored(name)[rows])
        tensor = self.graph.initializers[name].const_value
        if isinstance(tensor, ir.ExternalTensor):
            tensor.release()
        return values

    def load(self, stage: str, *, exact: bool, device: Device | None = None) -> StageSession:
        """Load one stage.

        Args:
            stage: name of the stage.
            exact: whether to compute in float32 instead of the types that are shipped.
            device: device to run on; by default the CPU.

        Raises:
            ArtifactError: the stage cannot be cut out of the graph, or as `StageSession`.
            DeviceError: as `StageSession`.
        """
        # Cut the stage out
        index = self.stages.index(stage)
        fed = self.seams[index - 1] if index else []
        left = self.seams[index] if index < len(self.seams) else []
        outputs = [
            value for value in self.graph.outputs if self._stage_of(str(value.name)) == stage
        ]
        inputs = _needed_inputs(self.graph, [*left, *outputs], fed)
        try:
            graph = ir.convenience.extract(self.graph, [*fed, *inputs], [*left, *outputs])
        except ValueError as error:
            raise ArtifactError(
                f"{self.path}: {stage} cannot be cut out ({error}); export again"
            ) from error

        # Name and type the values that pass its seams
        for values, prefix in ((graph.inputs[: len(fed)], ""), (graph.outputs[: len(left)], NEXT)):
            for value, name in zip(values, (RESIDUAL, BRANCH), strict=False):
                value.name, value.shape = prefix + name, ir.Shape((1, self.rows, self.width))
                value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(self.dtype)))
        if exact:
            make_exact(graph)
        return StageSession(self.path, graph, device)

    def _stage_of(self, output: str) -> str:
        kind, *number = output.split(".")
        if kind == "present":
            return self.layers[int(number[0])]
        return self.stages[0] if kind.startswith("present_") else self.stages[-1]


class ArtifactGraphs:
    """The graphs of one precision of an artifact, and what they were made from."""

    def __init__(self, folder: Path, manifest: Manifest, precision: str):
        """Read the graphs, but not yet their weights.

        Raises:
            ArtifactError: as `StagedGraph`.
        """
        graphs = manifest.precisions[precision]
        self.config, self.tokens = manifest.config, manifest.tokens
        self.build = PartFactory("float32", Recipe.of(graphs.recipe))
        self.encoder = StagedGraph(folder, graphs.encoder, manifest.config)
        self.decoder = StagedGraph(folder, graphs.decoder, manifest.config)


class StageSession:
    """A stage or a single node, loaded by onnxruntime."""

    def __init__(self, path: Path, graph: ir.Graph, device: Device | None = None):
        """Load a subgraph of the graph at `path`, for the CPU or another device.

        Raises:
            ArtifactError: onnxruntime cannot load it.
            DeviceError: the device has no kernel for one of its nodes.
        """
        options = import_onnxruntime().SessionOptions()
        options.log_severity_level = SILENT
        options.enable_cpu_mem_arena = False  # memory is freed with the session
        # Spinning would take the cores from PyTorch's threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(path.parent))
        content = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
        try:
            self.ort = (device or Cpu()).open(content, options, captures=False)
        except DeviceError:
            raise
        except Exception as error:  # onnxruntime's own exceptions share no narrower base
            raise ArtifactError(
                f"{path}: onnxruntime cannot load a part of it ({error}); export again"
            ) from error
        self.inputs, self.outputs = _specs(graph.inputs), _specs(graph.outputs)

    def call(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run and return all outputs by name; feeds are converted to the types of the inputs."""
        values = {
            spec.name: feeds[spec.name].astype(spec.dtype, copy=False) for spec in self.inputs
        }
        outputs = self.ort.run(None, values)
        return {
            spec.name: np.asarray(value) for spec, value in zip(self.outputs, outputs, strict=True)
        }


def make_exact(graph: ir.Graph) -> None:
    """Change every float16 value of a graph to float32, and MatMulNBits to multiply in float."""
    wide = ir.TensorType(ir.DataType.FLOAT)
    for value in (*graph.inputs, *graph.outputs):
        if value.dtype == ir.DataType.FLOAT16:
            value.type = wide
    for name, value in graph.initializers.items():
        if value.dtype == ir.DataType.FLOAT16 and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=name)
            value.type = wide
    for node in graph:
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 0)
        elif node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT16:
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)


def _needed_inputs(
    graph: ir.Graph, outputs: Iterable[ir.Value], stops: Iterable[ir.Value]
) -> list[ir.Value]:
    """Return the graph's inputs that some values depend on, by paths that avoid `stops`."""
    seen, pending = set(stops), list(outputs)
    while pending:
        value = pending.pop()
        if value not in seen:
            seen.add(value)
            if (node := value.producer()) is not None:
                pending += [read for read in node.inputs if read is not None]
    return [value for value in graph.inputs if value in seen]


def _specs(values: Iterable[ir.Value]) -> tuple[TensorSpec, ...]:
    def spec(value: ir.Value) -> TensorSpec:
        assert value.dtype is not None
        axes = () if value.shape is None else value.shape
        shape = tuple(axis if isinstance(axis, int) else str(axis.value) for axis in axes)
        return TensorSpec(str(value.name), str(value.dtype.numpy()), shape)

    return tuple(spec(value) for value in values)
