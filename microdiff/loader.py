"""The loader: latent shards on disk to training batches.

Takes the place of `micro_diffusion.datasets.latents_loader`: same arguments, batch keys, shapes and dtypes.
https://github.com/SonyResearch/micro_diffusion/blob/main/micro_diffusion/datasets/latents_loader.py
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microdiff.errors import ParamsError, SchemaError
from microdiff.shardset import VAE_FACTOR, check_columns, check_mixable, open_shard_set

if TYPE_CHECKING:
    from streaming import StreamingDataLoader

STREAMING_SEED = 9176  # streaming's own default: the published loader's order comes from it


def build_streaming_latents_dataloader(
    datadir: str | Path | Iterable[str | Path] | Mapping[str | Path, float],
    batch_size: int,
    image_size: int = 256,
    cap_seq_size: int | None = None,
    cap_emb_dim: int | None = None,
    cap_drop_prob: float = 0.0,
    shuffle: bool = True,
    drop_last: bool = True,
    *,
    seed: int = STREAMING_SEED,
    columns: Sequence[str] = (),
    **dataloader_kwargs: Any,
) -> "StreamingDataLoader":
    """Build a DataLoader over the latent shards of one or more datasets.

    Batches hold `image_latents` float16 (B,C,H,W), already multiplied by the VAE's scaling factor;
    `caption_latents` float16 (B,1,T,D); and `drop_caption_mask` float64 (B,), 0. where the caption is to be
    dropped, else 1. The mask follows from seed, epoch and the sample's key (its position, where shards have
    no keys), whatever the workers and ranks.

    The loader's `state_dict()` and `load_state_dict()` resume in the middle of an epoch with the next batch.

    Args:
        datadir: Folder of a shard set, several, or several with the proportion each has in an epoch (relative
            weights; samples of small sets then repeat within it).
        batch_size: Samples per batch, per rank.
        image_size: Resolution in pixels; 512 reads the samples that have it: in our sets, group `512/`.
        cap_seq_size: Tokens per caption (T). None reads it from the shards, or is 77 if they do not say.
        cap_emb_dim: Width of a token's vector (D). None reads it likewise, or is 1024.
        cap_drop_prob: Probability that a caption is marked to be dropped, in [0, 1].
        shuffle: Whether to shuffle, anew each epoch.
        drop_last: Whether to leave out a last batch that is not full.
        seed: Determines shuffling and caption dropout.
        columns: Further columns to give in each batch, such as `key` and `caption` (lists) or `width`.
        **dataloader_kwargs: For torch's DataLoader: `num_workers`, `pin_memory`, `prefetch_factor`, ...

    Raises:
        ParamsError: Arguments are out of range; the message lists all of them.
        SchemaError: A folder is no shard set, lacks files, the resolution or a column, does not fit the sizes
            given or the other folders, or holds less than a batch. No worker is started before.
    """
    folders, proportions = _folders(datadir)
    problems = [
        problem
        for is_wrong, problem in (
            (not folders, "datadir names no folder"),
            (len({each.resolve() for each in folders}) < len(folders), "datadir names a folder twice"),
            (
                any(not 0 < share < math.inf for share in proportions or ()),
                f"proportions must be above 0, got {proportions}",
            ),
            (batch_size < 1, f"batch_size must be at least 1, got {batch_size}"),
            (
                image_size < 1 or image_size % VAE_FACTOR,
                f"image_size must be a positive multiple of {VAE_FACTOR}, got {image_size}",
            ),
            (
                cap_seq_size is not None and cap_seq_size < 1,
                f"cap_seq_size must be at least 1, got {cap_seq_size}",
            ),
            (
                cap_emb_dim is not None and cap_emb_dim < 1,
                f"cap_emb_dim must be at least 1, got {cap_emb_dim}",
            ),
            (not 0 <= cap_drop_prob <= 1, f"cap_drop_prob must be in [0, 1], got {cap_drop_prob}"),
            (seed < 0, f"seed must be at least 0, got {seed}"),
        )
        if is_wrong
    ]
    if problems:
        raise ParamsError("; ".join(problems))
    shard_sets = [open_shard_set(each, image_size, cap_seq_size, cap_emb_dim) for each in folders]
    for each in shard_sets:
        check_columns(each, columns)
    check_mixable(shard_sets)

    # Ten seconds of import: a wrong folder should be told at once.
    from streaming import StreamingDataLoader

    from microdiff.latents_dataset import LatentsDataset

    dataset = LatentsDataset(shard_sets, proportions, columns, cap_drop_prob, seed, batch_size, shuffle)
    if drop_last and len(dataset) < batch_size:
        raise SchemaError(
            f"{', '.join(map(str, folders))}: expected a batch of {batch_size} samples for each rank, got "
            f"{len(dataset)} samples: lower batch_size or give drop_last=False"
        )
    return StreamingDataLoader(dataset, batch_size=batch_size, drop_last=drop_last, **dataloader_kwargs)


def _folders(
    datadir: str | Path | Iterable[str | Path] | Mapping[str | Path, float],
) -> tuple[list[Path], list[float] | None]:
    """Return the folders, and their proportions if given."""
    proportions = list(datadir.values()) if isinstance(datadir, Mapping) else None
    names = [datadir] if isinstance(datadir, str | Path) else datadir
    return [Path(name).expanduser() for name in names], proportions
