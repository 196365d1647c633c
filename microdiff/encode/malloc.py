"""Stop glibc from returning freed tensors to the kernel.

Page faults on fresh memory took 40 % of the sample VAE's time (docs/decisions/one-device-thread.md).
"""

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # as in malloc.h


def keep_freed_memory() -> None:
    """Set glibc's M_TRIM_THRESHOLD, M_MMAP_MAX and M_ARENA_MAX so that freed memory is used again.

    Call it before the process starts threads, as importing pyarrow does: a thread that has an arena of its own keeps
    it, and glibc keeps nothing of a large tensor's size there. Does nothing with another C library.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for parameter, value in ((_TRIM_THRESHOLD, 2**31 - 1), (_MMAP_MAX, 0), (_ARENA_MAX, 1)):
            libc.mallopt(parameter, value)
