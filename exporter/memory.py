"""Check this process's memory limits before an export imports and maps what it needs.

Under a limit that is too low, imports fail with errors that do not mention memory.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..errors import StorageError
from ..memory import address_limit, available_memory, mapped_memory, resident_memory

# Bytes resident in an export of the 4B model
PEAK = 300_000_000
PEAK_TRACING = 600_000_000  # where graphs are traced, in all families; nearly all of them torch's
# Bytes of address space
IMPORTS = 250_000_000  # that onnx and NumPy map when they are imported
TRACING = 1_000_000_000  # that torch maps, and tracing on top of that
BINDING = 100_000_000  # that binding maps, without its threads, on top of the opened checkpoint
THREAD = 80_000_000  # that each thread maps: a stack of 8 MB and an arena of the C library


def peak_of(traced: Sequence[str]) -> int:
    """Return about how many bytes are resident at most in an export of the 4B model.

    Args:
        traced: files of the graphs that are traced.
    """
    return PEAK_TRACING if traced else PEAK


def require_memory(addresses: int, peak: int = PEAK, what: str = "an export") -> None:
    """Check that this process may map `addresses` more bytes and have `peak` bytes resident.

    An export that began otherwise would be killed without a message at a control group's limit.

    Args:
        addresses: bytes of address space.
        peak: bytes.
        what: needs them, for the message.

    Raises:
        StorageError: it may not; the message has what is needed and the limit.
    """
    limit, mapped = address_limit(), mapped_memory()
    if limit is not None and limit - mapped < addresses:
        raise StorageError(
            f"memory: {what} needs {(mapped + addresses) / 1e6:,.0f} MB of addresses (about "
            f"{peak / 1e6:,.0f} MB of them resident), this process is limited to "
            f"{limit / 1e6:,.0f} MB; raise the limit (ulimit -v unlimited)"
        )
    available, resident = available_memory(), resident_memory()
    if available is not None and available + resident < peak:
        raise StorageError(
            f"memory: {what} needs about {peak / 1e6:,.0f} MB, this process may take "
            f"{(available + resident) / 1e6:,.0f} MB; free memory or raise the limit of its "
            "control group"
        )


@contextmanager
def named_memory_errors(peak: int) -> Iterator[None]:
    """Turn the errors of Python, NumPy and PyTorch that mean a lack of memory into one.

    Raises:
        StorageError: memory ran out in the context.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        is_no_memory = isinstance(error, MemoryError) or (
            isinstance(error, OSError) and error.errno == errno.ENOMEM
        )
        if is_no_memory or any(
            words in str(error) for words in ("allocate memory", "bad_alloc", "start new thread")
        ):
            raise StorageError(
                f"memory: ran out ({str(error) or 'MemoryError'}); an export needs about "
                f"{peak / 1e6:,.0f} MB: free memory, raise its limit, or use fewer --threads"
            ) from error
        raise
