"""Transcription with an exported artifact on onnxruntime: audio, sessions, caches, streams, text.

Neither torch nor onnx is needed.
"""
