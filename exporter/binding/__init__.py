"""Weights streamed into data files, and where each stands there."""
