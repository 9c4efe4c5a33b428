"""Errors a user can act on, one class for each exit code of the command line.

VoxtralOnnxError          1   base; the command line catches this one
├── CheckpointError       3   missing or misshapen tensor, unknown params, no tokenizer
├── ArtifactError         4   manifest absent, newer format, changed file, not an artifact
├── QuantizationError     5   weight not 2-D, non-finite, impossible recipe
├── AudioError            6   unreadable, non-finite, wrong rate
├── DeviceError           7   execution provider or dependency missing, too little memory to run
├── VerificationError     8   an artifact fails a rung of the ladder, or two artifacts differ
├── StorageError          9   disk full, folder not writable or in use, memory limit too small,
│                             download failed
├── UsageError            2   a value that no command accepts
└── ShapeError            1   a caller's array does not fit the contract
"""

from __future__ import annotations

from typing import Any


class VoxtralOnnxError(Exception):
    """The base of every error that this package raises on purpose."""

    exit_code = 1


class CheckpointError(VoxtralOnnxError, ValueError):
    """An error in a checkpoint: it is missing, damaged, or not of this model's architecture."""

    exit_code = 3


class ArtifactError(VoxtralOnnxError):
    """An error in an exported artifact: it is missing, incomplete, damaged or of another format."""

    exit_code = 4


class QuantizationError(VoxtralOnnxError, ValueError):
    """An error in quantisation: a weight or a recipe for which the method is not defined."""

    exit_code = 5


class AudioError(VoxtralOnnxError, ValueError):
    """An error in audio: it cannot be decoded, or its samples are not finite."""

    exit_code = 6


class DeviceError(VoxtralOnnxError, RuntimeError):
    """A lack on this machine: of an execution provider, an optional dependency or memory."""

    exit_code = 7


class VerificationError(VoxtralOnnxError):
    """A failed verification; `report` holds all findings, as a certificate or a difference."""

    exit_code = 8

    def __init__(self, message: str, report: Any):
        super().__init__(message)
        self.report = report


class StorageError(VoxtralOnnxError, OSError):
    """A lack of storage: no disk space, no writable folder, or a download that failed."""

    exit_code = 9


class ShapeError(VoxtralOnnxError, ValueError):
    """A mismatch between an array's shape and the one that a function or a graph requires."""


class UsageError(VoxtralOnnxError, ValueError):
    """An argument or option whose value is not accepted."""

    exit_code = 2
