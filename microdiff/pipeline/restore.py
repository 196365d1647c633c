"""Put an artifact's partitions back into the store, after a pull or a `make clean-work`.

A step finds what it need not compute in the store only, and DVC removes a step's output before it runs. So on a
machine that pulled an artifact instead of computing it, a change of one partition would compute all of them.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from microdiff.artifacts.kinds import KINDS
from microdiff.artifacts.manifest import Manifest, read_manifest
from microdiff.artifacts.mds import INDEX_NAME, read_index
from microdiff.pipeline.store import Store
from microdiff.pipeline.workspace import Workspace


def adopt_dataset(dataset: str, workspace: Workspace) -> int:
    """Put all of a dataset's artifacts that are there into the store; return how many partitions were not in it.

    Raises:
        SchemaError: An artifact is damaged.
    """
    store = workspace.store()
    with store.in_use():
        folders = [workspace.artifact(dataset, kind) for kind in KINDS]
        return sum(adopt(read_manifest(folder), store) for folder in folders if folder.is_dir())


def adopt(manifest: Manifest, store: Store, damaged: Collection[str] = ()) -> int:
    """Put an artifact's partitions into the store, by hard links; return how many were not in it.

    Args:
        manifest: The artifact.
        store: Where to.
        damaged: Files, by their path in the artifact, whose parts are left out.
    """
    entries = _entries(manifest.folder, damaged) if manifest.facts["step"] == "shard" else {}
    adopted = 0
    for name, partition in manifest.partitions.items():
        for part in partition.get("parts", ()):
            if any(file in damaged for file in part["files"]):
                continue
            if part["step"] == "shard" and name not in entries:
                continue
            facts = part["facts"] if name not in entries else {**part["facts"], "entry": entries[name]}
            record = {
                "name": name,
                "counts": part["counts"],
                "facts": facts,
                "files": {file: partition["files"][file] for file in part["files"]},
            }
            paths = {file: manifest.folder / file for file in part["files"]}
            adopted += store.adopt(part["step"], part["fingerprint"], record, paths)
    return adopted


def _entries(folder: Path, damaged: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the shards' entries by name, as their groups' index files have them; index.json may be damaged."""
    if INDEX_NAME not in damaged:
        return {entry["raw_data"]["basename"]: _in_group(entry) for entry in read_index(folder / INDEX_NAME)}
    groups = {path.parent.name: path for path in sorted(folder.glob(f"*/{INDEX_NAME}"))}
    whole = {group: path for group, path in groups.items() if f"{group}/{INDEX_NAME}" not in damaged}
    listed = [(group, entry) for group, path in whole.items() for entry in read_index(path)]
    return {f"{group}/{entry['raw_data']['basename']}": entry for group, entry in listed}


def _in_group(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of the index over all groups as the group's own index has it."""
    files = {name: entry[name] for name in ("raw_data", "zip_data") if entry.get(name)}
    named = {name: {**facts, "basename": facts["basename"].rpartition("/")[2]} for name, facts in files.items()}
    return {**entry, **named}
