"""The downloads that an export without a source offers: shown, asked for, remembered."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.ggufs import config_of, mistral_tensors, write_model
from support.hub_server import HubServer

from voxtral_onnx.cli.offers import OFFERS
from voxtral_onnx.manifest import Manifest

FULL, SMALL = OFFERS
SMALL_REPOSITORY, _, SMALL_FILE = SMALL.source.rpartition("/")
QUESTION = "Download full, 4-bit or none? [{}]"


@pytest.fixture
def hub(hub_server, toy_checkpoint, tmp_path, monkeypatch) -> HubServer:
    """Both repositories, of the toy model; the one with 4 bits has no tokenizer."""
    hub_server.publish(FULL.source, toy_checkpoint)
    path = tmp_path / SMALL_FILE
    write_model(path, config_of(toy_checkpoint), mistral_tensors(toy_checkpoint), "Q4_0")
    hub_server.publish(SMALL_REPOSITORY, {SMALL_FILE: path.read_bytes(), "shard-aa": b"other"})
    monkeypatch.chdir(tmp_path)
    return hub_server


@pytest.fixture
def export(run, monkeypatch):
    """Export without a source, as somebody who types an answer, or where nobody does."""

    @contextmanager
    def stdin(answer: str | None):
        if answer is None:
            with Path(os.devnull).open() as nobody:
                yield nobody
        else:
            ours, theirs = os.openpty()
            with os.fdopen(ours, "wb", 0) as person, os.fdopen(theirs) as terminal:
                person.write(answer.encode())
                yield terminal

    def export(answer: str | None, *options):
        with stdin(answer) as file:
            monkeypatch.setattr(sys, "stdin", file)
            return run("export", "--precision", "q4", *options)

    return export


def test_nobody_to_ask(hub, export):
    export(None).assert_refused(
        2,
        "nothing is downloaded without being asked for: name a folder, or run one of\n",
        "\n  voxtral-onnx export --yes  # full, the default\n",
        f"\n  voxtral-onnx export {FULL.source}  # full   ",
        f"\n  voxtral-onnx export {SMALL.source}  # 4-bit  ",
    )
    assert hub.taken() == [] and not list(Path().glob("*-onnx"))


def test_sizes_are_those_that_the_hub_lists(hub, export):
    hub.faults.sizes = {"consolidated.safetensors": 7_600_000_000, SMALL_FILE: 1_200_000_000}
    shown = export(None).err
    assert "# full   7.6 GB  Mistral's weights" in shown
    assert "# 4-bit  1.2 GB  already rounded to 4 bits (GGUF, Q4_0), kept bit by bit" in shown


def test_sizes_of_a_hub_that_does_not_know_the_repositories(hub_server, export):
    shown = export(None).err
    assert "# full   8.9 GB  " in shown and "# 4-bit  2.5 GB  " in shown


@pytest.mark.parametrize("answer", ["none\n", "\x04"])
def test_no(answer, hub, export):
    result = export(answer)
    assert result.code == 130 and QUESTION.format("full") in result.err
    assert hub.taken() == [] and not list(Path().glob("*-onnx"))


def test_the_full_one_is_the_default(hub, export):
    result = export("\n")
    assert result.code == 0 and Path(result.out.strip()).name == f"{FULL.source.split('/')[1]}-onnx"
    for offer in OFFERS:
        assert f"\n         {offer.source}\n" in result.err
    assert "The answer is remembered" in result.err
    assert "consolidated.safetensors" in hub.taken() and SMALL_FILE not in hub.taken()
    again = export(None)  # nothing is left to ask about
    assert again.code == 0 and f"source: full, {FULL.source}, as chosen before" in again.err
    assert "to choose another, name it: voxtral-onnx export SOURCE" in again.err
    assert ": already there: q4;" in again.err


def test_the_small_one_with_the_tokenizer_of_the_full_one(hub, export, toy_checkpoint):
    result = export("what?\n4-bit\n")
    assert result.code == 0, result.err
    assert result.err.count(QUESTION.format("full")) == 2
    assert "expected full, 4-bit or none, got what?" in result.err
    assert f"tokenizer: from {FULL.source}; the repository has none" in result.err
    assert set(hub.taken()) == {"tekken.json", SMALL_FILE}
    folder = Path(result.out.strip())
    assert (folder / "tekken.json").read_bytes() == (toy_checkpoint / "tekken.json").read_bytes()
    assert Manifest.read(folder).precisions["q4"].recipe.rules
    hub.requests.clear()
    assert export(None, "--offline", "-o", "other").code == 0
    assert hub.requests == []


def test_the_answer_is_the_next_default(hub, export):
    hub.faults.sizes = {SMALL_FILE: 1 << 60}  # so that nothing is downloaded
    assert export("4-bit\n").code == 9
    hub.faults.sizes = {}
    assert QUESTION.format("4-bit") in export("none\n").err
    planned = export(None, "--dry-run")
    assert planned.code == 0 and planned.out.startswith(f"{SMALL_REPOSITORY} at ")
    assert "source: 4-bit, as chosen before; to choose another, name it" in planned.err
    result = export(None, "--yes")
    assert result.code == 0
    assert f"source: 4-bit, {SMALL.source}, as chosen before" in result.err
    assert set(hub.taken()) == {"tekken.json", SMALL_FILE}


def test_yes_takes_the_full_one_and_says_so(hub, export):
    result = export(None, "--yes")
    assert result.code == 0 and f"source: full, {FULL.source}, the default" in result.err
    assert "consolidated.safetensors" in hub.taken()


@pytest.mark.parametrize("content", [b"", b"{", b'{"download": "huge"}', b'{"download": 3}'])
def test_a_damaged_memory_is_none(content, hub, export):
    from voxtral_onnx.cli import offers

    path = offers._file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert QUESTION.format("full") in export("none\n").err


def test_a_memory_that_cannot_be_written_is_said(hub, export, monkeypatch, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(blocked))
    hub.faults.sizes = {"consolidated.safetensors": 1 << 60}
    assert "note: the answer is not remembered: " in export("full\n").err
