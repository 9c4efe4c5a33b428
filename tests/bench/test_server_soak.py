"""A server of live speech that is kept busy for a minute."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"


def test_a_minute(tmp_path, tiny_artifact):
    """Memory stays flat, slots are freed, no text is wrong; the script fails otherwise."""
    out, picture = tmp_path / "soak.json", tmp_path / "soak.svg"
    command = [sys.executable, BENCH / "server_soak.py", tiny_artifact, "--precision", "fp32"]
    command += ["--seconds", "60", "--speakers", "3", "--out", out, "--picture", picture]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    clients = json.loads(out.read_text())["clients"]
    assert min(clients[kind] for kind in ("right", "left", "rubbish", "silent", "uploaded")) > 3
    assert picture.read_text().startswith("<svg")
