"""The loader: latent shards to training batches.

Takes the place of `micro_diffusion.datasets.latents_loader`: same arguments, batch keys, shapes and dtypes.
https://github.com/SonyResearch/micro_diffusion/blob/main/micro_diffusion/datasets/latents_loader.py
"""

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

from microdiff.errors import ParamsError
from microdiff.loader.ranks import ranks_known_yet, speaks_for_all
from microdiff.loader.shard_set import ShardSet, Wanted, check_mixable, open_shard_set
from microdiff.remote.shard_source import ShardSource

if TYPE_CHECKING:
    from microdiff.loader.dataloader import LatentsLoader

STREAMING_SEED = 9176  # streaming's own default: the published loader's order comes from it

_LOG = logging.getLogger("microdiff")

ShardSetName = str | Path | ShardSource

_READING_OPTIONS = {"num_workers", "prefetch_factor", "pin_memory"}
_IGNORED_OPTIONS = {  # accepted so that published configs run; only worker processes would need them
    "persistent_workers",
    "multiprocessing_context",
    "worker_init_fn",
    "timeout",
    "generator",
    "pin_memory_device",
}
_FULFILLED = {"collate_fn": None, "sampler": None, "batch_sampler": None, "in_order": True}  # so it is without them


def build_streaming_latents_dataloader(
    datadir: ShardSetName | Iterable[ShardSetName] | Mapping[ShardSetName, float],
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
    validate_hash: bool = False,
    cache: str | Path | None = None,
    cache_limit: int | str | None = None,
    predownload: int | None = None,
    **dataloader_kwargs: Any,
) -> "LatentsLoader":
    """Build a DataLoader over the latent shards of one or more datasets.

    Batches hold `image_latents` float16 (B,C,H,W), already multiplied by the VAE's scaling factor;
    `caption_latents` float16 (B,1,T,D); and `drop_caption_mask` float64 (B,), 0. where the caption is to be
    dropped, else 1. Latents that were stored as bfloat16 or float32 come as such. Where the VAE's moments were stored,
    image latents are drawn from them, anew in each epoch. What is dropped and drawn follows from seed, epoch and the
    sample's key (its position, where shards have no keys), whatever the workers and ranks.

    The loader's `state_dict()` and `load_state_dict()` resume in the middle of an epoch with the next batch.

    The environment variable `MICRODIFF_BATCHED_READS=0` has each read be a system call of its own, instead of hundreds
    at once: for systems where that is slower, or to find out whether it is to blame.

    Args:
        datadir: Folder of a shard set, `dvc://PATH@REVISION`, several of these, or several with the proportion each has
            in an epoch (relative weights; samples of small sets then repeat within it).
        batch_size: Samples per batch, per rank.
        image_size: Resolution in pixels; 512 reads the samples that have it: in our sets, group `512/`.
        cap_seq_size: Tokens per caption (T). None reads it from the shards, or is 77 if they do not say.
        cap_emb_dim: Width of a token's vector (D). None reads it likewise, or is 1024.
        cap_drop_prob: Probability that a caption is marked to be dropped, in [0, 1].
        shuffle: Whether to shuffle, anew each epoch.
        drop_last: Whether to leave out a last batch that is not full.
        seed: Determines shuffling, caption dropout, and draws from moments.
        columns: Further columns to give in each batch: `key` and `caption` (lists of str), `width`, further text
            encoders' `caption_latents_<name>` (B,1,T,D) and masks `caption_mask` uint8 (B,1,T).
        validate_hash: Whether to compare plain shards on this machine, too, with the hash in their index before they
            are first read. What is fetched or decompressed is compared in any case.
        cache: Folder for shards that are remote or compressed; None is a temporary or the user's own cache folder.
        cache_limit: Bytes that such shards may take, such as `"200gb"`; those unused for longest make room.
        predownload: By how many samples to fetch such shards ahead; None is eight batches.
        **dataloader_kwargs: `num_workers`, `prefetch_factor` and `pin_memory`, as for torch's DataLoader: workers times
            factor is how many batches are read ahead; with 0 workers none is. Workers are threads, never fewer than
            four where there are cores. Options for worker processes are accepted and have no effect, and so are
            `collate_fn`, `sampler` and `batch_sampler` where they are None.

    How many ranks share the samples is asked when an epoch begins: of torch.distributed or, where it is not
    initialised, of the environment (docs/loader.md). So a loader may be built before.

    Logs a warning for each shard set of which samples are left out: those without the resolution, and withdrawn ones.

    Raises:
        ParamsError: Arguments are out of range; the message lists all of them.
        SchemaError: A folder is no shard set, lacks files, the resolution or a column, does not fit the sizes
            given or the other folders, or holds less than a batch.
        SourceError: A remote shard set cannot be had.
    """
    names, proportions = _names(datadir)
    asked = {"batch_size": batch_size, "image_size": image_size, "seed": seed}
    asked["num_workers"] = dataloader_kwargs.get("num_workers", 0)
    optional = {"cap_seq_size": cap_seq_size, "cap_emb_dim": cap_emb_dim}
    optional["prefetch_factor"] = dataloader_kwargs.get("prefetch_factor")
    asked |= {name: value for name, value in optional.items() if value is not None}
    others = {name: value for name, value in asked.items() if not _whole(value)}
    if others:
        raise ParamsError("; ".join(f"{name} must be a whole number, got {value!r}" for name, value in others.items()))
    dataloader_kwargs = {
        name: int(value) if name in asked else value
        for name, value in dataloader_kwargs.items()
        if not (name in _FULFILLED and value is _FULFILLED[name])
        and (asked["num_workers"] or name not in _IGNORED_OPTIONS | {"prefetch_factor"})
    }
    unknown = sorted(dataloader_kwargs.keys() - _READING_OPTIONS - _IGNORED_OPTIONS)
    problems = [
        problem
        for is_wrong, problem in (
            (not names, "datadir names no folder"),
            (len({_identity(each) for each in names}) < len(names), "datadir names a folder twice"),
            (
                any(not 0 < share < math.inf for share in proportions or ()),
                f"proportions must be above 0, got {proportions}",
            ),
            (batch_size < 1, f"batch_size must be at least 1, got {batch_size}"),
            (image_size < 1, f"image_size must be at least 1, got {image_size}"),
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
            (bool(unknown), f"batches are read whole, by threads: {', '.join(unknown)} cannot be given"),
            (
                dataloader_kwargs.get("num_workers", 0) < 0,
                f"num_workers must be at least 0, got {dataloader_kwargs.get('num_workers')}",
            ),
            (
                asked.get("prefetch_factor", 1) < 1,
                f"prefetch_factor must be at least 1, got {asked.get('prefetch_factor')}",
            ),
        )
        if is_wrong
    ]
    if problems:
        raise ParamsError("; ".join(problems))
    folder = None if cache is None else Path(cache).expanduser()
    wanted = Wanted(image_size, cap_seq_size, cap_emb_dim, tuple(columns), validate_hash)
    shard_sets = [open_shard_set(each, wanted, folder) for each in names]
    check_mixable(shard_sets)
    say_left_out(shard_sets)
    only_copies = [each.given for each in shard_sets if each.source is None]
    if cache_limit is not None and only_copies:
        raise ParamsError(
            f"cache_limit would let the only copy of shards be removed: {', '.join(only_copies)}: leave it out; it is "
            f"for remote and compressed shard sets"
        )
    return _build(
        shard_sets,
        {"proportions": proportions, "cap_drop_prob": cap_drop_prob, "check_hashes": validate_hash}
        | {"batch_size": int(batch_size), "shuffle": shuffle, "shuffle_seed": int(seed)}
        | {"cache_limit": cache_limit, "predownload": predownload},
        {"batch_size": int(batch_size), "drop_last": drop_last, **dataloader_kwargs},
    )


def say_left_out(shard_sets: Sequence[ShardSet]) -> None:
    """Log what is in shard sets but in no batch; of several ranks, one does."""
    if speaks_for_all():
        for each in shard_sets:
            for line in each.left_out():
                _LOG.warning("%s: %s", each.given, line)


def _build(
    shard_sets: Sequence[ShardSet], dataset_options: Mapping[str, Any], loader_options: Mapping[str, Any]
) -> "LatentsLoader":
    # Ten seconds of import: a wrong folder should be told at once.
    from microdiff.loader.dataloader import LatentsLoader
    from microdiff.loader.dataset import LatentsDataset
    from microdiff.loader.shared_memory import clean_shared_memory

    clean_shared_memory()
    try:
        dataset = LatentsDataset(shard_sets, **dataset_options)
    except ValueError as error:
        if dataset_options["cache_limit"] is None:
            raise
        raise ParamsError(f"cache_limit: {error}") from error
    loader = LatentsLoader(dataset, **loader_options)
    loader.check_batch(ranks_known_yet())
    return loader


def _whole(value: object) -> bool:
    return isinstance(value, SupportsIndex) and not isinstance(value, bool)


def _names(
    datadir: ShardSetName | Iterable[ShardSetName] | Mapping[ShardSetName, float],
) -> tuple[list[ShardSetName], list[float] | None]:
    """Return the shard sets as they were given, and their proportions if given."""
    if isinstance(datadir, Mapping):
        return list(datadir), list(datadir.values())
    if isinstance(datadir, Iterable) and not isinstance(datadir, str):
        return list(datadir), None
    return [datadir], None


def _identity(given: ShardSetName) -> object:
    """Return what two ways to name the same shard set have in common."""
    if not isinstance(given, str | Path):
        return os.path.realpath(given.local)
    return given if "://" in str(given) else os.path.realpath(Path(given).expanduser())
