"""Transcribe a recording with OpenVINO 2026.4 or newer.

    python examples/openvino_host.py ARTIFACT AUDIO.wav [--precision q4f16]

A complete host that needs only openvino, numpy and soundfile. Everything specific to the model is
read from the artifact's manifest.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

# Without this, the import would report usage to OpenVINO's maker through an optional package
sys.modules.setdefault("openvino_telemetry", None)
import openvino
from openvino import opset13
from openvino.frontend.onnx import ConversionExtension

NEEDED, FORMATS = (2026, 4), (1, 2)  # least version of OpenVINO, versions of the manifest
# Without this hint OpenVINO computes in the type that is fastest on the processor, such as bfloat16
SETTINGS = {"INFERENCE_PRECISION_HINT": "f32"}
CACHE = "past_key_values."  # prefix of the names of cache inputs


def quick_gelu(node: Any) -> list[Any]:
    """Return the outputs for a QuickGelu node of alpha 1: x * sigmoid(x).

    OpenVINO's own converter multiplies by a float32 constant, which float16 graphs refuse.
    """
    x = node.get_input(0)
    return opset13.multiply(x, opset13.sigmoid(x)).outputs()


def compiled(path: Path) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """Return a function that runs the graph in a file, from inputs to outputs by name."""
    core = openvino.Core()
    core.add_extension(ConversionExtension("QuickGelu", "com.microsoft", quick_gelu))
    request = core.compile_model(path, "CPU", SETTINGS).create_infer_request()

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        # The arrays are views, valid until the next call
        results = request.infer(feeds, share_inputs=True, share_outputs=True)
        return {value.any_name: array for value, array in results.items()}

    return run


def below(folder: Path, name: str) -> Path:
    """Return the path of a file that the manifest names.

    Manifests may come from strangers, so a name that leads out of the folder ends the program.
    """
    if not re.fullmatch(r"(?!.*\.\.(/|$))[\w.-]+(/[\w.-]+)*", name):
        sys.exit(f"{folder}: no file below it is named {name!r}")
    return folder / name


class Graph:
    """A compiled graph with its state: key-value caches and convolution states."""

    def __init__(self, folder: Path, graph: Mapping[str, Any], rules: Mapping[str, Any]):
        for file in graph["data"]:
            if below(folder, file).is_symlink():
                sys.exit(
                    f"{folder / file}: a link, as in the hub's cache, and OpenVINO reads no "
                    "weights through links; download real files: hf download ORG/NAME --local-dir "
                    "FOLDER"
                )
        self.run, self.rules, self.position = compiled(below(folder, graph["path"])), rules, 0
        self.dtypes = {tensor["name"]: tensor["dtype"] for tensor in graph["inputs"]}
        sizes = {"batch": 1, **rules}  # the symbolic axes of caches: batch, capacity
        self.state = {
            tensor["name"]: np.zeros(
                [sizes.get(size, size) for size in tensor["shape"]], tensor["dtype"]
            )
            for tensor in graph["inputs"]
            if tensor["name"].startswith(CACHE) or tensor["name"].endswith("_state")
        }

    @property
    def slots_left(self) -> int:
        """Return how many rows the next call may write before the buffers are full."""
        keep, capacity = self.rules["keep"], self.rules["capacity"]
        row = (
            self.position
            if self.position < capacity
            else keep + (self.position - keep) % (capacity - keep)
        )
        return capacity - row

    def __call__(self, feeds: Mapping[str, Any], output: str, rows: int) -> np.ndarray:
        """Run a call that writes `rows` rows into the caches, and return one output by its name."""
        # Rotary angles by absolute position, rows by place in the buffer
        keep, capacity, size = (self.rules[name] for name in ("keep", "capacity", "head_dim"))
        left = self.slots_left - rows
        frequencies = self.rules["rope_theta"] ** (-np.arange(0, size, 2) / size)
        # In float64, so that streams may run for any time
        angles = np.arange(self.position, self.position + rows)[None, :, None] * frequencies
        positions = {
            "cos": np.cos(angles),
            "sin": np.sin(angles),
            "seqlens_k": [capacity - left - 1],
        }
        feeds = {**feeds, **positions, "total_sequence_length": capacity, **self.state}

        # Run, and keep the new states
        results = self.run(
            {name: np.asarray(value, self.dtypes[name]) for name, value in feeds.items()}
        )
        self.position += rows
        for name, array in self.state.items():
            if not name.startswith(CACHE):
                array[:] = results[f"present_{name}"]
                continue
            present = results[name.replace("past_key_values", "present")]
            # OpenVINO returns only the rows that are written
            array[:, :, : present.shape[2]] = present
            if left == 0:  # full: shift the last rows to the front
                array[:, :, :keep] = array[:, :, -keep:].copy()
        return results[output].copy()


def transcribe(folder: Path, precision: str, samples: np.ndarray) -> Iterator[int]:
    """Yield the id of a token for every 80 ms of samples.

    Args:
        folder: folder of the artifact.
        precision: one of its precisions.
        samples: float32 [n], mono at the model's rate.
    """
    # Check versions and the precision
    if tuple(map(int, openvino.__version__.split(".")[:2])) < NEEDED:
        sys.exit(
            f"openvino {openvino.__version__}: needed is {NEEDED[0]}.{NEEDED[1]} or newer: pip "
            "install -U openvino"
        )
    manifest = json.loads((folder / "voxtral_onnx.json").read_bytes())
    if manifest["format"] not in FORMATS:
        sys.exit(
            f"{folder}: expected format {' or '.join(map(str, FORMATS))}, got "
            f"{manifest['format']}; export again"
        )
    if precision not in manifest["precisions"]:
        has = ", ".join(manifest["precisions"])
        sys.exit(
            f"{folder}: has {has}, not {precision}; use one that it has, as --precision "
            f"{next(iter(manifest['precisions']))}, or add it: voxtral-onnx export SOURCE -o "
            f"{folder} --precision {precision}"
        )

    # Load the graphs
    rules, ids, caches = manifest["streaming"], manifest["tokens"], manifest["caches"]
    audio = manifest["config"]["audio"]
    delay = rules["default_delay_tokens"]
    graphs = manifest["precisions"][precision]
    mel = compiled(below(folder, manifest["mel"]["path"]))
    encoder = Graph(folder, graphs["encoder"], caches["encoder"])
    decoder = Graph(folder, graphs["decoder"], caches["decoder"])

    # Pad with silence, as the model was trained
    per_token = audio["hop_length"] * audio["frames_per_token"]
    per_row = caches["encoder"]["rows_per_token"]
    left, right = rules["left_pad_tokens"], rules["right_pad_tokens"] + delay
    margin = rules["look_back_samples"] + rules["look_ahead_samples"]
    before = np.zeros(rules["look_back_samples"] + left * per_token, np.float32)
    after = np.zeros(
        -len(samples) % per_token + right * per_token + rules["look_ahead_samples"], np.float32
    )
    samples = np.concatenate((before, samples, after))
    # The last position is not decoded: its token would be after the audio
    end = (len(samples) - margin) // per_token - 1
    prompt, next_id, encoded = 1 + left + delay, ids["bos"], 0

    # Encode a chunk, then decode its positions
    while encoded < end:
        tokens = min(end - encoded, rules["max_chunk_tokens"], encoder.slots_left // per_row)
        chunk = samples[encoded * per_token : (encoded + tokens) * per_token + margin]
        embeds = encoder(mel({"audio": chunk[None]}), "audio_embeds", tokens * per_row)
        # The prompt's positions in one call, the others one by one
        while (at := decoder.position - encoded) < tokens:
            rows = min(tokens - at, decoder.slots_left, max(1, prompt - decoder.position))
            feeds = {
                "input_ids": [[next_id] + [ids["streaming_pad"]] * (rows - 1)],
                "audio_embeds": embeds[:, at : at + rows],
                "num_delay_tokens": [delay],
                "blank_penalty": np.zeros((1, rows)),
            }
            next_id = int(decoder(feeds, "next_ids", rows)[0, -1])
            if decoder.position < prompt:
                next_id = ids["streaming_pad"]
            else:
                yield next_id
            if next_id == ids["eos"]:
                return
        encoded += tokens


def text_of(folder: Path, tokens: list[int]) -> str:
    """Return the text of tokens.

    Their bytes are joined before they are decoded, because a character may span several tokens.
    """
    first = json.loads((folder / "voxtral_onnx.json").read_bytes())["tokens"]["first_text"]
    pieces = json.loads((folder / "tekken.json").read_bytes())["vocab"]
    found = (
        base64.b64decode(pieces[token - first]["token_bytes"]) for token in tokens if token >= first
    )
    return b"".join(found).decode("utf-8", "replace").strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("audio", type=Path, help="mono, at the model's rate")
    parser.add_argument("--precision", default="q4f16")
    arguments = parser.parse_args()
    sound, _ = soundfile.read(arguments.audio, dtype="float32")
    print(
        text_of(
            arguments.artifact, list(transcribe(arguments.artifact, arguments.precision, sound))
        )
    )
