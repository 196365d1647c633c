"""Leave only a dataset's shards on this disk: what they were made from is on the remote, and comes back as needed."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from microdiff.artifacts.kinds import KINDS
from microdiff.artifacts.manifest import MANIFEST, parse_manifest
from microdiff.errors import ParamsError, StepError
from microdiff.pipeline.store import INPUTS
from microdiff.pipeline.workspace import Workspace
from microdiff.remote.dvc_artifacts import DvcArtifacts, TrackedVersion

_THREADS = 16
_SHOWN = 3


@dataclass(frozen=True)
class Slimmed:
    """What was removed.

    Attributes:
        kinds: Artifacts of which only the manifest is left.
        num_bytes: What that freed.
    """

    kinds: tuple[str, ...]
    num_bytes: int


def slim(dataset: str, workspace: Workspace, *, force: bool = False) -> Slimmed:
    """Remove a dataset's raw, captions and latents artifacts from the workspace, DVC's cache and the store.

    Their manifests stay: by them DVC tells that nothing has to run, and steps know what to fetch.

    Args:
        dataset: Its name.
        workspace: Where it is.
        force: Whether to remove what is not on the remote: it can then only be computed again.

    Raises:
        ParamsError: There are no shards here, or DVC tracks nothing here.
        StepError: Files are not on the remote, or a step is running.
    """
    if not workspace.is_here(dataset, "shards"):
        here = sorted(path.parent.name for path in workspace.root.glob("data/*/shards"))
        raise ParamsError(
            f"data/{dataset}/shards: not here; there are those of {', '.join(here) or 'no dataset'}. "
            "Build a dataset's shards first: make NAME"
        )
    store = workspace.store()
    project = workspace.dvc(store.root)
    if project is None:
        raise ParamsError(f"{workspace.root}: not a DVC project, so nothing here is on a remote.")
    kinds = [kind for kind in KINDS if kind != "shards" and workspace.artifact(dataset, kind).is_dir()]
    versions = {kind: _version(project, dataset, kind) for kind in kinds}
    for kind, version in versions.items():
        if not force:
            _check_remote(f"data/{dataset}/{kind}", version, project)
    before = _disk_bytes(workspace, project)
    for kind, version in versions.items():
        folder = workspace.artifact(dataset, kind)
        for path in [path for path in folder.iterdir() if path.name != MANIFEST]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if version is not None:
            project.drop_cached(version)
    shutil.rmtree(store.root / INPUTS, ignore_errors=True)
    for kind in kinds:
        partitions = parse_manifest(workspace.artifact(dataset, kind)).partitions.values()
        store.remove((part.step, part.fingerprint) for each in partitions for part in each.parts)
    return Slimmed(tuple(kinds), before - _disk_bytes(workspace, project))


def _version(project: DvcArtifacts, dataset: str, kind: str) -> TrackedVersion | None:
    return next(project.versions(f"data/{dataset}/{kind}"), None)


def _check_remote(path: str, version: TrackedVersion | None, project: DvcArtifacts) -> None:
    """Check that the remote has every file of an artifact.

    Raises:
        StepError: It has not.
    """
    if version is None:
        raise StepError(f"{path}: DVC has not recorded it. Build it with make first, or remove it anyway: --force")
    with ThreadPoolExecutor(_THREADS) as pool:
        there = list(pool.map(project.is_on_remote, version.objects))
    absent = [name for name, found in zip(version.objects.values(), there, strict=True) if not found]
    if absent:
        named = ", ".join(absent[:_SHOWN])
        raise StepError(
            f"{path}: {len(absent)} files are not on the remote ({named}). Send them: make push. "
            "Or remove them anyway, to be computed again when they are needed: python -m stages.slim --force"
        )


def _disk_bytes(workspace: Workspace, project: DvcArtifacts) -> int:
    """Return the bytes that data, cache and store take, a file with several names counted once."""
    seen: dict[tuple[int, int], int] = {}
    for path in _files(workspace.root / "data", workspace.store().root, project.cache):
        stat = path.lstat()
        seen[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(seen.values())


def _files(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        for parent, _, names in os.walk(folder):
            yield from (Path(parent, name) for name in names)
