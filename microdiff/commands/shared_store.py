"""What is done with the shared store besides computing: bringing manifests here, and cleaning it."""

import re
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microdiff.artifacts.kinds import KINDS
from microdiff.artifacts.manifest import MANIFEST, PartitionRecord, parse_manifest_text
from microdiff.core.files import write_text
from microdiff.errors import ParamsError, SchemaError, StepError
from microdiff.pipeline.recorded import recorded_versions
from microdiff.pipeline.shared_store import MANIFESTS, VARIABLE, SharedStore, open_shared_store
from microdiff.pipeline.store import RECORDED
from microdiff.pipeline.store_record import RECORD
from microdiff.pipeline.workspace import Workspace
from microdiff.remote.dvc_artifacts import every_lock
from microdiff.remote.dvc_lock import parse_dependencies
from microdiff.storage.writable import StoredFile

_UNITS_S = {"h": 3600, "d": 86_400, "w": 7 * 86_400}
_AGE = re.compile(r"(\d+)([hdw])")
_ARTIFACT = re.compile(rf"data/([^/]+)/({'|'.join(KINDS)})/{re.escape(MANIFEST)}")
_ENTRY = re.compile(r"([a-z][a-z0-9_-]*)/([0-9a-f]{32})/(.+)")


@dataclass(frozen=True)
class Restored:
    """Manifests of one dataset.

    Attributes:
        placed: Artifacts whose manifest was put in place.
        absent: Those whose manifest the shared store does not have.
    """

    placed: tuple[str, ...]
    absent: tuple[str, ...]


def restore_manifests(datasets: list[str], workspace: Workspace, *, known_only: bool = False) -> dict[str, Restored]:
    """Put the manifests that dvc.lock records where they belong, of artifacts that are not here.

    By them DVC tells that nothing has to run, and a step that has to run knows what to fetch from the store.

    Args:
        datasets: Names; none means all that dvc.lock names.
        workspace: Where to.
        known_only: Whether to leave out those that dvc.lock does not name.

    Raises:
        ParamsError: There is no shared store, or dvc.lock names no such dataset.
        SourceError: The store cannot be read.
    """
    store = _opened(workspace)
    lock = workspace.root / "dvc.lock"
    recorded = _manifests_in(lock.read_bytes()) if lock.is_file() else {}
    known = sorted({dataset for dataset, _ in recorded})
    unknown = [name for name in datasets if name not in known]
    if unknown and not known_only:
        raise ParamsError(f"{lock}: nothing is recorded of {', '.join(unknown)}; it knows {', '.join(known) or 'none'}")
    found = {}
    for dataset in [name for name in datasets or known if name in known]:
        placed, absent = [], []
        for kind in KINDS:
            folder, md5 = workspace.artifact(dataset, kind), recorded.get((dataset, kind))
            if md5 is None or folder.exists():
                continue
            data = store.manifest(md5)
            if data is None:
                absent.append(kind)
                continue
            folder.mkdir(parents=True)
            write_text(folder / MANIFEST, data.decode())
            placed.append(kind)
        found[dataset] = Restored(tuple(placed), tuple(absent))
    return found


def parse_age(text: str) -> float:
    """Return an age in seconds, written such as `12h`, `30d` or `4w`.

    Raises:
        ParamsError: It is none.
    """
    if (match := _AGE.fullmatch(text)) is None:
        raise ParamsError(f"--older-than: expected a number of hours, days or weeks such as 30d, got {text!r}")
    return int(match[1]) * float(_UNITS_S[match[2]])


def clean_store(age_s: float, workspace: Workspace, *, dry_run: bool = False) -> tuple[int, int, int]:
    """Remove old partitions and manifests from the shared store, never those that a dvc.lock of this project refers to.

    Whatever dvc.lock says in the workspace and in any commit of any branch counts. A partition is as old as the
    youngest of its files; `partition.json` goes first, so that nothing half removed is taken for whole.

    Args:
        age_s: How old what is removed must at least be, in seconds.
        workspace: The project.
        dry_run: Whether to remove nothing.

    Returns:
        How many partitions and manifests were removed, their bytes, and how many old ones were kept because they are
        referred to.

    Raises:
        ParamsError: There is no shared store, or it may not be written to.
        StepError: It cannot be told what the current dvc.lock refers to.
    """
    store = _opened(workspace)
    if not store.may_write:
        raise ParamsError(f"{store.name}: it may not be written to.")
    keep = _referred(store, workspace)
    groups: dict[str, list[StoredFile]] = defaultdict(list)
    for file in store.storage.walk(""):
        if (entry := _ENTRY.fullmatch(file.path)) is not None:
            groups[f"{entry[1]}/{entry[2]}"].append(file)
        elif file.path.startswith(f"{MANIFESTS}/"):
            groups[file.path].append(file)
    removed = num_bytes = kept = 0
    limit = time.time() - age_s
    for name, files in sorted(groups.items()):
        if max(file.modified for file in files) > limit:
            continue
        if name.rpartition("/")[2].removesuffix(".json") in keep:
            kept += 1
            continue
        removed += 1
        num_bytes += sum(file.num_bytes for file in files)
        for file in sorted(files, key=lambda file: not file.path.endswith(f"/{RECORD}")):
            if not dry_run:
                store.storage.remove(file.path)
    return removed, num_bytes, kept


def _opened(workspace: Workspace) -> SharedStore:
    store = open_shared_store(workspace.store().root, workspace.root / "data")
    if store is None:
        raise ParamsError(f"{VARIABLE} names no shared store: a folder, s3://BUCKET/PREFIX, or another URL.")
    return store


def _manifests_in(lock: bytes) -> dict[tuple[str, str], str]:
    """Return the MD5 of each artifact's manifest by dataset and kind, as a dvc.lock has them."""
    try:
        found = {path: (match, md5) for path, md5 in parse_dependencies(lock) if (match := _ARTIFACT.fullmatch(path))}
    except ValueError as error:
        raise SchemaError(f"dvc.lock: damaged ({error})") from None
    return {(match[1], match[2]): md5 for match, md5 in found.values()}


def _referred(store: SharedStore, workspace: Workspace) -> set[str]:
    """Return the fingerprints, and the MD5s of manifests, that any dvc.lock of the project refers to."""
    locks = every_lock(workspace.root)
    if not locks:
        raise StepError(f"{workspace.root}: no dvc.lock here, so it cannot be told what is still needed.")
    current, *earlier = [_manifests_in(lock) for lock in locks]
    md5s = {md5 for lock in (current, *earlier) for md5 in lock.values()}
    keep = set(md5s)
    read: set[str] = set()
    for file in store.storage.walk(MANIFESTS):
        md5 = file.path.rpartition("/")[2].removesuffix(".json")
        data = store.manifest(md5)
        if data is None:
            continue
        manifest = parse_manifest_text(data, Path(file.path))
        sources = set(manifest.facts.get("made_from", {}).values())
        # No step depends on shards, so dvc.lock does not name their manifest: those are kept that are made from what
        # it names.
        if md5 in md5s or (manifest.facts.get("step") == "shard" and sources & md5s):
            keep |= {md5, *_fingerprints(manifest.partitions, manifest.facts)}
            read.add(md5)
    project = workspace.dvc(workspace.store().root)
    if project is not None:
        for dataset, kind in sorted({pair for lock in (current, *earlier) for pair in lock}):
            for parts in recorded_versions(project, f"data/{dataset}/{kind}", workspace.store().root / RECORDED):
                keep |= _fingerprints(parts.manifest.partitions, parts.manifest.facts)
                read.add(parts.manifest_md5)
    if lacking := sorted(f"{dataset}/{kind}" for (dataset, kind), md5 in current.items() if md5 not in read):
        raise StepError(
            f"{store.name}: the manifests of {', '.join(lacking)}, to which dvc.lock refers, are neither there nor in "
            "DVC's cache or remote, so it cannot be told what is still needed. Run the steps once: make all"
        )
    return keep


def _fingerprints(partitions: Mapping[str, PartitionRecord], facts: Mapping[str, Any]) -> set[str]:
    own = {name for partition in partitions.values() for name in partition.fingerprints}
    return own | {name for names in facts.get("listings", {}).values() for name in names}
