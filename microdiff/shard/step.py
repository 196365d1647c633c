"""The shard step: latents become MDS shards, each shard a task of its own.

Every partition is listed first; the listings say which samples share a shard, and where a shard's bytes are.
Samples that also have latents of the larger resolution form a group of their own, so that one copy serves both
training resolutions: `index.json` lists all samples, `512/index.json` those with 512 pixels, `256/` holds the rest.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from microdiff.artifacts.manifest import Manifest
from microdiff.artifacts.mds import ZSTD, empty_bytes, index_document, nest_entry
from microdiff.config.settings import ShardSettings
from microdiff.core.code_fingerprint import code_digest
from microdiff.core.files import digest_bytes
from microdiff.core.ledger import KEPT, Counts
from microdiff.errors import StepError
from microdiff.pipeline.params import Params, as_values
from microdiff.pipeline.run import Run
from microdiff.pipeline.store import StoredPartition, Task
from microdiff.pipeline.workspace import Workspace
from microdiff.shard.packing import Indices, pack_in_order, pack_shuffled, places_of
from microdiff.shard.sample_index import Samples, load_index, write_listing
from microdiff.shard.writer import ShardPlan, write_shard

_COMPRESSION = {"none": None, "zstd": ZSTD}
Columns = Mapping[str, str]


def shard(dataset: str, params: Params, workspace: Workspace) -> Counts:
    """Write a dataset's shards.

    Args:
        dataset: The dataset's name.
        params: All settings.
        workspace: Where to read and write.

    Returns:
        The step's counts.

    Raises:
        SchemaError: The latents artifact is missing or damaged.
        StepError: Shards failed, or the latents do not add up.
    """
    entry, settings = params.dataset(dataset), params.shard
    run = Run("shard", dataset, workspace)
    with run.store.in_use():
        latents = workspace.read_input(dataset, "latents")
        listings = run.compute(_listing_units(latents))
        samples = load_index([_folder(listing) for listing in listings])
        if len(samples.sizes) != latents.counts[KEPT]:
            raise StepError(
                f"shard {dataset}: {len(samples.sizes)} samples have latents, but the encode step kept "
                f"{latents.counts[KEPT]}. Rebuild them: dvc repro -f encode@{dataset}"
            )
        columns = _columns_of_groups(dataset, listings)
        tasks = list(_shard_units(latents.folder, listings, samples, columns, settings))
        stored = run.compute(tasks)
        return run.publish(
            workspace.artifact(dataset, "shards"),
            stored,
            expected_in={task.name: task.num_samples or 0 for task in tasks},
            source_records=latents.source_records,
            withdrawn=latents.withdrawn,
            max_rejected_share=entry.max_rejected_share,
            facts={
                "step": "shard",
                "dataset": dataset,
                "code": code_digest(
                    ["microdiff.shard.sample_index", "microdiff.shard.packing", "microdiff.shard.writer"]
                ),
                "settings": as_values(settings),
                "encoders": latents.facts["encoders"],
                "columns": columns,
                "listings": {listing.name: listing.fingerprints for listing in listings},
                "lineage": {"latents": latents.facts},
            },
            extra=_indexes(stored),
        )


def _folder(listing: StoredPartition) -> Path:
    """Return where the store has a listing."""
    return next(iter(listing.paths.values())).parent


def _listing_units(latents: Manifest) -> list[Task]:
    code = code_digest(["microdiff.shard.sample_index"])
    tasks = []
    for name, num_samples in latents.kept().items():
        digests = latents.digests(name, "")
        files = [file for file in digests if file.endswith(".safetensors")]
        tasks.append(
            Task(
                step="shard-list",
                name=name,
                cache_key={"code": code, "latents": digests},
                compute=partial(write_listing, latents.folder, name, files),
                num_samples=num_samples,
            )
        )
    return tasks


def _columns_of_groups(dataset: str, listings: Sequence[StoredPartition]) -> dict[str, Columns]:
    """Return each group's columns, larger resolutions first; they must be the same in all partitions."""
    found: dict[str, Columns] = {}
    for listing in listings:
        for group, columns in listing.result.facts["columns"].items():
            if found.setdefault(group, columns) != columns:
                raise StepError(
                    f"shard {dataset}: partition {listing.name} has {columns} at {group} px, others {found[group]}. "
                    f"Rebuild them: dvc repro -f encode@{dataset}"
                )
    return {group: found[group] for group in sorted(found, key=int, reverse=True)}


def _shard_units(
    latents: Path,
    listings: Sequence[StoredPartition],
    samples: Samples,
    columns: Mapping[str, Columns],
    settings: ShardSettings,
) -> Iterator[Task]:
    """Yield a task per shard, group by group.

    A shard is named after the place of its first sample, a name that other shards' comings and goings do not change.
    What it is determined by is what its samples hold, not which partitions they come from: rebuilding a partition for
    one sample's sake writes again only the shards whose bytes change.
    """
    code = code_digest(["microdiff.shard.writer"])
    folders = [_folder(listing) for listing in listings]
    compression = _COMPRESSION[settings.compression]
    pack = pack_shuffled if settings.order == "shuffled" else pack_in_order
    for group, group_columns in columns.items():
        members = np.flatnonzero(samples.groups == int(group))
        places = places_of(samples.key_hashes[members], settings.seed)
        limit = settings.shard_bytes - empty_bytes(group_columns, compression)
        for packed in pack(places, samples.sizes[members], limit):
            chosen = members[packed]
            name = f"{group}/shard.{int(places[packed[0]]):016x}.mds"
            yield Task(
                step="shard",
                name=name,
                cache_key={
                    "code": code,
                    "columns": group_columns,
                    "compression": compression,
                    "contents": digest_bytes(samples.digests[chosen].tobytes()),
                },
                compute=partial(
                    write_shard, _draw(latents, folders, samples, chosen, group_columns, compression), name
                ),
                num_samples=len(chosen),
            )


def _draw(
    latents: Path,
    listings: Sequence[Path],
    samples: Samples,
    chosen: Indices,
    columns: Columns,
    compression: str | None,
) -> ShardPlan:
    """Return the samples chosen, naming no more partitions than they come from: each worker is sent its draws."""
    used, partitions = np.unique(samples.partitions[chosen], return_inverse=True)
    return ShardPlan(
        latents=latents,
        listings=[listings[number] for number in used],
        partitions=partitions.astype(np.uint32),
        rows=samples.rows[chosen],
        sizes=samples.sizes[chosen],
        columns=columns,
        compression=compression,
    )


def _indexes(stored: Sequence[StoredPartition]) -> dict[str, Any]:
    """Return the index files: one per group, and one over all groups."""
    groups: dict[str, list[Any]] = {}
    for item in stored:
        groups.setdefault(item.name.partition("/")[0], []).append(item.result.facts["entry"])
    every = [nest_entry(entry, group) for group, entries in groups.items() for entry in entries]
    listed = {"index.json": every, **{f"{group}/index.json": entries for group, entries in groups.items()}}
    return {path: index_document(entries) for path, entries in listed.items()}
