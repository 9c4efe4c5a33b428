"""Artifact to text on onnxruntime: audio, sessions, caches, streams.

Needs neither torch nor onnx.
"""
