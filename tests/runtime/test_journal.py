"""Journals: what is read back is what was decoded, and only that."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from golden.make import TOKENS

from voxtral_onnx.errors import StorageError
from voxtral_onnx.runtime.journal import (
    Header,
    claim_journal,
    fingerprint,
    journal_path,
    leftover_journals,
    open_journal,
    read_journal,
)
from voxtral_onnx.runtime.tokens import Token

AUDIO = SimpleNamespace(samples_per_token=1280, sample_rate=16000)
MANIFEST = SimpleNamespace(
    tokens=TOKENS,
    config=SimpleNamespace(audio=AUDIO),
)
GRID = SimpleNamespace(period=64)
HEADER = Header(1, "a.wav", 1000, "0" * 64, "1" * 64, {"delay_ms": 480, "hotwords": []})
BLANK, WORD, TEXT = TOKENS.streaming_pad, TOKENS.streaming_word, 1381
SPOKEN = [BLANK, WORD, TEXT, BLANK, WORD, TEXT, TEXT, *[BLANK] * 18, WORD, TEXT, WORD, TEXT, WORD]


def opened(path, header=HEADER, *, resume=False, said=None):
    said = [] if said is None else said
    return open_journal(path, MANIFEST, GRID, header, resume=resume, say=said.append)  # type: ignore[arg-type]


def push(journal, ids, first=0):
    for i, token_id in enumerate(ids, first):
        text = " word" * (token_id >= TOKENS.first_text)
        journal.push(Token(i, token_id, text, (i + 1) * 0.08, -0.1, 0.0))


@pytest.fixture
def left(tmp_path):
    """The journal of a process that was killed."""
    path = journal_path(tmp_path, "a")
    journal = opened(path)
    push(journal, SPOKEN)
    journal.close()
    return path


def test_a_recording_goes_on_behind_the_last_segment(left):
    said = []
    journal = opened(left, resume=True, said=said)
    kept = journal.kept
    assert [segment.text for segment in kept.segments] == [" word", " word word", " word", " word"]
    assert list(kept.token_ids) == SPOKEN
    assert said == [f"goes on at {kept.start:.1f} s"]
    assert kept.start == pytest.approx(0.08 * len(SPOKEN))

    # The rest, which begins with the text of a word whose marker is kept
    push(journal, [TEXT, TEXT, BLANK, WORD], len(SPOKEN))
    journal.close()
    _, lines = read_journal(left, left.read_bytes())
    assert [line.segment.id for line in lines] == [0, 1, 2, 3, 4]
    assert [i for line in lines for i in line.token_ids] == [*SPOKEN, TEXT, TEXT, BLANK, WORD]
    assert [line.resumed_at for line in lines] == [None, None, None, kept.start, None]
    last = lines[-1].segment
    assert (last.text, last.end) == (" word word", kept.start)
    again = opened(left, resume=True)
    assert again.kept.resumed_at == (kept.start, again.kept.start)
    again.close()


def test_the_end_of_a_line_that_was_being_written_is_none(left):
    content = left.read_bytes()
    _, lines = read_journal(left, content)
    last = content[: content.rindex(b"\n")].rindex(b"\n") + 1
    for end in range(last, len(content)):
        assert read_journal(left, content[:end])[1] == lines[:-1]


def test_other_damage_is_refused_and_left_as_it_is(left):
    lines = left.read_bytes().splitlines(keepends=True)
    for wrong in (
        [lines[0], b"\x00" * 9 + b"\n", *lines[2:]],
        [lines[0], *lines[2:]],
        [lines[0], lines[2], lines[1]],
        [lines[0].replace(b'"journal":1', b'"journal":2'), *lines[1:]],
    ):
        left.write_bytes(b"".join(wrong))
        with pytest.raises(StorageError, match=r"line \d is damaged .*; remove the file"):
            opened(left, resume=True)
        assert left.read_bytes() == b"".join(wrong)


def test_what_differs_is_said(left):
    for header, name in (
        (Header(1, "a.wav", 1001, "0" * 64, "1" * 64, HEADER.options), "recording"),
        (Header(1, "a.wav", 1000, "0" * 64, "2" * 64, HEADER.options), "model"),
        (Header(1, "a.wav", 1000, "0" * 64, "1" * 64, {"delay_ms": 960}), "delay_ms and the hotw"),
        (
            Header(1, "a.wav", 1000, "0" * 64, "2" * 64, HEADER.options | {"encoder_call": 256}),
            "kind of device",
        ),
        (
            Header(1, "a.wav", 1000, "0" * 64, "1" * 64, HEADER.options | {"split": True}),
            "decoding in pieces (--batch-size, --no-split)",
        ),
    ):
        with pytest.raises(StorageError, match=re.escape(f"cannot go on, because the {name}")):
            opened(left, header, resume=True)


def test_without_resume_it_is_set_aside_until_the_outputs_are_written(left):
    content, said = left.read_bytes(), []
    old = left.with_name(".a.journal.old.jsonl")
    journal = opened(left, said=said)
    assert old.read_bytes() == content and str(old) in said[0]
    journal.remove()
    assert not old.exists() and not left.exists()


def test_a_journal_that_holds_nothing_does_not_stay(tmp_path):
    path = journal_path(tmp_path, "a")
    opened(path).close()
    assert not path.exists()


def test_another_process_is_kept_out(left):
    journal = opened(left, resume=True)
    with pytest.raises(StorageError, match="another process writes its outputs"):
        opened(left, resume=True)
    assert not list(leftover_journals(left.parent))
    journal.close()


def test_streams_get_names_of_their_own(tmp_path):
    said, header = [], Header(1, "stdin", None, None, "1" * 64, {}, is_stream=True)

    def claim():
        taken = (lambda name: (tmp_path / f"{name}.txt").exists(), said.append, TOKENS)
        return claim_journal(tmp_path, "stdin", header, *taken)

    (tmp_path / "stdin.txt").write_text("an earlier one")
    (name, one), (other, two) = claim(), claim()
    assert (name, other) == ("stdin-2", "stdin-3")
    push(two, SPOKEN)
    two.close()
    [(found, journal, segments)] = leftover_journals(tmp_path)
    assert (found, [segment.text for segment in segments][1]) == ("stdin-3", " word word")
    one.remove()
    journal.close()
    assert claim()[0] == "stdin-2"


def test_a_recording_is_known_by_its_size_and_both_ends(tmp_path):
    path = tmp_path / "a.wav"
    found = set()
    for content in (b"a", b"b", b"a" * 9, b"a" * (3 << 20), b"a" * ((3 << 20) - 1) + b"b"):
        path.write_bytes(content)
        found.add(fingerprint(path))
    assert len(found) == 5 and all(None not in pair for pair in found)
    assert fingerprint(tmp_path) == fingerprint(tmp_path / "none") == (None, None)
