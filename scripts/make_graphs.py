"""Trace the graphs that are shipped and write them to exporter/graph/ready (needs `trace`).

    python scripts/make_graphs.py [FOLDER]

A test traces them anew and compares the bytes, so run this after any change of a module, a pass or
a package that traces.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir

from voxtral_onnx.assets import TINY
from voxtral_onnx.config import RELEASED, VoxtralConfig
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.exporter.checkpoint.tekken import read_tekken
from voxtral_onnx.exporter.graph.families import FAMILIES
from voxtral_onnx.exporter.graph.ready import FACTS, FOLDER, Facts, file_name
from voxtral_onnx.exporter.graph.trace import trace
from voxtral_onnx.exporter.model.parameters import PartFactory
from voxtral_onnx.manifest import Tokens
from voxtral_onnx.quant.recipe import FLOAT

# Types of activations in which a family's graphs are shipped
DTYPES = ("float32", "float16")
PACKAGES = ("torch", "onnxscript", "onnx", "onnx-ir")
# Ids of the released tokenizer: <s>, </s>, [STREAMING_PAD], [STREAMING_WORD], the first text token.
# Source: mistral-common's tekken.json of Voxtral-Mini-4B-Realtime-2602
RELEASED_TOKENS = Tokens(1, 2, 32, 33, 1000)


def main(folder: Path) -> None:
    """Write the graphs of the packaged model and of the released one."""
    tiny = open_checkpoint(TINY)
    tokens, _ = read_tekken(tiny.tokenizer, tiny.config, tiny.card.trained_delays_ms)
    write(folder / "tiny", tiny.config, tokens)
    write(folder / "released", RELEASED, RELEASED_TOKENS)


def write(folder: Path, config: VoxtralConfig, tokens: Tokens) -> None:
    """Trace the graphs of a model and write them, then the facts that they depend on."""
    folder.mkdir(parents=True, exist_ok=True)
    for family in ("native", "transformers_js"):
        shipped = set[str]()
        for dtype in DTYPES:
            build = PartFactory(dtype, FLOAT)
            for plan_of in FAMILIES[family].plans(tokens=tokens, build=build, suffix=""):
                role = plan_of(config).role
                if family == "native" and role in shipped:  # `retarget` changes its type
                    continue
                shipped.add(role)
                path = folder / file_name(family, role, dtype)
                model = trace(plan_of, config).model
                path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
                print(f"{folder.name}/{path.name}: {path.stat().st_size:,} bytes")
    packages = {name: version(name) for name in PACKAGES}
    facts = Facts(config, tokens.streaming_pad, packages)
    (folder / FACTS).write_bytes(facts.to_json() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
