"""Map a function over an iterable on this process's thread pool, results in order, at most `limit` outstanding."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from microdiff.errors import ParamsError

THREADS_VARIABLE = "MICRODIFF_THREADS"

_LOCK = threading.Lock()

Item = TypeVar("Item")
Done = TypeVar("Done")


def num_threads() -> int:
    """Return how many threads of this process decode and tokenise: MICRODIFF_THREADS, or one per available core.

    Raises:
        ParamsError: It is not a positive integer.
    """
    text = os.environ.get(THREADS_VARIABLE, "")
    if not text:
        return len(os.sched_getaffinity(0))
    if not text.isdecimal() or int(text) < 1:
        raise ParamsError(f"{THREADS_VARIABLE}: expected a positive integer, got {text!r}")
    return int(text)


def shared_pool() -> ThreadPoolExecutor:
    """Return this process's thread pool; all partitions in progress share it."""
    with _LOCK:
        return _threads()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads(), thread_name_prefix="prefetch")


def prefetch_map(function: Callable[[Item], Done], items: Iterable[Item], limit: int) -> Iterator[Done]:
    """Apply a function on threads and yield its results in the order of the items.

    Args:
        function: Called on several threads at once.
        items: Taken one by one in the caller's thread, no more than `limit` before their results are asked for.
        limit: The most results that are there or under way at any time.

    Raises:
        Exception: What the function raised, in place of its result.
    """
    pending: deque[Future[Done]] = deque()
    pool = shared_pool()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= limit:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
