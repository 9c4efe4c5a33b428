"""A session as transformers.js runs it.

The loop of its `modeling_voxtral_realtime.js` (4.3), on onnxruntime's CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile
from support.commands import LONG_CLIP, SAMPLES

from voxtral_onnx.manifest import Manifest

FAMILY = "transformers_js"
# A lead of the best logit that other kernels do not turn; float16 logits are 0.016 apart
SURE = 0.05
BOS, BLANK, LEFT_PAD, RIGHT_PAD = 1, 32, 32, 11


@dataclass(frozen=True)
class Generated:
    ids: list[int]
    margins: list[float]  # of the best logit over the second
    rows: tuple[int, int]  # that the caches of encoder and decoder have in the end


class Growing:
    """A session whose present is the next call's past."""

    def __init__(self, folder: Path, path: str):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.ort = onnxruntime.InferenceSession(folder / path, options)
        self.outputs = [output.name for output in self.ort.get_outputs()]
        self.state: dict[str, np.ndarray] = {
            each.name: np.zeros(
                [size if isinstance(size, int) else 0 for size in each.shape], _dtype(each.type)
            )
            for each in self.ort.get_inputs()
            if each.name.startswith("past_")
        }

    def run(self, **feeds: np.ndarray) -> np.ndarray:
        """The first output."""
        values = map(np.asarray, self.ort.run(None, {**feeds, **self.state}))
        found = dict(zip(self.outputs, values, strict=True))
        self.state = {
            name.replace("present_", "past_").replace("present.", "past_key_values."): value
            for name, value in found.items()
            if name.startswith("present")
        }
        return found[self.outputs[0]]


def generate(
    folder: Path,
    precision: str,
    samples: np.ndarray,
    delay: int = 6,
    history: Sequence[int] | None = None,
) -> Generated:
    """Greedy ids of a whole recording, one step for every token of audio.

    Or what would follow each of a history.
    """
    manifest = Manifest.read(folder)
    paths = [graph.path for graph in manifest.family(precision, FAMILY)]
    encoder, embedding, decoder = (Growing(folder, path) for path in paths)
    prompt = 1 + LEFT_PAD + delay
    count = LEFT_PAD - -len(samples) // 1280 + delay + RIGHT_PAD - 1
    features = _mel(folder / manifest.mel.path, samples, count)
    ids = np.array([[BOS] + [BLANK] * (prompt - 1)])
    chosen, margins, frames, length = [], [], 0, 0
    for begin, end in [(0, prompt), *((token, token + 1) for token in range(prompt, count))]:
        rows = 4 * (end - begin)
        audio_embeds = encoder.run(
            input_features=features[..., 8 * begin : 8 * end],
            attention_mask=np.ones((1, frames + rows), np.int64),
            position_ids=np.arange(frames, frames + rows)[None],
        )
        frames, length = frames + rows, length + ids.shape[1]
        feeds = {"num_delay_tokens": np.array([delay])} if delay != 6 else {}
        logits = decoder.run(
            inputs_embeds=embedding.run(input_ids=ids) + audio_embeds,
            attention_mask=np.ones((1, length), np.int64),
            **feeds,
        )[0, -1]
        second, best = np.sort(logits)[-2:]
        chosen.append(int(logits.argmax()))
        margins.append(float(best - second))
        last = history[len(chosen) - 1] if history else chosen[-1]
        if last == manifest.tokens.eos:
            break
        ids = np.array([[last]])
    rows = (
        encoder.state["past_key_values.0.key"].shape[2],
        decoder.state["past_key_values.0.key"].shape[2],
    )
    return Generated(chosen, margins, rows)


def some_clips() -> dict[str, np.ndarray]:
    """Five clips, and a minute of the first four, in which every decision has a clear lead.

    Float32, by name.
    """
    paths = [path for path in sorted(SAMPLES.glob("*.wav")) if path != LONG_CLIP][:5]
    clips = {path.name: soundfile.read(path, dtype="float32")[0] for path in paths}
    return {**clips, "joined.wav": np.concatenate([*clips.values()][:4] * 6)[: 61 * 16000]}


def _mel(graph: Path, samples: np.ndarray, count: int) -> np.ndarray:
    audio = np.zeros((1, 160 * (8 * count - 1) + 400), np.float32)
    part = audio[0, 200 + 1280 * LEFT_PAD :][: len(samples)]
    part[:] = samples[: len(part)]
    return np.asarray(onnxruntime.InferenceSession(graph).run(None, {"audio": audio})[0])


def _dtype(onnx_type: str) -> type:
    return np.float16 if onnx_type == "tensor(float16)" else np.float32
