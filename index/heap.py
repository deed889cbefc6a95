"""Freed memory goes back to the system, so that a server which loads a release every hour keeps only one."""

import ctypes
from collections.abc import Callable

import pyarrow as pa


def _trimmer() -> Callable[[int], int] | None:
    """`malloc_trim` of glibc; None where the C library has none (it is no part of POSIX)."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    return found


_trim = _trimmer()


def give_memory_back() -> None:
    """Hand what is free back to the system. Milliseconds; the interpreter lock is not held meanwhile."""
    pa.default_memory_pool().release_unused()
    if _trim is not None:
        _trim(0)
