"""Read samples of open shards into the rows of a batch, many at a time.

What Python has to do for a sample is done for many together, before and after the system calls that read them: a call
that copies a sample leaves little else in the processor's caches, and the same work between two calls takes several
times as long.
"""

import os
import threading
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from microdiff.mds_layout import Plan
from microdiff.open_shards import OpenShard

_CALLS_PER_PROBE = 32
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)

Columns = Mapping[str, Sequence[memoryview]]
Texts = Mapping[str, list[str]]

# Shapes: N samples, V variable columns.


Place = tuple[OpenShard, int, int]
"""A sample to read: its shard, its number there, and the row of the batch that it is for."""

_Call = tuple[Place, Sequence[memoryview], int, int]
"""A system call that reads a contiguous run of a sample's bytes into several pieces of memory: those, the run's
position in the file, and its bytes."""


def read_samples(places: Sequence[Place], columns: Columns, texts: Texts) -> None:
    """Read samples.

    Args:
        places: Which, best in the order in which they lie in their shards.
        columns: Per column of fixed size the memory of each row.
        texts: Per column of text a list that receives the text of each row.

    Raises:
        SchemaError: A file is damaged.
    """
    misfits = [
        place
        for plan, group in _by_plan((place[0].usual_plan, place) for place in places)
        for place in _read_by(plan, group, columns, texts)
    ]
    for plan, group in _by_plan((shard.own_plan(sample), (shard, sample, row)) for shard, sample, row in misfits):
        for shard, sample, _ in _read_by(plan, group, columns, texts):
            raise shard.damaged(sample, "its sizes changed while it was read")


def _by_plan(planned: Iterable[tuple[Plan, Place]]) -> Iterable[tuple[Plan, Sequence[Place]]]:
    """Return the samples of each plan; mostly there is one."""
    groups: dict[Plan, list[Place]] = {}
    for plan, place in planned:
        groups.setdefault(plan, []).append(place)
    return groups.items()


def _read_by(plan: Plan, places: Sequence[Place], columns: Columns, texts: Texts) -> Sequence[Place]:
    """Read samples by one plan; return those that it does not fit, whose rows are left with nothing of use."""
    begins_N = np.array([shard.offsets[sample] for shard, sample, _ in places])
    extra_N = np.array([shard.offsets[sample + 1] for shard, sample, _ in places]) - begins_N - plan.rest
    possible_N = extra_N >= 0 if plan.guessed is not None else extra_N == 0
    misfits: list[Place] = []
    if not possible_N.all():
        misfits = [place for place, possible in zip(places, possible_N, strict=True) if not possible]
        places = [place for place, possible in zip(places, possible_N, strict=True) if possible]
        begins_N, extra_N = begins_N[possible_N], extra_N[possible_N]
        if not places:
            return misfits
    group = _Group(plan, places, begins_N, extra_N)
    _make(group.calls(columns))
    fits_N = group.fits()
    if not fits_N.all():
        misfits += [place for place, fits in zip(places, fits_N, strict=True) if not fits]
    group.take_texts(texts, fits_N)
    return misfits


class _Group:
    """Samples that are read by one plan; what of them goes into no batch lies in scratch memory, one after another.

    Args:
        plan: The plan.
        places: The samples.
        begins_N: Their positions in their files.
        extra_N: Bytes of each one's guessed column.
    """

    def __init__(
        self, plan: Plan, places: Sequence[Place], begins_N: NDArray[np.int64], extra_N: NDArray[np.int64]
    ) -> None:
        self._plan, self._places, self._begins_N, self._extra_N = plan, places, begins_N, extra_N
        ends_N = np.cumsum(plan.scratch + extra_N)
        self._starts_N = ends_N - (plan.scratch + extra_N)  # in scratch memory
        self._scratch = _scratch(int(ends_N[-1]))

    def calls(self, columns: Columns) -> Sequence[_Call]:
        """Return the calls that read the samples, each sample's together."""
        scratch, extra_N, at_N = self._scratch, self._extra_N, self._starts_N
        reads: list[Iterable[_Call]] = []
        for offset, shifts, pieces in self._plan.reads:
            views: list[Sequence[memoryview]] = []
            for column, size, stretches in pieces:
                if column is None:
                    until_N = at_N + size + (extra_N if stretches else 0)
                    views.append([scratch[at:until] for at, until in zip(at_N.tolist(), until_N.tolist(), strict=True)])
                    at_N = until_N
                else:
                    rows = columns[column]
                    views.append([rows[row] for _, _, row in self._places])
            sizes_N = sum(size for _, size, _ in pieces) + extra_N * sum(stretches for _, _, stretches in pieces)
            positions_N = self._begins_N + (offset + extra_N if shifts else offset)
            of_samples = zip(*views, strict=True)
            reads.append(zip(self._places, of_samples, positions_N.tolist(), sizes_N.tolist(), strict=True))
        return list(reads[0]) if len(reads) == 1 else [call for sample in zip(*reads, strict=True) for call in sample]

    def fits(self) -> NDArray[np.bool_]:
        """Tell of each sample whether the sizes that it states itself are those that it was read by."""
        num_bytes = 4 * len(self._plan.sizes)
        heads = np.frombuffer(self._scratch, np.uint8)[self._starts_N[:, None] + np.arange(num_bytes)]
        differ_NV = heads.view("<u4") != np.array(self._plan.sizes, np.uint32)
        guessed = self._plan.guessed
        if guessed is not None:
            differ_NV[:, guessed] = heads.view("<u4")[:, guessed] != self._extra_N
        fits_N: NDArray[np.bool_] = ~differ_NV.any(axis=1)
        return fits_N

    def take_texts(self, texts: Texts, fits_N: NDArray[np.bool_]) -> None:
        """Put the texts of samples that fit into their rows."""
        for name, at, shifts, size, stretches in self._plan.texts:
            of_rows = texts[name]
            begins_N = self._starts_N + (at + self._extra_N if shifts else at)
            ends_N = begins_N + (size + self._extra_N if stretches else size)
            spans = zip(self._places, begins_N.tolist(), ends_N.tolist(), fits_N.tolist(), strict=True)
            for (shard, sample, row), begin, end, fits in spans:
                if fits:
                    try:
                        of_rows[row] = str(self._scratch[begin:end], "utf-8")
                    except UnicodeDecodeError as error:
                        raise shard.damaged(sample, f"{name} is no UTF-8 text") from error


def _make(calls: Sequence[_Call]) -> None:
    """Make calls; once one is found that would wait for the disk, have the disk begin with all that follow."""
    advised = False
    for begin in range(0, len(calls), _CALLS_PER_PROBE):
        if not advised and not _is_cached(calls[begin]):
            _advise(calls[begin:])
            advised = True
        for place, views, position, size in calls[begin : begin + _CALLS_PER_PROBE]:
            if os.preadv(place[0].descriptor, views, position) != size:
                _read_again(place, views, position, size)


def _is_cached(call: _Call) -> bool:
    """Tell whether the start of what a call reads is in the page cache; False where the file system cannot say."""
    (shard, _, _), _, position, _ = call
    try:
        return os.preadv(shard.descriptor, [bytearray(1)], position, _NOWAIT) > 0
    except OSError:  # BlockingIOError, or EOPNOTSUPP of file systems that cannot say, as many on a network
        return False


def _advise(calls: Sequence[_Call]) -> None:
    """Have the system read at once what calls are going to, in whatever order suits the disk."""
    for (shard, _, _), _, position, size in calls:
        os.posix_fadvise(shard.descriptor, position, size, os.POSIX_FADV_WILLNEED)


def _read_again(place: Place, views: Sequence[memoryview], position: int, size: int) -> None:
    """Read what a single call did not give, as network file systems may do."""
    data = bytearray()
    while len(data) < size:
        more = os.pread(place[0].descriptor, size - len(data), position + len(data))
        if not more:
            raise place[0].damaged(place[1], "the file ends too soon")
        data += more
    at = 0
    for view in views:
        view[:] = data[at : at + len(view)]
        at += len(view)


_memory = threading.local()  # warm


def _scratch(size: int) -> memoryview:
    """Return memory for what goes into no batch, this thread's until it asks again."""
    memory: memoryview | None = getattr(_memory, "scratch", None)
    if memory is None or len(memory) < size:
        _memory.scratch = memory = memoryview(bytearray(size + size // 4))
    return memory
