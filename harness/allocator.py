"""Keep freed memory for the next step instead of handing it back to the system.

glibc returns large blocks at once, and a training step frees and takes the same ones again: on a
small model the page faults cost more than the optimizer does (`make bench` prints the ratio).
Elsewhere than on glibc nothing is done; no number depends on any of this.
"""

from __future__ import annotations

import ctypes
import functools

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # mallopt's own numbers, from <malloc.h>
NEVER = 2**31 - 1  # bytes at the top of the heap before any is returned
DEFAULT_TRIM, DEFAULT_MMAP_MAX = 128 * 1024, 65536


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def keep_memory(keep: bool = True) -> None:
    """Let malloc serve large blocks from the heap and keep it; `keep=False` is glibc's default."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(MMAP_MAX, 0 if keep else DEFAULT_MMAP_MAX)
        libc.mallopt(TRIM_THRESHOLD, NEVER if keep else DEFAULT_TRIM)


def give_back() -> None:
    """Return what is free to the system: between two runs of one process."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)
