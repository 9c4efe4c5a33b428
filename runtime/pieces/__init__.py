"""Decoding of one long recording in pieces: where silence is, where to cut, and what is kept."""
