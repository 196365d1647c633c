"""Loaders in other processes than the one that built them, and options that mean what happens anyway."""

import copy
import multiprocessing
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from microdiff.core.withdrawn import Withdrawn
from microdiff.errors import ParamsError
from tests.loader.own_names import NUMBERS_FROM, take_own_numbers
from tests.shard_factory import NUM, build, keys_of, write_shard_set
from tests.waiting import PATIENCE_S, wait_until

pytestmark = [
    pytest.mark.usefixtures("own_names"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("processes") / "shards"
    write_shard_set(made)
    return made


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("again", [lambda loader: pickle.loads(pickle.dumps(loader)), copy.deepcopy])  # noqa: S301
@pytest.mark.parametrize("read", [0, 3, 100])
def test_a_copy_goes_on_where_the_loader_is(
    folder: Path, num_workers: int, again: Callable[[Any], Any], read: int
) -> None:
    loader = build(folder, 4, num_workers=num_workers, drop_last=False, seed=3)
    for batches in (loader, loader):
        for number, _ in enumerate(batches, 1):
            if number >= read > 0:
                break
    state = loader.state_dict()
    copied = again(loader)
    assert copied.state_dict() == state
    assert [keys_of(copied), keys_of(copied)] == [keys_of(loader), keys_of(loader)]


def test_copies_of_one_that_was_resumed_resume_there(folder: Path) -> None:
    loader = build(folder, 4)
    batches = iter(loader)
    next(batches)
    state, resumed = loader.state_dict(), build(folder, 4, seed=1)
    resumed.load_state_dict(state)
    assert keys_of(pickle.loads(pickle.dumps(resumed))) == keys_of(batches)  # noqa: S301


def answer(to: Any, work: Callable[[], Any]) -> None:
    try:
        to.put(work())
    except ParamsError as error:
        to.put(str(error))


def in_process(method: str, work: Callable[[], Any]) -> Any:
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    process = context.Process(target=answer, args=(answers, work))
    process.start()
    try:
        return answers.get(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.join(PATIENCE_S)


class ReadEpoch:
    """Reads a loader's next epoch, wherever it is called."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __call__(self) -> list[str]:
        if NUMBERS_FROM in os.environ:
            take_own_numbers()
        return keys_of(self.loader)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_an_epoch_in_another_process_leaves_this_one_alone(folder: Path, method: str, num_workers: int) -> None:
    loader = build(folder, 4, num_workers=num_workers)
    batches = iter(loader)
    first = next(batches)
    elsewhere = in_process(method, ReadEpoch(loader))
    again = in_process(method, ReadEpoch(loader))
    assert len(first["key"] + keys_of(batches)) == 36
    assert elsewhere == again == keys_of(loader)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_begun_before_a_fork_is_the_parents(folder: Path, num_workers: int) -> None:
    batches = iter(build(folder, 4, num_workers=num_workers))
    next(batches)
    assert "begun before a fork" in in_process("fork", lambda: keys_of(batches))
    assert len(keys_of(batches)) == 32


@pytest.mark.parametrize(
    "options",
    [
        {"collate_fn": None, "sampler": None, "batch_sampler": None, "in_order": True},
        {"num_workers": 0, "prefetch_factor": 2, "persistent_workers": True, "multiprocessing_context": "spawn"},
        {"num_workers": 0, "timeout": 3, "worker_init_fn": print, "generator": None, "prefetch_factor": None},
        {"num_workers": np.int64(0), "seed": np.int64(9176)},
    ],
)
def test_options_that_mean_what_happens_are_accepted(folder: Path, options: dict[str, Any]) -> None:
    assert keys_of(build(folder, 4, **options)) == keys_of(build(folder, np.int32(4)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": None}, "batch_size must be a whole number, got None"),
        ({"batch_size": 4.0}, r"batch_size must be a whole number, got 4\.0"),
        ({"batch_size": "4"}, "batch_size must be a whole number, got '4'"),
        ({"batch_size": True}, "batch_size must be a whole number, got True"),
        ({"num_workers": None}, "num_workers must be a whole number, got None"),
        ({"num_workers": 1, "prefetch_factor": 0}, "prefetch_factor must be at least 1, got 0"),
        ({"seed": None}, "seed must be a whole number, got None"),
        ({"image_size": None}, "image_size must be a whole number, got None"),
        ({"collate_fn": list}, "collate_fn cannot be given"),
        ({"sampler": [1]}, "sampler cannot be given"),
        ({"batch_sampler": [[1]]}, "batch_sampler cannot be given"),
        ({"in_order": False}, "in_order cannot be given"),
        ({"colate_fn": None}, "colate_fn cannot be given"),
    ],
)
def test_options_that_mean_something_else_are_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    from microdiff import build_streaming_latents_dataloader

    with pytest.raises(ParamsError, match=message):
        build_streaming_latents_dataloader(folder, **{"batch_size": 4} | options)


class Slow:
    """A source that fetches nothing before it is told to, in a process that may be lost meanwhile."""

    def __init__(self, origin: Path, local: Path) -> None:
        self.origin, self.local, self.withdrawn = origin, local, Withdrawn()
        self.told, self.asked = Event(), Event()
        for name in ("index.json", "512/index.json", "manifest.json"):
            (local / name).parent.mkdir(parents=True, exist_ok=True)
            (local / name).write_bytes((origin / name).read_bytes())

    def fetch(self, name: str) -> None:
        self.asked.set()
        assert self.told.wait(PATIENCE_S)
        (self.local / name).write_bytes((self.origin / name).read_bytes())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_fetch_of_a_process_that_is_lost_is_done_by_another(folder: Path, tmp_path: Path, num_workers: int) -> None:
    source = Slow(folder, tmp_path / "cache")
    loader = build(source, 4, num_workers=num_workers, drop_last=False, cache_limit="1gb")
    child = multiprocessing.get_context("fork").Process(target=keys_of, args=(loader,))
    child.start()
    try:
        assert wait_until(lambda: list(source.local.rglob(".*.lock")), "the child fetches")
    finally:
        child.kill()
        child.join(PATIENCE_S)
    source.told.set()
    with ThreadPoolExecutor(1) as threads:
        assert len(threads.submit(keys_of, loader).result(PATIENCE_S)) == NUM
    assert list(source.local.glob(".coming*")) == []


def test_a_fork_during_a_fetch_does_its_own(folder: Path, tmp_path: Path) -> None:
    source = Slow(folder, tmp_path / "cache")
    loader = build(source, 4, num_workers=1, drop_last=False)
    with ThreadPoolExecutor(1) as threads:
        here = threads.submit(keys_of, loader)
        assert source.asked.wait(PATIENCE_S)

        def read() -> int:
            source.told.set()
            return len(keys_of(loader))

        child = multiprocessing.get_context("fork")
        answers = child.Queue()
        process = child.Process(target=answer, args=(answers, read))
        process.start()
        source.told.set()
        try:
            assert answers.get(timeout=PATIENCE_S) == len(here.result(PATIENCE_S)) == NUM
        finally:
            process.kill()
            process.join(PATIENCE_S)
