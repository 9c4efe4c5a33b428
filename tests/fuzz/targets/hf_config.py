"""`config.json` and `processor_config.json`: hyperparameters of Hugging Face's layout and MLX's."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from fuzz.targets.params import check
from support.checkpoints import small_params, write_hf

from voxtral_onnx.exporter.checkpoint.open import read_config

NAMES = ("config.json", "processor_config.json")
BETWEEN = b"\n---\n"  # the two files in an input


def seeds() -> dict[str, bytes]:
    """Return those of a small model, and as mlx-audio has them."""
    params = small_params()
    whisper = params.pop("multimodal")["whisper_model_args"]
    unread = ("use_biases", "causal", "model_parallel", "model_max_length")
    decoder = {key: params[key] for key in params if key not in unread}
    encoder = {**whisper["encoder_args"], **whisper["downsample_args"]}
    mlx = json.dumps({"decoder": decoder, "encoder_args": encoder}).encode() + BETWEEN + b"{}"
    with tempfile.TemporaryDirectory() as folder:
        written = write_hf(Path(folder) / "checkpoint")
        return {
            "small": BETWEEN.join((written / name).read_bytes() for name in NAMES),
            "mlx-audio": mlx,
        }


def parse(data: bytes, folder: Path) -> None:
    """Read them; as `params`."""
    for name, content in zip(NAMES, data.partition(BETWEEN)[::2], strict=True):
        (folder / name).write_bytes(content)
    check(read_config(folder))
