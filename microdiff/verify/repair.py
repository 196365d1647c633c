"""Rebuild what is damaged, and all that was made of it.

Where hard links work, the store, DVC's cache and the artifact hold one file under three names: a byte that changed has
changed in all of them. So the damaged copies are taken out of the store and the cache first; what is whole and not in
the store is put there; then the step runs again, finds all other partitions, and computes those that are gone.

When a byte changed, nobody knows. A step that reads it after that refuses it; but what an earlier version of the code
made of it may be wrong, and is recorded as right. So what was made of a damaged file directly is computed again, not
fetched from anywhere; where it comes out as it was, nothing after it has to be.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from microdiff.artifacts.kinds import KINDS
from microdiff.artifacts.manifest import Manifest, is_whole, parse_manifest
from microdiff.core.files import digest_file
from microdiff.errors import SchemaError, StepError
from microdiff.pipeline.params import load_params
from microdiff.pipeline.recorded import recorded_versions
from microdiff.pipeline.restore import restore_to_store
from microdiff.pipeline.store import RECORDED, Store
from microdiff.pipeline.upstream import recompute, step_function
from microdiff.pipeline.workspace import Workspace
from microdiff.remote.dvc_command import has_remote, is_dvc_repository, run_dvc
from microdiff.remote.dvc_record import DvcRecord, dvc_record
from microdiff.verify.dataset import Verification

log = logging.getLogger("microdiff")


def repair(found: Verification, params: Path, workspace: Workspace) -> None:
    """Rebuild a dataset's damaged and wrong files, artifact by artifact in the pipeline's order.

    Args:
        found: What verification gave.
        params: The settings file.
        workspace: Where the dataset is.

    Raises:
        StepError: An artifact could not be rebuilt.
        MicrodiffError: As the step that runs again.
    """
    suspects: dict[str, set[str]] = {kind: set(found.wrong.get(kind, ())) for kind in KINDS}
    for kind, step in KINDS.items():
        damaged, wrong = found.damaged.get(kind, set()), suspects[kind]
        if not damaged and not wrong:
            continue
        log.info("repair %s of data/%s/%s", ", ".join(sorted(damaged | wrong)), found.dataset, kind)
        folder = workspace.artifact(found.dataset, kind)
        before = {name: digest for name in wrong - damaged if (digest := _digest(folder / name))}
        record = dvc_record(workspace.root, found.dataset, kind)
        _clear(found.dataset, kind, damaged, wrong, record, workspace)
        if wrong:
            anew = replace(workspace, finds_elsewhere=False)
            recompute(step, found.dataset, load_params(params, found.dataset), anew)
        _publish(found.dataset, kind, params, record, workspace, may_pull=not wrong)
        changed = damaged | {name for name in wrong if before.get(name) != _digest(folder / name)}
        for other, names in _made_of(changed, kind, found.dataset, workspace):
            suspects[other] |= names


def _publish(
    dataset: str, kind: str, params: Path, record: DvcRecord | None, workspace: Workspace, *, may_pull: bool
) -> None:
    """Have the artifact made of what the store has, or pulled."""
    node = f"{KINDS[kind]}@{dataset}"
    if record is None or not is_dvc_repository(workspace.root):
        step_function(KINDS[kind])(dataset, load_params(params, dataset), workspace)
    elif may_pull and has_remote(workspace.root) and run_dvc(workspace.root, "pull", "--force", node) is None:
        return
    elif (said := run_dvc(workspace.root, "repro", "--force", "--single-item", node)) is not None:
        raise StepError(f"dvc repro -f -s {node} failed: {said}")


def _made_of(names: Iterable[str], kind: str, dataset: str, workspace: Workspace) -> Iterator[tuple[str, set[str]]]:
    """Yield the files that are made directly of others, by artifact, of artifacts that are here.

    Shards draw from all partitions; which of them hold samples of one is quicker decided by making them again.
    """
    after = {"raw": ("captions", "latents"), "captions": ("latents",), "latents": ("shards",), "shards": ()}
    for other in after[kind] if names else ():
        if not workspace.is_here(dataset, other):
            continue
        try:
            files = list(parse_manifest(workspace.artifact(dataset, other)).files)
        except SchemaError:  # it is damaged itself; its turn comes, and what it is rebuilt of is mended by then
            continue
        yield other, {file for file in files for name in names if _is_made_of(other, file, kind, name)}


def _is_made_of(other: str, file: str, kind: str, name: str) -> bool:
    if other == "shards":
        return True
    partition, _, form = name.partition(".")
    if file.partition(".")[0] != partition:
        return False
    is_image = file.endswith(".image.safetensors")
    if kind == "raw":
        return is_image if form == "tar" else other == "captions"
    return not is_image  # captions give texts, and the table that joins them


def _clear(
    dataset: str, kind: str, damaged: set[str], wrong: set[str], record: DvcRecord | None, workspace: Workspace
) -> None:
    """Drop the copies of damaged and of wrong files, and put the whole partitions into the store."""
    folder, store, names = workspace.artifact(dataset, kind), workspace.store(), damaged | wrong
    store.drop_files(damaged)
    try:
        if is_whole(folder):
            manifest = parse_manifest(folder)
            restore_to_store(manifest, store, names)
            _remove_parts(store, [manifest, *_recorded(dataset, kind, workspace, store)], wrong)
    except (SchemaError, FileNotFoundError):
        log.info("%s: its manifest is damaged; partitions are looked for in the store only", folder)
    if record is not None:
        record.drop_damaged(damaged)
        record.drop(wrong)
    for name in names:  # DVC would take a file whose time has not changed, as when a disk loses a bit, for its own
        (folder / name).unlink(missing_ok=True)


def _recorded(dataset: str, kind: str, workspace: Workspace, store: Store) -> Iterator[Manifest]:
    project = workspace.dvc(store.root)
    if project is not None:
        for parts in recorded_versions(project, f"data/{dataset}/{kind}", store.root / RECORDED):
            yield parts.manifest


def _remove_parts(store: Store, manifests: Iterable[Manifest], names: set[str]) -> None:
    """Take those results out of the store that hold a file of one of these names."""
    parts = (part for manifest in manifests for each in manifest.partitions.values() for part in each.parts)
    store.remove((part.step, part.fingerprint) for part in parts if names.intersection(part.files))


def _digest(path: Path) -> str | None:
    return digest_file(path) if path.is_file() else None
