"""A recorded clip behind ALSA's file plug-in stands for a microphone.

PortAudio reads it as it reads any device.
"""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from typing import Any

import numpy as np
import pytest
import soundfile
from support.commands import CLIP, clean_environment
from support.needs import require

pytestmark = pytest.mark.mic
SAMPLES = soundfile.read(CLIP, dtype="float32")[0]
RECORD = """
import itertools, json, sys
from voxtral_onnx.runtime.audio.microphone import Microphone, input_devices
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
    except OSError:
        require("mic", {"PortAudio (libportaudio2)": False})
    (tmp_path / "clip.raw").write_bytes(np.tile(SAMPLES, 20).tobytes())
    (tmp_path / ".asoundrc").write_text(
        f'pcm.!default {{ type plug slave.pcm "clip" }}\n'
        f'pcm.clip {{ type file slave.pcm "null" file "/dev/null" infile "{tmp_path / "clip.raw"}" '
        'format "raw" }\n'
    )

    def record(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = clean_environment(tmp_path, HOME=str(tmp_path))
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, capture_output=True, check=False, text=True, timeout=60, env=environment
        )
        require(
            "mic", {"PortAudio with ALSA": not re.search("no ALSA|there are: none", done.stderr)}
        )
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
    done = record("-m", "voxtral_onnx", "listen", "--input-device", "nothing", "-m", "tiny")
    if "error: tiny" not in done.stderr:  # where the embedded artifact was not built
        assert done.returncode == 7 and "microphone 'nothing': cannot be opened" in done.stderr


def test_devices_are_listed(record):
    done = record("-m", "voxtral_onnx", "listen", "--list-devices")
    assert done.returncode == 0, done.stderr
    assert any(line.endswith("(default)") for line in done.stdout.splitlines())
    assert all(
        line.split()[0] == str(i)
        for i, line in zip(itertools.count(), done.stdout.splitlines(), strict=False)
    )


PAUSE = """
import threading
from voxtral_onnx.runtime.audio import microphone as mic
mic.PAUSE_SECONDS = 0.2
microphone = mic.Microphone(None, 16000)
blocks = iter(microphone)
heard = [any(next(blocks).any() for _ in range(50))]
microphone.is_paused = True
silence = [next(blocks) for _ in range(10)]
heard += [bool(block.any()) for block in silence]
threading.Timer(0.3, lambda: setattr(microphone, "is_paused", False)).start()
heard += [len(next(blocks)) for _ in range(50)]
print(heard, microphone.dropped_seconds > 0.2)
"""


def test_a_pause_is_silence_and_then_nothing(record):
    heard, dropped = record("-c", PAUSE).stdout.rsplit(" ", 1)
    assert json.loads(heard.lower()) == [True] + [False] * 10 + [320] * 50
    assert dropped == "True\n"


REFUSED_RATE = """
import itertools, sounddevice
from voxtral_onnx.runtime.audio.microphone import Microphone
def refuse(*arguments, **options): raise sounddevice.PortAudioError("Invalid sample rate")
sounddevice.check_input_settings = refuse
microphone = Microphone(None, 16000)
samples = sum(map(len, itertools.islice(microphone, 100)))
print(microphone.rate, samples)
"""


def test_a_rate_that_the_device_refuses_is_resampled(record):
    rate, samples = map(int, record("-c", REFUSED_RATE).stdout.split())
    assert rate in (44100, 48000)
    assert 0.9 * 2 * 16000 < samples <= 2 * 16000, "100 blocks of 20 ms, less what the filter holds"


IMPOSSIBLE_RATE = """
import sounddevice
from voxtral_onnx.runtime.audio.microphone import Microphone
def refuse(*arguments, **options): raise sounddevice.PortAudioError("Invalid sample rate")
device = {"name": "stub", "index": 0, "default_samplerate": 100.0, "max_input_channels": 1}
sounddevice.query_devices = lambda *arguments: device
sounddevice.check_input_settings = refuse
try:
    Microphone(None, 16000)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_rate_that_no_microphone_has(record):
    assert record("-c", IMPOSSIBLE_RATE).stdout == (
        "DeviceError stub: expected 1000 to 768000 Hz, got 100\n"
    )


UNPLUGGED = """
import os, sys
from voxtral_onnx.runtime.audio import microphone as mic
mic.GONE_SECONDS = 0.5
try:
    for block in mic.Microphone(None, 16000):
        print(len(block), flush=True)
except mic.AudioError as error:
    print(error, file=sys.stderr, flush=True)
    os._exit(6)  # PortAudio waits for the pipe
"""


def test_a_microphone_that_is_unplugged(record, tmp_path):
    """A pipe that gives a second of sound and then nothing."""
    (tmp_path / "clip.raw").unlink()
    os.mkfifo(tmp_path / "clip.raw")
    pipe = os.open(tmp_path / "clip.raw", os.O_RDWR)
    os.write(pipe, SAMPLES[:16000].tobytes())
    done = record("-c", UNPLUGGED)
    os.close(pipe)
    assert (
        done.returncode == 6
        and "default: the microphone has stopped; is it still connected?" in done.stderr
    )
    assert 16000 - 3 * 1024 <= sum(map(int, done.stdout.split())) <= 16000, (
        "what came before is handed out"
    )


def test_space_pauses(record, tmp_path, tiny_artifact):
    """On a terminal of its own, whose settings are as before in the end."""
    record("-c", "pass")
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    command = [sys.executable, "-m", "voxtral_onnx", "listen", "-m", tiny_artifact]
    options: dict[str, Any] = {
        "stdin": theirs,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
    }
    with subprocess.Popen(
        command, **options, env=clean_environment(tmp_path, HOME=str(tmp_path))
    ) as process:
        said = read_until(process.stderr, "space pauses, Ctrl-C ends it")
        require("mic", {"PortAudio with ALSA": "there are: none" not in said})
        os.write(ours, b"x ")
        read_until(process.stderr, "paused: what is said now is dropped; press space to go on")
        time.sleep(0.5)  # in which something is said
        os.write(ours, b"p")
        assert not re.search(r"on again; 0\.0 s", read_until(process.stderr, " s dropped so far"))
        process.send_signal(signal.SIGINT)
        # The file plug-in is faster than time: do not wait for hours of audio
        process.send_signal(signal.SIGINT)
        read_until(process.stderr, " s dropped in pauses")
        process.kill()
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def read_until(stream, words):
    """What a process says up to a line with these words, or all."""
    said = ""
    for line in stream:
        said += line.decode()
        if words in said:
            break
    return said
