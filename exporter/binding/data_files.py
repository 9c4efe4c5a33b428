"""External data files of one graph, written under temporary names until they are complete."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ...errors import QuantizationError, StorageError
from ...files import fsync_dir, open_partial
from ..model.parameters import Parts, named_parameters
from .layout import ExternalDataLayout


class DataFiles:
    """Open data files of one graph, written at any offset from any thread."""

    def __init__(self, folder: Path, layout: ExternalDataLayout, parts: Parts):
        self.folder, self.layout = folder, layout
        self.handles: dict[str, int] = {}
        self.partials: dict[str, Path] = {}  # temporary files, renamed when all are complete
        self.paths = {name: folder / name for name in layout.sizes}
        self.dtypes = {
            name: np.dtype(found.dtype) for name, found in named_parameters(parts).items()
        }

    def __enter__(self) -> DataFiles:
        for name, path in self.paths.items():
            try:
                self.partials[name], handle = open_partial(path.parent)
                self.handles[name] = handle
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(handle, 0, self.layout.sizes[name])
                else:
                    os.ftruncate(handle, self.layout.sizes[name])
            except OSError as error:
                self.__exit__(error)
                raise _storage_error(path, error) from error
        return self

    def write(self, name: str, values: np.ndarray, at: int) -> None:
        """Write values into the initializer `name`, from its element `at` on.

        Raises:
            StorageError: its file cannot be written.
            QuantizationError: a value is not finite, or is beyond the range of its type.
        """
        location, dtype = self.layout.locations[name], self.dtypes[name]
        if dtype.kind == "f":
            _require_finite(name, values, dtype)
        array = np.ascontiguousarray(values.astype(dtype, copy=False))
        view, offset = array.reshape(-1).view(np.uint8).data, at * dtype.itemsize
        assert offset + array.nbytes <= location.size, (
            f"{name}: {array.nbytes} bytes at {offset} exceed {location.size}"
        )
        offset += location.offset
        while view:
            try:
                written = os.pwrite(self.handles[location.file], view, offset)
            except OSError as error:
                raise _storage_error(self.paths[location.file], error) from error
            view, offset = view[written:], offset + written

    def __exit__(self, error, *_) -> None:
        try:
            if error is None:
                for handle in self.handles.values():
                    os.fsync(handle)
        except OSError as failure:
            error = failure
            raise _storage_error(self.folder, failure) from failure
        finally:
            for handle in self.handles.values():
                os.close(handle)
            for name, partial in self.partials.items():
                if error is None:
                    partial.replace(self.paths[name])
                else:
                    partial.unlink(missing_ok=True)
                fsync_dir(partial.parent)


def _require_finite(name: str, values: np.ndarray, dtype: np.dtype) -> None:
    """Check that values can be stored as floats of a type; NaN is within no range."""
    most = float(np.finfo(dtype).max)
    if not (values.max() <= most and values.min() >= -most):
        wrong = values[~(np.abs(values) <= most)].reshape(-1)[0]
        raise QuantizationError(
            f"{name}: expected finite values in {dtype.name}'s range, got {wrong:g}; the "
            "checkpoint is damaged, not a trained model, or needs --precision fp32 or q4"
        )


def _storage_error(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path}: cannot be written ({error.strerror or error}); free space or "
        "choose another folder"
    )
