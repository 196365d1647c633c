"""Samples of latent shards as tensors, on top of mosaicml-streaming's order, shuffle and resumption.

Importing this module takes some ten seconds (streaming, torch): only `microdiff.loader` does, when it builds
a loader. The class is at module level because spawned DataLoader workers unpickle it by name.
"""

import hashlib
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from streaming import Stream, StreamingDataset

from microdiff.errors import SchemaError
from microdiff.shardset import CAPTION_COLUMN, ShardSet

KEY_COLUMN = "key"


class LatentsDataset(StreamingDataset):  # type: ignore[misc]  # streaming ships without type information
    """Map shard samples to image latents, caption latents and the caption dropout mask.

    Args:
        shard_sets: Checked shard sets with equal shapes.
        proportions: Share of each in an epoch, None for every sample once.
        columns: Further columns to give unchanged.
        cap_drop_prob: Probability that a caption is to be dropped, in [0, 1].
        seed: Determines shuffling and dropout, at least 0.
        batch_size: Samples per batch and rank; streaming's order depends on it.
        shuffle: Whether to shuffle, anew each epoch.
    """

    def __init__(
        self,
        shard_sets: Sequence[ShardSet],
        proportions: Sequence[float] | None,
        columns: Sequence[str],
        cap_drop_prob: float,
        seed: int,
        batch_size: int,
        shuffle: bool,
    ) -> None:
        shares: Sequence[float | None] = proportions or [None] * len(shard_sets)
        streams = [
            Stream(local=str(each.folder), proportion=share) for each, share in zip(shard_sets, shares, strict=True)
        ]
        super().__init__(streams=streams, batch_size=batch_size, shuffle=shuffle, shuffle_seed=seed)
        self.image_column = shard_sets[0].image_column
        self.image_shape_CHW = shard_sets[0].image_shape
        self.caption_shape_1TD = (1, *shard_sets[0].caption_shape)
        self.columns = tuple(columns)
        self.cap_drop_prob = cap_drop_prob
        self._epoch = 0

    def get_item(self, sample_id: int, retry: int = 7) -> dict[str, Any]:
        """Return one sample.

        Args:
            sample_id: Position in all shards of all sets.
            retry: As in StreamingDataset.

        Returns:
            `image_latents` float16 (C,H,W), `caption_latents` float16 (1,T,D), `drop_caption_mask` 0. or 1.,
            and the columns asked for.

        Raises:
            SchemaError: Latents stored as bytes do not have the size of the first sample's.
        """
        sample = super().get_item(sample_id, retry)
        name = sample.get(KEY_COLUMN, sample_id)
        return {
            "image_latents": _to_tensor(sample, self.image_column, self.image_shape_CHW, name),
            "caption_latents": _to_tensor(sample, CAPTION_COLUMN, self.caption_shape_1TD, name),
            "drop_caption_mask": drop_caption_mask(self.shuffle_seed, self._epoch, name, self.cap_drop_prob),
            **{column: sample[column] for column in self.columns},
        }

    def load_state_dict(self, obj: dict[str, Any]) -> None:
        """Resume from a checkpoint when iterated next, and keep its order and dropout in later epochs.

        Streaming 0.13 keeps the checkpoint's settings only in the workers that resume: those started for the next
        epoch would shuffle by the settings this object was made with.
        """
        super().load_state_dict(obj)
        self.shuffle_seed = obj["shuffle_seed"]
        self.num_canonical_nodes = obj["num_canonical_nodes"]
        self.initial_physical_nodes = obj.get("initial_physical_nodes")

    def _resume_incr_epoch(self) -> tuple[int, int]:
        # Every worker learns here which epoch it starts; the shared `next_epoch` may be a step off. By now
        # `shuffle_seed` is the checkpoint's, if there is one: a resumed run drops what the first would have.
        self._epoch, sample_in_epoch = super()._resume_incr_epoch()
        return self._epoch, sample_in_epoch


def drop_caption_mask(seed: int, epoch: int, name: str | int, cap_drop_prob: float) -> float:
    """Return 0. if a sample's caption is to be dropped in this epoch, else 1.; the same on every worker.

    Args:
        seed: The loader's seed.
        epoch: Which epoch, from 0.
        name: The sample's key or, for shards without keys, its position.
        cap_drop_prob: Probability of 0., in [0, 1].
    """
    digest = hashlib.blake2b(f"{seed} {epoch} {name}".encode(), digest_size=8).digest()
    return 0.0 if int.from_bytes(digest, "little") < cap_drop_prob * 2**64 else 1.0


def _to_tensor(sample: Mapping[str, Any], column: str, shape: tuple[int, ...], name: str | int) -> torch.Tensor:
    """Copy a stored float16 array or its bytes, both read-only, into a tensor of its own."""
    stored = memoryview(sample[column]).nbytes
    expected = prod(shape) * np.dtype(np.float16).itemsize
    if stored != expected:
        raise SchemaError(f"sample {name}: {column} takes {stored} bytes, expected {expected} for {shape} float16")
    return torch.from_numpy(np.frombuffer(sample[column], np.float16).reshape(shape).copy())
