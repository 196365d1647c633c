"""Read a batch's values from shards straight into the batch: no copy in between, no file opened per sample.

Reading holds the interpreter's lock only between system calls, so threads that read batches run beside each other.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from microdiff.buffers import Buffers
from microdiff.errors import SchemaError
from microdiff.mds_layout import Layout, Plan
from microdiff.open_shards import OpenShard, OpenShards, check_hash
from microdiff.withdrawn import Withdrawn

_PROBE_ROWS = 32
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_TRIES = 8

Columns = Mapping[str, Sequence[memoryview]]
Texts = Mapping[str, list[str]]


@dataclass(frozen=True)
class ShardFile:
    """A shard to read from.

    Attributes:
        path: The file; it may still have to be fetched.
        entry: Its entry in the index.
        withdrawn: Samples not to be given.
        ready: Puts the file there if it is not; None where it lies there from the start.
        may_go: Whether it may be removed at any time, so that it must not be kept open.
    """

    path: Path
    entry: Mapping[str, Any]
    withdrawn: Withdrawn
    ready: Callable[[bool], None] | None = None
    may_go: bool = False


@dataclass(frozen=True)
class Helpers:
    """Threads that read parts of a batch beside each other.

    Attributes:
        threads: They.
        number: How many.
    """

    threads: Executor
    number: int


class BatchReader:
    """Reads samples of one sequence of shards. Safe to use from several threads.

    Args:
        shards: All shards, in the order in which samples are numbered through them.
        arrays: Columns of fixed size and their bytes.
        texts: Columns of text.
        key_column: The column of texts that withdrawn samples are known by, None without keys.
        check_hashes: Whether to compare each shard with its hash before it is first read.
    """

    def __init__(
        self,
        shards: Sequence[ShardFile],
        arrays: Mapping[str, int],
        texts: Sequence[str],
        key_column: str | None,
        check_hashes: bool = False,
    ) -> None:
        self._shards, self._arrays, self._texts = shards, dict(arrays), tuple(texts)
        self._key_column, self._check_hashes = key_column, check_hashes
        self._ends = np.cumsum([shard.entry["samples"] for shard in shards])
        self._layouts: dict[tuple[Any, ...], Layout] = {}
        self._open = OpenShards()
        self._checked: set[int] = set()

    def shards_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which shard each sample is in."""
        return np.searchsorted(self._ends, ids, side="right")

    def read(
        self, ids: NDArray[np.int64], buffers: Mapping[str, Buffers], helpers: Helpers | None = None
    ) -> tuple[dict[str, torch.Tensor], dict[str, list[str]]]:
        """Read samples.

        Args:
            ids: Their numbers, in the batch's order.
            buffers: Memory for each column of fixed size, for at least as many samples.
            helpers: Read parts of the batch beside each other; without them the caller reads it.

        Returns:
            The columns of fixed size, each a flat uint8 tensor of the samples' values; and the texts.

        Raises:
            SchemaError: A shard or a sample is not what its index says.
        """
        tensors, columns = {}, {}
        for name in self._arrays:
            tensor, columns[name] = buffers[name].take()
            tensors[name] = tensor[: len(ids) * self._arrays[name]]
        texts = {name: [""] * len(ids) for name in self._texts}
        order = np.argsort(ids, kind="stable")  # neighbours in a file one after the other
        if helpers is None:
            self._read_part(ids, order, columns, texts)
        else:
            parts = np.array_split(order, helpers.number)
            read = partial(self._read_part, ids, columns=columns, texts=texts, memory=tensors)
            jobs = [helpers.threads.submit(read, part) for part in parts if len(part)]
            wait(jobs)
            for job in jobs:
                job.result()
        return tensors, texts

    def _read_part(
        self,
        ids: NDArray[np.int64],
        rows: NDArray[np.int64],
        columns: Columns,
        texts: Texts,
        memory: object = None,
    ) -> None:
        """Read some rows of a batch, given in the order of their samples."""
        numbers = self.shards_of(ids[rows])
        samples = ids[rows] - np.concatenate(([0], self._ends))[numbers]
        cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(rows)]
        runs = [
            _Run(self._opened(number), self._shards[number], samples[begin:end].tolist(), rows[begin:end].tolist())
            for number, begin, end in zip(numbers[cuts[:-1]].tolist(), cuts, cuts[1:], strict=False)
        ]
        self._read_runs(runs, columns, texts)

    def _opened(self, number: int) -> OpenShard:
        opened = self._open.get(number)
        if opened is not None:
            return opened
        shard = self._shards[number]
        for attempt in range(_TRIES):
            if shard.ready is not None:
                shard.ready(attempt > 0)
            try:
                opened = OpenShard(shard.path, shard.entry, self._layout(shard.entry))
            except FileNotFoundError:
                continue
            if self._check_hashes and number not in self._checked:
                check_hash(shard.path, shard.entry["raw_data"]["hashes"])
                self._checked.add(number)
            if not shard.may_go:
                self._open.keep(number, opened)
            return opened
        remedy = "raise cache_limit" if shard.may_go else "write or pull it again"
        raise SchemaError(f"{shard.path} has gone while it was to be read: {remedy}")

    def _layout(self, entry: Mapping[str, Any]) -> Layout:
        signature = (*entry["column_names"], *entry["column_sizes"])
        if signature not in self._layouts:
            for name, size in zip(entry["column_names"], entry["column_sizes"], strict=True):
                if size and size != self._arrays.get(name, size):
                    raise SchemaError(f"column {name} takes {size} bytes by the index, not {self._arrays[name]}")
            self._layouts[signature] = Layout(entry, self._arrays, self._texts)
        return self._layouts[signature]

    def _read_runs(self, runs: Sequence["_Run"], columns: Columns, texts: Texts) -> None:
        scratch = bytearray(2**16)
        probes, row_number = True, 0
        for at, run in enumerate(runs):
            withdrawn = bool(run.shard.withdrawn) and self._key_column is not None
            for nth, (sample, row) in enumerate(zip(run.samples, run.rows, strict=True)):
                probe = probes and row_number % _PROBE_ROWS == 0
                row_number += 1
                if probe and not run.is_cached(sample):
                    run.advise(nth)
                    for other in runs[at + 1 :]:
                        other.advise(0)
                    probes = False
                scratch = run.read(sample, row, columns, texts, scratch)
                if withdrawn:
                    scratch = self._replace_withdrawn(run, sample, row, columns, texts, scratch)

    def _replace_withdrawn(
        self, run: "_Run", sample: int, row: int, columns: Columns, texts: Texts, scratch: bytearray
    ) -> bytearray:
        """Put the next sample of the shard that may be used in the place of one that may not."""
        keys, total = texts[self._key_column or ""], run.shard.entry["samples"]
        for step in range(1, total + 1):
            if not run.shard.withdrawn.covers(keys[row]):
                return scratch
            scratch = run.read((sample + step) % total, row, columns, texts, scratch)
        raise SchemaError(f"{run.shard.path}: all its samples are withdrawn: write the set again, without them")


class _Run:
    """Samples of a batch that lie in one shard."""

    def __init__(self, opened: OpenShard, shard: ShardFile, samples: Sequence[int], rows: Sequence[int]) -> None:
        self.opened, self.shard, self.samples, self.rows = opened, shard, samples, rows

    def is_cached(self, sample: int) -> bool:
        """Tell whether the start of a sample is in the page cache; True where the system cannot say."""
        try:
            return os.preadv(self.opened.descriptor, [bytearray(1)], self.opened.offsets[sample], _NOWAIT) > 0
        except BlockingIOError:
            return False
        except OSError:  # a file system that cannot say
            return False

    def advise(self, begin: int) -> None:
        """Have the system read all samples from the `begin`-th on at once, in whatever order suits the disk."""
        offsets = self.opened.offsets
        for sample in self.samples[begin:]:
            length = offsets[sample + 1] - offsets[sample]
            os.posix_fadvise(self.opened.descriptor, offsets[sample], length, os.POSIX_FADV_WILLNEED)

    def read(self, sample: int, row: int, columns: Columns, texts: Texts, scratch: bytearray) -> bytearray:
        """Read one sample; return the scratch memory, which may have had to grow."""
        opened = self.opened
        offsets, layout, plan = opened.offsets, opened.layout, opened.plan
        begin = offsets[sample]
        stored = offsets[sample + 1] - begin
        extra = stored - plan.rest
        if len(scratch) < plan.scratch + max(extra, 0):
            scratch = bytearray(plan.scratch + 2 * extra)
        if extra < 0 or not (
            _read_pieces(opened, plan, extra, begin, row, columns, scratch)
            and layout.fits(plan, extra, layout.head.unpack_from(scratch))
        ):
            plan = self._plan_anew(sample)
            extra = stored - plan.rest
            if len(scratch) < plan.scratch + extra:
                scratch = bytearray(plan.scratch + 2 * extra)
            if not _read_pieces(opened, plan, extra, begin, row, columns, scratch):
                raise SchemaError(f"{opened.path}: sample {sample}: the file ends too soon: write or pull it again")
            opened.plan = plan
        for name, at, shifts, size, stretches in plan.texts:
            first = at + extra if shifts else at
            last = first + size + extra if stretches else first + size
            texts[name][row] = str(scratch[first:last], "utf-8")
        return scratch

    def _plan_anew(self, sample: int) -> Plan:
        """Return the plan that a sample's own sizes ask for."""
        opened = self.opened
        begin, end = opened.offsets[sample], opened.offsets[sample + 1]
        head = os.pread(opened.descriptor, opened.layout.head.size, begin)
        if len(head) != opened.layout.head.size:
            raise SchemaError(f"{opened.path}: sample {sample}: the file ends too soon: write or pull it again")
        sizes = opened.layout.head.unpack(head)
        problem = opened.layout.check(sizes)
        plan = opened.layout.plan(sizes)
        guessed = 0 if opened.layout.guessed is None else sizes[opened.layout.guessed]
        if not problem and plan.rest + guessed != end - begin:
            problem = f"its columns take {plan.rest + guessed} bytes, but it has {end - begin}"
        if problem:
            raise SchemaError(f"{opened.path}: sample {sample}: {problem}: write or pull it again")
        return plan


def _read_pieces(
    opened: OpenShard, plan: Plan, extra: int, begin: int, row: int, columns: Columns, scratch: bytearray
) -> bool:
    """Read one sample by a plan; tell whether all of it was there."""
    memory, at = memoryview(scratch), 0
    for offset, shifts, pieces in plan.reads:
        views, wanted = [], 0
        for column, size, stretches in pieces:
            if stretches:
                size += extra
            if column is None:
                views.append(memory[at : at + size])
                at += size
            else:
                views.append(columns[column][row])
            wanted += size
        position = begin + offset + extra if shifts else begin + offset
        if os.preadv(opened.descriptor, views, position) != wanted and not _read_again(opened, views, position, wanted):
            return False
    return True


def _read_again(opened: OpenShard, views: Sequence[memoryview], position: int, wanted: int) -> bool:
    """Read what a single call did not give, as network file systems may do; tell whether all of it was there."""
    data = bytearray()
    while len(data) < wanted:
        more = os.pread(opened.descriptor, wanted - len(data), position + len(data))
        if not more:
            return False
        data += more
    at = 0
    for view in views:
        view[:] = data[at : at + len(view)]
        at += len(view)
    return True
