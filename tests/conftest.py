from pathlib import Path

import pytest
import torch

from voxtral_onnx import export

torch.set_num_threads(1)  # small matrices: threads that wait for each other are slower than one
EXACT_RECIPE = Path(__file__).parent / "reference" / "exact.toml"


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory):
    """The embedded checkpoint, exported in every precision."""
    folder = tmp_path_factory.mktemp("artifact") / "tiny-onnx"
    return export("tiny", folder, precisions=("q4f16", "q4", "q8", "fp16", "fp32"))


@pytest.fixture(scope="session")
def toy_model():
    """transformers' model of the toy configuration."""
    from reference import toy

    return toy.transformers_model(toy.toy_config(), seed=3)


@pytest.fixture(scope="session")
def toy_checkpoint(toy_model, tmp_path_factory):
    """The toy model's folder in Mistral's layout."""
    from reference import toy

    return toy.write_mistral(toy_model, toy.toy_config(), tmp_path_factory.mktemp("toy") / "toy-mistral")


@pytest.fixture(scope="session")
def toy_artifact(toy_checkpoint, tmp_path_factory):
    """The toy model in float32, and in 4 bits with the accuracy level that computes in float."""
    folder = tmp_path_factory.mktemp("toy") / "artifact"
    return export(toy_checkpoint, folder, precisions=("fp32", "q4"), recipe=str(EXACT_RECIPE))
