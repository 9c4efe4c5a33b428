"""The portable family: native's contract and weights in operators of the ONNX standard."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from reference import toy
from reference.eager import load_weights
from support import ggufs
from support.agreement import SHORT_CLIPS, sound
from support.parity import assert_parity

from voxtral_onnx import Transcriber
from voxtral_onnx.errors import QuantizationError
from voxtral_onnx.exporter.checkpoint.external_data import read_initializers
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.exporter.model.linear import linear, table
from voxtral_onnx.exporter.model.parameters import PartFactory
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.quant.blocks import Blocks, dequantize_blockwise
from voxtral_onnx.quant.recipe import Recipe, Rule


@pytest.fixture(scope="module")
def graphs(portable_artifact):
    """Every portable graph: its file, its specification, the native one of the same place."""
    manifest = Manifest.read(portable_artifact)
    return [
        (portable_artifact / graph.path, graph)
        for precision in manifest.precisions.values()
        for graph in (precision.encoder, precision.decoder)
    ]


def test_they_hold_operators_of_the_standard_alone(graphs):
    for path, graph in graphs:
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(str(path), load_external_data=False)
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 23)]
        assert {node.domain for node in model.graph.node} == {""} and not model.functions
        standard = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
        assert graph.operators.keys() <= standard
        assert {
            "Attention",
            "RMSNormalization",
            "RotaryEmbedding",
            "ScatterND",
        } <= graph.operators.keys()


def test_their_contract_is_native(portable_artifact, tiny_artifact):
    ours, native = Manifest.read(portable_artifact), Manifest.read(tiny_artifact)
    for name, precision in ours.precisions.items():
        theirs = native.precisions[name]
        for mine, other in (
            (precision.encoder, theirs.encoder),
            (precision.decoder, theirs.decoder),
        ):
            assert (mine.inputs, mine.outputs, mine.parameters) == (
                other.inputs,
                other.outputs,
                other.parameters,
            )
            assert (mine.data == other.data) == (not precision.recipe.rules), (
                "floats stand in native's files"
            )


def test_their_weights_are_native(portable_artifact, tiny_artifact):
    """Every quantised weight has the same values in both families, to the bit.

    It is dequantised as the two operators' definitions say.
    """
    ours = Manifest.read(portable_artifact).precisions["q4"]
    native = Manifest.read(tiny_artifact).precisions["q4"]
    recipe = Recipe.of(native.recipe)
    for mine, other in ((ours.encoder, native.encoder), (ours.decoder, native.decoder)):
        tensors = read_initializers(tiny_artifact, other)
        found = {t.name: t for t in onnx.load(str(portable_artifact / mine.path)).graph.initializer}
        quantized = [name.removesuffix(".scales") for name in found if name.endswith(".scales")]
        assert len(quantized) == mine.operators["DequantizeLinear"] > 20
        for name in quantized:
            rule = recipe.rule_for(name)
            assert rule is not None
            packed, zero_points = (
                tensors.get(f"{name}.{part}") for part in ("weight", "zero_points")
            )
            assert packed is not None
            blocks = Blocks(
                packed.stored_rows().reshape(packed.shape),
                tensors[f"{name}.scales"].rows(),
                None if zero_points is None else zero_points.stored_rows(),
            )
            parts = ("weight", "zero_points", "scales")
            codes, zeros, scales = (
                numpy_helper.to_array(found[f"{name}.{part}"]) for part in parts
            )
            expected = dequantize_blockwise(blocks, rule, len(codes))
            block = np.arange(len(codes)) // rule.block_size
            actual = (codes.astype(np.float32) - zeros.astype(np.float32)[block]) * scales[block]
            assert np.array_equal(actual.T, expected), name


def test_onnxruntime_writes_the_same_tokens(portable_artifact, tiny_artifact):
    """In float16, and in 4 bits also while windows roll and caches shift."""
    for precision, more in (("q4", ("1 min",)), ("fp16", ())):
        with Transcriber(
            portable_artifact, precision=precision, device="cpu", blank_guard=False
        ) as transcriber:
            for clip in (*SHORT_CLIPS, *more):
                expected = sound(tiny_artifact, precision, clip)
                print(expected.judge(transcriber.transcribe(expected.samples).token_ids))


LINEAR, TABLE = "language_model.layers.0.mlp.gate_proj", "language_model.embed_tokens"


def both_forms(checkpoint, name: str, rule: Rule):
    """Return a linear layer or the table as native stores it and as the portable graphs do.

    The exporter's weight recipes load both.
    """
    config, forms = checkpoint.config.decoder, []
    for standard in (False, True):
        build = PartFactory("float32", Recipe("toy", 0, (rule,)), standard)
        outputs = config.kv_size if name.endswith("k_proj") else config.intermediate_size
        if name == TABLE:
            part = build.table(name, config.vocab_size, config.hidden_size)
            forms.append(table(part))
        else:
            part = build.linear(name, config.hidden_size, outputs)
            forms.append(linear(part))
        load_weights(forms[-1], {name: part}, checkpoint, name)
    return forms


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block_size", [32, 64])  # 96 inputs: the last block of 64 is half full
def test_linear_layers_are_native(toy_checkpoint, bits, block_size):
    for method in ("rtn_asymmetric", "rtn_symmetric"):
        native, portable = both_forms(
            open_checkpoint(toy_checkpoint), LINEAR, Rule("*", bits, block_size, method)
        )
        x = torch.eye(96)
        assert_parity(portable(x).numpy(), native(x).numpy(), atol=0, what=method)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_table_is_native(toy_checkpoint, bits):
    native, portable = both_forms(
        open_checkpoint(toy_checkpoint), TABLE, Rule("*", bits, 32, "rtn_symmetric")
    )
    ids = torch.arange(1300).reshape(2, 650)
    assert_parity(portable.embed(ids).numpy(), native.embed(ids).numpy(), atol=0, what="rows")
    assert_parity(
        portable.logits(torch.eye(96)).numpy(),
        native.logits(torch.eye(96)).numpy(),
        atol=0,
        what="logits",
    )


def test_blocks_of_a_gguf_are_kept(toy_checkpoint, tmp_path):
    """Rows in another order included, as those of keys are."""
    ggufs.write_model(
        tmp_path / "toy.gguf", toy.toy_config(), ggufs.mistral_tensors(toy_checkpoint), "Q4_0"
    )
    checkpoint = open_checkpoint(tmp_path / "toy.gguf", toy_checkpoint / "tekken.json")
    for name in (LINEAR, "language_model.layers.0.self_attn.k_proj"):
        native, portable = both_forms(checkpoint, name, Rule("*", 4, 32, "as_stored"))
        assert_parity(
            portable(torch.eye(96)).numpy(), native(torch.eye(96)).numpy(), atol=0, what=name
        )


def test_what_cannot_be_laid_out_is_refused():
    def build(method: str) -> PartFactory:
        return PartFactory("float32", Recipe("toy", 0, (Rule("*", 4, 32, method),)), standard=True)

    with pytest.raises(QuantizationError, match=r"zero points.*use a symmetric method"):
        build("rtn_asymmetric").table("table", 64, 64)
    with pytest.raises(QuantizationError, match="rows of 80 do not divide into blocks of 32"):
        build("rtn_symmetric").table("table", 64, 80)
    with pytest.raises(QuantizationError, match="65 outputs do not fill whole bytes"):
        build("rtn_symmetric").linear("linear", 64, 65)
