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
    """Base of every error this package raises on purpose."""

    exit_code = 1


class CheckpointError(VoxtralOnnxError, ValueError):
    """The checkpoint is not what the model's definition asks for."""

    exit_code = 3


class ArtifactError(VoxtralOnnxError):
    """The exported artifact is missing, damaged or of another format."""

    exit_code = 4


class QuantizationError(VoxtralOnnxError, ValueError):
    """A weight or a recipe cannot be quantised as asked."""

    exit_code = 5


class AudioError(VoxtralOnnxError, ValueError):
    """The audio cannot be read or holds values that are not sound."""

    exit_code = 6


class DeviceError(VoxtralOnnxError, RuntimeError):
    """An execution provider, an optional dependency or memory is missing."""

    exit_code = 7


class VerificationError(VoxtralOnnxError):
    """An artifact does not compute what it should; `report` holds all that was found."""

    exit_code = 8

    def __init__(self, message: str, report: Any):
        super().__init__(message)
        self.report = report


class StorageError(VoxtralOnnxError, OSError):
    """What the work needs is not there: disk space, a folder to write, memory."""

    exit_code = 9


class ShapeError(VoxtralOnnxError, ValueError):
    """An array does not have the shape that the contract names."""


class UsageError(VoxtralOnnxError, ValueError):
    """An option has a value that it cannot have."""

    exit_code = 2
