"""Texts of files that end in any order stand on stdout in the files' order, each whole."""

from __future__ import annotations

from itertools import permutations

import pytest

from voxtral_onnx.cli.in_order import TextsInOrder
from voxtral_onnx.cli.screen import LiveScreen


@pytest.fixture
def texts():
    return TextsInOrder(LiveScreen(lambda columns: ""), are_spaced=True)


@pytest.mark.parametrize("order", list(permutations([1, 2, 3])))
def test_whole_texts(order, texts, capsys):
    for number in order:
        texts.end(number, f"{number}\n")
    assert capsys.readouterr().out == "1\n\n2\n\n3\n"


def test_words_come_at_once_where_it_is_their_turn(texts, capsys):
    texts.begin(2, "==> b <==\n")
    texts.show(2, " two")
    texts.begin(1, "==> a <==\n")
    texts.show(1, " one")
    assert capsys.readouterr().out == "==> a <==\none"
    texts.end(1, " more")
    assert capsys.readouterr().out == " more\n\n==> b <==\ntwo"
    texts.show(2, " too")
    texts.end(2)
    assert capsys.readouterr().out == " too\n"


def test_a_file_without_text_holds_nothing_up(texts, capsys):
    texts.end(2, "two\n")
    texts.end(1, "")
    assert capsys.readouterr().out == "two\n"


def test_what_has_ended_is_shown_at_the_close_and_nothing_half_but_the_first(texts, capsys):
    texts.begin(1, "")
    texts.show(1, " one")
    texts.begin(2, "")
    texts.show(2, " two")
    texts.end(3, "three\n")
    assert [texts.has_ended(number) for number in (1, 2, 3, 4)] == [False, False, True, False]
    texts.close()
    assert capsys.readouterr().out == "one\nthree\n"
