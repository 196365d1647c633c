"""What `make coco` does: look before DVC leaps, wait for one's turn, and leave no output missing unsaid.

Where there is a DVC remote, what it has is pulled instead of computed, and what is current is left alone even if what
it was made from is not here (`--allow-missing`). That hides whatever is missing, so it is asked for where all that is
missing can be had from the remote or DVC's cache; a node whose output is nowhere runs. Without a remote it is never
asked for: DVC then runs the nodes whose outputs are gone, and they find their partitions in the store. With a shared
store the manifests of what is not here are put in place first, and stand for it.
"""

import fcntl
import hashlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from microdiff.artifacts.kinds import KINDS
from microdiff.artifacts.manifest import MANIFEST, parse_manifest
from microdiff.commands.check import check_lock, check_params
from microdiff.commands.code_digests import FOLDER, stale_code_files
from microdiff.commands.damage import drop_damaged
from microdiff.commands.own import complete_entries, place_withdrawn, source_changed
from microdiff.commands.shared_store import restore_manifests
from microdiff.core.files import md5_of, try_lock, whole_file
from microdiff.core.places import check_writable
from microdiff.errors import SchemaError, SourceError, StepError
from microdiff.pipeline.shared_store import VARIABLE
from microdiff.pipeline.workspace import Workspace
from microdiff.remote.dvc_command import dvc_environment
from microdiff.remote.dvc_lock_copy import OWN, in_head, keep_copy
from microdiff.remote.dvc_presence import (
    Origin,
    absent_artifacts,
    absent_metrics,
    default_remote,
    is_alive,
    others_at_work,
)

log = logging.getLogger("microdiff")

_OTHERS_WRITE_CODE_S = 60.0
_BETWEEN_NODES_S = 3.0
_POLL_S = 0.2


def build(dataset: str, root: Path = Path()) -> None:
    """Build a dataset's shards, or fetch them.

    Args:
        dataset: Its name.
        root: The repository, which is the working directory.

    Raises:
        ParamsError: Its settings are wrong; nothing was touched.
        SchemaError: dvc.lock cannot be put right.
        StepError: DVC failed, and has said why.
    """
    with _turn(root, dataset):
        check_lock(root)
        complete_entries(root, [dataset])
        check_params(root, [dataset])
        place_withdrawn(root, [dataset])
        refresh_code(root)
        try:
            _build(dataset, root)
        finally:
            keep_copy(root)


def refresh_code(root: Path = Path()) -> None:
    """Write which code each step runs, by DVC's node `code`, where an edit made that stale.

    Raises:
        StepError: It could not be written.
        WriteError: Its folder cannot be.
    """
    with _turn(root, FOLDER):
        check_lock(root)
        check_writable(root / FOLDER)
        if not stale_code_files(root) or _dvc(root, "repro", "--quiet", "--force", "--single-item", "code") == 0:
            return
        if stale := stale_code_files(root, _OTHERS_WRITE_CODE_S):  # a bare `dvc repro` may be writing them
            raise StepError(f"{FOLDER}/ is not current: {', '.join(stale)}. Run make code")


def _build(dataset: str, root: Path) -> None:
    drop_damaged(root, dataset, root / OWN)
    remote = default_remote(root)
    if changed := _changed_sets(dataset, root):
        log.info("%s: changed since the captions of %s were made: making them again", ", ".join(changed), dataset)
        _repro(root, dataset, ["clean"], "--force", *(() if remote is None else ("--pull", "--allow-missing")))
    if source_changed(root, dataset):
        _repro(root, dataset, ["download"], "--force")
    absent = absent_artifacts(root, dataset)
    metrics = _without_restored(absent_metrics(root, dataset), dataset, root)
    if remote is None:
        stated = _stated(dataset, root)
        absent = [kind for kind in absent if kind not in stated]
        _say(absent, metrics, dataset, "making it again; partitions that are finished are found")
        to_run = {KINDS[kind] for kind in absent} | set(metrics)
        for steps in _runs(to_run) if stated else [list(KINDS.values())]:
            _repro(root, dataset, steps, *(("--allow-missing",) if stated and not to_run & set(steps) else ()))
        return
    origin = Origin(root, remote)
    lost = [kind for kind in absent if not origin.has(dataset, kind)]
    _say(lost, metrics, dataset, "neither on the remote nor in DVC's cache: making it again")
    to_run = {KINDS[kind] for kind in lost} | set(metrics)
    for steps in _runs(to_run):
        _repro(root, dataset, steps, "--pull", *(() if to_run & set(steps) else ("--allow-missing",)))
    if "shards" in absent_artifacts(root, dataset) and _dvc(root, "pull", f"shard@{dataset}") != 0:
        log.warning("data/%s/shards cannot be pulled: making it again", dataset)
        _repro(root, dataset, ["shard"], "--pull")


def _changed_sets(dataset: str, root: Path) -> list[str]:
    """Return the artifacts of other datasets that the captions depend on and that are others now.

    DVC does not know of them: which ones they are is a setting (`exclude_pictures`, `duplicates_across`).
    """
    folder = root / "data" / dataset / "captions"
    try:
        made_from = parse_manifest(folder).facts.get("made_from", {}) if folder.is_dir() else {}
    except SchemaError:  # it is made again anyway
        return []
    manifests = {name: root / name / MANIFEST for name in made_from if name.startswith("data/")}
    return [name for name, path in manifests.items() if path.is_file() and md5_of(path) != made_from[name]]


def _stated(dataset: str, root: Path) -> list[str]:
    """Return the artifacts that the shared store has and whose manifest is here, put there if need be.

    By its manifest DVC tells that a step need not run, and one that has to run fetches of it what it reads.
    """
    if not os.environ.get(VARIABLE):
        return []
    try:
        if not restore_manifests([dataset], Workspace(root), known_only=True):
            return []
    except SourceError as error:
        log.warning("%s\nWhat the shared store has of %s is not known.", error, dataset)
        return []
    return [kind for kind in KINDS if kind != "shards" and (root / "data" / dataset / kind / MANIFEST).is_file()]


def _runs(apart: set[str]) -> Iterator[list[str]]:
    """Yield the steps in order, as many at a time as can be, those that are meant one by one."""
    together: list[str] = []
    for step in KINDS.values():
        if step not in apart:
            together.append(step)
            continue
        if together:
            yield together
        yield [step]
        together = []
    if together:
        yield together


def _without_restored(metrics: dict[str, str], dataset: str, root: Path) -> list[str]:
    """Put metrics back that git has as dvc.lock records them; return the steps of the others."""
    lost = []
    for step, md5 in metrics.items():
        name = f"metrics/{step}/{dataset}.json"
        data = in_head(root, name)
        if data is None or hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
            lost.append(step)
            continue
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(root / name) as file:
            file.write(data)
        log.info("%s: not here; it is as git has it", name)
    return lost


def _say(absent: Sequence[str], metrics: Sequence[str], dataset: str, what: str) -> None:
    names = [f"data/{dataset}/{kind}" for kind in absent]
    names += [f"metrics/{step}/{dataset}.json" for step in metrics]
    for name in names:
        log.info("%s: not here, %s", name, what)


def _repro(root: Path, dataset: str, steps: Sequence[str], *options: str) -> None:
    """Run nodes, in order; wait for others that hold what they need.

    Raises:
        StepError: One failed.
    """
    nodes = [f"{step}@{dataset}" for step in steps]
    _wait_for_others(root, dataset, 0.0)
    while (code := _dvc(root, "repro", *options, "--single-item", *nodes)) != 0:
        if not _wait_for_others(root, dataset, _BETWEEN_NODES_S):
            raise StepError(f"{' '.join(nodes)}: DVC ended with exit code {code}; what it said is above.")


def _wait_for_others(root: Path, dataset: str, appear_s: float) -> bool:
    """Wait for the end of other DVC commands at work on a dataset, as `dvc repro` is; return whether there were any.

    Args:
        root: The repository.
        dataset: Its name.
        appear_s: How long to look for one, which holds nothing between two nodes.
    """
    look_until = time.monotonic() + appear_s
    seen: list[int] = []
    while True:
        others = others_at_work(root, dataset)
        if others and not seen:
            log.info("%s: another DVC command (process %s) is at work on it: waiting for its end", dataset, others[0])
        seen = seen or others
        if not any(map(is_alive, seen)) and (seen or time.monotonic() >= look_until):
            return bool(seen)
        time.sleep(_POLL_S)


def _dvc(root: Path, *arguments: str) -> int:
    """Run a DVC command before the user's eyes; return its exit code."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    return subprocess.run(command, cwd=root, env=dvc_environment(), check=False).returncode  # noqa: S603 - our own names


@contextmanager
def _turn(root: Path, name: str) -> Iterator[None]:
    """Keep others that build the same in this clone waiting."""
    if not (root / ".dvc").is_dir():
        raise SourceError(f"{root.absolute()}: no DVC repository. Change into the project's folder.")
    path = root / OWN / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not try_lock(descriptor):
            log.info("%s: another make is at work on it: waiting for its end", name)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
