"""Artifact families: which graphs there are, and how their inputs and outputs are called."""
