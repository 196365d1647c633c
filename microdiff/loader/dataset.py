"""Samples of latent shards as tensors, in the order of `epochs.py`.

Importing this module takes some ten seconds (streaming, torch): only `microdiff.loader.build` does, when it builds
a loader.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from time import sleep, time_ns
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from streaming.base.constant import TICK
from torch.utils.data import get_worker_info

from microdiff.errors import ParamsError
from microdiff.loader.cache_room import CacheRoom
from microdiff.loader.epochs import EpochsDataset
from microdiff.loader.randomness import drop_caption_mask, sampling_noise
from microdiff.loader.ranks import detect_ranks
from microdiff.loader.read.batch_reader import BatchReader, Helpers, ShardHandle
from microdiff.loader.read.buffers import Buffers, PinnedBuffers, RecycledBuffers
from microdiff.loader.shard_set import KEY_COLUMN, ShardSet
from microdiff.loader.stream import LatentsStream

_PREPARING, _LOCAL, _REMOTE = 2, 3, 1  # streaming's states of a shard


class LatentsDataset(EpochsDataset):
    """Map shard samples to image latents, caption latents and the caption dropout mask.

    Args:
        shard_sets: Checked shard sets with equal shapes.
        proportions: Share of each in an epoch, None for every sample once.
        cap_drop_prob: Probability that a caption is to be dropped, in [0, 1].
        check_hashes: Whether to compare each shard with its hash before it is first read.
        **options: For StreamingDataset: `batch_size`, `shuffle`, `shuffle_seed`, `cache_limit`, `predownload`.

    Attributes:
        max_idle: For how many batches to keep memory that is not in use; to be set before the first batch is read.
    """

    def __init__(
        self,
        shard_sets: Sequence[ShardSet],
        proportions: Sequence[float] | None,
        cap_drop_prob: float,
        check_hashes: bool = False,
        **options: Any,
    ) -> None:
        shares: Sequence[float | None] = proportions or [None] * len(shard_sets)
        super().__init__(
            lambda: [LatentsStream(each, share) for each, share in zip(shard_sets, shares, strict=True)], **options
        )
        self._made_from = (shard_sets, proportions, cap_drop_prob, check_hashes, options)
        first = shard_sets[0]
        self.shard_sets, self.cap_drop_prob, self.check_hashes = shard_sets, cap_drop_prob, check_hashes
        self.arrays = {
            array.column: array for array in (first.image, first.caption, *first.further.values()) if array is not None
        }
        self.has_keys = all(each.has_keys for each in shard_sets)
        self._room: CacheRoom | None = None
        if self.cache_limit and first.source is not None:
            files = [Path(each.folder, entry.raw.name) for each in shard_sets for entry in each.entries]
            self._room = CacheRoom(first.source.local, files, int(self.cache_limit))
        self.max_idle = 2
        self._reader: BatchReader | None = None
        self._process, self._claiming = os.getpid(), Lock()
        self._states: NDArray[np.uint8] = self._shard_states.numpy().copy()  # this process's own, as the position is
        self._last_read: NDArray[np.uint64] = self._shard_access_times.numpy().copy()
        self._buffers: dict[tuple[bool, bool], Mapping[str, Buffers]] = {}

    def read_batch(
        self, ids: NDArray[np.int64], epoch: int, pinned: bool = False, helpers: Helpers | None = None
    ) -> dict[str, Any]:
        """Read one batch. Safe to call from several threads.

        Args:
            ids: The samples' numbers, at most `batch_size`.
            epoch: Which epoch, from 0: decides what is dropped and drawn.
            pinned: Whether in page-locked memory.
            helpers: Threads that read parts of the batch; the caller reads all of it without them.

        Returns:
            `image_latents` (B,C,H,W) and `caption_latents` (B,1,T,D) as stored, `drop_caption_mask` float64 (B,), and
            the further columns: tensors (B,), (B,1,T,D) for caption latents and (B,1,T) for masks, or lists of str.

        Raises:
            SchemaError: A shard or a sample is not what its index says.
        """
        first = self.shard_sets[0]
        arrays, texts = self._reading().read(ids, self._buffers_for(len(ids) == 1, pinned), helpers)
        keys: Sequence[str | int] = texts[KEY_COLUMN] if self.has_keys and KEY_COLUMN in texts else ids.tolist()
        image = arrays[first.image.column]
        if first.has_moments:
            image = self._sampled(image, epoch, keys, pinned)
        mask = drop_caption_mask(self.shuffle_seed, epoch, keys, self.cap_drop_prob)
        batch: dict[str, Any] = {
            "image_latents": image,
            "caption_latents": arrays[first.caption.column].unsqueeze(1),
            "drop_caption_mask": torch.from_numpy(mask).pin_memory() if pinned else torch.from_numpy(mask),
        }
        for column, array in first.further.items():
            if array is None:
                batch[column] = texts[column]
            else:
                batch[column] = arrays[column].unsqueeze(1) if array.shape else arrays[column]
        return batch

    def get_item(self, sample_id: int, retry: int = 7) -> dict[str, Any]:
        """Return one sample, its values as in `read_batch` without the first axis.

        Args:
            sample_id: Position in all shards of all sets.
            retry: Not used: what must be fetched is fetched until it is there, or cannot be had.
        """
        batch = self.read_batch(np.array([sample_id]), max(self.position.epoch, 0))
        sample = {name: value[0] for name, value in batch.items()}
        return sample | {"drop_caption_mask": float(sample["drop_caption_mask"])}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over the samples of the next epoch, for a process that is alone.

        Raises:
            ParamsError: There are other ranks or workers, which would read the same samples.
        """
        ranks = detect_ranks()
        if ranks.world_size > 1 or get_worker_info() is not None:
            who = f"{ranks.world_size} ranks" if ranks.world_size > 1 else "worker processes"
            raise ParamsError(
                f"loader.dataset cannot be iterated over by {who}: use the loader, which deals out samples and has "
                f"threads instead of workers"
            )
        position, work = self.begin_epoch(0, drop_last=False)
        for sample_id in work[work != -1].tolist():
            position.num_read += 1
            yield self.get_item(sample_id)

    def shards_to_fetch(self, ids: NDArray[np.int64]) -> list[int]:
        """Return the shards of samples that are not on this machine, in order of their first use."""
        numbers = dict.fromkeys(self._reading().shards_of(ids).tolist())
        return [number for number in numbers if self._states[number] != _LOCAL]

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        """Fetch a shard if it is not there; when that fails, another try may begin.

        Unlike streaming's own, this counts a shard's bytes before it is fetched, and those of other ranks and jobs:
        shards that are fetched beside each other would together exceed `cache_limit`.

        Args:
            shard_id: Its number.
            blocking: Whether to wait for others who fetch it, or whose fetches leave no room for it.
        """
        shard, stream = self.shards[shard_id], self.streams[self.stream_per_shard[shard_id]]
        while (claimed := self._claim(shard_id)) is None:
            if not blocking:
                return
            sleep(TICK)
        if not claimed:
            return
        state = _REMOTE
        try:
            stream.prepare_shard(shard)
            state = _LOCAL
        finally:
            with self._claiming:
                if self._room is not None:
                    self._room.give_back(shard.get_max_size())
                self._last_read[shard_id] = time_ns()
                self._states[shard_id] = state

    def _claim(self, shard_id: int) -> bool | None:
        """Make room for a shard and note that the caller fetches it; False: it is there; None: ask again later."""
        shard = self.shards[shard_id]
        with self._claiming:
            if self._states[shard_id] == _PREPARING:
                return None
            if self._states[shard_id] == _LOCAL:
                self._last_read[shard_id] = time_ns()
                if Path(shard.dirname, shard.raw_data.basename).exists():
                    return False
                self._states[shard_id] = _REMOTE  # somebody removed it
            if self._room is not None:
                is_there, removed = self._room.take(shard.get_max_size(), self._last_used())
                self._states[removed] = _REMOTE
                if not is_there:
                    return None  # all room is taken by shards on their way
            self._states[shard_id] = _PREPARING
            return True

    def _last_used(self) -> dict[int, int]:
        """Return when this process has last used each of the shards that are not on their way, in ns."""
        may_go = np.flatnonzero(self._states != _PREPARING)
        return dict(zip(may_go.tolist(), self._last_read[may_go].tolist(), strict=True))

    def __reduce__(self) -> tuple[Any, ...]:
        """Have another process make its own data set, which goes on where this one is."""
        return _make_again, (*self._made_from, self.max_idle), self.__getstate__()

    def _reading(self) -> BatchReader:
        if self._process != os.getpid():  # a fork: what threads of the parent were at does not end here
            self._reader, self._buffers, self._process, self._claiming = None, {}, os.getpid(), Lock()
            self._states[self._states == _PREPARING] = _REMOTE
        if self._reader is None:
            first = self.shard_sets[0]
            texts = {column for column, array in first.further.items() if array is None}
            withdrawn = any(each.withdrawn for each in self.shard_sets)  # from sets with keys; others may have none
            if withdrawn or (self.has_keys and (0 < self.cap_drop_prob < 1 or first.has_moments)):
                texts.add(KEY_COLUMN)
            self._reader = BatchReader(
                self._shard_files(),
                {name: array.row_bytes for name, array in self.arrays.items()},
                sorted(texts),
                KEY_COLUMN if withdrawn else None,
                self.check_hashes,
            )
        return self._reader

    def _shard_files(self) -> list[ShardHandle]:
        files: list[ShardHandle] = []
        for each in self.shard_sets:
            for entry in each.entries:
                ready = None if each.source is None else partial(self._ensure_shard, len(files))
                path = Path(each.folder, entry.raw.name)
                may_go = each.source is not None and bool(self.cache_limit)
                files.append(ShardHandle(path, entry, each.withdrawn, ready, may_go))
        return files

    def _ensure_shard(self, number: int, has_gone: bool) -> None:
        if has_gone or self._states[number] != _LOCAL:
            self.prepare_shard(number)
        self._last_read[number] = time_ns()

    def _buffers_for(self, single: bool, pinned: bool) -> Mapping[str, Buffers]:
        if (single, pinned) not in self._buffers:
            rows = 1 if single else self.batch_size
            self._buffers[single, pinned] = {
                name: PinnedBuffers(rows, array) if pinned else RecycledBuffers(rows, array, self.max_idle)
                for name, array in self.arrays.items()
            }
        return self._buffers[single, pinned]

    def _sampled(
        self, moments_B2CHW: torch.Tensor, epoch: int, keys: Sequence[str | int], pinned: bool
    ) -> torch.Tensor:
        """Draw image latents (B,C,H,W) of the same dtype from their means and deviations."""
        mean_BCHW, deviation_BCHW = moments_B2CHW.chunk(2, dim=1)
        noise_BCHW = np.empty(mean_BCHW.shape, np.float32)
        for key, noise_CHW in zip(keys, noise_BCHW, strict=True):
            sampling_noise(self.shuffle_seed, epoch, key, noise_CHW)
        drawn_BCHW = torch.addcmul(mean_BCHW.float(), deviation_BCHW.float(), torch.from_numpy(noise_BCHW))
        drawn_BCHW = drawn_BCHW.to(moments_B2CHW.dtype)
        return drawn_BCHW.pin_memory() if pinned else drawn_BCHW


def _make_again(
    shard_sets: Sequence[ShardSet],
    proportions: Sequence[float] | None,
    cap_drop_prob: float,
    check_hashes: bool,
    options: Mapping[str, Any],
    max_idle: int,
) -> LatentsDataset:
    made = LatentsDataset(shard_sets, proportions, cap_drop_prob, check_hashes, **options)
    made.max_idle = max_idle
    return made
