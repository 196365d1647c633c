"""Read samples of open shards into the rows of a batch, many at a time.

Where each sample's bytes go is worked out for all of them before they are read, and what they bring along is checked
for all of them afterwards: reading leaves little in the processor's caches but what was read, so that Python's work for
one sample, done between two reads, would take several times as long.
"""

import ctypes
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from microdiff.loader.read.batched_io import Reads, read_many
from microdiff.loader.read.open_shards import OpenShard
from microdiff.loader.read.read_plan import Plan

Columns = Mapping[str, NDArray[np.uint8]]
Texts = Mapping[str, list[str]]

# Shapes: N samples, V variable columns, R runs of a sample, P pieces of memory.


@dataclass(frozen=True)
class SampleRefs:
    """Samples to read.

    Attributes:
        shards: The shard of each.
        samples: Its number there.
        rows: The row of the batch that it is for.
    """

    shards: Sequence[OpenShard]
    samples: Sequence[int]
    rows: Sequence[int]

    def where(self, chosen: Sequence[bool] | NDArray[np.bool_]) -> "SampleRefs":
        """Return those that are chosen."""
        return SampleRefs(
            list(compress(self.shards, chosen)), list(compress(self.samples, chosen)), list(compress(self.rows, chosen))
        )


def read_rows(refs: SampleRefs, columns: Columns, texts: Texts) -> None:
    """Read samples.

    Args:
        refs: Which, best in the order in which they lie in their shards.
        columns: Per column of fixed size its memory: uint8 (rows of the batch, bytes), contiguous.
        texts: Per column of text a list that receives the text of each row.

    Raises:
        SchemaError: A file is damaged.
    """
    for plan, group in _by_plan(refs, list(map(attrgetter("usual_plan"), refs.shards))):
        fits_N = _read_by(plan, group, columns, texts)
        if fits_N.all():
            continue
        others = group.where(~fits_N)
        own_plans = [shard.own_plan(sample) for shard, sample in zip(others.shards, others.samples, strict=True)]
        for own_plan, alike in _by_plan(others, own_plans):
            changed = alike.where(~_read_by(own_plan, alike, columns, texts))
            for shard, sample in zip(changed.shards, changed.samples, strict=True):
                raise shard.damaged(sample, "its sizes changed while it was read")


def _by_plan(refs: SampleRefs, plans: Sequence[Plan]) -> Iterator[tuple[Plan, SampleRefs]]:
    """Yield the samples of each plan; mostly there is one."""
    different = dict.fromkeys(plans)
    for plan in different:
        yield plan, refs if len(different) == 1 else refs.where([each is plan for each in plans])


def _read_by(plan: Plan, refs: SampleRefs, columns: Columns, texts: Texts) -> NDArray[np.bool_]:
    """Read samples by one plan; tell of each whether it fits, else its row is left with nothing of use."""
    offsets = [(shard.offsets, sample) for shard, sample in zip(refs.shards, refs.samples, strict=True)]
    begins_N = np.array([of_shard[sample] for of_shard, sample in offsets], np.int64)
    extra_N = np.array([of_shard[sample + 1] for of_shard, sample in offsets], np.int64) - begins_N - plan.sample_bytes
    fits_N: NDArray[np.bool_] = extra_N >= 0 if plan.guessed is not None else extra_N == 0
    if not fits_N.all():
        refs, begins_N, extra_N = refs.where(fits_N), begins_N[fits_N], extra_N[fits_N]
    if refs.rows:
        group = _Group(plan, refs, begins_N, extra_N)
        group.read(columns)
        fits_N[fits_N] = group.fits()
        group.take_texts(texts)
    return fits_N


class _Group:
    """Samples that are read by one plan; what of them goes into no batch lies in scratch memory, one after another.

    Args:
        plan: The plan.
        refs: The samples.
        begins_N: Their positions in their files.
        extra_N: Bytes of each one's guessed column.
    """

    def __init__(self, plan: Plan, refs: SampleRefs, begins_N: NDArray[np.int64], extra_N: NDArray[np.int64]) -> None:
        self._plan, self._refs, self._begins_N, self._extra_N = plan, refs, begins_N, extra_N
        head_bytes = 4 * len(plan.sizes)
        ends_N = head_bytes * len(begins_N) + np.cumsum(plan.scratch_bytes + extra_N)
        self._starts_N = ends_N - (plan.scratch_bytes + extra_N)  # in scratch memory, behind the heads of all
        self._scratch = _scratch(int(ends_N[-1]))
        self._heads_NV = self._scratch[: head_bytes * len(begins_N)].view("<u4").reshape(len(begins_N), -1)

    def read(self, columns: Columns) -> None:
        """Read the samples' bytes, each sample's in one run or a few."""
        rows_N, extra_N = np.array(self._refs.rows), self._extra_N
        num_runs, num_pieces = len(self._plan.runs), 1 + max(len(run.spans) for run in self._plan.runs)
        positions_NR = np.empty((len(rows_N), num_runs), np.int64)
        pieces_NRP2 = np.zeros((len(rows_N), num_runs, num_pieces, 2), np.int64)
        scratch, head_bytes = _address(self._scratch), 4 * len(self._plan.sizes)
        pieces_NRP2[:, 0, 0, 0] = scratch + head_bytes * np.arange(len(rows_N))
        pieces_NRP2[:, 0, 0, 1] = head_bytes
        at_N = scratch + self._starts_N
        for number, run in enumerate(self._plan.runs):
            positions_NR[:, number] = self._begins_N + (run.offset + extra_N if run.shifted else run.offset)
            for piece, span in enumerate(run.spans, start=1):
                sizes_N = span.num_bytes + extra_N if span.plus_guessed else span.num_bytes
                if span.column is None:
                    pieces_NRP2[:, number, piece, 0] = at_N
                    at_N = at_N + sizes_N
                else:
                    pieces_NRP2[:, number, piece, 0] = _addresses(columns[span.column], rows_N, span.num_bytes)
                pieces_NRP2[:, number, piece, 1] = sizes_N
        descriptors = [shard.descriptor for shard in self._refs.shards for _ in range(num_runs)]
        memory = pieces_NRP2.reshape(-1, num_pieces, 2)
        reads = Reads(np.array(descriptors, np.uint32), positions_NR.ravel(), memory[:, :, 1].sum(axis=1), memory)
        for number in read_many(reads).tolist():
            self._read_again(reads, number)

    def _read_again(self, reads: Reads, number: int) -> None:
        """Read with as many calls as it takes what one did not give, or not whole, as network file systems may do."""
        which, position = number // len(self._plan.runs), int(reads.positions[number])
        shard, sample = self._refs.shards[which], self._refs.samples[which]
        for address, size in reads.pieces[number].tolist():
            while size:
                data = shard.bytes_of(sample, size, position)
                if not data:
                    raise shard.damaged(sample, "the file ends too soon")
                ctypes.memmove(address, data, len(data))
                address, position, size = address + len(data), position + len(data), size - len(data)

    def fits(self) -> NDArray[np.bool_]:
        """Tell of each sample whether the sizes that it states itself are those that it was read by."""
        differ_NV = self._heads_NV != np.array(self._plan.sizes, np.uint32)
        guessed = self._plan.guessed
        if guessed is not None:
            differ_NV[:, guessed] = self._heads_NV[:, guessed] != self._extra_N
        fits_N: NDArray[np.bool_] = ~differ_NV.any(axis=1)
        return fits_N

    def take_texts(self, texts: Texts) -> None:
        """Put the texts of samples that fit into their rows."""
        if not self._plan.texts:
            return
        scratch, fits = memoryview(self._scratch), self.fits().tolist()  # type: ignore[arg-type]
        for text in self._plan.texts:
            of_rows = texts[text.column]
            begins_N = self._starts_N + (text.offset + self._extra_N if text.shifted else text.offset)
            ends_N = begins_N + (text.num_bytes + self._extra_N if text.plus_guessed else text.num_bytes)
            spans = zip(self._refs.rows, begins_N.tolist(), ends_N.tolist(), strict=True)
            for which, (row, begin, end) in compress(enumerate(spans), fits):
                try:
                    of_rows[row] = str(scratch[begin:end], "utf-8")
                except UnicodeDecodeError as error:
                    shard, sample = self._refs.shards[which], self._refs.samples[which]
                    raise shard.damaged(sample, f"{text.column} is no UTF-8 text") from error


def _addresses(column: NDArray[np.uint8], rows_N: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return where rows of a column lie, which must take that many bytes: nobody looks at what is written there."""
    if column.shape[1] != size or not column.flags.c_contiguous or rows_N.max() >= len(column):
        raise IndexError(f"rows up to {rows_N.max()}, of {size} bytes, do not lie in {column.shape}")
    return _address(column) + rows_N * size


def _address(array: NDArray[np.uint8]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


_of_thread = threading.local()  # Per-thread scratch buffer, kept so that its pages stay resident.


def _scratch(size: int) -> NDArray[np.uint8]:
    """Return memory for what goes into no batch, this thread's until it asks again."""
    memory: NDArray[np.uint8] | None = getattr(_of_thread, "scratch", None)
    if memory is None or len(memory) < size:
        _of_thread.scratch = memory = np.empty(size + size // 4, np.uint8)
    return memory
