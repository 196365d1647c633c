"""Run independent tasks on several processes; one that fails or dies never takes the others along.

A worker may have several tasks in hand at once, each on a thread of its own, so that one reads its input while another
computes. Each worker process has its own pipe, so one that is killed (out of memory, say) is charged to the task it was
working on, and only to that one: if there were several, each of them is run again alone, which shows which one it
was. Workers stop by themselves when their parent dies.

A place that cannot be written, a full disk say, ends all: what failed there once fails again, for every task.
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
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from microdiff.core.places import Unwritable, os_error_in_words
from microdiff.core.progress import SAMPLES, Reporter
from microdiff.errors import DamagedError, FinalSourceError, MicrodiffError, ParamsError
from microdiff.pipeline.workers import WorkerPlan

ATTEMPTS = 2
_ENDED = "ended"
Work = Callable[[Reporter], Any]  # picklable; returns a picklable result


@dataclass(frozen=True)
class TaskResult:
    """How one task ended: `result` if `error` is None.

    Attributes:
        name: The task's.
        result: What it returned.
        error: What went wrong, in words.
        details: The traceback, for errors that are not MicrodiffErrors.
        unwritable: The place that could not be written, if that is what went wrong. No other task is run then.
        damaged: What it read, if it is that which went wrong.
    """

    name: str
    result: Any = None
    error: str | None = None
    details: str = ""
    unwritable: Unwritable | None = None
    damaged: DamagedError | None = None


def run_tasks(tasks: Sequence[tuple[str, Work]], plan: WorkerPlan, report: Reporter) -> Iterator[TaskResult]:
    """Run every task and yield its outcome as it ends, in any order.

    Args:
        tasks: Names and work. With one worker that has one task in hand they run in this process, in order.
        plan: Who works on them.
        report: Receives progress, messages, and failed attempts that will be repeated, in this process.

    Yields:
        One outcome per task; a task is tried `ATTEMPTS` times, except after an error in the settings, or one that
        is final. After one that found a place unwritable no more: what runs is stopped.
    """
    if min(plan.workers, len(tasks)) <= 1 and min(plan.in_hand, len(tasks)) <= 1:
        yield from _run_here(tasks, report)
        return
    pool = _Pool(tasks, plan, report)
    try:
        yield from pool.run()
    finally:
        pool.close()


def _run_here(tasks: Sequence[tuple[str, Work]], report: Reporter) -> Iterator[TaskResult]:
    for name, work in tasks:
        outcome, final = _attempt(name, work, report)
        if not final:
            report.say(_retrying(outcome))
            outcome, _ = _attempt(name, work, report)
        yield outcome
        if outcome.unwritable is not None:
            return


def _retrying(outcome: TaskResult) -> str:
    return f"{outcome.name} failed, trying once more: {outcome.error}"


def _attempt(name: str, work: Work, report: Reporter) -> tuple[TaskResult, bool]:
    """Run `work` once. The flag says that repeating it cannot help."""
    try:
        return TaskResult(name, work(report)), True
    except DamagedError as error:
        return TaskResult(name, error=str(error), damaged=error), True
    except (ParamsError, FinalSourceError) as error:
        return TaskResult(name, error=str(error)), True
    except Exception as error:  # noqa: BLE001 - the boundary: whatever a task raises is reported, with its traceback
        unwritable = Unwritable.of(error)
        details = "" if isinstance(error, MicrodiffError) else traceback.format_exc()
        if unwritable is not None:
            return TaskResult(name, error=str(unwritable), details=details, unwritable=unwritable), True
        said = str(error) if isinstance(error, MicrodiffError) else None
        if isinstance(error, OSError):
            said = os_error_in_words(error)
        return TaskResult(name, error=said or f"{type(error).__name__}: {error}", details=details), False


class _Worker:
    """One process, its pipe, and the tasks it is busy with."""

    def __init__(self, index: int, plan: WorkerPlan) -> None:
        self.index = index
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        environment = dict(plan.environments[index]) if plan.environments else {}
        self.process: SpawnProcess = context.Process(
            target=_serve, args=(theirs, environment, plan.in_hand > 1), daemon=True
        )
        self.process.start()
        theirs.close()
        self.tasks: set[int] = set()

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


class _Pool:
    def __init__(self, tasks: Sequence[tuple[str, Work]], plan: WorkerPlan, report: Reporter) -> None:
        self._tasks = tasks
        self._plan = plan
        self._report = report
        self._pending = deque(range(len(tasks)))
        self._suspects: deque[int] = deque()  # were in hand when a worker died: each is run alone
        self._alone: set[int] = set()  # the suspects that run now
        self._attempts = [0] * len(tasks)
        self._workers = [_Worker(index, plan) for index in range(min(plan.workers, len(tasks)))]

    def run(self) -> Iterator[TaskResult]:
        num_open = len(self._tasks)
        while num_open:
            for worker in self._workers:
                self._feed(worker)
            busy: dict[Any, _Worker] = {worker.connection: worker for worker in self._workers if worker.tasks}
            for connection in wait(list(busy)):
                for outcome in self._receive(busy[connection]):
                    num_open -= 1
                    yield outcome
                    if outcome.unwritable is not None:
                        return

    def close(self) -> None:
        for worker in self._workers:
            worker.stop()

    def _feed(self, worker: _Worker) -> None:
        if self._suspects and not worker.tasks:
            task = self._suspects.popleft()
            self._alone.add(task)
            self._send(worker, task)
        while self._pending and len(worker.tasks) < self._plan.in_hand and not worker.tasks & self._alone:
            self._send(worker, self._pending.popleft())

    def _send(self, worker: _Worker, task: int) -> None:
        worker.tasks.add(task)
        self._attempts[task] += 1
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died; _receive finds out
            worker.connection.send((task, *self._tasks[task]))

    def _receive(self, worker: _Worker) -> Iterator[TaskResult]:
        """Take one message; yield the outcomes of tasks that it ends for good."""
        try:
            task, kind, values = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            yield from self._replace_worker(worker)
            return
        if kind == _ENDED:
            outcome, final = values
            yield from self._end(worker, task, outcome, None if final else self._pending)
        else:
            getattr(self._report, kind)(*values)

    def _replace_worker(self, worker: _Worker) -> Iterator[TaskResult]:
        """Replace a worker that died, and say which task it died of."""
        error = _exit_cause(worker)
        worker.stop()
        self._workers[self._workers.index(worker)] = _Worker(worker.index, self._plan)
        if len(worker.tasks) == 1:
            (task,) = worker.tasks
            # Repeated alone, too: what runs beside it would die with it.
            yield from self._end(worker, task, TaskResult(self._tasks[task][0], error=error), self._suspects)
            return
        names = " and ".join(self._tasks[task][0] for task in sorted(worker.tasks))
        self._report.say(f"{error} while it worked on {names}: running each of them alone")
        for task in sorted(worker.tasks):
            self._attempts[task] -= 1
            self._suspects.append(task)

    def _end(self, worker: _Worker, task: int, outcome: TaskResult, again: deque[int] | None) -> Iterator[TaskResult]:
        """Take a task from a worker; yield its outcome, or put it among those to run again, if there are any."""
        worker.tasks.discard(task)
        self._alone.discard(task)
        if again is None or self._attempts[task] >= ATTEMPTS:
            yield replace(outcome, name=self._tasks[task][0])
            return
        self._report.say(_retrying(outcome))
        again.append(task)


def _exit_cause(worker: _Worker) -> str:
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

    def send(self, task: int, kind: str, *values: Any) -> None:
        with self._lock:
            self._connection.send((task, kind, values))


class _PipeReporter:
    """Sends what a task reports to the parent, by the names of the reporter's methods."""

    def __init__(self, pipe: _Pipe, task: int) -> None:
        self._pipe = pipe
        self._task = task

    def tick(self, samples: int = 0, num_bytes: int = 0, unit: str = SAMPLES) -> None:
        self._pipe.send(self._task, "tick", samples, num_bytes, unit)

    def say(self, message: str) -> None:
        self._pipe.send(self._task, "say", message)

    def device(self, busy_s: float, idle_s: float) -> None:
        self._pipe.send(self._task, "device", busy_s, idle_s)

    def batches(self, label: str, size: int) -> None:
        self._pipe.send(self._task, "batches", label, size)


def _serve(connection: Connection, environment: Mapping[str, str], threaded: bool) -> None:
    """Work on what the parent sends until it closes the pipe or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ.update(environment)  # before anything imports torch, which looks for GPUs
    pipe = _Pipe(connection)

    def run(task: int, name: str, work: Work) -> None:
        outcome, final = _attempt(name, work, _PipeReporter(pipe, task))
        try:
            pipe.send(task, _ENDED, outcome, final)
        except (pickle.PicklingError, TypeError, AttributeError) as error:  # what pickle raises
            pipe.send(task, _ENDED, TaskResult(name, error=f"its result cannot be sent: {error}"), True)

    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        if threaded:
            threading.Thread(target=run, args=job, name=f"task {job[1]}", daemon=True).start()
        else:
            run(*job)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
