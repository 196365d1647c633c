"""Let memory that was freed be used again, where large tensors come and go."""

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # as in malloc.h


def keep_freed_memory() -> None:
    """Tell glibc to keep the memory of large tensors; it would give it back, and fresh memory costs half the time.

    To be called before the process starts threads, as importing pyarrow does: threads with arenas of their own would
    keep them, and in those glibc has no place for large tensors. Does nothing with another C library.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for parameter, value in ((_TRIM_THRESHOLD, 2**31 - 1), (_MMAP_MAX, 0), (_ARENA_MAX, 1)):
            libc.mallopt(parameter, value)
