"""The shard step: latents become MDS shards, each shard a task of its own.

Every partition's samples are indexed first; the indexes say which samples share a shard, and where its bytes are.
Samples that also have latents of the larger resolution form a group of their own, so that one copy serves both
training resolutions: `index.json` lists all samples, `512/index.json` those with 512 pixels, `256/` holds the rest.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from microdiff.artifacts.checks import check_shard
from microdiff.artifacts.mds import ZSTD, empty_bytes
from microdiff.artifacts.mds_index import INDEX_NAME, ShardEntry, index_document
from microdiff.config.settings import ShardSettings
from microdiff.core.code_identity import code_identity
from microdiff.core.deciding_code import deciding_modules
from microdiff.core.files import digest_bytes
from microdiff.core.ledger import KEPT, Counts
from microdiff.errors import StepError
from microdiff.pipeline.inputs import InputArtifact
from microdiff.pipeline.params import Params
from microdiff.pipeline.parsing import as_values
from microdiff.pipeline.run import Run
from microdiff.pipeline.task import StoredPartition, Task
from microdiff.pipeline.workspace import Workspace
from microdiff.shard.packing import Indices, hash_positions, pack_in_order, pack_shuffled
from microdiff.shard.sample_index import Samples, load_samples, write_sample_index
from microdiff.shard.writer import LatentsFiles, ShardPlan, write_shard

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
    run = Run("shard", dataset, workspace, params)
    with run.active():
        artifact = run.input("latents")
        latents = artifact.manifest
        sample_indexes = run.compute(_index_tasks(artifact))
        samples = load_samples([_folder(index) for index in sample_indexes])
        if len(samples.sizes) != latents.counts[KEPT]:
            raise StepError(
                f"shard {dataset}: {len(samples.sizes)} samples have latents, but the encode step kept "
                f"{latents.counts[KEPT]}. Rebuild them: dvc repro -f encode@{dataset}"
            )
        columns = _columns_of_groups(dataset, sample_indexes)
        tasks = list(_shard_tasks(artifact, sample_indexes, samples, columns, settings))
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
                "code": code_identity(deciding_modules("shards")),
                "settings": as_values(settings),
                "encoders": latents.facts["encoders"],
                "computed_with": latents.computed_with(),
                "columns": columns,
                "listings": {index.name: index.fingerprints for index in sample_indexes},
                "lineage": {"latents": latents.facts},
            },
            extra=_indexes(stored),
        )


def _folder(sample_index: StoredPartition) -> Path:
    """Return where the store has a partition's sample index."""
    return next(iter(sample_index.paths.values())).parent


def _index_tasks(artifact: InputArtifact) -> list[Task]:
    latents = artifact.manifest
    code = code_identity(deciding_modules("shard-list"))
    tasks = []
    for name, num_samples in latents.kept().items():
        digests = latents.digests(name, "")
        table, files = artifact.file(f"{name}.parquet"), _latents_files(artifact, name)
        tasks.append(
            Task(
                step="shard-list",
                name=name,
                cache_key={"code": code, "latents": digests},
                compute=partial(write_sample_index, table, name, dict(files)),
                num_samples=num_samples,
                inputs=(table, *(file for _, file in files)),
            )
        )
    return tasks


def _latents_files(artifact: InputArtifact, partition: str) -> LatentsFiles:
    """Return a partition's files of latents, with their names."""
    names = artifact.manifest.digests(partition, ".safetensors")
    return tuple((name, artifact.file(name)) for name in names)


def _columns_of_groups(dataset: str, sample_indexes: Sequence[StoredPartition]) -> dict[str, Columns]:
    """Return each group's columns, larger resolutions first; they must be the same in all partitions."""
    found: dict[str, Columns] = {}
    for index in sample_indexes:
        for group, columns in index.result.facts["columns"].items():
            if found.setdefault(group, columns) != columns:
                raise StepError(
                    f"shard {dataset}: partition {index.name} has {columns} at {group} px, others {found[group]}. "
                    f"Rebuild them: dvc repro -f encode@{dataset}"
                )
    return {group: found[group] for group in sorted(found, key=int, reverse=True)}


def _shard_tasks(
    artifact: InputArtifact,
    sample_indexes: Sequence[StoredPartition],
    samples: Samples,
    columns: Mapping[str, Columns],
    settings: ShardSettings,
) -> Iterator[Task]:
    """Yield a task per shard, group by group.

    A shard is named after the position of its first sample, a name that other shards' comings and goings do not change.
    What it is determined by is what its samples hold, not which partitions they come from: rebuilding a partition for
    one sample's sake writes again only the shards whose bytes change.
    """
    code = code_identity(deciding_modules("shard"))
    indexes = [_folder(index) for index in sample_indexes]
    latents = [_latents_files(artifact, index.name) for index in sample_indexes]
    compression = _COMPRESSION[settings.compression]
    pack = pack_shuffled if settings.order == "shuffled" else pack_in_order
    for group, group_columns in columns.items():
        members = np.flatnonzero(samples.groups == int(group))
        positions = hash_positions(samples.key_hashes[members], settings.seed)
        limit = settings.shard_bytes - empty_bytes(group_columns, compression)
        for packed in pack(positions, samples.sizes[members], limit):
            chosen = members[packed]
            name = f"{group}/shard.{int(positions[packed[0]]):016x}.mds"
            plan = _plan(indexes, latents, samples, chosen, group_columns, compression)
            yield Task(
                step="shard",
                name=name,
                cache_key={
                    "code": code,
                    "columns": group_columns,
                    "compression": compression,
                    "contents": digest_bytes(samples.digests[chosen].tobytes()),
                },
                compute=partial(write_shard, plan, name),
                num_samples=len(chosen),
                inputs=tuple(file for files in plan.latents for _, file in files),
                check=check_shard,
            )


def _plan(
    sample_indexes: Sequence[Path],
    latents: Sequence[LatentsFiles],
    samples: Samples,
    chosen: Indices,
    columns: Columns,
    compression: str | None,
) -> ShardPlan:
    """Return a shard's plan. It is sent to a worker, so it names only the partitions that its samples come from."""
    used, partitions = np.unique(samples.partitions[chosen], return_inverse=True)
    return ShardPlan(
        sample_indexes=[sample_indexes[number] for number in used],
        latents=[latents[number] for number in used],
        partitions=partitions.astype(np.uint32),
        rows=samples.rows[chosen],
        sizes=samples.sizes[chosen],
        columns=columns,
        compression=compression,
    )


def _indexes(stored: Sequence[StoredPartition]) -> dict[str, Any]:
    """Return the index files: one per group, and one over all groups."""
    groups: dict[str, list[ShardEntry]] = {}
    for item in stored:
        entry = ShardEntry.parse(item.result.facts["entry"])
        groups.setdefault(item.name.partition("/")[0], []).append(entry)
    every = [entry.in_folder(group) for group, entries in groups.items() for entry in entries]
    indexes = {INDEX_NAME: every, **{f"{group}/{INDEX_NAME}": entries for group, entries in groups.items()}}
    return {path: index_document(entries) for path, entries in indexes.items()}
