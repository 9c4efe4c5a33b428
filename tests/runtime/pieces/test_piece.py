"""Tokens of pieces are those of the uncut run: one for each index, with the same embeddings."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from support.commands import LONG_CLIP

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime.pieces.cutter import Cut, Cutter
from voxtral_onnx.runtime.pieces.piece import MOST_CHECKED, Piece

RATE = 16000
SILENT = st.integers(0, 30)


def decode(embeds: list[int], prompt: int) -> list[int]:
    """Return for each token the embedding at the position where it is sampled.

    It stands for a decoder, whose own positions these are, from 0 on.
    """
    return embeds[prompt - 1 :]


def own_tokens(piece: Piece, token_ids: list[int]) -> list[int]:
    """Return those that are kept of all that a piece's decoder has written."""
    return token_ids if piece.end is None else token_ids[: piece.end - piece.begin]


def pieces_of(piece: Piece, cuts: list[Cut]) -> list[Piece]:
    """Return all pieces of a recording."""
    found = []
    for cut in cuts:
        left, piece = piece.split(cut)
        found.append(left)
    return [*found, piece]


@given(
    cuts=st.lists(
        st.builds(Cut, st.integers(1, 300), SILENT, SILENT), max_size=8, unique_by=lambda c: c.token
    ).map(lambda cuts: sorted(cuts, key=lambda cut: cut.token)),
    left_pad=st.integers(1, 40),
    delay=st.integers(1, 30),
)
def test_each_token_is_written_once_with_the_embedding_of_the_uncut_run(cuts, left_pad, delay):
    prompt, embeds = 1 + left_pad + delay, list(range(left_pad + delay + 310))
    uncut, kept, index = decode(embeds, prompt), [], 0
    pieces = pieces_of(Piece(left_pad, delay), cuts)
    for number, piece in enumerate(pieces):
        positions = piece.positions(len(embeds))
        silent_prefix = [-1] * (left_pad - 1)  # whose numbers are those of silence
        assert piece.own(positions.start) == len(silent_prefix)
        written = decode(silent_prefix + embeds[positions.start : positions.stop], prompt)
        # Its first token is sampled where its prompt ends
        assert piece.own(piece.position_of(piece.begin)) == prompt - 1
        assert written == [piece.position_of(piece.begin + k) for k in range(len(written))]
        kept += own_tokens(piece, written)
        if number < len(cuts):
            assert piece.checked == min(cuts[number].silent_after, MOST_CHECKED)
            assert pieces[number + 1].blanks == cuts[number].silent_before
            index += len(own_tokens(piece, written))
            assert index == cuts[number].token
    assert kept == uncut


@given(st.integers(1, 200), st.integers(1, 30), SILENT)
def test_neighbours_share_the_delay_one_and_those_that_are_checked(token, delay, silent_after):
    left, right = Piece(32, delay).split(Cut(token, 5, silent_after))
    both = set(left.positions(10**4)) & set(right.positions(10**4))
    assert len(both) == delay + 1 + min(silent_after, 10)
    assert not right.positions(token)  # nothing of it is encoded yet


def test_a_word_after_the_cut_joins_the_pieces():
    first, second, last = pieces_of(Piece(32, 6), [Cut(5, 2, 3), Cut(9, 2, 4)])
    joined = first.join(second)
    assert (joined.begin, joined.end, joined.checked, joined.blanks) == (0, 9, 4, 0)
    assert joined.positions(10**4).stop == second.positions(10**4).stop
    assert joined.join(last) == Piece(32, 6)


@pytest.mark.parametrize("precision", ["q4", "fp32"])
def test_pieces_of_a_recording_write_its_tokens(tiny_artifact, precision):
    """On tiny, with a cut of the cutter: all tokens, and blanks where the pieces overlap."""
    transcriber = Transcriber(tiny_artifact, "cpu", precision=precision)
    rules, ids = transcriber.manifest.streaming, transcriber.manifest.tokens
    samples = np.tile(soundfile.read(LONG_CLIP, dtype="float32")[0], 2)
    cutter = Cutter(transcriber.manifest.config.audio, len(samples) / RATE, 2)
    cuts = cutter.push(samples) + cutter.finish()
    assert len(cuts) == 1

    stream = transcriber.stream()
    stream._take(samples)
    chunks = [chunk.copy() for chunk in (*stream._encode(), *stream._encode_tail())]
    silence = rules.left_pad_tokens - 1  # embeddings, which a stream has decoded already
    embeds = np.concatenate((np.full((silence, chunks[0].shape[1]), np.nan, np.float32), *chunks))

    def write(piece: Piece) -> list[int]:
        positions, stream = piece.positions(len(embeds)), transcriber.stream()
        stream.writer.blanks = piece.blanks
        assert stream.decoder_cache.position == piece.own(positions.start)
        written = stream.decode(embeds[positions.start : positions.stop])
        return [token.token_id for token in written]

    whole, found = Piece(rules.left_pad_tokens, stream.num_delay_tokens), []
    for piece in pieces_of(whole, cuts):
        written = write(piece)
        own = own_tokens(piece, written)
        assert set(written[len(own) :]) <= {ids.streaming_pad}
        found += own
    assert found == write(whole)
    assert sum(token >= ids.first_text for token in found) > 100
