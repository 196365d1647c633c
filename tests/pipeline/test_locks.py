"""Locks that no test of results would miss: who holds what while a step runs, and what threads share."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from conftest import copy_of
from microdiff.clean.step import clean
from microdiff.core import prefetch
from microdiff.core.progress import NullReporter
from microdiff.download.step import download
from microdiff.encode.step import encode
from microdiff.errors import StepError
from microdiff.pipeline.executor import run_tasks
from microdiff.pipeline.params import load_params
from microdiff.pipeline.restore import restore_dataset
from microdiff.pipeline.run import Run
from microdiff.pipeline.store import Store
from microdiff.pipeline.workers import WorkerPlan
from microdiff.pipeline.workspace import Workspace
from microdiff.shard.step import shard

DEADLINE_S = 60
OVERLAP_S = 0.5  # that one who does not wait for the lock has to come in; waited for in vain where the lock holds


class Stop(Exception):
    """What was to be seen has been seen."""


def refuses_to_prune(store: Store) -> None:
    with pytest.raises(StepError, match="a step is running"):
        store.prune([])


@pytest.mark.parametrize("step", [download, clean, encode, shard])
@pytest.mark.parametrize("stage", ["compute", "publish"])
def test_nothing_is_pruned_while_a_step_runs(
    built: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Callable[..., Any], stage: str
) -> None:
    """Neither while it computes, nor before its artifact refers to what it has computed."""
    here = copy_of(built, tmp_path / "copy")

    def look(run: Run, *_: Any, **__: Any) -> None:
        refuses_to_prune(run.store)
        raise Stop

    monkeypatch.setattr(Run, stage, look)
    with pytest.raises(Stop):
        step("coco", load_params(here.root / "params.yaml"), here)
    here.store().prune(here.fingerprints())


def test_nothing_is_pruned_while_artifacts_are_put_back(
    built: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = copy_of(built, tmp_path / "copy")

    def look(store: Store, *_: Any) -> bool:
        refuses_to_prune(store)
        raise Stop

    monkeypatch.setattr(Store, "add", look)
    with pytest.raises(Stop):
        restore_dataset("coco", here)


def test_no_step_begins_while_the_store_is_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step waits; what it is then told of is what is left."""
    store = Store(tmp_path)
    begun = threading.Event()

    def step() -> None:
        with Store(tmp_path).in_use():
            begun.set()

    def pruning(_: Path) -> int:
        thread.start()
        assert not begun.wait(OVERLAP_S)
        return 0

    (tmp_path / "step").mkdir()
    thread = threading.Thread(target=step, daemon=True)
    monkeypatch.setattr("microdiff.pipeline.store.sweep", pruning)
    store.prune([])
    assert begun.wait(DEADLINE_S)
    thread.join(DEADLINE_S)


def test_threads_that_ask_at_once_share_one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    second_is_in = threading.Event()
    made: list[ThreadPoolExecutor] = []

    def make(*_: Any, **__: Any) -> ThreadPoolExecutor:
        made.append(ThreadPoolExecutor(1))
        if len(made) == 1:
            second_is_in.wait(OVERLAP_S)
        else:
            second_is_in.set()
        return made[-1]

    prefetch._threads.cache_clear()
    monkeypatch.setattr(prefetch, "ThreadPoolExecutor", make)
    found: list[ThreadPoolExecutor] = []
    threads = [threading.Thread(target=lambda: found.append(prefetch.shared_pool()), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    prefetch._threads.cache_clear()
    for pool in made:
        pool.shutdown()
    assert len(made) == 1
    assert found == [made[0], made[0]]


def talk(letter: str, report: Any) -> str:
    for _ in range(100):
        report.say(letter * 100_000)
    return letter


class Heard(NullReporter):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def say(self, message: str) -> None:
        self.messages.append(message)


class Talk:
    """Work that says long things; picklable."""

    def __init__(self, letter: str) -> None:
        self.letter = letter

    def __call__(self, report: Any) -> str:
        return talk(self.letter, report)


def test_what_several_tasks_of_a_worker_say_at_once_arrives_whole() -> None:
    """Longer than a pipe takes at once: without a lock the parts of two messages mix."""
    heard = Heard()
    done = list(run_tasks([(letter, Talk(letter)) for letter in "abc"], WorkerPlan(1, in_hand=3), heard))
    assert sorted((each.name, each.result, each.error) for each in done) == [(each, each, None) for each in "abc"]
    assert sorted({message[0] for message in heard.messages}) == ["a", "b", "c"]
    assert all(message == message[0] * 100_000 for message in heard.messages)
    assert len(heard.messages) == 300
