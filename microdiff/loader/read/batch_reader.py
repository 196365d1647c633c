"""Read a batch's values from shards straight into the batch: no copy in between, no file opened per sample.

Reading itself does not hold the interpreter's lock, so threads that read batches run beside each other.
"""

import errno
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from time import sleep

import numpy as np
import torch
from numpy.typing import NDArray

from microdiff.artifacts.mds_header import ShardHeader
from microdiff.artifacts.mds_index import ShardEntry
from microdiff.core.withdrawn import Withdrawn
from microdiff.errors import SchemaError, SourceError
from microdiff.loader.read.buffers import Buffers
from microdiff.loader.read.open_shards import OpenShard, OpenShards, check_hash, max_open
from microdiff.loader.read.read_plan import Layout
from microdiff.loader.read.sample_reads import Columns, SampleRefs, Texts, read_rows

_TRIES = 8
_PAUSE_S = 0.01
_PARTS = 16  # of the shards that may be open: what one thread has open at once, whether or not they are kept


@dataclass(frozen=True)
class ShardHandle:
    """A shard to read from.

    Attributes:
        path: The file; it may still have to be fetched.
        entry: Its entry in the index.
        withdrawn: Samples not to be given.
        ready: Puts the file there if it is not; None where it lies there from the start.
        may_go: Whether it may be removed at any time, so that it must not be kept open.
    """

    path: Path
    entry: ShardEntry
    withdrawn: Withdrawn
    ready: Callable[[bool], None] | None = None
    may_go: bool = False


@dataclass(frozen=True)
class Helpers:
    """Threads that read parts of a batch beside each other.

    Attributes:
        threads: Pool that the parts are read on.
        number: Into how many parts a batch is divided.
    """

    threads: Executor
    number: int


class BatchReader:
    """Reads samples of one sequence of shards. Safe to use from several threads.

    Args:
        shards: All shards, in the order in which samples are numbered through them.
        arrays: Columns of fixed size and their bytes.
        texts: Columns of text.
        key_column: The one of `texts` that withdrawn samples are known by, None where none is withdrawn.
        check_hashes: Whether to compare each shard with its hash before it is first read.
    """

    def __init__(
        self,
        shards: Sequence[ShardHandle],
        arrays: Mapping[str, int],
        texts: Sequence[str],
        key_column: str | None,
        check_hashes: bool = False,
    ) -> None:
        self._shards, self._arrays, self._texts = shards, dict(arrays), tuple(texts)
        self._key_column, self._check_hashes = key_column, check_hashes
        self._ends = np.cumsum([shard.entry.num_samples for shard in shards])
        self._begins = np.concatenate(([0], self._ends))
        self._layouts: dict[ShardHeader, Layout] = {}
        self._open = OpenShards()
        self._checked: set[int] = set()
        self._checking: dict[int, Lock] = {}

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
            The columns of fixed size, as their buffers give them; and the texts.

        Raises:
            SchemaError: A shard or a sample is not what its index says.
            SourceError: The process may not open as many files as it needs.
        """
        tensors, columns = {}, {}
        for name, num_bytes in self._arrays.items():
            try:
                tensors[name], columns[name] = buffers[name].take(len(ids))
            except MemoryError:
                raise SchemaError(
                    f"no memory for {len(ids)} values of {name}, of {num_bytes} bytes each by the index: lower "
                    "batch_size, or do not trust it"
                ) from None
        texts = {name: [""] * len(ids) for name in self._texts}
        order = np.argsort(ids, kind="stable")  # neighbours in a file one after the other
        if helpers is None:
            self._read_part(ids, order, columns, texts)
        else:
            parts = np.array_split(order, helpers.number)
            read = partial(self._read_part, ids, columns=columns, texts=texts)
            jobs = [helpers.threads.submit(read, part) for part in parts if len(part)]
            wait(jobs)
            for job in jobs:
                job.result()
        return tensors, texts

    def _read_part(self, ids: NDArray[np.int64], rows: NDArray[np.int64], columns: Columns, texts: Texts) -> None:
        """Read some rows of a batch, given in the order of their samples, from a limited number of shards at once."""
        changes = np.flatnonzero(np.diff(self.shards_of(ids[rows]), prepend=-1))  # where another shard begins
        at_once = max(1, max_open() // _PARTS)
        for few in np.split(rows, changes[at_once::at_once]):
            self._read_rows(ids, few, columns, texts)

    def _read_rows(self, ids: NDArray[np.int64], rows: NDArray[np.int64], columns: Columns, texts: Texts) -> None:
        numbers = self.shards_of(ids[rows])
        samples = ids[rows] - self._begins[numbers]
        opened = {number: self._opened(number) for number in dict.fromkeys(numbers.tolist())}
        refs = SampleRefs([opened[number] for number in numbers.tolist()], samples.tolist(), rows.tolist())
        read_rows(refs, columns, texts)
        thinned = {number for number in opened if self._shards[number].withdrawn}
        if thinned:
            for number, shard, sample, row in zip(numbers.tolist(), refs.shards, refs.samples, refs.rows, strict=True):
                if number in thinned:
                    self._replace_withdrawn(self._shards[number], shard, sample, row, columns, texts)

    def _replace_withdrawn(
        self, shard: ShardHandle, opened: OpenShard, sample: int, row: int, columns: Columns, texts: Texts
    ) -> None:
        """Put the next sample of the shard that may be used in the place of one that may not."""
        keys, total = texts[self._key_column or ""], shard.entry.num_samples
        for step in range(1, total + 1):
            if not shard.withdrawn.contains(keys[row]):
                return
            read_rows(SampleRefs([opened], [(sample + step) % total], [row]), columns, texts)
        raise SchemaError(f"{shard.path}: all its samples are withdrawn: write the set again, without them")

    def _opened(self, number: int) -> OpenShard:
        opened = self._open.get(number)
        if opened is not None:
            return opened
        shard = self._shards[number]
        for attempt in range(_TRIES):
            if shard.ready is not None:
                shard.ready(attempt > 0)
            try:
                opened = OpenShard(shard.path, shard.entry, self._layout(shard.entry.header))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                if error.errno != errno.EMFILE:
                    raise
                if attempt + 1 == _TRIES:
                    raise SourceError(
                        f"{shard.path}: {error.strerror}: raise the limit of this process (`ulimit -n`)"
                    ) from error
                self._open.make_room()
                sleep(_PAUSE_S * attempt)  # for other threads to finish what they read
                continue
            if self._check_hashes:
                self._check(number)
            if not shard.may_go:
                self._open.keep(number, opened)
            return opened
        remedy = "raise cache_limit" if shard.may_go else "write or pull it again"
        raise SchemaError(f"{shard.path} has gone while it was to be read: {remedy}")

    def _check(self, number: int) -> None:
        """Compare a shard with its hash, once, while other threads that read from it wait."""
        shard = self._shards[number]
        with self._checking.setdefault(number, Lock()):
            if number not in self._checked:
                check_hash(shard.path, shard.entry.raw)
                self._checked.add(number)

    def _layout(self, header: ShardHeader) -> Layout:
        if header not in self._layouts:
            for name, size in zip(header.column_names, header.column_sizes, strict=True):
                if size and size != self._arrays.get(name, size):
                    raise SchemaError(f"column {name} takes {size} bytes by the index, not {self._arrays[name]}")
            self._layouts[header] = Layout(header, self._arrays, self._texts)
        return self._layouts[header]
