"""What `evaluate` says of the embedded recordings, whose texts are known."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser

import pytest
from support.commands import CLIP, SAMPLES, TEXT

from voxtral_onnx.verification.evaluation.evaluate import evaluate
from voxtral_onnx.verification.evaluation.rates import count_errors
from voxtral_onnx.verification.evaluation.report_html import write_report


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Write two clips with their texts, one with the text of another, one that is no audio, one
    that is cut off, one whose text is in another encoding, and one alone."""
    folder = tmp_path_factory.mktemp("recordings")
    for name, text in (("a", TEXT.upper()), ("b", "turn off the <i>radio</i>"), ("c", None)):
        shutil.copyfile(CLIP, folder / f"{name}.wav")
        if text:
            (folder / f"{name}.txt").write_text(text)
    (folder / "damaged.wav").write_bytes(b"RIFF no audio")
    (folder / "damaged.txt").write_text("nothing")
    (folder / "cut.wav").write_bytes(CLIP.read_bytes()[: CLIP.stat().st_size // 2])
    (folder / "cut.txt").write_text(TEXT)
    shutil.copyfile(CLIP, folder / "latin.wav")
    (folder / "latin.txt").write_bytes(b"gr\xfc\xdfe")
    return folder


@pytest.fixture(scope="module")
def report(recordings, tiny_artifact, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "new"
    write_report(evaluate([tiny_artifact], recordings, precisions=["q4", "fp32"]), folder)
    return folder


def test_numbers_are_those_of_the_texts(report, recordings):
    found = json.loads((report / "evaluation.json").read_text())
    expected = count_errors("turn off the <i>radio</i>", TEXT)
    words = len(TEXT.split()) + expected.words
    assert [score["system"]["precision"] for score in found["scores"]] == ["q4", "fp32"]
    for score in found["scores"]:
        assert score["word_errors"] == expected.word_errors and score["words"] == words
        assert score["wer"]["value"] == round(100 * expected.word_errors / words, 3)
        assert score["seconds"] > 0 and score["audio_seconds"] > 3
    assert found["scores"][1]["wer_above_first"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert [row["texts"] for row in found["rows"]] == [[TEXT, TEXT]] * 2
    assert found["worst"] == [[1], [1]]
    assert found["without_text"] == [str(recordings / "c.wav")]


class Texts(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_shows_what_was_missed_and_written(report):
    page = Texts()
    page.feed((report / "evaluation.html").read_text())
    assert not {"i", "script"} & {*page.tags}
    assert page.tags.count("del") >= 2 and page.tags.count("ins") >= 2
    assert {"radio", "music"} <= {word for text in page.texts for word in text.split()}


def test_a_recording_that_fails_is_said_and_counts_for_nobody(
    tiny_artifact, recordings, run, tmp_path
):
    result = run(
        *("evaluate", tiny_artifact, "--data", recordings, "--batch-size", "2"),
        *("-o", tmp_path / "out"),
    )
    assert result.code == 10
    for name, why in (("damaged", ""), ("cut", "cut off")):
        assert f"not transcribed: {recordings / name}.wav: " in result.out and why in result.out
    assert f"{recordings / 'latin.txt'}: expected UTF-8" in result.out
    assert "2 recordings, " in result.out and "1 without a .txt beside them" in result.out
    assert all((tmp_path / "out" / f"evaluation.{kind}").is_file() for kind in ("json", "html"))


def test_json_on_stdout(tiny_artifact, recordings, run):
    found = json.loads(run("evaluate", tiny_artifact, "--data", recordings, "--json").out)
    assert [row["texts"] for row in found["rows"]] == [[TEXT]] * 2


def test_tables_that_are_none(tiny_artifact, recordings, run):
    missing, other = recordings / "none.tsv", SAMPLES.parent / "heldout.tsv"
    run("evaluate", tiny_artifact, "--data", missing).assert_refused(2, "none.tsv: no such file")
    run("evaluate", tiny_artifact, "--data", other).assert_refused(2, "expected a first line")
