"""Rebuild what is damaged, and only that.

Where hard links work, the store, DVC's cache and the artifact hold one file under three names: a byte that changed has
changed in all of them. So the damaged copies are taken out of the store and the cache first; what is whole and not in
the store is put there; then the step runs again, finds all other partitions, and computes those that are gone.
"""

import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from microdiff.artifacts.kinds import KINDS
from microdiff.artifacts.manifest import is_whole, parse_manifest
from microdiff.errors import SchemaError, StepError
from microdiff.pipeline.params import load_params
from microdiff.pipeline.restore import adopt
from microdiff.pipeline.workspace import Workspace
from microdiff.remote.dvc_lock import DvcRecord, dvc_record
from microdiff.verify.dataset import Verification

log = logging.getLogger("microdiff")
_SAID = 400


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
        if record is None or not (workspace.root / ".dvc").is_dir():
            _step(KINDS[kind])(found.dataset, load_params(params), workspace)
        elif _has_remote(workspace.root) and _dvc(workspace.root, "pull", "--force", node) is None:
            continue
        elif (said := _dvc(workspace.root, "repro", "--force", "--single-item", node)) is not None:
            raise StepError(f"dvc repro -f -s {node} failed: {said}")


def _clear(folder: Path, names: set[str], record: DvcRecord | None, workspace: Workspace) -> None:
    """Drop the damaged copies, and put the whole partitions into the store."""
    store = workspace.store()
    store.drop_damaged(names)
    try:
        if is_whole(folder):
            adopt(parse_manifest(folder), store, names)
    except (SchemaError, FileNotFoundError):
        log.info("%s: its manifest is damaged; partitions are looked for in the store only", folder)
    if record is not None:
        record.drop_damaged(names)
    for name in names:  # DVC would take a file whose time has not changed, as when a disk loses a bit, for its own
        (folder / name).unlink(missing_ok=True)


def _step(step: str) -> Callable[..., object]:
    function: Callable[..., object] = getattr(importlib.import_module(f"microdiff.{step}.step"), step)
    return function


def _has_remote(root: Path) -> bool:
    return _dvc(root, "config", "core.remote") is None


def _dvc(root: Path, *arguments: str) -> str | None:
    """Run DVC; return what it said if it failed."""
    place = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(  # noqa: S603 - our own program, and names of our own datasets
        command, cwd=root, env={**os.environ, "PATH": place}, capture_output=True, text=True, check=False
    )
    return None if done.returncode == 0 else (done.stderr.strip() or done.stdout.strip())[-_SAID:]
