"""Ranks are found by whatever started them, and share out the samples of each epoch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import REPO
from microdiff.errors import ParamsError
from microdiff.loader.ranks import Ranks, detect_ranks, ranks_known_yet, speaks_for_all
from tests.loader.rank_processes import LOST
from tests.shard_factory import NUM, build, keys_of, write_shard_set
from tests.waiting import PATIENCE_S, end, run_python

pytestmark = pytest.mark.usefixtures("own_names", "no_launcher")

SLURM_TASK = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}
PREFIXES = ("SLURM_", "OMPI_", "PMI_", "GROUP_", "TORCHELASTIC_")
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK")


def of_launcher(name: str) -> bool:
    return name in NAMES or name.startswith(PREFIXES)


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be known of whoever started the tests."""
    for name in filter(of_launcher, list(os.environ)):
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ranks") / "shards"
    write_shard_set(made)
    return made


def torchrun(rank: int, world_size: int, local: int, **more: str) -> dict[str, str]:
    return {
        "RANK": f"{rank}",
        "WORLD_SIZE": f"{world_size}",
        "LOCAL_RANK": f"{rank % local}",
        "LOCAL_WORLD_SIZE": f"{local}",
        "GROUP_RANK": f"{rank // local}",
        "GROUP_WORLD_SIZE": f"{world_size // local}",
    } | more


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Ranks()),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Ranks(1, 2, 2)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Ranks()),
        ({"RANK": "0"}, Ranks()),
        ({"RANK": "", "WORLD_SIZE": ""}, Ranks()),
        ({"WORLD_SIZE": "1"}, Ranks()),
        (torchrun(5, 8, 4), Ranks(5, 8, 4)),
        (torchrun(5, 8, 1), Ranks(5, 8, 1)),
        (torchrun(0, 1, 1), Ranks()),
        (SLURM_TASK, Ranks(3, 4, 4)),
        (SLURM_TASK | {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, Ranks(3, 4, 4)),
        (SLURM_TASK | {"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "16"}, Ranks(3, 4, 4)),
        (SLURM_TASK | {"SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, Ranks(3, 4, 2)),
        (SLURM_TASK | {"SLURM_STEP_TASKS_PER_NODE": "4"}, Ranks(3, 4, 4)),
        (SLURM_TASK | {"SLURM_STEP_TASKS_PER_NODE": "3,1"}, Ranks(3, 4, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}, Ranks()),  # the batch script itself
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, Ranks()),  # the shell of salloc
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3"}, Ranks(2, 3, 3)),
        ({"PMI_RANK": "2", "PMI_SIZE": "3"}, Ranks(2, 3, 3)),
        (SLURM_TASK | {"PMI_RANK": "3", "PMI_SIZE": "4"}, Ranks(3, 4, 4)),  # srun --mpi=pmi2
        (SLURM_TASK | {"RANK": "3", "WORLD_SIZE": "4"}, Ranks(3, 4, 4)),
        (torchrun(6, 8, 2) | SLURM_TASK, Ranks(6, 8, 2)),  # a task on each machine starts torchrun
        (torchrun(1, 2, 2) | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, Ranks(1, 2, 2)),
        (torchrun(0, 1, 1, TORCHELASTIC_RUN_ID="a") | SLURM_TASK, Ranks()),  # each task a run of its own
        (  # mpirun in a batch script
            {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
            | {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7"},
            Ranks(1, 2, 2),
        ),
    ],
)
def test_ranks_are_those_of_the_launcher(
    environment: dict[str, str], expected: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert detect_ranks() == ranks_known_yet() == expected
    assert speaks_for_all() == (expected.rank == 0)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK is not set: set RANK and WORLD_SIZE"),
        ({"RANK": "1"}, "RANK is 1, but WORLD_SIZE is not set"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 where WORLD_SIZE is 2: expected less"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK is 'one': expected a whole number"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is '-1': expected a whole number"),
        ({"SLURM_PROCID": "1"}, "SLURM_PROCID is 1, but SLURM_NTASKS is not set"),
        (SLURM_TASK | {"RANK": "0", "WORLD_SIZE": "1"}, "RANK: rank 0 of 1; SLURM_PROCID: rank 3 of 4"),
        (SLURM_TASK | {"RANK": "0", "WORLD_SIZE": "4"}, "RANK: rank 0 of 4; SLURM_PROCID: rank 3 of 4"),
        (SLURM_TASK | {"PMI_RANK": "0", "PMI_SIZE": "2"}, "SLURM_PROCID: rank 3 of 4; PMI_RANK: rank 0 of 2"),
        (torchrun(0, 6, 2) | SLURM_TASK, "contradict each other"),
        (torchrun(2, 6, 4), "expected as many ranks on each machine"),
        (torchrun(4, 8, 2, GROUP_RANK="1"), "LOCAL_WORLD_SIZE is 2: expected as many ranks on each machine"),
        (torchrun(0, 8, 4, GROUP_WORLD_SIZE="3"), "LOCAL_WORLD_SIZE is 4"),
    ],
)
def test_contradictions_are_errors_that_say_what_to_do(
    folder: Path, environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    loader = build(folder)  # a process group may still come
    with pytest.raises(ParamsError, match=message):
        next(iter(loader))
    with pytest.raises(ParamsError, match=message):
        len(loader)


@pytest.mark.parametrize(
    ("world_size", "local"), [(1, 1), (2, 1), (2, 2), (3, 3), (4, 2), (5, 5), (6, 2), (6, 3), (7, 7), (8, 4), (8, 8)]
)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_share_out_each_epoch(
    folder: Path, world_size: int, local: int, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaders = [build(folder, 2, drop_last=False, num_workers=num_workers) for _ in range(world_size)]
    for _ in range(2):
        read = []
        for rank, loader in enumerate(loaders):
            for name, value in (torchrun(rank, world_size, local)).items():
                monkeypatch.setenv(name, value)
            read += [keys_of(loader)]
        check_epoch(read)


@pytest.mark.parametrize(("world_size", "then"), [(2, 1), (1, 2), (2, 4), (4, 2)])
def test_a_state_of_another_number_of_ranks_is_resumed(
    folder: Path, world_size: int, then: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def set_rank(rank: int, of: int) -> None:
        for name, value in torchrun(rank, of, of).items():
            monkeypatch.setenv(name, value)

    seen, rest = [], []
    for rank in range(world_size):
        set_rank(rank, world_size)
        loader = build(folder, 4 // world_size, drop_last=False)
        batches = iter(loader)
        seen += [key for _ in range(4) for key in next(batches)["key"]]
    state = loader.state_dict()
    assert state["sample_in_epoch"] == len(set(seen)) == 16
    for rank in range(then):
        set_rank(rank, then)
        resumed = build(folder, 4 // then, drop_last=False)
        resumed.load_state_dict(state)
        rest += [keys_of(resumed)]
        assert len(keys_of(resumed)) == -(-NUM // then)
    check_epoch(rest, NUM - 16)
    assert not set(seen) & {key for keys in rest for key in keys}


def check_epoch(read: list[list[str]], num_samples: int = NUM) -> None:
    """Check that ranks have read every sample, and none twice beyond what makes them equally many."""
    each = -(-num_samples // len(read))
    assert [len(keys) for keys in read] == [each] * len(read)
    assert len({key for keys in read for key in keys}) == num_samples


def test_a_world_that_leaves_no_rank_a_batch_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = build(folder, 20)
    assert len(loader) == 1
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Exception, match="expected a batch of 20 samples for each rank, got 19 samples: lower batch"):
        next(iter(loader))


def test_the_dataset_itself_is_not_iterated_over_by_ranks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.data import DataLoader

    loader = build(folder)
    assert sorted(sample["key"] for sample in loader.dataset) == sorted(keys_of(build(folder, drop_last=False)))
    workers = DataLoader(loader.dataset, batch_size=None, num_workers=1, multiprocessing_context="fork")
    with pytest.raises(ParamsError, match=r"loader\.dataset cannot be iterated over by worker processes: use the load"):
        next(iter(workers))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ParamsError, match=r"loader\.dataset cannot be iterated over by 2 ranks: use the loader"):
        next(iter(loader.dataset))


def what_ranks_read(out: Path) -> list[dict[str, list[list[str]]]]:
    return [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]


def run_ranks(how: str, folder: Path, out: Path, world_size: int) -> Any:
    answer = run_python(
        "-W", "ignore", "-m", "tests.loader.rank_processes", how, f"{folder}", f"{out}", f"{world_size}"
    )
    assert answer.returncode == 0, answer.stderr
    return what_ranks_read(out)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "world_size"), [("spawn", 2), ("spawn", 3), ("fork", 2), ("fork", 3)])
def test_ranks_of_a_process_group_alone(folder: Path, tmp_path: Path, how: str, world_size: int) -> None:
    ranks = run_ranks(how, folder, tmp_path, world_size)
    assert len(ranks) == world_size
    for when in ("given", "before", "after"):
        for epoch in range(2):
            check_epoch([rank[when][epoch] for rank in ranks])
    assert all(rank["before"] == rank["after"] for rank in ranks)
    assert all(rank["given"][0] == rank["after"][1] for rank in ranks)  # it had an epoch behind it
    assert all(rank["rest"] == rank["resumed"] for rank in ranks)


@pytest.mark.slow
def test_a_lost_rank_does_not_hold_up_the_others(folder: Path, tmp_path: Path) -> None:
    ranks = run_ranks("dying", folder, tmp_path, 3)
    assert len(ranks) == 2, f"rank 1 ends with {LOST}"
    assert [[len(keys) for keys in rank["lost"]] for rank in ranks] == [[13, 13]] * 2


@pytest.mark.slow
def test_ranks_of_torchrun(folder: Path, tmp_path: Path) -> None:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    program = ["-m", "tests.loader.rank_processes", "environment", f"{folder}", f"{tmp_path}", "2"]
    answer = run_python("-W", "ignore", *command, *program)
    assert answer.returncode == 0, answer.stderr
    ranks = what_ranks_read(tmp_path)
    for epoch in range(2):
        check_epoch([rank["alone"][epoch] for rank in ranks])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank_name", "size_name"), [("SLURM_PROCID", "SLURM_NTASKS"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")]
)
def test_tasks_of_a_launcher(folder: Path, tmp_path: Path, rank_name: str, size_name: str) -> None:
    program = ["-m", "tests.loader.rank_processes", "environment", f"{folder}", f"{tmp_path}", "2"]
    tasks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", *program],
            env={**os.environ, rank_name: f"{rank}", size_name: "2", "EXPECTED_RANK": f"{rank}"},
            cwd=REPO,
        )
        for rank in range(2)
    ]
    try:
        assert [task.wait(PATIENCE_S) for task in tasks] == [0, 0]
    finally:
        for task in tasks:
            end(task)
    ranks = what_ranks_read(tmp_path)
    for epoch in range(2):
        check_epoch([rank["alone"][epoch] for rank in ranks])
