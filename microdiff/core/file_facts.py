"""What tells that nobody has written to a file since it was hashed.

Size and time of modification do not: that time can be set back, and files with hard links are written to through any
name. The time of change (ctime) cannot be set: the file system sets it at every write, and at every change of the other
times. What a disk loses by itself is not seen so; it is by hashing.
"""

import os
import time
from pathlib import Path

HASH_ALWAYS = "MICRODIFF_HASH_ALWAYS"  # set to 1: take no file for known, as where a file system keeps no ctime

_TICK_NS = 20_000_000  # longer than a kernel's clock tick: of two changes in one tick, ctime shows one
Facts = list[int]


def file_facts(path: Path) -> Facts | None:
    """Return a file's inode, size, mtime and ctime, the times in nanoseconds; None if it is not there."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def is_unchanged(path: Path, noted: object) -> bool:
    """Tell whether a file has the facts that were noted when it was hashed."""
    return noted is not None and os.environ.get(HASH_ALWAYS) != "1" and noted == file_facts(path)


def were_stable(facts: Facts | None, path: Path, hashed_ns: int) -> bool:
    """Tell whether a hash that was begun at a time is of the bytes that facts taken before speak of.

    It is not if the file was changed meanwhile, nor if it was so shortly before that another change might not show.
    """
    return facts is not None and facts == file_facts(path) and facts[-1] + _TICK_NS <= hashed_ns


def now_ns() -> int:
    """Return the time on the clock that files' times are of."""
    return time.time_ns()
