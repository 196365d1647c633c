"""The loader's order is that of torch's DataLoader over mosaicml-streaming, whatever workers, ranks and resumption."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import REPO
from microdiff.errors import ParamsError
from tests.shard_factory import build, plain_loader, write_shard_set
from tests.waiting import PATIENCE_S, end

pytestmark = [
    pytest.mark.usefixtures("own_names"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning"),
]

RANK = """
import json, os, sys
import torch.distributed as dist
from tests.loader.own_names import take_own_numbers
take_own_numbers()
dist.init_process_group("gloo", f"file://{sys.argv[3]}", rank=int(os.environ["RANK"]), world_size=2)
from tests.shard_factory import build, plain_loader
answers = []
for make in (build, plain_loader):
    loader = make(sys.argv[1], 3, num_workers=int(sys.argv[2]), drop_last=False)
    first = iter(loader)
    seen = [next(first)["key"] for _ in range(3)]
    state = loader.state_dict()
    rest, following = [batch["key"] for batch in first], [batch["key"] for batch in loader]
    answers.append({"seen": seen, "rest": rest, "next": following, "state": state})
    dist.barrier()
print(json.dumps(answers))
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("order") / "shards"
    write_shard_set(made)
    return made


def keys(batches: Any) -> list[list[str]]:
    return [batch["key"] for batch in batches]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize(("shuffle", "drop_last"), [(True, True), (True, False), (False, True), (False, False)])
def test_batches_are_the_published_ones(folder: Path, num_workers: int, shuffle: bool, drop_last: bool) -> None:
    options: dict[str, Any] = {"shuffle": shuffle, "drop_last": drop_last, "num_workers": num_workers}
    plain, ours = plain_loader(folder, 4, **options), build(folder, 4, **options)
    for _ in range(2):
        assert keys(ours) == keys(plain)
    assert len(ours) == len(plain)


@pytest.mark.parametrize(("num_workers", "num_workers_then"), [(0, 0), (1, 2), (2, 0), (2, 2)])
def test_remaining_batches_are_the_published_ones(folder: Path, num_workers: int, num_workers_then: int) -> None:
    plain = plain_loader(folder, 4, num_workers=num_workers, drop_last=False)
    batches = iter(plain)
    for _ in range(3):
        next(batches)
    state = json.loads(json.dumps(plain.state_dict()))
    del batches
    plain_then = plain_loader(folder, 4, num_workers=num_workers_then, drop_last=False)
    ours_then = build(folder, 4, num_workers=num_workers_then, drop_last=False)
    plain_then.load_state_dict(state)
    ours_then.load_state_dict(state)
    for _ in range(2):
        assert keys(ours_then) == keys(plain_then)
    assert ours_then.state_dict() == plain_then.state_dict()


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_iterators_are_independent(folder: Path, num_workers: int) -> None:
    options = {"num_workers": num_workers, "drop_last": False}
    alone = build(folder, 4, **options)
    epochs = [keys(alone) for _ in range(3)]
    loader, seen = build(folder, 4, **options), []
    for number, batch in enumerate(loader):
        seen.append(batch["key"])
        if number == 4:
            assert next(iter(loader))["key"] == epochs[1][0]
    assert seen == epochs[0]
    assert keys(loader) == epochs[2]
    loader = build(folder, 4, **options)
    assert [list(pair) for pair in zip(*epochs[:2], strict=True)] == [
        [left["key"], right["key"]] for left, right in zip(loader, loader, strict=True)
    ]


def test_a_state_is_that_of_the_iterator_that_gave_a_batch_last(folder: Path) -> None:
    loader = build(folder, 4)
    batches = iter(loader)
    next(batches)
    next(iter(loader))
    next(batches)
    state = loader.state_dict()
    rest = keys(batches)
    resumed = build(folder, 4)
    resumed.load_state_dict(state)
    assert keys(resumed) == rest


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("after", ["last batch", "end"])
@pytest.mark.parametrize("make", [build, plain_loader])
def test_a_state_at_an_epochs_end_is_the_start_of_the_next(
    folder: Path, num_workers: int, drop_last: bool, after: str, make: Any
) -> None:
    options: dict[str, Any] = {"num_workers": num_workers, "drop_last": drop_last}
    loader = make(folder, 4, **options)
    batches = iter(loader)
    for _ in range(len(list(build(folder, 4, **options)))):
        next(batches)
    if after == "end":
        assert list(batches) == []
    state = json.loads(json.dumps(loader.state_dict()))
    del batches
    following = [keys(loader), keys(loader)]
    resumed = build(folder, 4, **options)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert [keys(resumed), keys(resumed)] == following


def test_a_state_that_counts_from_the_beginning_is_the_start_of_the_next_epoch_after_one(folder: Path) -> None:
    loader = build(folder, 4)
    batches = iter(loader)
    next(batches)
    assert loader.dataset.state_dict(4, True) == loader.state_dict()
    list(batches)
    state = loader.dataset.state_dict(0, True)  # as Composer asks when it has begun to count anew
    following, resumed = keys(loader), build(folder, 4)
    resumed.load_state_dict(state)
    assert keys(resumed) == following


def test_a_state_counts_whatever_was_read_before(folder: Path) -> None:
    loader = build(folder, 4)
    fresh = loader.state_dict()
    first, batches = keys(loader), iter(loader)
    next(batches)
    state = loader.state_dict()
    rest = keys(batches)
    assert keys(loader) != rest
    for _ in range(2):  # of an epoch that is long past
        loader.load_state_dict(state)
        assert loader.state_dict() == state
        assert keys(loader) == rest
    loader.load_state_dict(fresh)
    assert keys(loader) == first


@pytest.mark.parametrize("state", [None, {}, {"epoch": 1}, [1], {"epoch": "1", "sample_in_epoch": 0}])
def test_what_is_no_state_is_refused(folder: Path, state: Any) -> None:
    with pytest.raises(ParamsError, match=r"expected a loader's state_dict\(\)"):
        build(folder, 4).load_state_dict(state)


@pytest.mark.parametrize("shape", [(1, 3, 2), (2, 3, 4), (3, 1, 2), (3, 4, 1)])
@pytest.mark.parametrize("drop_last", [True, False])
def test_workers_take_turns(shape: tuple[int, int, int], drop_last: bool) -> None:
    from microdiff.loader.dataloader import iter_batches

    work = np.arange(np.prod(shape)).reshape(shape)
    work[-1, -1, -1] = -1  # the last worker has one sample less, the others a full last batch
    got = [ids.tolist() for ids in iter_batches(work, drop_last)]
    dealt = [
        work[worker, turn][work[worker, turn] >= 0].tolist() for turn in range(shape[1]) for worker in range(shape[0])
    ]
    assert got == [ids for ids in dealt if len(ids) == shape[2] or (ids and not drop_last)]


def run_ranks(folder: Path, num_workers: int, temporary: Path) -> list[list[dict[str, Any]]]:
    """Run two ranks of one machine, which know of each other before the loader is built, as in a training script.

    Returns what each rank has seen of our loader, and of the published one.
    """
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TMPDIR": str(temporary)}
    meeting = temporary / "meeting"  # a file, not a port that might be taken meanwhile
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", RANK, str(folder), str(num_workers), str(meeting)],
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
            cwd=REPO,
            stdout=subprocess.PIPE,
        )
        for rank in ("0", "1")
    ]
    try:
        answers = [rank.communicate(timeout=PATIENCE_S)[0] for rank in ranks]
    finally:
        for rank in ranks:
            end(rank)
    assert [rank.returncode for rank in ranks] == [0, 0]
    return [json.loads(answer.splitlines()[-1]) for answer in answers]


@pytest.mark.slow
def test_ranks_are_disjoint_and_each_has_the_published_batches(folder: Path, tmp_path: Path) -> None:
    ours, plain = zip(*run_ranks(folder, 1, tmp_path), strict=True)
    assert ours == plain
    first, second = ({key for batch in rank["seen"] + rank["rest"] for key in batch} for rank in ours)
    assert len(first & second) <= 1  # 37 samples: one rank repeats one, to be as long as the other
    assert len(first | second) == 37
