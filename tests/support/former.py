"""Artifacts of manifest format 1, made of fresh ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from support import ggufs
from support.checkpoints import TINY

from voxtral_onnx.files import hash_file
from voxtral_onnx.manifest import FILE_NAME

NETWORK = "delay_network.gguf"


def to_format_1(folder: Path) -> Path:
    """Give an artifact of *tiny*, of the native family, what format 1 had.

    Counts of clean-ups, the delay network, and no encoder for several streams.
    """
    network = {
        name: value
        for name, value in ggufs.mistral_tensors(TINY).items()
        if ".ada_rms_norm_t_cond." in name
    }
    ggufs.write(
        folder / NETWORK,
        {name: (ggufs.stored(value, "BF16"), "BF16") for name, value in network.items()},
    )
    values = json.loads((folder / FILE_NAME).read_bytes())
    files = values["files"]
    for precision in values["precisions"].values():
        for role in ("encoder_batch", "encoder_paged"):
            if graph := precision.pop(role, None):
                (folder / graph["path"]).unlink()
                del files[graph["path"]]
        for graph in (precision["encoder"], precision["decoder"]):
            graph["passes"] = {"fold_constants": 2, "strip_debug_info": 1234}
    values["mel"]["passes"] = {}
    files |= {NETWORK: asdict(hash_file(folder / NETWORK))}
    text = json.dumps(
        values | {"format": 1, "files": dict(sorted(files.items()))}, indent=1, ensure_ascii=False
    )
    (folder / FILE_NAME).write_text(text + "\n", "utf-8")
    return folder
