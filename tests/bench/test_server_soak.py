"""A server of live speech that is kept busy for a minute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
BENCH = TESTS.parent / "bench"
PROTOCOLS = ("openai", "vllm", "mistral", "wyoming")


def test_a_minute(tmp_path, tiny_artifact):
    """Memory stays flat, slots are freed, no text is wrong; the script fails otherwise."""
    out, picture = tmp_path / "soak.json", tmp_path / "soak.svg"
    command = [sys.executable, BENCH / "server_soak.py", tiny_artifact, "--seconds", "60"]
    command += ["--speakers", "3", "--messages", "1000", "--out", out, "--picture", picture]
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert done.returncode == 0, done.stderr
    clients = json.loads(out.read_text())["clients"]
    assert min(clients[kind] for kind in ("right", "left", "silent", "uploaded")) > 3
    assert {clients[f"{name} messages"] for name in PROTOCOLS} == {1000}
    assert picture.read_text().startswith("<svg")
