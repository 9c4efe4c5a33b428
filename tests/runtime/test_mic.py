"""A recorded clip behind ALSA's file plug-in stands for a microphone; PortAudio reads it as it reads any device."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from commands import CLIP, clean_environment

SAMPLES = soundfile.read(CLIP, dtype="float32")[0]
RECORD = """
import itertools, json, sys
from voxtral_onnx.runtime.mic import Microphone, input_devices
microphone = Microphone(sys.argv[1] if len(sys.argv) > 1 else None, 16000)
blocks = list(itertools.islice(microphone, 100))
print(json.dumps({"name": microphone.name, "rate": microphone.rate,
                  "devices": [[d.name, d.is_default] for d in input_devices()],
                  "samples": [float(x) for block in blocks for x in block]}))
"""


@pytest.fixture
def record(tmp_path):
    """Run a program in a process whose only microphone plays the clip."""
    try:
        import sounddevice  # noqa: F401
    except (ImportError, OSError) as error:
        pytest.skip(f"microphones: {error}")
    (tmp_path / "clip.raw").write_bytes(np.tile(SAMPLES, 20).tobytes())
    (tmp_path / ".asoundrc").write_text(
        f'pcm.!default {{ type plug slave.pcm "clip" }}\n'
        f'pcm.clip {{ type file slave.pcm "null" file "/dev/null" infile "{tmp_path / "clip.raw"}" format "raw" }}\n'
    )

    def record(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = clean_environment(tmp_path, HOME=str(tmp_path))
        command = [sys.executable, *arguments]
        done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=60, env=environment)
        if "no ALSA" in done.stderr or "there are: none" in done.stderr:
            pytest.skip("PortAudio was built without ALSA")
        return done

    return record


def test_what_is_played_is_recorded(record):
    heard = json.loads(record("-c", RECORD).stdout)
    assert heard["rate"] == 16000
    assert ["default", True] in heard["devices"]
    samples = np.array(heard["samples"])
    assert len(samples) == 100 * 320
    clip = SAMPLES[: len(samples)]
    scale = np.abs(samples).max() / np.abs(clip).max()
    shift = int(np.argmax(np.correlate(samples, clip[4000:8000], "valid"))) - 4000
    both = samples[max(0, shift) :][:20000], scale * clip[max(0, -shift) :][:20000]
    size = min(map(len, both))
    assert np.corrcoef(both[0][:size], both[1][:size])[0, 1] > 0.99


def test_an_unknown_microphone(record):
    done = record("-m", "voxtral_onnx", "transcribe", "--mic", "--input-device", "nothing", "-m", "tiny")
    if "error: tiny" not in done.stderr:  # where the embedded artifact was not built
        assert done.returncode == 7 and "microphone 'nothing': cannot be opened" in done.stderr


def test_devices_are_listed(record):
    done = record("-m", "voxtral_onnx", "transcribe", "--list-devices")
    assert done.returncode == 0, done.stderr
    assert any(line.endswith("(default)") for line in done.stdout.splitlines())
    assert all(line.split()[0] == str(i) for i, line in zip(itertools.count(), done.stdout.splitlines(), strict=False))
