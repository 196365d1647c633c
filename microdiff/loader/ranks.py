"""Which of how many training processes this is: asked whenever an epoch begins, since loaders are often built before.

What knows it: torch.distributed once it is initialised; else the environment, by RANK and WORLD_SIZE (torchrun,
Composer, accelerate, DeepSpeed), or by the tasks of SLURM, Open MPI or PMI; else the process is alone. Two that
contradict each other are an error: to believe the wrong one is to read the same samples on every rank, and nobody would
notice.
"""

import os
import re
import sys
from dataclasses import dataclass

from microdiff.errors import ParamsError

_RANK = ("RANK", ("WORLD_SIZE",))
_TASKS = (  # by launcher: its number of a task, and where it says how many there are
    ("SLURM_PROCID", ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")),
    ("OMPI_COMM_WORLD_RANK", ("OMPI_COMM_WORLD_SIZE",)),
    ("PMI_RANK", ("PMI_SIZE",)),
)
_SLURM_EACH_NODE = re.compile(r"(\d+)(?:\(x\d+\))?")  # as many tasks on each node
_REMEDY = "set RANK and WORLD_SIZE, or call torch.distributed.init_process_group before iterating"


@dataclass(frozen=True)
class Ranks:
    """This process among all that train.

    Attributes:
        rank: Its number, from 0.
        world_size: How many there are.
        ranks_per_node: How many are on each machine, those of one following each other; it divides `world_size`. Where
            it is not known all count as one machine, which is right but lets each fetch more of the remote shards.
    """

    rank: int = 0
    world_size: int = 1
    ranks_per_node: int = 1

    @property
    def num_nodes(self) -> int:
        """How many machines there are."""
        return self.world_size // self.ranks_per_node


@dataclass(frozen=True)
class _Claim:
    """What one source says."""

    source: str
    rank: int
    world_size: int

    def __str__(self) -> str:
        return f"{self.source}: rank {self.rank} of {self.world_size}"

    def agrees(self, other: "_Claim") -> bool:
        return (self.rank, self.world_size) == (other.rank, other.world_size)


def detect_ranks() -> Ranks:
    """Return this process's place among those that train.

    Raises:
        ParamsError: What is known is incomplete or contradictory; the message says what to set.
    """
    group = _of_process_group()
    if group is not None:
        _check_environment(group)
        return _on_nodes(group, None)
    stated = _of_environment(*_RANK)
    if stated is None and _number("WORLD_SIZE") not in (None, 0, 1):
        raise ParamsError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but RANK is not set: {_REMEDY}")
    tasks = [claim for names in _TASKS if (claim := _of_task(*names)) is not None]
    if stated is not None:
        for each in tasks:
            if not _starts(each, stated):
                raise _contradiction(stated, each)
        return _on_nodes(stated, None)
    for each in tasks[1:]:
        if not each.agrees(tasks[0]):
            raise _contradiction(tasks[0], each)
    if not tasks:
        return Ranks()
    of_slurm = tasks[0].source == "SLURM_PROCID"
    return _on_nodes(tasks[0], _slurm_ranks_per_node() if of_slurm else None)


def ranks_known_yet() -> Ranks:
    """Return the ranks, or a process alone where they are not clear yet: for what is only worth a try at build."""
    try:
        return detect_ranks()
    except ParamsError:
        return Ranks()


def speaks_for_all() -> bool:
    """Tell whether this process is to log what concerns all ranks."""
    try:
        return detect_ranks().rank == 0
    except ParamsError:  # not clear yet
        return all(os.environ.get(name, "0") == "0" for name, _ in (_RANK, *_TASKS))


def _of_process_group() -> _Claim | None:
    distributed = sys.modules.get("torch.distributed")  # whoever has initialised it has imported it
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return _Claim("torch.distributed", distributed.get_rank(), distributed.get_world_size())


def _check_environment(group: _Claim) -> None:
    rank, world_size = _number("RANK"), _number("WORLD_SIZE")
    if rank not in (None, group.rank) or world_size not in (None, group.world_size):
        raise ParamsError(
            f"{group}, but the environment has RANK={os.environ.get('RANK', '')} and "
            f"WORLD_SIZE={os.environ.get('WORLD_SIZE', '')}: give init_process_group those, or unset them"
        )


def _of_environment(rank_name: str, size_names: tuple[str, ...]) -> _Claim | None:
    rank = _number(rank_name)
    if rank is None:
        return None
    size_name = next((name for name in size_names if name in os.environ), size_names[-1])
    world_size = _number(size_name)
    if world_size is None:
        if rank == 0:
            return None
        raise ParamsError(f"{rank_name} is {rank}, but {size_name} is not set: {_REMEDY}")
    if not rank < world_size:
        raise ParamsError(f"{rank_name} is {rank} where {size_name} is {world_size}: expected less: {_REMEDY}")
    return _Claim(rank_name, rank, world_size)


def _of_task(rank_name: str, size_names: tuple[str, ...]) -> _Claim | None:
    """Return what a launcher of tasks says, unless this process is not one of its tasks."""
    in_batch_script = "SLURM_JOB_ID" in os.environ and not {"SLURM_STEP_ID", "SLURM_STEPID"} & os.environ.keys()
    if rank_name == "SLURM_PROCID" and in_batch_script:
        return None  # a batch script itself has the numbers of a job that srun has not started
    return _of_environment(rank_name, size_names)


def _starts(outer: _Claim, inner: _Claim) -> bool:
    """Tell whether a launcher's task can be, or have started, the process that RANK and WORLD_SIZE describe."""
    if outer.agrees(inner) or outer.world_size == 1 or "TORCHELASTIC_RUN_ID" in os.environ:
        return True
    local = _number("LOCAL_WORLD_SIZE") or 1  # one task on each machine, which starts a process for each GPU
    return local > 1 and outer.world_size * local == inner.world_size and inner.rank // local == outer.rank


def _on_nodes(claim: _Claim, known: int | None) -> Ranks:
    """Return ranks with how many are on each machine, from what has to be the same on all of them."""
    local = _number("LOCAL_WORLD_SIZE") or known
    if claim.world_size == 1 or not local:
        return Ranks(claim.rank, claim.world_size, claim.world_size)
    node, nodes = _number("GROUP_RANK"), _number("GROUP_WORLD_SIZE")
    if (
        claim.world_size % local
        or node not in (None, claim.rank // local)
        or nodes
        not in (
            None,
            claim.world_size // local,
        )
    ):
        raise ParamsError(
            f"{claim}, but LOCAL_WORLD_SIZE is {local}: expected as many ranks on each machine: start them so, or "
            f"unset LOCAL_WORLD_SIZE on all to count them as one"
        )
    return Ranks(claim.rank, claim.world_size, local)


def _slurm_ranks_per_node() -> int | None:
    names = ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
    stated = next((os.environ[name] for name in names if name in os.environ), "")
    match = _SLURM_EACH_NODE.fullmatch(stated)
    total = next((_number(name) for name in _TASKS[0][1] if name in os.environ), None)
    local = int(match[1]) if match else 0
    return local if local and total and total % local == 0 else None


def _number(name: str) -> int | None:
    stated = os.environ.get(name)
    if stated is None or not stated.strip():
        return None
    if not stated.strip().isdecimal():
        raise ParamsError(f"{name} is {stated!r}: expected a whole number, at least 0")
    return int(stated)


def _contradiction(first: _Claim, second: _Claim) -> ParamsError:
    return ParamsError(f"ranks contradict each other: {first}; {second}: {_REMEDY}, to what is right")
