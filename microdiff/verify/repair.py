"""Rebuild what is damaged, and only that.

Where hard links work, the store, DVC's cache and the artifact hold one file under three names: a byte that changed has
changed in all of them. So the damaged copies are taken out of the store and the cache first; what is whole and not in
the store is put there; then the step runs again, finds all other partitions, and computes those that are gone.
"""

import importlib
import logging
from collections.abc import Callable
from pathlib import Path

from microdiff.artifacts.kinds import KINDS
from microdiff.artifacts.manifest import is_whole, parse_manifest
from microdiff.errors import SchemaError, StepError
from microdiff.pipeline.params import load_params
from microdiff.pipeline.restore import restore_to_store
from microdiff.pipeline.workspace import Workspace
from microdiff.remote.dvc_command import has_remote, is_dvc_repository, run_dvc
from microdiff.remote.dvc_record import DvcRecord, dvc_record
from microdiff.verify.dataset import Verification

log = logging.getLogger("microdiff")


def repair(found: Verification, params: Path, workspace: Workspace) -> None:
    """Rebuild a dataset's damaged files, artifact by artifact in the pipeline's order.

    Args:
        found: What verification gave.
        params: The settings file, for steps that DVC does not track here.
        workspace: Where the dataset is.

    Raises:
        StepError: An artifact could not be rebuilt.
        MicrodiffError: As the step that runs again.
    """
    for kind, names in sorted(found.damaged.items(), key=lambda item: list(KINDS).index(item[0])):
        record = dvc_record(workspace.root, found.dataset, kind)
        folder = workspace.artifact(found.dataset, kind)
        log.info("repair %s of data/%s/%s", ", ".join(sorted(names)), found.dataset, kind)
        _clear(folder, names, record, workspace)
        node = f"{KINDS[kind]}@{found.dataset}"
        if record is None or not is_dvc_repository(workspace.root):
            _step(KINDS[kind])(found.dataset, load_params(params, found.dataset), workspace)
        elif has_remote(workspace.root) and run_dvc(workspace.root, "pull", "--force", node) is None:
            continue
        elif (said := run_dvc(workspace.root, "repro", "--force", "--single-item", node)) is not None:
            raise StepError(f"dvc repro -f -s {node} failed: {said}")


def _clear(folder: Path, names: set[str], record: DvcRecord | None, workspace: Workspace) -> None:
    """Drop the damaged copies, and put the whole partitions into the store."""
    store = workspace.store()
    store.drop_files(names)
    try:
        if is_whole(folder):
            restore_to_store(parse_manifest(folder), store, names)
    except (SchemaError, FileNotFoundError):
        log.info("%s: its manifest is damaged; partitions are looked for in the store only", folder)
    if record is not None:
        record.drop_damaged(names)
    for name in names:  # DVC would take a file whose time has not changed, as when a disk loses a bit, for its own
        (folder / name).unlink(missing_ok=True)


def _step(step: str) -> Callable[..., object]:
    function: Callable[..., object] = getattr(importlib.import_module(f"microdiff.{step}.step"), step)
    return function
