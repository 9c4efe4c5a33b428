"""Ladder, rungs 1 and 3.

Every traced graph on onnxruntime against the module it was traced from.
"""

import numpy as np
import pytest
import torch
from conftest import EXACT_RECIPE
from reference.eager import eager_encoder, eager_modules, empty_caches
from support.parity import assert_parity

from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.exporter.model.voxtral import BatchEncoder
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.quant.recipe import FLOAT, load_recipe
from voxtral_onnx.runtime.device.session import Session
from voxtral_onnx.verification.layerwise import rotation

ATOL = 1e-4  # float32 rounding on values up to 20: kernels and PyTorch add in another order
CAPACITY = 96


@pytest.fixture(scope="module", params=["fp32", "q4", "portable fp32"])
def both(request, toy_artifact, toy_checkpoint):
    manifest = Manifest.read(toy_artifact)
    family, _, name = request.param.rpartition(" ")
    native = manifest.precisions[name].encoder, manifest.precisions[name].decoder
    checkpoint = open_checkpoint(toy_checkpoint)
    recipe = FLOAT if name == "fp32" else load_recipe(str(EXACT_RECIPE))
    sessions = [
        Session(toy_artifact, graph, "cpu")
        for graph in (manifest.family(name, family) if family else native)
    ]
    return checkpoint, eager_modules(checkpoint, recipe), sessions


def run_both(session, module, feeds, padded=None):
    """All outputs of the graph and of the module; of padded tokens, counted by row, none counts."""
    names = [spec.name for spec in session.graph.inputs]
    assert list(feeds) == names
    got = session.ort.run(None, {name: value.numpy() for name, value in feeds.items()})
    with torch.no_grad():
        wanted = module(*feeds.values())
    outputs = [spec.name for spec in session.graph.outputs]
    for name, actual, expected in zip(outputs, got, wanted, strict=True):
        if name == "audio_embeds" and padded is not None:
            tokens = [range(actual.shape[1] - count) for count in padded]
            actual, expected = (
                np.concatenate([part[i, list(kept)] for i, kept in enumerate(tokens)])
                for part in (actual, expected.numpy())
            )
            assert_parity(actual, expected, atol=ATOL, what=name)
            continue
        assert_parity(actual, expected.numpy(), atol=ATOL, what=name)
    return dict(zip(outputs, wanted, strict=True))


def positions(stack, start, rows, row, batch=1):
    cos, sin = (part.expand(batch, -1, -1) for part in rotation(stack, start, rows))
    last = torch.full((batch,), row + rows - 1, dtype=torch.int32)
    return {
        "cos": cos,
        "sin": sin,
        "seqlens_k": last,
        "total_sequence_length": torch.tensor(CAPACITY, dtype=torch.int32),
    }


def named_caches(prefix, caches):
    return {
        f"{prefix}.{i // 2}.{'value' if i % 2 else 'key'}": cache for i, cache in enumerate(caches)
    }


@pytest.mark.parametrize("start", [0, 10_000_000])
def test_encoder_graph_equals_module(both, start):
    checkpoint, (encoder, _), (session, _) = both
    stack, rng = checkpoint.config.encoder, np.random.default_rng(start)
    states = {
        "conv1_state": torch.zeros(1, 128, 2),
        "conv2_state": torch.zeros(1, stack.hidden_size, 1),
    }
    caches, row = empty_caches(stack, CAPACITY), 0
    for chunk in (1, 5, 2, 16):
        mel = torch.from_numpy(rng.standard_normal((1, 128, 8 * chunk), dtype=np.float32))
        feeds = {
            "input_features": mel,
            **states,
            **positions(stack, start + row, 4 * chunk, row),
            **named_caches("past_key_values", caches),
        }
        out = run_both(session, encoder, feeds)
        states = {name: out[f"present_{name}"] for name in states}
        caches = [value for name, value in out.items() if name.startswith("present.")]
        row = row + 4 * chunk
    assert row == CAPACITY


@pytest.mark.parametrize("name", ["fp32", "q4"])
def test_streams_in_one_call_equal_the_module(name, toy_artifact, toy_checkpoint):
    """Some begin, some bring fewer frames than others, some none; all have rows of their own."""
    graph = Manifest.read(toy_artifact).precisions[name].encoder_batch
    assert graph is not None
    session, checkpoint = Session(toy_artifact, graph, "cpu"), open_checkpoint(toy_checkpoint)
    recipe = FLOAT if name == "fp32" else load_recipe(str(EXACT_RECIPE))
    encoder = eager_encoder(BatchEncoder, checkpoint, recipe)
    stack = checkpoint.config.encoder
    rng, batch = np.random.default_rng(3), 4
    states = {
        "conv1_state": torch.zeros(batch, 128, 2),
        "conv2_state": torch.zeros(batch, stack.hidden_size, 1),
    }
    caches, rows = empty_caches(stack, CAPACITY, batch), np.zeros(batch, int)
    for tokens in ([1, 0, 2, 0], [0, 0, 3, 1], [5, 2, 0, 1], [1, 1, 1, 1]):
        new, chunk = 4 * np.array(tokens), max(tokens)
        cos, sin = zip(*(rotation(stack, 1000 + int(row), 4 * chunk) for row in rows), strict=True)
        mel = rng.standard_normal((batch, 128, 8 * chunk), dtype=np.float32)
        feeds = {
            "input_features": torch.from_numpy(mel),
            **states,
            "cos": torch.cat(cos),
            "sin": torch.cat(sin),
            "seqlens_k": torch.from_numpy(np.maximum(rows + new - 1, 0)).int(),
            "total_sequence_length": torch.tensor(CAPACITY, dtype=torch.int32),
            "query_seqlens": torch.from_numpy(new).int(),
            **named_caches("past_key_values", caches),
        }
        before = {key: value.clone() for key, value in feeds.items()}
        out = run_both(session, encoder, feeds, padded=[chunk - count for count in tokens])
        for slot in np.flatnonzero(new == 0):
            for key, value in before.items():
                if (present := key.replace("past_key_values", "present")) in out:
                    assert torch.equal(out[present][slot], value[slot])
        states = {name: out[f"present_{name}"] for name in states}
        caches = [value for key, value in out.items() if key.startswith("present.")]
        rows = rows + new


def test_decoder_graph_equals_module(both):
    checkpoint, (_, decoder), (_, session) = both
    stack, rng = checkpoint.config.decoder, np.random.default_rng(1)
    caches, row = empty_caches(stack, CAPACITY), 0
    for seq, delay in ((39, 6), (1, 6), (1, 1), (4, 30), (50, 12), (1, 12)):
        feeds = {
            "input_ids": torch.from_numpy(rng.integers(0, stack.vocab_size, (1, seq))),
            "audio_embeds": torch.from_numpy(
                rng.standard_normal((1, seq, stack.hidden_size), dtype=np.float32)
            ),
            "num_delay_tokens": torch.tensor([delay]),
            **positions(stack, row, seq, row),
            "blank_penalty": torch.from_numpy(rng.uniform(0, 8, (1, seq)).astype(np.float32)),
            **named_caches("past_key_values", caches),
        }
        out = run_both(session, decoder, feeds)
        caches = [value for name, value in out.items() if name.startswith("present.")]
        row = row + seq
    assert row == CAPACITY


def test_decoder_rows_have_lengths_and_delays_of_their_own(both):
    checkpoint, (_, decoder), (_, session) = both
    stack, rng, rows = checkpoint.config.decoder, np.random.default_rng(2), torch.tensor([0, 7, 60])
    cos, sin = zip(*(rotation(stack, int(row), 1) for row in rows), strict=True)
    written = (torch.arange(CAPACITY) < rows[:, None])[:, None, :, None]
    caches = [
        written * torch.randn(cache.shape) for cache in empty_caches(stack, CAPACITY, batch=3)
    ]
    feeds = {
        "input_ids": torch.from_numpy(rng.integers(0, stack.vocab_size, (3, 1))),
        "audio_embeds": torch.from_numpy(
            rng.standard_normal((3, 1, stack.hidden_size), dtype=np.float32)
        ),
        "num_delay_tokens": torch.tensor([1, 6, 30]),
        "cos": torch.cat(cos),
        "sin": torch.cat(sin),
        "seqlens_k": rows.int(),
        "total_sequence_length": torch.tensor(CAPACITY, dtype=torch.int32),
        "blank_penalty": torch.zeros(3, 1),
        **named_caches("past_key_values", caches),
    }
    run_both(session, decoder, feeds)


def test_choice_breaks_ties_towards_the_lower_id(both):
    _, (_, decoder), _ = both
    blank = decoder.blank
    logits = torch.full((1, 4, 50), -3.0)
    logits[0, 0, [blank, 40]] = 2.0  # the blank is lower
    logits[0, 1, [blank, 7]] = 2.0  # the word is lower
    logits[0, 2, blank], logits[0, 2, 40] = 2.5, 2.0  # the penalty makes it a tie
    logits[0, 3, blank], logits[0, 3, 40] = 2.5, 2.0  # the penalty turns it over
    mask = decoder.blank_mask
    decoder.blank_mask = torch.nn.Parameter(mask[:50].clone(), requires_grad=False)
    step = decoder.sample(logits, torch.tensor([[0.0, 0.0, 0.5, 0.75]]))
    decoder.blank_mask = mask
    assert step[0, :, 0].tolist() == [blank, 7, blank, 40]
    assert step[0, :, 2].tolist() == [0.0, 0.0, 0.5, 0.5]
    expected = torch.log_softmax(logits, -1)[0, range(4), [blank, 7, blank, 40]]
    assert_parity(
        step[0, :, 1].numpy(), expected.numpy(), atol=1e-6, what="logprob before the penalty"
    )


def test_artifact_names_no_inner_axis_and_no_source_line(toy_artifact):
    import onnx

    for path in (toy_artifact / "onnx").glob("*.onnx"):
        model = onnx.load(path, load_external_data=False)
        axes = {
            axis.dim_param
            for value in (*model.graph.input, *model.graph.output)
            for axis in value.type.tensor_type.shape.dim
            if axis.dim_param
        }
        assert axes <= {
            "batch", "seq", "chunk", "samples", "frames", "capacity", "present_capacity",
            "4*chunk", "8*chunk",
        }  # fmt: skip
        assert {value.name for value in model.graph.value_info} <= {
            value.name for value in model.graph.initializer
        }
        assert not any(value.metadata_props for value in model.graph.value_info)
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
        assert path.stat().st_size < 1_000_000
