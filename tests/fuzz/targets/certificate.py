"""The certificate of an artifact: what inspect, doctor and a published card read of it."""

from __future__ import annotations

import json
from pathlib import Path

from voxtral_onnx.manifest import FILE_NAME
from voxtral_onnx.verification.certificate import (
    JSON_NAME,
    Claim,
    hash_manifest,
    read_self_test,
    read_verdict,
)


def seeds() -> dict[str, bytes]:
    """Return certificates that passed, failed and judge nothing, by a name."""
    finding = {"rung": 3, "check": "weights", "precision": "q4", "summary": "equal"}
    test = {"clip": "a.wav", "num_delay_tokens": 6, "token_ids": [32], "blank_margins": [1.5]}
    values = {
        "created": "2026-01-01T00:00:00+00:00",
        "manifest_sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",  # {}
        "rungs": [0, 3],
        "precisions": ["q4"],
        "details": {"q4": {"self_test": test, "stages": []}},
    }
    return {
        status: json.dumps({**values, "findings": [{**finding, "status": status}]}).encode()
        for status in ("passed", "failed", "not judged")
    }


def parse(data: bytes, folder: Path) -> None:
    """Read a certificate as all commands do."""
    (folder / FILE_NAME).write_bytes(b"{}")
    (folder / JSON_NAME).write_bytes(data)
    read_self_test(folder, "q4")
    read_verdict(folder)
    claim = Claim.read(folder)
    assert claim is not None
    claim.judge(folder)
    hash_manifest(folder)
