"""Formats of weight files, as lazy tensors by the names that the files have."""
