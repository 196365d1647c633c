"""The shard step: latents become MDS shards, each shard a unit of its own.

Samples that also have latents of the larger resolution form a group of their own, so that one copy serves both
training resolutions: `index.json` lists all samples, `512/index.json` those with 512 pixels, `256/` holds the rest.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from microdiff.code import code_digest
from microdiff.errors import StepError
from microdiff.latents import LatentsFile
from microdiff.ledger import KEPT, Counts
from microdiff.manifest import Manifest, read_manifest
from microdiff.mds import index_document, nest_entry
from microdiff.params import Params, as_values
from microdiff.publish import digest_json
from microdiff.rows import read_kept
from microdiff.settings import ShardSettings
from microdiff.shards import CAPTION_LATENTS, Row, columns_of, row_bytes, write_rows
from microdiff.step import Run, Workspace
from microdiff.store import Stored, Unit

_HEADER_BYTES = 4096  # room for a shard's own header


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
        latents = read_manifest(workspace.artifact(dataset, "latents"))
        rows, columns = _read_groups(latents)
        planned = sum(len(group) for group in rows.values())
        if planned != latents.counts[KEPT]:
            raise StepError(
                f"shard {dataset}: {planned} samples have latents, but the encode step kept {latents.counts[KEPT]}. "
                f"Rebuild them: dvc repro -f encode@{dataset}"
            )
        code = code_digest(["microdiff.shards"])
        inputs = {name: latents.digests(name, "") for name in latents.partitions}
        units, expected = [], {}
        for group, group_rows in rows.items():
            for number, shard_rows in enumerate(_pack(_order(group_rows, settings), columns[group], settings)):
                name = f"{group}/shard.{number:05d}.mds"
                contents = digest_json([[row.partition, row.key] for row in shard_rows])
                used = {row.partition for row in shard_rows}
                unit = Unit(
                    step="shard",
                    name=name,
                    determined_by={
                        "code": code,
                        "columns": columns[group],
                        "contents": contents,
                        "latents": {partition: inputs[partition] for partition in sorted(used)},
                    },
                    compute=partial(write_rows, latents.folder, shard_rows, columns[group], name),
                    num_samples=len(shard_rows),
                )
                units.append(unit)
                expected[name] = len(shard_rows)
        stored = run.compute(units)
        return run.publish(
            workspace.artifact(dataset, "shards"),
            stored,
            expected_in=expected,
            source_records=latents.source_records,
            withdrawn=latents.withdrawn,
            max_rejected_share=entry.max_rejected_share,
            facts={
                "step": "shard",
                "dataset": dataset,
                "code": code,
                "settings": as_values(settings),
                "encoders": latents.facts["encoders"],
                "columns": columns,
                "lineage": {"latents": latents.facts},
            },
            extra=_indexes(stored),
        )


def _read_groups(latents: Manifest) -> tuple[dict[str, list[Row]], dict[str, dict[str, str]]]:
    """Return each group's samples in source order, and its columns.

    Groups are named after their samples' largest resolution, larger ones first.
    """
    rows: dict[str, list[Row]] = {}
    columns: dict[str, dict[str, str]] = {}
    for name in latents.partitions:
        text = LatentsFile(latents.folder / f"{name}.text.safetensors")
        image = LatentsFile(latents.folder / f"{name}.image.safetensors")
        text_rows = {key: row for row, key in enumerate(text.keys(CAPTION_LATENTS))}
        image_rows = {tensor: {key: row for row, key in enumerate(image.keys(tensor))} for tensor in image.names}
        for sample in read_kept(latents.folder / f"{name}.parquet", ["key", "caption", "image_key", "width", "height"]):
            key = sample["key"]
            image_key = sample["image_key"]
            found = {tensor: where[image_key] for tensor, where in image_rows.items() if image_key in where}
            group = str(max(int(tensor.removeprefix("latents_")) for tensor in found))
            place = (name, text_rows[key], found)
            rows.setdefault(group, []).append(Row(key, sample["caption"], sample["width"], sample["height"], *place))
            columns.setdefault(group, columns_of(text, image, list(found)))
    order = sorted(rows, key=int, reverse=True)
    return {group: rows[group] for group in order}, {group: columns[group] for group in order}


def _order(rows: Sequence[Row], settings: ShardSettings) -> list[Row]:
    """Return rows in source order, or mixed across partitions in an order that (seed, key) alone decide."""
    if settings.order == "source":
        return list(rows)
    return sorted(rows, key=lambda row: digest_json([settings.seed, row.key]))


def _pack(rows: Sequence[Row], columns: dict[str, str], settings: ShardSettings) -> Iterator[list[Row]]:
    """Cut rows into runs that fit into a shard file; each holds at least one row."""
    run: list[Row] = []
    size = _HEADER_BYTES
    for row in rows:
        row_size = row_bytes(columns, row)
        if run and size + row_size > settings.shard_bytes:
            yield run
            run, size = [], _HEADER_BYTES
        run.append(row)
        size += row_size
    if run:
        yield run


def _indexes(stored: Sequence[Stored]) -> dict[str, Any]:
    """Return the index files: one per group, and one over all groups."""
    groups: dict[str, list[Any]] = {}
    for item in stored:
        groups.setdefault(item.name.partition("/")[0], []).append(item.result.facts["entry"])
    every = [nest_entry(entry, group) for group, entries in groups.items() for entry in entries]
    listed = {"index.json": every, **{f"{group}/index.json": entries for group, entries in groups.items()}}
    return {path: index_document(entries) for path, entries in listed.items()}
