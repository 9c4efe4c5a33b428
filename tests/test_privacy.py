"""What leaves the machine and what stays on its disk: nothing that nobody asked for."""

from __future__ import annotations

import select
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest
import soundfile
from support.commands import CLIP, TEXT, user_environment
from support.needs import need_openvino
from support.strace import Watched, need_strace

from voxtral_onnx import SILENCED

EXAMPLES = Path(__file__).parent.parent / "examples"
REPORTING = 15  # seconds; onnxruntime calls its maker 10 s after it is loaded
STRANGER = """
import pathlib, socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect_ex(("192.0.2.1", 53))
(pathlib.Path.home() / "deviceid").touch()
pathlib.Path(sys.argv[1]).mkdir()
pathlib.Path(sys.argv[1], "report").touch()
"""


@pytest.mark.strace
def test_what_is_watched(tmp_path):
    need_strace()
    elsewhere = tmp_path / "elsewhere"
    watched = Watched.start(tmp_path / "stranger", sys.executable, "-c", STRANGER, elsewhere)
    watched.finish()
    assert len(watched.called) == 1 and "192.0.2.1" in watched.called[0]
    assert watched.left == {"home/deviceid"}
    assert watched.written_elsewhere == {str(elsewhere), str(elsewhere / "report")}


STATE = "home/.local/state/voxtral-onnx/"
OWN = defaultdict(tuple, {"export": (STATE + "state.json",), "verify": (STATE + "certificates/",)})


@pytest.mark.strace
def test_commands_call_nobody_and_leave_nothing(tiny_artifact, artifact, tmp_path):
    """At the same time; one of them for as long as it takes until libraries report."""
    need_strace()

    def start(*arguments: object) -> Watched:
        program = (sys.executable, "-m", "voxtral_onnx")
        return Watched.start(tmp_path / str(arguments[0]), *program, *arguments)

    samples = soundfile.read(CLIP, dtype="int16")[0].tobytes()
    listening = start("listen", "--stdin", "--model", tiny_artifact, "--offline")
    assert listening.process.stdin and listening.process.stdout
    listening.process.stdin.write(samples * 2)
    listening.process.stdin.flush()
    select.select([listening.process.stdout], [], [])  # its first word
    began = time.monotonic()
    others = [
        start("transcribe", CLIP, "--model", tiny_artifact),
        start("inspect", tiny_artifact, "--check"),
        start("doctor", tiny_artifact),
        start("diff", tiny_artifact, tiny_artifact),
        start("export", "tiny", "-o", "out", "--precision", "q4"),
        start("verify", artifact, "--rungs", "1"),
    ]
    texts = [other.finish()[0] for other in others]
    time.sleep(max(0, began + REPORTING - time.monotonic()))
    assert listening.process.poll() is None
    assert listening.finish()[0] == f"{TEXT} {TEXT}\n" and texts[0] == f"{TEXT}\n"
    for watched in (listening, *others):
        command = watched.folder.name
        assert watched.called == [], command
        left = {name for name in watched.left if not name.startswith("work/out/")}
        # Which weights were right, which files were exported, silence
        cache = "home/.cache/voxtral-onnx/"
        kept = {f"{cache}hashes.json", f"{cache}exports.json"}
        kept |= {name for name in left if name.startswith(f"{cache}silences/")}
        assert {name for name in left if not name.startswith(OWN[command])} <= kept, command
        assert bool(left - kept) == (command in ("export", "verify")), command
        beside = {path for path in watched.written_elsewhere if not path.startswith(str(artifact))}
        assert beside == set(), command


@pytest.mark.hosts
@pytest.mark.strace
def test_the_openvino_example_calls_nobody(tiny_artifact, tmp_path):
    """Importing OpenVINO is enough for a report."""
    need_strace()
    need_openvino()
    watched = Watched.start(
        tmp_path / "host", sys.executable, EXAMPLES / "openvino_host.py", tiny_artifact, CLIP
    )
    assert watched.finish()[0] == f"{TEXT}\n"
    assert (watched.called, watched.left, watched.written_elsewhere) == ([], set(), set())


@pytest.mark.parametrize("theirs", [None, "0"])
def test_reports_are_off_before_anything_is_loaded(theirs):
    """A setting of the user's own stays."""
    environment = user_environment() | dict.fromkeys(SILENCED if theirs else (), str(theirs))
    code = f"import voxtral_onnx, os; print(*(os.environ[name] for name in {SILENCED}))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True, text=True
    )
    assert done.stdout.split() == [theirs or "1"] * len(SILENCED)
