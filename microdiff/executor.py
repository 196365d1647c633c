"""Run independent units of work on several processes; one that fails or dies never takes the others along.

Each worker process has its own pipe, so a worker that is killed (out of memory, say) is charged to the unit it was
working on, and only to that one. Workers stop by themselves when their parent dies.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from microdiff.errors import MicrodiffError, ParamsError
from microdiff.progress import Reporter

ATTEMPTS = 2
Work = Callable[[Reporter], Any]  # picklable; returns a picklable result


@dataclass(frozen=True)
class Outcome:
    """How one unit ended: `result` if `error` is None."""

    name: str
    result: Any = None
    error: str | None = None
    details: str = ""  # traceback, for errors that are not MicrodiffErrors


def workers_asked_for() -> int | None:
    """Return MICRODIFF_WORKERS, or None where it is not set.

    Raises:
        ParamsError: It is not a positive integer, or MICRODIFF_EXECUTOR is unknown.
    """
    executor = os.environ.get("MICRODIFF_EXECUTOR", "local")
    if executor != "local":
        raise ParamsError(f"MICRODIFF_EXECUTOR: expected 'local', got {executor!r}")
    text = os.environ.get("MICRODIFF_WORKERS", "")
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ParamsError(f"MICRODIFF_WORKERS: expected a positive integer, got {text!r}")
    return int(text)


def num_workers() -> int:
    """Return the number of worker processes: as many as asked for, or one per available core."""
    return workers_asked_for() or len(os.sched_getaffinity(0))


def run_units(units: Sequence[tuple[str, Work]], workers: int, report: Reporter) -> Iterator[Outcome]:
    """Run every unit and yield its outcome as it ends, in any order.

    Args:
        units: Names and work. With one worker or one unit they run in this process, in order.
        workers: Number of processes.
        report: Receives progress, messages, and failed attempts that will be repeated, in this process.

    Yields:
        One outcome per unit; a unit is tried `ATTEMPTS` times, except after an error in the settings.
    """
    workers = min(workers, len(units))
    if workers <= 1:
        yield from _run_here(units, report)
        return
    pool = _Pool(units, workers, report)
    try:
        yield from pool.run()
    finally:
        pool.close()


def _run_here(units: Sequence[tuple[str, Work]], report: Reporter) -> Iterator[Outcome]:
    for name, work in units:
        outcome, final = _attempt(name, work, report)
        if not final:
            report.say(_retrying(outcome))
            outcome, _ = _attempt(name, work, report)
        yield outcome


def _retrying(outcome: Outcome) -> str:
    return f"{outcome.name} failed, trying once more: {outcome.error}"


def _attempt(name: str, work: Work, report: Reporter) -> tuple[Outcome, bool]:
    """Run `work` once. The flag says that repeating it cannot help."""
    try:
        return Outcome(name, work(report)), True
    except MicrodiffError as error:
        return Outcome(name, error=str(error)), isinstance(error, ParamsError)
    except Exception as error:  # noqa: BLE001 - the boundary: whatever a unit raises is reported, with its traceback
        return Outcome(name, error=f"{type(error).__name__}: {error}", details=traceback.format_exc()), False


class _Worker:
    """One process, its pipe, and the unit it is busy with."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.unit: int | None = None

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


class _Pool:
    def __init__(self, units: Sequence[tuple[str, Work]], workers: int, report: Reporter) -> None:
        self._units = units
        self._report = report
        self._pending = deque(range(len(units)))
        self._attempts = [0] * len(units)
        self._workers = [_Worker() for _ in range(workers)]

    def run(self) -> Iterator[Outcome]:
        open_units = len(self._units)
        while open_units:
            for worker in list(self._workers):
                self._feed(worker)
            busy: dict[Any, _Worker] = {
                worker.connection: worker for worker in self._workers if worker.unit is not None
            }
            for connection in wait(list(busy)):
                outcome = self._receive(busy[connection])
                if outcome is not None:
                    open_units -= 1
                    yield outcome

    def close(self) -> None:
        for worker in self._workers:
            worker.stop()

    def _feed(self, worker: _Worker) -> None:
        if worker.unit is None and self._pending:
            worker.unit = self._pending.popleft()
            self._attempts[worker.unit] += 1
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died; _receive finds out
                worker.connection.send(self._units[worker.unit])

    def _receive(self, worker: _Worker) -> Outcome | None:
        """Take one message; return the outcome when its unit has ended for good."""
        unit = worker.unit
        if unit is None:
            return None
        try:
            kind, value = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            kind, value = "ended", (self._autopsy(worker), False)
            self._workers.remove(worker)
            worker.stop()
            self._workers.append(_Worker())
        if kind == "tick":
            self._report.tick(*value)
            return None
        if kind == "say":
            self._report.say(value)
            return None
        worker.unit = None
        outcome, final = value
        if final or self._attempts[unit] >= ATTEMPTS:
            return Outcome(self._units[unit][0], outcome.result, outcome.error, outcome.details)
        self._report.say(_retrying(outcome))
        self._pending.append(unit)
        return None

    def _autopsy(self, worker: _Worker) -> Outcome:
        worker.process.join()
        code = worker.process.exitcode or 0
        cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        name = self._units[worker.unit][0] if worker.unit is not None else ""
        return Outcome(name, error=f"the worker process {cause}{hint}")


class _PipeReporter:
    """Sends a worker's reports to the parent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def tick(self, samples: int = 0, num_bytes: int = 0) -> None:
        self._connection.send(("tick", (samples, num_bytes)))

    def say(self, message: str) -> None:
        self._connection.send(("say", message))


def _serve(connection: Connection) -> None:
    """Work on what the parent sends until it closes the pipe or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()

    report = _PipeReporter(connection)
    while True:
        try:
            name, work = connection.recv()
        except EOFError:
            return
        connection.send(("ended", _attempt(name, work, report)))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
