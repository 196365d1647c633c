"""Waiting with a deadline: a test that waits in vain fails, and says what for, instead of holding up all others."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE_S = 120.0  # far beyond what anything here takes, also on a busy machine
_PAUSE_S = 0.01


def wait_until(condition: Callable[[], T], what: str, seconds: float = PATIENCE_S) -> T:
    """Ask again and again until the answer is true; return it.

    Args:
        condition: Asked at least once, every few milliseconds.
        what: What is waited for, as a clause, for the error.
        seconds: After so long the test fails.
    """
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain until {what}")
        time.sleep(_PAUSE_S)
    return answer


def run(command: Sequence[str], *, seconds: float = PATIENCE_S, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end, whatever its exit code, and return its output as text.

    Args:
        command: What to run.
        seconds: After so long it is killed and the test fails.
        options: Those of subprocess.run.
    """
    options = {"capture_output": True, "text": True, **options}
    return subprocess.run(command, check=False, timeout=seconds, **options)


def run_python(*arguments: str, seconds: float = PATIENCE_S, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run this Python with arguments, as `run` does."""
    return run([sys.executable, *arguments], seconds=seconds, **options)


def end(process: "subprocess.Popen[Any]") -> None:
    """Kill a program, if it still runs, and wait for its end."""
    process.kill()
    process.communicate(timeout=PATIENCE_S)
