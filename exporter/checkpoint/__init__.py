"""Checkpoints of any layout, opened as lazy tensors under one set of names."""
