"""Put an artifact's partitions back into the store, after a pull or a `make clean-work`."""

from collections.abc import Collection

from microdiff.artifacts.kinds import KINDS
from microdiff.artifacts.manifest import Manifest, read_manifest
from microdiff.pipeline.recorded import parts_of_folder
from microdiff.pipeline.store import Store
from microdiff.pipeline.workspace import Workspace


def restore_dataset(dataset: str, workspace: Workspace) -> int:
    """Put all of a dataset's artifacts that are here into the store; return how many partitions were not in it.

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

    Raises:
        DamagedError: Another file is damaged.
    """
    restored = 0
    for step, fingerprint, offer in parts_of_folder(manifest, frozenset(damaged)).every():
        if not any(file in damaged for file in offer.record.files):
            restored += store.add(step, fingerprint, offer)
    return restored
