"""Ranks as real processes: reads a shard set on each of several ranks and writes what each has read.

Started as `python -m tests.loader.rank_processes HOW FOLDER OUT WORLD_SIZE`, where HOW is

- `spawn` or `fork`: torch.multiprocessing starts the ranks, which are told of each other by a process group alone;
- `environment`: this process is one of them, by whatever the environment says;
- `dying`: as `spawn`, but rank 1 is lost in the middle of an epoch.
"""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.loader.own_names import NUMBERS_FROM, take_own_numbers
from tests.shard_factory import build, keys_of
from tests.waiting import PATIENCE_S

BATCH_SIZE = 3
LOST = 7  # the exit code of the rank that is lost


def main(how: str, folder: str, out: str, world_size: str) -> None:
    """Start what HOW says."""
    import torch.multiprocessing as mp

    _own_numbers()
    if how == "environment":
        loader = _build(folder)
        _write(out, int(os.environ.get("EXPECTED_RANK", os.environ.get("RANK", "0"))), {"alone": _epochs(loader)})
        return
    loader = _build(folder)
    list(loader)  # the ranks go on with the second epoch
    work, method = (_die, "spawn") if how == "dying" else (_read, how)
    arguments = (int(world_size), folder, out, loader)
    context = mp.start_processes(work, arguments, int(world_size), join=False, start_method=method)
    for number, process in enumerate(context.processes):
        process.join(PATIENCE_S)
        assert process.exitcode == (LOST if how == "dying" and number == 1 else 0), (number, process.exitcode)


def _read(rank: int, world_size: int, folder: str, out: str, given: Any) -> None:
    import torch.distributed as dist

    _own_numbers()
    before = _build(folder)
    _meet(rank, world_size, out)
    after = _build(folder)
    read = {"given": _epochs(given), "before": _epochs(before), "after": _epochs(after)}
    begun = iter(after)
    next(begun)
    state = after.state_dict()
    resumed = _build(folder)
    resumed.load_state_dict(state)
    read["rest"], read["resumed"] = [keys_of(begun)], [keys_of(resumed)]
    _write(out, rank, read)
    dist.barrier()
    dist.destroy_process_group()


def _die(rank: int, world_size: int, folder: str, out: str, given: Any) -> None:
    import torch.distributed as dist

    _own_numbers()
    _meet(rank, world_size, out)
    batches = iter(given)
    first = next(batches)
    dist.barrier()
    if rank == 1:
        os._exit(LOST)
    read = {"lost": [first["key"] + keys_of(batches), keys_of(given)]}
    try:
        dist.barrier()
    except RuntimeError:  # the collective's own error
        _write(out, rank, read)


def _build(folder: str) -> Any:
    return build(folder, BATCH_SIZE, drop_last=False, num_workers=1)


def _epochs(loader: Any) -> list[list[str]]:
    return [keys_of(loader), keys_of(loader)]


def _meet(rank: int, world_size: int, out: str) -> None:
    import torch.distributed as dist

    meeting = f"file://{out}/meeting"  # a file, not a port that might be taken meanwhile
    dist.init_process_group("gloo", meeting, timedelta(seconds=60), rank=rank, world_size=world_size)


def _own_numbers() -> None:
    if NUMBERS_FROM in os.environ:
        take_own_numbers()


def _write(out: str, rank: int, read: dict[str, list[list[str]]]) -> None:
    Path(out, f"{rank}.json").write_text(json.dumps(read))


if __name__ == "__main__":
    main(*sys.argv[1:])
