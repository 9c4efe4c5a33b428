"""Strangers' files: what they may cost, what their decoder may do, and what is left of it."""

from __future__ import annotations

import os
import platform
import signal
import socket
import struct
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxtral_onnx.assets import SAMPLES
from voxtral_onnx.errors import AudioError, StorageError, VoxtralOnnxError
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.server.uploads import untrusted
from voxtral_onnx.server.uploads.untrusted import DecodeLimits, Decoders

RATE = 16000
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds this limit")


def open_untrusted(path, rate, **options):
    """Decode a file in a process that is started now, with no other one."""
    with Decoders(spare=False) as decoders:
        return decoders.open(path, rate, **options)


@pytest.fixture(scope="module")
def decoders():
    with Decoders(most=2) as decoders:
        yield decoders


@pytest.fixture
def started(monkeypatch):
    """The processes that are started from now on."""
    processes, start = [], untrusted._start

    def started():
        processes.append(start())
        return processes[-1]

    monkeypatch.setattr(untrusted, "_start", started)
    return processes


@pytest.fixture
def stand_in(monkeypatch):
    """Return what puts code in the place of decoding; limits and all else are as they are."""

    def put(code: str) -> None:
        program = (
            "import ctypes, os, signal, sys, time, struct, socket, json\n"
            "from voxtral_onnx.server.uploads import decoder\n"
            "def say(text):\n"
            "    refusal = json.dumps({'kind': 'AudioError', 'message': text}).encode()\n"
            "    decoder._send(answers, b'E', refusal)\n"
            "def stand_in(request, to):\n"
            "    global answers\n"
            "    answers = to\n"
            f"    exec({code!r}, globals())\n"
            "decoder._send_sound = stand_in\n"
            "decoder.main()\n"
        )
        monkeypatch.setattr(untrusted, "_COMMAND", (sys.executable, "-c", program))

    return put


def noise(seconds: float, channels: int = 1, rate: int = RATE) -> np.ndarray:
    shape = (round(seconds * rate), channels)
    return np.random.default_rng(0).uniform(-0.3, 0.3, shape).astype(np.float32)


def written(path: Path, samples: np.ndarray, rate: int = RATE, **options) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def heard(source) -> np.ndarray:
    return np.concatenate([*source.blocks(), np.zeros(0, np.float32)])


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
@pytest.mark.parametrize("options", [{}, {"gain": "auto"}, {"channels": "right"}])
def test_the_sound_is_the_same(decoders, tmp_path, suffix, options):
    path = written(tmp_path / f"a{suffix}", noise(2, channels=2, rate=44100), 44100)
    expected, found = open_audio(path, RATE, **options), decoders.open(path, RATE, **options)
    assert np.array_equal(heard(found), heard(expected)) and len(heard(found))
    assert np.array_equal(heard(found), heard(found))  # and once more
    for name in ("duration", "notes", "losses", "channel", "num_channels"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.name == path.name
    rest = heard(found.after(0.5))
    assert np.array_equal(rest, heard(expected)[RATE // 2 :])


def test_split_channels(decoders, tmp_path):
    path = written(tmp_path / "a.flac", noise(1, channels=3))
    expected, found = (
        opener(path, RATE, channels="split") for opener in (open_audio, decoders.open)
    )
    assert found.notes == expected.notes and len(found.parts) == 3
    for one, other in zip((found, *found.parts), (expected, *expected.parts), strict=True):
        assert np.array_equal(heard(one), heard(other))
        assert (one.channel, one.notes) == (other.channel, other.notes)


def test_losses_are_told(decoders, tmp_path):
    whole = (SAMPLES / "person-goforward.wav").read_bytes()
    path = tmp_path / "a.wav"
    path.write_bytes(whole[: len(whole) // 2])
    found = decoders.open(path, RATE)
    assert found.losses and found.losses == open_audio(path, RATE).losses


def test_one_file_in_a_process_of_its_own():
    found = open_untrusted(SAMPLES / "person-goforward.wav", RATE, name="upload.wav")
    assert found.name == "upload.wav" and len(heard(found)) > RATE


@pytest.mark.parametrize("content", [b"", b"text and no sound", b"RIFF\xff\xff\xff\xffWAVE"])
def test_damaged_files(decoders, tmp_path, content):
    path = tmp_path / "secret-path.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=r"^upload\.wav: ") as refused:
        decoders.open(path, RATE, name="upload.wav")
    assert "secret-path" not in str(refused.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file(decoders, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(AudioError, match="not a regular file"):
            decoders.open(path, RATE)
    with pytest.raises(AudioError, match=r"^upload: cannot be read \(No such file"):
        decoders.open(tmp_path / "absent", RATE, name="upload")


def flac_that_promises(path: Path, samples: int, channels: int = 1) -> Path:
    """Write a second of FLAC whose header declares another length and other channels."""
    content = bytearray(written(path, noise(1)).read_bytes())
    assert content[:4] == b"fLaC"
    fields = int.from_bytes(content[18:26], "big")
    fields = fields >> 36 << 36 | samples
    fields = fields & ~(7 << 41) | (channels - 1) << 41
    content[18:26] = fields.to_bytes(8, "big")
    path.write_bytes(content)
    return path


def ogg_that_promises(path: Path, samples: int) -> Path:
    """Write a second of Vorbis whose pages all claim to end at another time."""
    content = bytearray(written(path, noise(1)).read_bytes())
    at = content.rfind(b"OggS")
    content[at + 6 : at + 14] = samples.to_bytes(8, "little")
    path.write_bytes(content)
    return path


def wav_that_promises(path: Path, channels: int, size: int) -> Path:
    rate, width = RATE, 2
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * width, channels * width & 0xFFFF, 16)
    data = b"\1\0" * RATE
    content = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + content)
    return path


@pytest.mark.parametrize(
    "bomb",
    [
        lambda folder: flac_that_promises(folder / "years.flac", (1 << 36) - 1),
        lambda folder: flac_that_promises(folder / "channels.flac", RATE, channels=8),
        lambda folder: ogg_that_promises(folder / "years.ogg", (1 << 62) - 1),
        lambda folder: wav_that_promises(folder / "long.wav", 1, 0x70000000),
        lambda folder: wav_that_promises(folder / "wide.wav", 65535, 0xFFFFFFF0),
    ],
)
def test_headers_that_promise_too_much(decoders, tmp_path, bomb):
    """They cost what their bytes hold, and what is not there is told."""
    path = bomb(tmp_path)
    try:
        found = decoders.open(path, RATE)
    except AudioError as refused:
        assert path.name in str(refused)
    else:
        assert found.losses and len(heard(found)) < 60 * RATE


def test_much_sound_in_few_bytes(decoders, tmp_path):
    """An hour of next to nothing has half a megabyte."""
    hour = np.random.default_rng(0).integers(0, 2, 3600 * 1000, np.int16)
    path = written(tmp_path / "hour.flac", hour, 1000)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(AudioError, match="expected at most 60 s of sound, got more"):
        decoders.open(path, RATE, most_seconds=60)


def test_the_limit_counts_all_split_channels(decoders, tmp_path):
    path = written(tmp_path / "a.wav", noise(2, channels=3))
    assert decoders.open(path, RATE, most_seconds=2).duration == 2
    assert len(decoders.open(path, RATE, channels="split", most_seconds=6).parts) == 3
    with pytest.raises(AudioError, match="expected at most 5 s of sound, got more"):
        decoders.open(path, RATE, channels="split", most_seconds=5)


@linux
def test_memory_is_limited(tmp_path):
    path = written(tmp_path / "wide.wav", noise(1, channels=64, rate=192000), 192000)
    with (
        Decoders(DecodeLimits(memory_bytes=16 << 20), spare=False) as decoders,
        pytest.raises(AudioError, match="decoding took more than 16 MB of memory"),
    ):
        decoders.open(path, RATE)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX's limits")
def test_processor_time_is_limited(stand_in):
    stand_in("while True: pass")
    with (
        Decoders(DecodeLimits(cpu_seconds=1), spare=False) as decoders,
        pytest.raises(AudioError, match="more than 1 s of processor time"),
    ):
        decoders.open(Path(__file__), RATE)


def test_time_is_limited(stand_in):
    stand_in("time.sleep(60)")
    with (
        Decoders(DecodeLimits(wall_seconds=0.5), spare=False) as decoders,
        pytest.raises(AudioError, match=r"decoding took longer than 0\.5 s"),
    ):
        decoders.open(Path(__file__), RATE)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX's signals")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
def test_a_decoder_that_crashes(stand_in, caplog, name):
    stand_in(f"signal.raise_signal(signal.{name})")
    with pytest.raises(AudioError, match=rf"^a\.wav: .*its decoder ended \({name}\)"):
        open_untrusted(Path(__file__), RATE, name="a.wav")
    assert f"a decoder ended before its file's end ({name})" in caplog.text
    assert "a.wav" not in caplog.text


SOUND = "decoder._send(answers, b'S', b'1234' * 1000)"
HEADER = (
    "decoder._send(answers, b'H', json.dumps({'num_channels': 1, 'tracks': [{'duration': 1.0,"
    " 'notes': [], 'losses': [], 'channel': None}]}).encode())"
)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("", r"its decoder ended \(exit 0\)"),
        ("raise RuntimeError", r"its decoder ended \(exit 1\)"),
        (f"{HEADER}; {SOUND}", r"its decoder ended \(exit 0\)"),  # the end of the sound is missing
        (f"{HEADER}; {HEADER}", "gave no proper answer"),
        (SOUND, "gave no proper answer"),
        ("decoder._send(answers, b'H', b'{}')", "gave no proper answer"),
        ("decoder._send(answers, b'H', b'[' * 1000000)", "gave no proper answer"),
        ("decoder._send(answers, b'X', b'')", "gave no proper answer"),
        ("answers.write(b'S\\xff\\xff\\xff\\xff'); answers.flush()", "gave no proper answer"),
        (f"{HEADER}\nwhile True: {SOUND}", "expected at most 2 s of sound"),
    ],
)
def test_a_decoder_that_was_taken_over(stand_in, started, code, reason):
    stand_in(code)
    with pytest.raises(AudioError, match=reason):
        open_untrusted(Path(__file__), RATE, most_seconds=2)
    assert [process.returncode is not None for process in started] == [True]


def told(stand_in, code: str) -> str:
    """Return what a decoder says that runs some code."""
    stand_in(code)
    with pytest.raises(AudioError) as refused:
        open_untrusted(Path(__file__), RATE)
    return str(refused.value)


def test_a_decoder_sees_no_secrets(stand_in, monkeypatch):
    for name in ("VOXTRAL_ONNX_API_KEYS", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "ANYTHING"):
        monkeypatch.setenv(name, "a secret")
    assert "a secret" not in told(stand_in, "say(repr(dict(os.environ)) + repr(sys.argv))")


@linux
def test_a_decoder_inherits_nothing(stand_in):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.set_inheritable(True)
        links = told(
            stand_in,
            "say(repr([os.readlink(f'/proc/self/fd/{n}') for n in range(200)"
            " if os.path.exists(f'/proc/self/fd/{n}') or os.path.islink(f'/proc/self/fd/{n}')]))",
        )
    assert "socket" not in links and links.count("pipe") == 2


@linux
def test_a_decoder_writes_no_file(stand_in, tmp_path):
    path = tmp_path / "made"
    code = f"""
try:
    with open({str(path)!r}, "w") as file:
        file.write("something")
    say("written")
except OSError as error:
    say(error.strerror)
"""
    assert told(stand_in, code) == "File too large"
    assert not path.exists() or path.read_bytes() == b""


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64") or sys.platform != "linux",
    reason="only Linux has the wall, on x86-64 and ARM64",
)
@pytest.mark.parametrize(
    "call",
    [
        "socket.socket()",
        "socket.socket(socket.AF_UNIX)",
        "socket.socketpair()",
        "os.execv('/bin/true', ['true'])",
        "os.kill(os.getppid(), 0)",
        "os.pidfd_open and signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 0)",
    ],
)
def test_a_decoder_reaches_nothing_else(stand_in, call):
    code = f"""
def tried():
    try:
        {call}
        return "done"
    except OSError as error:
        return error.strerror
import threading
before = [tried()]
thread = threading.Thread(target=lambda: before.append(tried()))
thread.start()
thread.join()
say(repr(before))
"""
    assert told(stand_in, code) == "['Operation not permitted', 'Operation not permitted']"


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX's limits")
def test_a_decoder_leaves_no_core_and_opens_few_files(stand_in):
    code = """
import resource
kinds = (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)
say(repr([resource.getrlimit(kind) for kind in kinds]))
"""
    assert told(stand_in, code) == "[(0, 0), (0, 0), (64, 64)]"


def test_nothing_is_left_of_it(started, tmp_path):
    """After sound, after damage, and of the one that waits."""
    path = tmp_path / "a.wav"
    path.write_bytes(b"damaged")
    with Decoders() as decoders:
        decoders.open(SAMPLES / "person-goforward.wav", RATE)
        with pytest.raises(AudioError):
            decoders.open(path, RATE)
    assert len(started) == 3
    assert all(process.returncode is not None for process in started)
    with pytest.raises(ProcessLookupError):
        os.kill(started[0].pid, 0)


def test_a_waiting_decoder_that_was_killed(started):
    with Decoders() as decoders:
        started[0].kill()
        started[0].wait()
        assert decoders.open(SAMPLES / "person-goforward.wav", RATE).duration > 2


def test_decoding_for_nobody_ends(stand_in, started):
    stand_in("time.sleep(60)")
    closed = threading.Event()
    threading.Timer(0.3, closed.set).start()
    with (
        Decoders(spare=False) as decoders,
        pytest.raises(AudioError, match="was not read to its end"),
    ):
        decoders.open(Path(__file__), RATE, closed=closed)
    assert started[0].returncode is not None


def test_files_side_by_side(decoders, tmp_path):
    """Good ones and bad ones, more than are decoded at once: each gets its own sound or error."""
    good = [written(tmp_path / f"{i}.wav", noise(0.1 * (i + 1))) for i in range(4)]
    bad = [tmp_path / f"bad{i}.wav" for i in range(2)]
    for path in bad:
        path.write_bytes(b"RIFF" + path.name.encode())

    def length(path: Path) -> int | str:
        try:
            return len(heard(decoders.open(path, RATE)))
        except VoxtralOnnxError as error:
            return str(error).partition(":")[0]

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(length, [*good, *bad]))
    assert found == [1600, 3200, 4800, 6400, "bad0.wav", "bad1.wav"]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX's limits")
def test_a_full_disk(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    path = written(tmp_path / "a.wav", noise(3))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with Decoders() as decoders:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
            with pytest.raises(StorageError, match=r"a\.wav does not fit there.*set TMPDIR"):
                decoders.open(path, RATE)
    finally:
        with suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
