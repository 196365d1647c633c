"""When to try again: after waits that grow and differ, until too many attempts have failed in a row."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from microdiff.storage import Storage, TryAgain, Unreachable

ATTEMPTS = 10
FEW_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 60.0

T = TypeVar("T")


class RetryBudget:
    """The attempts that may fail in a row; what succeeds between them renews it.

    Transfers have `ATTEMPTS`: they wait for three to five minutes in all, which outlasts the restart of a server or a
    router; a run that is hours old should not end for less. First contact (what is there, how large is it) has
    `FEW_ATTEMPTS`, about ten seconds: nothing is lost yet, and what was typed may be wrong. Waits are stretched by up
    to a half at random, so that workers that were refused together do not come back together.

    Args:
        storage: Is asked; hears of the waits.
        path: What it is asked for.
        attempts: How many may fail in a row.
        resumes: Whether a later run goes on where this one gave up.
    """

    def __init__(self, storage: Storage, path: str, attempts: int, resumes: bool = False) -> None:
        self._storage = storage
        self._where = "/".join(filter(None, (storage.name, path)))
        self._attempts = attempts
        self._resumes = resumes
        self._failures = 0

    def renew(self) -> None:
        """Begin counting anew."""
        self._failures = 0

    def failed(self, problem: str, wait_s: float = 0.0, remedy: str = "the network") -> None:
        """Wait before another attempt, for at least `wait_s` seconds.

        Args:
            problem: Why it failed.
            wait_s: Seconds.
            remedy: What to check if it goes on.

        Raises:
            Unreachable: There were too many.
        """
        self._failures += 1
        if self._failures >= self._attempts:
            raise Unreachable(
                f"{self._where}: {problem}, {self._attempts} times in a row. Check {remedy} and "
                f"{self._storage.setting}, or run again later{': it continues from there' if self._resumes else ''}."
            )
        pause_s = max(wait_s, min(_FIRST_PAUSE_S * 2 ** (self._failures - 1), _LONGEST_PAUSE_S))
        pause_s *= random.uniform(1.0, 1.5)  # noqa: S311 - no secret
        self._storage.report.say(f"{self._where}: {problem}, trying again in {pause_s:.1f} s")
        time.sleep(pause_s)


def retried(storage: Storage, path: str, request: Callable[[], T], attempts: int = FEW_ATTEMPTS) -> T:
    """Return what a request returns, repeating it while it raises `TryAgain`.

    Raises:
        Unreachable: It keeps failing.
        SourceError: It cannot succeed.
    """
    budget = RetryBudget(storage, path, attempts)
    while True:
        try:
            return request()
        except TryAgain as error:
            budget.failed(str(error), error.wait_s, error.remedy)


def read_whole(storage: Storage, path: str) -> bytes:
    """Return the bytes of a small file.

    Raises:
        SourceError: As for `Storage.read`.
    """

    def read() -> bytes:
        with storage.read(path) as body:
            return b"".join(body.chunks)

    return retried(storage, path, read)
