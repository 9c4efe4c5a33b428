"""How far files have come, in a line that is cut from its end."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from voxtral_onnx.cli import progress, terminal
from voxtral_onnx.cli.progress import ExportProgress, FilesProgress, bytes_line
from voxtral_onnx.exporter.binding.bind import Progress
from voxtral_onnx.runtime.audio.files import AudioSource, open_audio


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def source(name: str, seconds: float) -> AudioSource:
    whole = open_audio(np.zeros(0, np.float32), 16000)
    return replace(whole, name=name, duration=seconds)


def files(tmp_path, **sizes: int) -> list[str]:
    for name, size in sizes.items():
        (tmp_path / name.replace("_", ".")).write_bytes(bytes(size))
    return [str(tmp_path / name.replace("_", ".")) for name in sizes]


def test_one_file(tmp_path, clock):
    progress = FilesProgress(files(tmp_path, a_wav=10), clock)
    assert progress.line(80) == f"{'─' * 20}   0%"
    progress.begin(1, source("folder/a.wav", 60.0))
    progress.reach(1, 15.0)
    clock.now = 105.0
    rest = "25%, 0:15 left, 0:15 of 1:00 of a.wav, 3.0x real time"
    assert progress.line(80) == f"{'━' * 5}{'─' * 15}  {rest}"
    assert progress.line(60) == f"{'━' * 2}{'─' * 8}  {rest}"
    assert progress.line(40) == f"{'━' * 1}{'─' * 5}  {rest}"
    assert progress.line(20) == rest
    assert progress.line(80, "ascii").startswith("#####---------------  25%")
    progress.finish(1)
    assert progress.line(20) == "100%, 0:00 left"


def test_the_clock_starts_when_the_model_is_loaded(tmp_path, clock):
    progress = FilesProgress(files(tmp_path, a_wav=10), clock)
    clock.now += 1000
    progress.start()
    progress.begin(1, source("a.wav", 60.0))
    progress.reach(1, 30.0)
    clock.now += 10
    assert progress.total == "0:30 of audio at 3.0 times its speed"


def test_files_at_a_time_have_no_name_and_one_speed(tmp_path, clock):
    progress = FilesProgress(files(tmp_path, a_wav=10, b_wav=10, c_wav=10, d_wav=10), clock)
    for number in (1, 2, 3):
        progress.begin(number, source(f"{number}.wav", 20.0))
    progress.reach(2, 10.0)
    progress.reach(3, 6.0)
    progress.finish(1)
    clock.now += 2
    line = "45%, 0:02 left, 1 of 4 files, 18.0x real time"
    assert progress.line(80) == f"{'━' * 9}{'─' * 11}  {line}"
    assert progress.line(40) == f"{'━' * 2}{'─' * 4}  {line}"
    progress.reach(2, 9.0)  # never back, and never beyond the end
    progress.reach(3, 21.0)
    assert progress.seconds == 50.0
    # What was done of a file that has failed does not count
    progress.fail(3)
    assert (progress.seconds, progress.total_seconds) == (30.0, pytest.approx(53.3, abs=0.1))
    progress.finish(2)
    assert progress.line(20) == "75%, 0:00 left, 2 of 4 files"


def test_what_was_done_before_is_neither_work_nor_speed(tmp_path, clock):
    progress = FilesProgress(files(tmp_path, a_wav=10), clock)
    progress.begin(1, source("a.wav", 60.0), 40.0)
    assert progress.line(20) == "0%, 0:40 of 1:00 of a.wav"
    progress.reach(1, 45.0)
    clock.now = 101.0
    assert progress.line(20) == "25%, 0:03 left, 0:45 of 1:00 of a.wav, 5.0x real time"
    progress.finish(1)
    assert progress.total == "0:20 of audio at 20.0 times its speed"


def test_files_that_were_not_opened_are_as_long_as_their_kind(tmp_path, clock):
    paths = files(tmp_path, a_wav=1000, b_wav=3000, c_mp3=100, d_mp3=200)
    progress = FilesProgress([*paths, "-"], clock)
    progress.begin(1, source("a.wav", 10.0))
    assert progress.total_seconds == pytest.approx(10 + 30 + 1 + 2)
    progress.begin(3, source("c.mp3", 20.0))
    assert progress.total_seconds == pytest.approx(10 + 30 + 20 + 40)
    progress.begin(2, source("b.wav", 50.0))
    progress.begin(5, source("-", 7.0))
    assert progress.total_seconds == pytest.approx(10 + 50 + 20 + 40 + 7)
    progress.finish(1)
    clock.now += 2
    assert progress.line(80).endswith("   8%, 0:23 left, 1 of 5 files, 5.0x real time")


def test_files_that_failed_are_not_waited_for(tmp_path, clock):
    progress = FilesProgress(files(tmp_path, a_wav=1000, b_wav=1000), clock)
    progress.begin(1, source("a.wav", 10.0))
    progress.fail(1)
    progress.begin(2, source("b.wav", 10.0))
    progress.finish(2)
    clock.now += 1
    assert progress.line(20).startswith("100%, 0:00 left")


@pytest.mark.parametrize("audio", [[], ["nowhere.wav"], ["\0"]])
def test_nothing_is_known_of_what_is_not_there(audio, clock):
    assert FilesProgress(audio, clock).line(20).startswith("0%")


@pytest.fixture
def drawn(monkeypatch):
    """Make a console on which bars are drawn, as if it were a terminal of so many columns."""

    def make(columns: int | None) -> Callable[[], list[str]]:
        out = io.StringIO()
        console = terminal.Console(stderr=True)
        console.file, console._force_terminal = out, columns is not None
        console.is_interactive = columns is not None
        console.width = columns or 80
        monkeypatch.setattr(progress, "stderr", console)
        monkeypatch.setattr(terminal, "stderr", console)

        def lines() -> list[str]:
            text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
            return [line.rstrip() for line in re.split("[\r\n]", text) if line.strip()]

        return lines

    return make


def passes(sizes: dict[str, int]) -> Iterator[Progress]:
    """What an export of some graphs reports: bytes of all of them, from the start."""
    total, done = sum(sizes.values()), 0
    for name, size in sizes.items():
        files = (f"onnx/{name}.onnx",)
        yield Progress(files, "", done, total, "graphs")
        for part in range(1, 5):
            yield Progress(files, f"{name}.weight", done + size * part // 4, total)
        done += size
        yield Progress(files, "", done, total, "hashes")


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        (
            80,
            ["━━━━━━━─────   62 %  5.0 of 8.0 GB  310 MB/s  0:10 left  encoder: model.weight"],
        ),
        (60, ["━━━━━━━─────   62 %  5.0 of 8.0 GB  310 MB/s  0:10 left  enc"]),
        (40, ["━━━━━━━─────   62 %  5.0 of 8.0 GB  0:10"]),
        (20, [" 62 %  0:10 left  en"]),
    ],
)
def test_a_line_of_bytes_fits_the_terminal(columns, parts, drawn):
    drawn(columns)
    facts = {"rate": 310e6, "left": 10.4, "columns": columns}
    line = bytes_line("encoder: model.weight", 5_000_000_000, 8_000_000_000, **facts)
    assert [line] == parts and len(line) <= columns


def test_a_line_of_bytes_before_anything_is_known(drawn):
    drawn(80)
    line = bytes_line("making the graph", 0, 8_000_000_000, rate=None, left=None, columns=80)
    assert line == f"{'─' * 12}    0 %  0 B of 8.0 GB  making the graph"
    done = bytes_line("hashing", 8_000_000_000, 8_000_000_000, rate=1e9, left=0, columns=80)
    assert "100 %  8.0 of 8.0 GB" in done and "left" not in done


@pytest.mark.parametrize("columns", [80, 60, 20])
def test_an_export_has_one_bar_with_the_total_from_the_start(columns, drawn):
    lines = drawn(columns)
    with ExportProgress() as bar:
        for report in passes({"encoder_q4": 4_000_000, "decoder_q4": 12_000_000}):
            bar.update(report)
            assert bar.bar is not None
            bar.bar.refresh()
    shown = [re.search(r"(\d+) %", line) for line in lines()]
    shares = [int(match[1]) for match in shown if match]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 100
    assert {6, 25, 43, 81} <= {*shares}
    assert all(len(line) < columns for line in lines())
    assert columns == 20 or all("of 16.0 MB" in line for line in lines())


def test_an_export_without_a_terminal_has_a_line_for_each_pass(drawn):
    lines = drawn(None)
    with ExportProgress() as bar:
        for report in passes({"encoder_q4": 4_000_000, "decoder_q4": 12_000_000}):
            bar.update(report)
    assert lines() == [
        "encoder_q4: 4.0 MB of weights in 0 s",
        "decoder_q4: 12.0 MB of weights in 0 s",
    ]
