import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from conftest import REPO
from microdiff.core.progress import Reporter
from microdiff.errors import ParamsError, SourceError
from microdiff.pipeline.executor import TaskResult, run_tasks
from microdiff.pipeline.workers import WorkerPlan, num_workers
from tests.reporters import Said
from tests.waiting import PATIENCE_S, end, wait_until


def square(value: int, report: Reporter) -> int:
    report.tick(value, 10 * value)
    return value * value


def fail_until(marker: Path, error: type[Exception], report: Reporter) -> str:
    """Fail the first time, work afterwards."""
    if not marker.exists():
        marker.touch()
        raise error("not yet")
    report.say("worked")
    return "done"


def always(error: type[Exception], report: Reporter) -> None:
    raise error("never")


def die(number: int, report: Reporter) -> None:
    os.kill(os.getpid(), number)
    time.sleep(30)


def leave(code: int, report: Reporter) -> None:
    os._exit(code)


def run(
    tasks: list[tuple[str, Callable[[Reporter], object]]], workers: int, in_hand: int = 1
) -> tuple[dict[str, TaskResult], Said]:
    heard = Said()
    return {outcome.name: outcome for outcome in run_tasks(tasks, WorkerPlan(workers, in_hand), heard)}, heard


@pytest.mark.parametrize(("workers", "in_hand"), [(1, 1), (3, 1), (1, 2), (2, 3)])
def test_every_unit_ends_once_and_progress_arrives(workers: int, in_hand: int) -> None:
    outcomes, heard = run([(str(n), partial(square, n)) for n in range(7)], workers, in_hand)
    assert {name: outcome.result for name, outcome in outcomes.items()} == {str(n): n * n for n in range(7)}
    assert (heard.ticks, heard.num_bytes) == ({"samples": 21}, 210)


def test_no_units_is_nothing_to_do() -> None:
    assert run([], 4)[0] == {}


@pytest.mark.parametrize(("workers", "in_hand"), [(1, 1), (2, 1), (1, 2)])
def test_a_failure_is_tried_once_more_and_said(tmp_path: Path, workers: int, in_hand: int) -> None:
    tasks = [
        (name, partial(fail_until, tmp_path / name, error))
        for name, error in (("source", SourceError), ("system", OSError))
    ]
    outcomes, heard = run(tasks, workers, in_hand)
    assert {outcome.result for outcome in outcomes.values()} == {"done"}
    assert sorted(line for line in heard.messages if "trying once more" in line) == [
        "source failed, trying once more: not yet",
        "system failed, trying once more: OSError: not yet",
    ]
    assert heard.messages.count("worked") == 2


@pytest.mark.parametrize(("workers", "in_hand"), [(1, 1), (2, 1), (1, 2)])
def test_failures_stay_with_their_unit(workers: int, in_hand: int) -> None:
    tasks = [("good", partial(square, 3)), ("bad", partial(always, SourceError)), ("bug", partial(always, KeyError))]
    outcomes, _ = run(tasks, workers, in_hand)
    assert outcomes["good"].result == 9
    assert outcomes["bad"].error == "never"
    assert outcomes["bad"].details == ""
    assert outcomes["bug"].error == "KeyError: 'never'"
    assert "Traceback" in outcomes["bug"].details


def fill(log: Path, error: Exception, report: Reporter) -> None:
    """Find the disk full, having said that it was tried."""
    with log.open("a") as file:
        file.write("tried\n")
    raise error


def linger(log: Path, report: Reporter) -> None:
    """Work for longer than anybody waits, having said so."""
    with log.open("a") as file:
        file.write(f"{os.getpid()} works\n")
    time.sleep(10 * PATIENCE_S)


def fill_when_others_work(log: Path, error: Exception, report: Reporter) -> None:
    wait_until(lambda: log.exists() and "works" in log.read_text(), "another task runs")
    fill(log, error, report)


FULL = OSError(errno.ENOSPC, "No space left on device", "/the/place")


@pytest.mark.parametrize(("workers", "in_hand"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize(
    "error",
    [
        FULL,
        OSError(errno.EDQUOT, "", "/the/place"),
        OSError(errno.EROFS, "", "/the/place"),
        OSError(errno.EACCES, "", "/the/place"),
        OSError(errno.EXDEV, "", "/the/source", None, "/the/place"),
    ],
)
def test_a_full_disk_ends_all_at_once(tmp_path: Path, error: OSError, workers: int, in_hand: int) -> None:
    tasks = [(str(n), partial(fill, tmp_path / "log", error)) for n in range(20)]
    outcomes, heard = run(tasks, workers, in_hand)
    tried = (tmp_path / "log").read_text().count("tried")
    if error.errno == errno.EXDEV:  # not such an error: each task twice
        assert (len(outcomes), tried) == (20, 40)
        return
    (outcome,) = outcomes.values()
    assert outcome.unwritable is not None
    assert (outcome.unwritable.kind, outcome.unwritable.place) == (error.errno, "/the/place")
    assert tried <= workers * in_hand
    assert heard.messages == []


def test_a_full_disk_stops_what_runs(tmp_path: Path) -> None:
    log = tmp_path / "log"
    started = time.monotonic()
    outcomes, _ = run([("full", partial(fill_when_others_work, log, FULL)), ("long", partial(linger, log))], 2)
    assert outcomes.keys() == {"full"}
    assert time.monotonic() - started < PATIENCE_S
    process = int(log.read_text().split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_wrong_settings_are_not_tried_again() -> None:
    _, heard = run([("task", partial(always, ParamsError))], 1)
    assert heard.messages == []


@pytest.mark.parametrize(("workers", "in_hand"), [(2, 1), (1, 2)])
def test_a_worker_that_dies_costs_only_its_own_unit(workers: int, in_hand: int) -> None:
    tasks = [*((str(n), partial(square, n)) for n in range(6)), ("killed", partial(die, signal.SIGKILL))]
    tasks.insert(2, ("left", partial(leave, 3)))
    outcomes, _ = run(tasks, workers, in_hand)
    assert [outcomes[str(n)].result for n in range(6)] == [n * n for n in range(6)]
    assert outcomes["killed"].error == "the worker process was killed by SIGKILL (out of memory?)"
    assert outcomes["left"].error == "the worker process exited with code 3"


def meet(mine: Path, other: Path, report: Reporter) -> str:
    """Wait until the other task runs, too."""
    mine.touch()
    wait_until(other.exists, f"{other.name} runs, too")
    return "met"


def test_a_worker_has_several_units_in_hand(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    outcomes, _ = run([("a", partial(meet, a, b)), ("b", partial(meet, b, a))], workers=1, in_hand=2)
    assert {outcome.result for outcome in outcomes.values()} == {"met"}


def die_beside(mine: Path, other: Path, report: Reporter) -> None:
    if not mine.exists():
        meet(mine, other, report)
    die(signal.SIGKILL, report)


def live_beside(mine: Path, other: Path, report: Reporter) -> str:
    """Be there while the other dies; then count the tasks beside this one."""
    if not mine.exists():
        meet(mine, other, report)
        time.sleep(30)
    return f"lived among {sum(thread.name.startswith('task') for thread in threading.enumerate())}"


def test_who_was_in_hand_when_a_worker_died_is_run_alone(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    tasks = [("bad", partial(die_beside, a, b)), ("good", partial(live_beside, b, a)), ("other", partial(square, 2))]
    outcomes, heard = run(tasks, workers=1, in_hand=2)
    assert outcomes["bad"].error == "the worker process was killed by SIGKILL (out of memory?)"
    assert outcomes["good"].result == "lived among 1"
    assert outcomes["other"].result == 4
    killed = "the worker process was killed by SIGKILL (out of memory?)"
    assert heard.messages[0] == f"{killed} while it worked on bad and good: running each of them alone"
    assert heard.messages[1:] == [f"bad failed, trying once more: {killed}"]


def unsendable(report: Reporter) -> object:
    return threading.Lock()


@pytest.mark.parametrize("in_hand", [1, 2])
def test_a_result_that_cannot_be_sent_is_a_failure(in_hand: int) -> None:
    outcomes, _ = run([("a", unsendable), ("b", partial(square, 2))], 2, in_hand)
    assert "its result cannot be sent: cannot pickle" in str(outcomes["a"].error)
    assert outcomes["b"].result == 4


def tell(name: str, report: Reporter) -> str | None:
    report.device(2.0, 0.5)
    report.batches("latents_256", 32)
    return os.environ.get(name)


def test_workers_have_their_environments_and_report_all_there_is() -> None:
    heard = Said()
    plan = WorkerPlan(2, 1, ({"PLACE": "first"}, {"PLACE": "second"}))
    outcomes = list(run_tasks([(str(n), partial(tell, "PLACE")) for n in range(4)], plan, heard))
    assert {outcome.result for outcome in outcomes} == {"first", "second"}
    assert (heard.times, heard.sizes) == ([(2.0, 0.5)] * 4, {"latents_256": 32})
    assert "PLACE" not in os.environ


@pytest.mark.parametrize(("text", "expected"), [("1", 1), ("12", 12)])
def test_workers_from_the_environment(monkeypatch: pytest.MonkeyPatch, text: str, expected: int) -> None:
    monkeypatch.setenv("MICRODIFF_WORKERS", text)
    assert num_workers() == expected


def test_one_worker_per_core_by_default() -> None:
    assert num_workers() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("name", "value"), [("MICRODIFF_WORKERS", "0"), ("MICRODIFF_WORKERS", "two"), ("MICRODIFF_EXECUTOR", "slurm")]
)
def test_wrong_environment_is_an_error_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ParamsError, match=f"{name}: expected .*{value}"):
        num_workers()


_PARENT = """
import os, sys, time
sys.path[:0] = {path!r}
from functools import partial
from pathlib import Path
from microdiff.core.progress import NullReporter
from microdiff.pipeline.workers import WorkerPlan
from microdiff.pipeline.executor import run_tasks
def sleep_beside(mark, report):
    Path(mark).write_text(str(os.getpid()))
    time.sleep(600)
if __name__ == "__main__":
    tasks = [(name, partial(sleep_beside, name)) for name in {marks!r}]
    list(run_tasks(tasks, WorkerPlan(*{plan!r}), NullReporter()))
"""


def _alive(pid: int) -> bool:
    """Tell whether a process runs; one that is dead but not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("plan", [(2, 1), (1, 2)])
def test_workers_end_when_their_parent_is_killed(tmp_path: Path, plan: tuple[int, int]) -> None:
    marks = [str(tmp_path / name) for name in ("a", "b")]
    script = tmp_path / "parent.py"
    script.write_text(_PARENT.format(path=[str(REPO)], marks=marks, plan=plan))
    parent = subprocess.Popen([sys.executable, str(script)])
    try:
        wait_until(lambda: all(Path(mark).exists() and Path(mark).read_text() for mark in marks), "both tasks run")
        workers = [int(Path(mark).read_text()) for mark in marks]
        assert all(_alive(pid) for pid in workers)
    finally:
        end(parent)
    wait_until(lambda: not any(_alive(pid) for pid in workers), "the workers have ended, too")
