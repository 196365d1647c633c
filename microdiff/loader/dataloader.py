"""A DataLoader that reads batches by threads of this process. Importing it takes some ten seconds, as streaming does.

It gives the batches that torch's DataLoader with as many worker processes would give, in the same order. Threads
suffice, because reading itself does not hold the interpreter's lock; nothing is copied between processes,
and a lost run leaves no processes behind.
"""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from streaming import StreamingDataLoader

from microdiff.errors import ParamsError, SchemaError
from microdiff.loader.dataset import LatentsDataset
from microdiff.loader.ranks import Ranks, detect_ranks
from microdiff.loader.read.batch_reader import Helpers

_FETCHING_THREADS = 8
_READING_THREADS = 4  # at least, where there are as many cores


class LatentsLoader(StreamingDataLoader):  # type: ignore[misc]  # streaming ships without type information
    """Batches of a `LatentsDataset`.

    With `num_workers`, threads read ahead, `prefetch_factor` batches for each; with 0 a batch is read, in parts, when
    it is asked for. There are at least a few threads: what `num_workers` decides is the order of batches and how many
    are read ahead. A batch's memory is used again when nothing refers to the batch any more, so batches may be kept.

    Iterators are independent of each other: each takes the next epoch when it is first asked for a batch, and keeps it,
    so that `next(iter(loader))` within a loop leaves the loop alone, and `zip(loader, loader)` gives two epochs side by
    side. As epochs are counted, all ranks have to begin the same ones: what one of them only looks at, the others
    must, too. Which ranks there are is asked whenever an epoch begins (`microdiff.loader.ranks`).

    A loader may be pickled, and used after a fork: it then reads by itself, from where it was, and an epoch that was
    begun stays the parent's.

    Args:
        dataset: The samples.
        **options: As for torch's DataLoader. Worker processes being absent, what only concerns them has no effect.
    """

    dataset: LatentsDataset

    def __init__(self, dataset: LatentsDataset, **options: Any) -> None:
        super().__init__(dataset, **options)
        self._num_ahead = self.num_workers * (self.prefetch_factor or 1)
        dataset.max_idle = self._num_ahead + 2  # one that is read while another is held

    def check_worker_number_rationality(self) -> None:
        """Do nothing: torch would advise against more worker processes than cores, and these are threads."""

    def check_batch(self, ranks: Ranks) -> None:
        """Check that each of these ranks gets a batch.

        Raises:
            SchemaError: There are fewer samples.
        """
        num_samples = self.dataset.length_among(ranks)
        if self.drop_last and num_samples < int(self.batch_size or 1):
            given = ", ".join(each.given for each in self.dataset.shard_sets)
            raise SchemaError(
                f"{given}: expected a batch of {self.batch_size} samples for each rank, got {num_samples} samples: "
                f"lower batch_size or give drop_last=False"
            )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over the next epoch, or over what is left of the one to resume.

        Raises:
            ParamsError: It is not clear which ranks there are.
            SchemaError: A shard or a sample is not what its index says.
        """
        process, dataset = os.getpid(), self.dataset
        self.check_batch(detect_ranks())
        position, work = dataset.begin_epoch(self.num_workers, self.drop_last)
        self.num_samples_yielded = 0
        with ExitStack() as stop:
            for batch in self._read_ahead(position.epoch, work, stop):
                position.num_read += len(batch["drop_caption_mask"])
                dataset.position, self.num_samples_yielded = position, position.num_read
                yield batch
                if process != os.getpid():
                    raise ParamsError("this epoch was begun before a fork, whose parent reads it: iterate anew")
        position.is_done = True

    def state_dict(self) -> dict[str, Any]:
        """Return where the iterator is that gave a batch last: what `load_state_dict` takes.

        At an epoch's end that is the beginning of the next.
        """
        position = self.dataset.position
        return self.dataset.state_dict(position.num_read * position.world_size, False)

    def load_state_dict(self, obj: dict[str, Any]) -> None:
        """Have the next epoch be what is left of a state's.

        Args:
            obj: Of `state_dict`, by as many ranks or others.

        Raises:
            ParamsError: It is no such state.
        """
        self.dataset.load_state_dict(obj)
        self.num_samples_yielded = 0

    def __del__(self) -> None:
        """Do nothing: StreamingDataLoader.__del__ stops worker processes; there are none."""

    def _read_ahead(self, epoch: int, work: NDArray[np.int64], stop: ExitStack) -> Iterator[dict[str, Any]]:
        pinned = self.pin_memory and torch.cuda.is_available()
        device = torch.cuda.current_device() if pinned else None
        batches = iter_batches(work, self.drop_last)
        if any(each.source for each in self.dataset.shard_sets):
            batches = self._fetch_ahead(batches, stop)

        def set_device() -> None:  # a new thread pins memory through GPU 0, whichever this rank's is
            if device is not None:
                torch.cuda.set_device(device)

        number = max(self.num_workers, min(_READING_THREADS, len(os.sched_getaffinity(0))))
        threads = ThreadPoolExecutor(number, "microdiff-read", set_device)
        stop.callback(threads.shutdown, wait=False, cancel_futures=True)
        if not self.num_workers:
            for ids in batches:
                yield self.dataset.read_batch(ids, epoch, pinned, Helpers(threads, number))
            return
        reads: deque[Future[dict[str, Any]]] = deque()
        for ids in batches:
            reads.append(threads.submit(self.dataset.read_batch, ids, epoch, pinned))
            if len(reads) == self._num_ahead:
                yield reads.popleft().result()
        while reads:
            yield reads.popleft().result()

    def _fetch_ahead(self, batches: Iterator[NDArray[np.int64]], stop: ExitStack) -> Iterator[NDArray[np.int64]]:
        """Pass batches on, having begun to fetch the shards of those that follow within `predownload` samples."""
        threads = ThreadPoolExecutor(_FETCHING_THREADS, "microdiff-fetch")
        stop.callback(threads.shutdown, wait=False, cancel_futures=True)
        ahead: deque[NDArray[np.int64]] = deque()
        window = max(1, -(-int(self.dataset.predownload) // int(self.batch_size or 1)))
        asked: dict[int, Future[None]] = {}
        for ids in batches:
            ahead.append(ids)
            for number in self.dataset.shards_to_fetch(ids):
                if number not in asked or asked[number].done():
                    asked[number] = threads.submit(self.dataset.prepare_shard, number, False)
            if len(ahead) > window:
                yield ahead.popleft()
        yield from ahead


def iter_batches(work: NDArray[np.int64], drop_last: bool) -> Iterator[NDArray[np.int64]]:
    """Yield batches of sample numbers in the order in which torch's DataLoader takes them from its workers.

    That is one of each worker in turn; a worker that has no more is passed over.

    Args:
        work: Sample numbers (workers, batches, batch size), -1 for no sample.
        drop_last: Whether each worker leaves out a last batch that is not full.
    """
    queues = [_cut(worker.ravel(), work.shape[-1], drop_last) for worker in work]
    while queues:
        left = []
        for queue in queues:
            ids = next(queue, None)
            if ids is not None:
                yield ids
                left.append(queue)
        queues = left


def _cut(ids: NDArray[np.int64], batch_size: int, drop_last: bool) -> Iterator[NDArray[np.int64]]:
    """Yield one worker's batches."""
    if ids.size and ids.min() < 0:
        ids = ids[ids != -1]
    stop = len(ids) - len(ids) % batch_size if drop_last else len(ids)
    for begin in range(0, stop, batch_size):
        yield ids[begin : begin + batch_size]
