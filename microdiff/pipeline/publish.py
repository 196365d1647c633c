"""Publish finished partitions as an artifact folder, whole and at once."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from microdiff.artifacts.manifest import FORMAT, PartitionRecord, PartRecord, write_manifest
from microdiff.core.files import canonical_json, digest_bytes, link_or_copy, replace_folder, sync_folders, write_json
from microdiff.core.ledger import Counts
from microdiff.pipeline.task import StoredPartition


def assemble(
    folder: Path,
    stored: Sequence[StoredPartition],
    source_records: int,
    counts: Counts,
    facts: Mapping[str, Any],
    extra: Mapping[str, Any],
) -> None:
    """Publish finished partitions as one artifact folder: their files by hard links, and the manifest.

    The folder appears whole, in place of whatever was there.

    Args:
        folder: The artifact folder.
        stored: Its partitions.
        source_records: As in `Manifest`.
        counts: As in `Manifest`.
        facts: As in `Manifest`.
        extra: JSON files to write beside them, by path.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    partitions = {}
    for item in sorted(stored, key=lambda item: item.name):
        for name, path in item.paths.items():
            target = partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, target)
        parts = tuple(_part(part) for part in item.parts)
        partitions[item.name] = PartitionRecord(item.fingerprints, item.counts, item.files, parts).to_json()
    for name, value in extra.items():
        write_json(partial / name, value)
    write_manifest(
        partial,
        {
            **facts,
            "format": FORMAT,
            "source_records": source_records,
            "counts": counts,
            "partitions": partitions,
            "extra": {name: digest_bytes(canonical_json(value).encode()) for name, value in sorted(extra.items())},
        },
    )
    sync_folders(partial)
    replace_folder(partial, folder)


def _part(part: StoredPartition) -> PartRecord:
    """Return what makes a folder of the store out of a partition's files again, see `microdiff.pipeline.restore`."""
    facts = {name: value for name, value in part.result.facts.items() if name != "entry"}  # that is in index.json
    files = tuple(sorted(part.files))
    return PartRecord(part.step, part.fingerprints[0], part.counts, facts, files, part.computed_with)
