"""Put an artifact's partitions back into the store, after a pull or a `make clean-work`.

A step finds what it need not compute in the store only, and DVC removes a step's output before it runs. So on a
machine that pulled an artifact instead of computing it, a change of one partition would compute all of them.
"""

from collections.abc import Collection
from pathlib import Path

from microdiff.artifacts.kinds import KINDS
from microdiff.artifacts.manifest import Manifest, read_manifest
from microdiff.artifacts.mds_index import INDEX_NAME, ShardEntry, read_index
from microdiff.pipeline.store import Store
from microdiff.pipeline.store_record import StoreRecord
from microdiff.pipeline.workspace import Workspace


def restore_dataset(dataset: str, workspace: Workspace) -> int:
    """Put all of a dataset's artifacts that are there into the store; return how many partitions were not in it.

    Raises:
        SchemaError: An artifact is damaged.
    """
    store = workspace.store()
    with store.in_use():
        folders = [workspace.artifact(dataset, kind) for kind in KINDS if workspace.is_here(dataset, kind)]
        return sum(restore_to_store(read_manifest(folder), store) for folder in folders)


def restore_to_store(manifest: Manifest, store: Store, damaged: Collection[str] = ()) -> int:
    """Put an artifact's partitions into the store, by hard links; return how many were not in it.

    Args:
        manifest: The artifact.
        store: Where to.
        damaged: Files, by their path in the artifact, whose parts are left out.
    """
    entries = _entries(manifest.folder, damaged) if manifest.facts["step"] == "shard" else {}
    restored = 0
    for name, partition in manifest.partitions.items():
        for part in partition.parts:
            if any(file in damaged for file in part.files):
                continue
            if part.step == "shard" and name not in entries:
                continue
            facts = part.facts if name not in entries else {**part.facts, "entry": entries[name].to_json()}
            record = StoreRecord(name, part.counts, facts, {file: partition.files[file] for file in part.files})
            paths = {file: manifest.folder / file for file in part.files}
            restored += store.add(part.step, part.fingerprint, record, paths)
    return restored


def _entries(folder: Path, damaged: Collection[str]) -> dict[str, ShardEntry]:
    """Return the shards' entries by name, as their groups' index files have them; index.json may be damaged."""
    if INDEX_NAME not in damaged:
        return {entry.raw.name: entry.without_folder() for entry in read_index(folder / INDEX_NAME)}
    groups = {path.parent.name: path for path in sorted(folder.glob(f"*/{INDEX_NAME}"))}
    whole = {group: path for group, path in groups.items() if f"{group}/{INDEX_NAME}" not in damaged}
    return {entry.in_folder(group).raw.name: entry for group, path in whole.items() for entry in read_index(path)}
