"""The weights of an artifact's graph are in its own data files, whatever the graph says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from fuzz.targets.external_data import DATA, SPEC, graph, initializer
from onnx import helper
from support.damage import edit_graph

from voxtral_onnx.errors import ArtifactError
from voxtral_onnx.exporter.checkpoint.artifact import open_artifact
from voxtral_onnx.exporter.checkpoint.external_data import read_initializers, read_locations
from voxtral_onnx.exporter.export import export
from voxtral_onnx.manifest import Manifest


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "a.onnx_data").write_bytes(DATA)
    return tmp_path


def write(folder: Path, *tensors: onnx.TensorProto, nodes=()) -> None:
    (folder / SPEC.path).write_bytes(graph(*tensors, nodes=nodes))


def test_what_a_graph_says_truly(folder):
    write(folder, initializer())
    assert read_initializers(folder, SPEC)["w"].rows().tolist() == [4, 5, 6, 7]
    location = read_locations(folder, SPEC.path)["w"]
    assert (location.file, location.offset, location.size) == ("onnx/a.onnx_data", 16, 16)


def constant(tensor: onnx.TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=tensor)


def branch(tensor: onnx.TensorProto) -> onnx.NodeProto:
    inner = helper.make_graph([], "inner", [], [], initializer=[tensor])
    return helper.make_node("If", ["x"], ["y"], then_branch=inner)


@pytest.mark.parametrize(
    ("tensors", "nodes", "reason"),
    [
        ([initializer(location="../secret")], [], r"in '\.\./secret'"),
        ([initializer(location="/etc/passwd")], [], "in '/etc/passwd'"),
        ([initializer(location="sub/a.onnx_data")], [], "in 'sub/a.onnx_data'"),
        ([initializer(location="")], [], "in ''"),
        ([initializer(location="b.onnx_data")], [], r"no such bytes in onnx/b\.onnx_data"),
        ([initializer(offset="17")], [], "no such bytes"),
        ([initializer(offset="-16")], [], "from -16"),
        ([initializer(offset="1_6")], [], "from 1_6"),
        ([initializer(offset="9" * 5000)], [], "from 999"),
        ([initializer(length="8")], [], "8 bytes"),
        ([initializer(dims=(-4, -1))], [], r"\[-4, -1\]"),
        ([initializer(dims=(0,), length="0")], [], r"\[0\]"),
        ([initializer(dims=(1 << 62, 4), length="")], [], "no such bytes"),
        ([initializer(kind=onnx.TensorProto.DOUBLE)], [], "type 11"),
        ([initializer(), initializer()], [], "w: no such bytes"),
        (
            [],
            [constant(initializer(location="../secret"))],
            "expected only initializers in data files",
        ),
        (
            [],
            [branch(initializer(location="../secret"))],
            "expected only initializers in data files",
        ),
    ],
)
def test_what_no_graph_may_say(tensors, nodes, reason, folder):
    write(folder, *tensors, nodes=nodes)
    with pytest.raises(ArtifactError, match=reason):
        read_initializers(folder, SPEC)


@pytest.mark.parametrize("text", ["a.onnx_data", "location", "w"])
def test_text_that_is_not_utf_8(text, folder):
    content = graph(initializer())
    assert text.encode() in content
    (folder / SPEC.path).write_bytes(content.replace(text.encode(), b"\xff" * len(text)))
    with pytest.raises(ArtifactError, match="expected float32, float16 or uint8 values in a file"):
        read_initializers(folder, SPEC)


def nested(depth: int) -> bytes:
    """Graphs in attributes of nodes of graphs."""
    content = b""
    for tag in (*(b"\x32", b"\x2a", b"\x0a") * depth, b"\x3a"):  # the last is the model's
        size, length = len(content), b""
        while size > 127:
            length += bytes([size & 127 | 128])
            size >>= 7
        content = tag + length + bytes([size]) + content
    return content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff" * 100, "not a readable ONNX file"),
        (nested(1000), "not a readable ONNX file"),
        (b"\x3a\x00" * (2 << 20) + b"  ", "expected at most 4,194,304 bytes"),
    ],
)
def test_what_is_no_graph(content, reason, folder):
    (folder / SPEC.path).write_bytes(content)
    with pytest.raises(ArtifactError, match=reason):
        read_locations(folder, SPEC.path)


@pytest.mark.parametrize("name", ["onnx/a.onnx", "onnx/a.onnx_data"])
def test_links_that_lead_elsewhere(name, folder, tmp_path_factory):
    write(folder, initializer())
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "file"
    shutil.move(folder / name, elsewhere)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(ArtifactError, match=f"{name}: a link that leads out of the folder"):
        read_initializers(folder, SPEC)


def rename(name: str) -> Callable[[onnx.GraphProto], None]:
    def change(graph: onnx.GraphProto) -> None:
        next(tensor for tensor in graph.initializer if tensor.name == name).name = "other"

    return change


def reshape(name: str, *dims: int) -> Callable[[onnx.GraphProto], None]:
    def change(graph: onnx.GraphProto) -> None:
        tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
        tensor.dims[:] = dims

    return change


PROJECTION = "audio_tower.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def eight_bits(tmp_path_factory, toy_checkpoint) -> Path:
    return export(toy_checkpoint, tmp_path_factory.mktemp("q8") / "toy", precisions=["q8"])


@pytest.mark.parametrize("part", ["weight", "scales"])
def test_an_artifact_that_lacks_a_tensor(part, eight_bits, tmp_path):
    folder = Path(shutil.copytree(eight_bits, tmp_path / "artifact"))
    edit_graph(folder, "encoder", rename(f"{PROJECTION}.{part}"))
    with pytest.raises(ArtifactError, match=rf"{PROJECTION}\.weight: expected values that make"):
        open_artifact(folder)


@pytest.mark.parametrize("part", ["weight", "scales"])
def test_an_artifact_of_blocks_that_make_another_shape(part, eight_bits, tmp_path):
    folder = Path(shutil.copytree(eight_bits, tmp_path / "artifact"))
    kind = Manifest.read(folder).precisions["q8"].encoder
    tensor = read_initializers(folder, kind)[f"{PROJECTION}.{part}"]
    edit_graph(folder, "encoder", reshape(tensor.name, *tensor.shape[::-1]))
    with pytest.raises(ArtifactError, match=rf"{PROJECTION}\.weight: expected values that make"):
        open_artifact(folder)


def test_an_artifact_whose_graph_names_a_file_that_the_manifest_does_not(eight_bits, tmp_path):
    folder = Path(shutil.copytree(eight_bits, tmp_path / "artifact"))
    manifest = Manifest.read(folder)
    (data, *_) = manifest.precisions["q8"].encoder.data
    files = {name: file for name, file in manifest.files.items() if name != data}
    replace(manifest, files=files).write(folder)
    with pytest.raises(ArtifactError, match=f"gives no size and hash of {data}"):
        open_artifact(folder)


def test_an_artifact_with_another_graph_of_this_version(eight_bits, tmp_path):
    """What the exporter would change the nodes of is refused where they are not its own."""
    folder = Path(shutil.copytree(eight_bits, tmp_path / "artifact"))
    edit_graph(folder, "encoder", lambda graph: graph.ClearField("node"))
    with pytest.raises(ArtifactError, match="not a graph that this version exports"):
        export(open_artifact(folder), tmp_path / "out", precisions=["q4"])
