"""Decoding of files and pipes to samples: where sound begins and ends, and what is damaged."""
