"""Repeating a traced layer gives the graph that tracing all layers gives."""

from dataclasses import replace

import pytest
import torch
from conftest import EXACT_RECIPE
from reference import toy

from voxtral_onnx.exporter.graph.families import native
from voxtral_onnx.exporter.graph.passes import clean
from voxtral_onnx.exporter.graph.trace import _trace_whole, finish, trace
from voxtral_onnx.exporter.model.parameters import PartFactory
from voxtral_onnx.manifest import Tokens
from voxtral_onnx.quant.recipe import FLOAT, load_recipe

TOKENS = Tokens(1, 2, 32, 33, 1000)


def plans(recipe):
    build = PartFactory("float32", recipe)
    return (
        lambda config: native.encoder_plan(config, build, ""),
        lambda config: native.decoder_plan(config, TOKENS, build, ""),
    )


def wiring(model):
    """Nodes in order with what they read, inner values by the place they come from."""
    names = {}
    described = []
    for number, node in enumerate(model.graph):
        inputs = [value and names.get(value, value.name) for value in node.inputs]
        attributes = {
            name: attribute.value for name, attribute in node.attributes.items() if name != "value"
        }
        described.append((node.op_type, inputs, attributes))
        names |= {output: (number, i) for i, output in enumerate(node.outputs)}
    outputs = [(value.name, names[value]) for value in model.graph.outputs]
    return described, outputs, [value.name for value in model.graph.inputs]


@pytest.mark.parametrize(
    "recipe", [FLOAT, load_recipe(str(EXACT_RECIPE))], ids=lambda recipe: recipe.name
)
@pytest.mark.parametrize("part", [0, 1], ids=["encoder", "decoder"])
def test_repeated_layers_equal_traced_ones(recipe, part):
    config = toy.toy_config()
    plan_of = plans(recipe)[part]
    plan = plan_of(config)
    whole = _trace_whole(plan)
    clean(whole)
    finish(plan, whole)
    repeated = trace(plan_of, config).model
    assert wiring(repeated) == wiring(whole)
    shapes = {name: value.shape for name, value in whole.graph.initializers.items()}
    assert {name: value.shape for name, value in repeated.graph.initializers.items()} == shapes


@pytest.mark.parametrize("layers", [1, 2])
def test_fewer_layers_than_are_traced(layers):
    config = toy.toy_config()
    config = replace(config, encoder=replace(config.encoder, num_hidden_layers=layers))
    assert trace(plans(FLOAT)[0], config).operators["GroupQueryAttention"] == layers


def test_a_missing_fusion_is_an_error(monkeypatch):
    from voxtral_onnx.exporter.model import ops

    monkeypatch.setattr(ops, "silu", torch.nn.functional.silu)
    with pytest.raises(AssertionError, match="expected 4 QuickGelu nodes, found 0"):
        trace(plans(FLOAT)[0], toy.toy_config())
