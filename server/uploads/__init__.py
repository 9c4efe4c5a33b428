"""Recordings of strangers, decoded in a process of its own."""
