"""Run independent units of work on several processes; one that fails or dies never takes the others along.

A worker may have several units in hand at once, each on a thread of its own, so that one reads its input while another
computes. Each worker process has its own pipe, so one that is killed (out of memory, say) is charged to the unit it was
working on, and only to that one: if there were several, each of them is run again alone, which shows whose fault it
was. Workers stop by themselves when their parent dies.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from microdiff.core.progress import SAMPLES, Reporter
from microdiff.errors import MicrodiffError, ParamsError
from microdiff.pipeline.workers import Crew

ATTEMPTS = 2
_ENDED = "ended"
Work = Callable[[Reporter], Any]  # picklable; returns a picklable result


@dataclass(frozen=True)
class Outcome:
    """How one unit ended: `result` if `error` is None."""

    name: str
    result: Any = None
    error: str | None = None
    details: str = ""  # traceback, for errors that are not MicrodiffErrors


def run_units(units: Sequence[tuple[str, Work]], crew: Crew, report: Reporter) -> Iterator[Outcome]:
    """Run every unit and yield its outcome as it ends, in any order.

    Args:
        units: Names and work. With one worker that has one unit in hand they run in this process, in order.
        crew: Who works on them.
        report: Receives progress, messages, and failed attempts that will be repeated, in this process.

    Yields:
        One outcome per unit; a unit is tried `ATTEMPTS` times, except after an error in the settings.
    """
    if min(crew.workers, len(units)) <= 1 and min(crew.in_hand, len(units)) <= 1:
        yield from _run_here(units, report)
        return
    pool = _Pool(units, crew, report)
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
    """One process, its pipe, and the units it is busy with."""

    def __init__(self, place: int, crew: Crew) -> None:
        self.place = place
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        environment = dict(crew.environments[place]) if crew.environments else {}
        self.process: SpawnProcess = context.Process(
            target=_serve, args=(theirs, environment, crew.in_hand > 1), daemon=True
        )
        self.process.start()
        theirs.close()
        self.units: set[int] = set()

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


class _Pool:
    def __init__(self, units: Sequence[tuple[str, Work]], crew: Crew, report: Reporter) -> None:
        self._units = units
        self._crew = crew
        self._report = report
        self._pending = deque(range(len(units)))
        self._suspects: deque[int] = deque()  # were in hand when a worker died; each is run alone
        self._alone: set[int] = set()  # the suspects that run now
        self._attempts = [0] * len(units)
        self._workers = [_Worker(place, crew) for place in range(min(crew.workers, len(units)))]

    def run(self) -> Iterator[Outcome]:
        open_units = len(self._units)
        while open_units:
            for worker in self._workers:
                self._feed(worker)
            busy: dict[Any, _Worker] = {worker.connection: worker for worker in self._workers if worker.units}
            for connection in wait(list(busy)):
                for outcome in self._receive(busy[connection]):
                    open_units -= 1
                    yield outcome

    def close(self) -> None:
        for worker in self._workers:
            worker.stop()

    def _feed(self, worker: _Worker) -> None:
        if self._suspects and not worker.units:
            unit = self._suspects.popleft()
            self._alone.add(unit)
            self._send(worker, unit)
        while self._pending and len(worker.units) < self._crew.in_hand and not worker.units & self._alone:
            self._send(worker, self._pending.popleft())

    def _send(self, worker: _Worker, unit: int) -> None:
        worker.units.add(unit)
        self._attempts[unit] += 1
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died; _receive finds out
            worker.connection.send((unit, *self._units[unit]))

    def _receive(self, worker: _Worker) -> Iterator[Outcome]:
        """Take one message; yield the outcomes of units that it ends for good."""
        try:
            unit, kind, values = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            yield from self._bury(worker)
            return
        if kind == _ENDED:
            yield from self._end(worker, unit, *values)
        else:
            getattr(self._report, kind)(*values)

    def _bury(self, worker: _Worker) -> Iterator[Outcome]:
        """Replace a worker that died, and find out whose fault it was."""
        error = _autopsy(worker)
        worker.stop()
        self._workers[self._workers.index(worker)] = _Worker(worker.place, self._crew)
        if len(worker.units) == 1:
            (unit,) = worker.units
            yield from self._end(worker, unit, Outcome(self._units[unit][0], error=error), False)
            return
        names = " and ".join(self._units[unit][0] for unit in sorted(worker.units))
        self._report.say(f"{error} while it worked on {names}: running each of them alone")
        for unit in sorted(worker.units):
            self._attempts[unit] -= 1
            self._suspects.append(unit)

    def _end(self, worker: _Worker, unit: int, outcome: Outcome, final: bool) -> Iterator[Outcome]:
        worker.units.discard(unit)
        self._alone.discard(unit)
        if final or self._attempts[unit] >= ATTEMPTS:
            yield Outcome(self._units[unit][0], outcome.result, outcome.error, outcome.details)
            return
        self._report.say(_retrying(outcome))
        self._pending.append(unit)


def _autopsy(worker: _Worker) -> str:
    worker.process.join()
    code = worker.process.exitcode or 0
    cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
    hint = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"the worker process {cause}{hint}"


class _Pipe:
    """A worker's end of its pipe, for all its threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, unit: int, kind: str, *values: Any) -> None:
        with self._lock:
            self._connection.send((unit, kind, values))


class _PipeReporter:
    """Sends what a unit reports to the parent, by the names of the reporter's methods."""

    def __init__(self, pipe: _Pipe, unit: int) -> None:
        self._pipe = pipe
        self._unit = unit

    def tick(self, samples: int = 0, num_bytes: int = 0, noun: str = SAMPLES) -> None:
        self._pipe.send(self._unit, "tick", samples, num_bytes, noun)

    def say(self, message: str) -> None:
        self._pipe.send(self._unit, "say", message)

    def device(self, busy_s: float, idle_s: float) -> None:
        self._pipe.send(self._unit, "device", busy_s, idle_s)

    def batches(self, label: str, size: int) -> None:
        self._pipe.send(self._unit, "batches", label, size)


def _serve(connection: Connection, environment: Mapping[str, str], threaded: bool) -> None:
    """Work on what the parent sends until it closes the pipe or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ.update(environment)  # before anything imports torch, which looks for GPUs
    pipe = _Pipe(connection)

    def run(unit: int, name: str, work: Work) -> None:
        outcome, final = _attempt(name, work, _PipeReporter(pipe, unit))
        try:
            pipe.send(unit, _ENDED, outcome, final)
        except (pickle.PicklingError, TypeError, AttributeError) as error:  # what pickle raises
            pipe.send(unit, _ENDED, Outcome(name, error=f"its result cannot be sent: {error}"), True)

    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        if threaded:
            threading.Thread(target=run, args=job, name=f"unit {job[1]}", daemon=True).start()
        else:
            run(*job)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
