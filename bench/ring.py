"""What the encoder's view of a ring changes: four frames of a recorded call on WebGPU see the same window.

    python bench/ring.py ARTIFACT      # an export of tiny with fp32 and q4f16

The page's rule (web/src/cache.js, CapturedCache) on the CPU: no window in the graph, and a buffer of the frames before
the call, the call's own behind them. Embeddings of the samples are compared with those of the exact window, and tokens;
beside it, what q4f16 changes with the exact window. Writes results/ring.json.
"""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import onnx
import typer

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime.bench import SAMPLES, describe_machine
from voxtral_onnx.runtime.cache import KVCache
from voxtral_onnx.runtime.session import Session

RESULTS = Path(__file__).parent / "results" / "ring.json"


class RingCache(KVCache):
    """The rows before a call in a ring, the call's behind it."""

    @property
    def ring(self) -> int:
        """Its rows."""
        rows = self.spec.rows_per_token
        return rows * ((self.spec.window - 1) // rows)

    @property
    def room(self) -> int:
        """One token a call."""
        return self.spec.rows_per_token

    def positions(self, rows: int) -> dict[str, np.ndarray]:
        """Rows behind the ring once it is full."""
        last = min(self.position, self.ring) + rows - 1
        return {**super().positions(rows), "seqlens_k": np.array([last], np.int32)}

    def advance(self, rows: int) -> None:
        """Put the call's rows where the oldest stand."""
        if self.position >= self.ring:
            places = (self.position + np.arange(rows)) % self.ring
            for buffer in self.buffers:
                values = buffer.read(self.ring + rows).copy()
                values[:, :, places] = values[:, :, self.ring :]
                buffer.write(values)
        self.position += rows


def transcribe(transcriber: Transcriber) -> list[tuple[np.ndarray, np.ndarray, tuple[int, ...]]]:
    """Embeddings, blank margins and tokens of each sample."""
    found = []
    encode = transcriber.encoder.encode
    for path in sorted(SAMPLES.glob("*.wav")):
        embeds, margins = [], []

        def keep(cache: KVCache, samples: np.ndarray, embeds: list = embeds) -> np.ndarray:
            embeds.append(encode(cache, samples))
            return embeds[-1]

        transcriber.encoder.encode = keep
        transcript = transcriber.transcribe(path, on_token=lambda token, kept=margins: kept.append(token.blank_margin))
        ids = transcript.token_ids
        found.append((np.concatenate(embeds).astype(np.float64), np.array(margins), ids))
    transcriber.encoder.encode = encode
    return found


def with_ring(artifact: Path, precision: str, folder: Path) -> Transcriber:
    """A transcriber whose encoder sees a ring."""
    shutil.copytree(artifact, folder)
    transcriber = Transcriber(folder, precision=precision, device="cpu")
    encoder = transcriber.encoder
    path = folder / encoder.session.graph.path
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            node.attribute.remove(next(a for a in node.attribute if a.name == "local_window_size"))
    ring = path.with_name("ring.onnx")
    onnx.save(model, ring)
    encoder.session = Session(folder, encoder.session.graph, transcriber.runs_on, 1, path=ring)
    encoder.new_cache = lambda: RingCache(encoder.session, encoder.spec)
    return transcriber


def compare(changed: list, exact: list) -> dict:
    """Relative size of the change of embeddings, change of margins, and tokens."""
    size = np.concatenate([np.linalg.norm(b[0], axis=-1) for b in exact])
    change = np.concatenate([np.linalg.norm(a[0] - b[0], axis=-1) for a, b in zip(changed, exact, strict=True)])
    same_length = [(a, b) for a, b in zip(changed, exact, strict=True) if len(a[1]) == len(b[1])]
    margins = np.concatenate([np.abs(a[1] - b[1]) for a, b in same_length])
    different = sum(x != y for a, b in zip(changed, exact, strict=True) for x, y in zip(a[2], b[2], strict=False))
    return {
        "embeddings, relative change": {
            "median": float(np.median(change / size)),
            "largest": float((change / size).max()),
        },
        "blank margins, change": {"median": float(np.median(margins)), "largest": float(margins.max())},
        "tokens": sum(len(b[2]) for b in exact),
        "tokens that differ": different,
    }


def main(artifact: Path, out: Annotated[Path, typer.Option()] = RESULTS) -> None:
    """Run the samples through both."""
    with TemporaryDirectory() as scratch:
        exact = {}
        for precision in ("fp32", "q4f16"):
            with Transcriber(artifact, precision=precision, device="cpu") as transcriber:
                exact[precision] = transcribe(transcriber)
        with with_ring(artifact, "fp32", Path(scratch) / "artifact") as transcriber:
            ring = transcribe(transcriber)
    results = {
        "measured": "tiny on its samples, against fp32 with the exact window",
        "date": date.today().isoformat(),
        "machine": describe_machine(),
        "fp32, the encoder sees a ring": compare(ring, exact["fp32"]),
        "q4f16, the exact window": compare(exact["q4f16"], exact["fp32"]),
    }
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    typer.run(main)
