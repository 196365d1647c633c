"""The partition store: finished partitions under `.work/<step>/<fingerprint>/`, written whole or not at all.

A partition's fingerprint covers all that determines its bytes: the step, the partition's inputs, the settings, and
the code. So a finished partition is found again after a crash, after other partitions joined, or on the way back to
earlier settings, and one that no longer applies is not found. The folder is written under a temporary name, synced,
and renamed; its presence means that it is complete.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from microdiff.artifacts.manifest import FileRecord
from microdiff.core.files import (
    digest_file,
    digest_json,
    link_or_copy,
    scratch_folder,
    sweep,
    sync,
    sync_folders,
)
from microdiff.core.ledger import Counts, Result
from microdiff.core.places import writing_to
from microdiff.core.progress import SAMPLES, Reporter
from microdiff.errors import SchemaError, StepError
from microdiff.pipeline.executor import TaskResult, run_tasks
from microdiff.pipeline.store_record import StoreRecord
from microdiff.pipeline.workers import WorkerPlan

_FINGERPRINT_DIGITS = 32
_ALREADY_THERE = (errno.ENOTEMPTY, errno.EEXIST)


@dataclass(frozen=True)
class Task:
    """One partition's computation in one step.

    Attributes:
        step: The store's name for this kind of partition, such as `download`.
        name: The partition's name.
        cache_key: JSON value: everything that determines the bytes, besides the step and the name.
        compute: Writes the partition's files into the folder given. Picklable.
        num_samples: How many it will report, if known.
        downloads: Bytes of the files it fetches, by path; tasks may share files.
        unit: What its samples are called in progress lines.
    """

    step: str
    name: str
    cache_key: Mapping[str, Any]
    compute: Callable[[Path, Reporter], Result]
    num_samples: int | None = None
    downloads: Mapping[str, int] = field(default_factory=dict)
    unit: str = SAMPLES


@dataclass(frozen=True)
class StoredPartition:
    """A finished partition.

    Attributes:
        step: Which kind it is.
        name: The partition's name.
        fingerprints: The store's folders it consists of.
        result: What its computation said.
        files: Its files by path in the artifact.
        paths: Where the store has them.
        others: The results it is merged from, besides its own.
    """

    step: str
    name: str
    fingerprints: tuple[str, ...]
    result: Result
    files: Mapping[str, FileRecord]
    paths: Mapping[str, Path]
    others: "tuple[StoredPartition, ...]" = ()

    @property
    def parts(self) -> "tuple[StoredPartition, ...]":
        """The results that it consists of, each a folder of the store."""
        own = {name: file for name, file in self.files.items() if all(name not in each.files for each in self.others)}
        return replace(self, fingerprints=self.fingerprints[:1], files=own, others=()), *self.others

    @property
    def counts(self) -> Counts:
        """The partition's ledger."""
        return self.result.counts

    def merged_with(self, *others: "StoredPartition") -> "StoredPartition":
        """Return one partition with the files of all and the result of this one."""
        parts = (self, *others)
        return StoredPartition(
            self.step,
            self.name,
            tuple(fingerprint for part in parts for fingerprint in part.fingerprints),
            self.result,
            {name: file for part in parts for name, file in part.files.items()},
            {name: path for part in parts for name, path in part.paths.items()},
            others,
        )


class Store:
    """Finished partitions of all steps below one folder.

    Args:
        root: The store's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, task: Task) -> Path:
        """Return where a task's result is kept once it is there: a fingerprint of 32 hexadecimal digits."""
        covered = {"step": task.step, "name": task.name, "cache_key": task.cache_key}
        return self.root / task.step / digest_json(covered)[:_FINGERPRINT_DIGITS]

    def find(self, task: Task) -> StoredPartition | None:
        """Return a task's result if it is in the store.

        A result whose files are gone or have another size is dropped and counts as not found.
        """
        folder = self.folder(task)
        if not folder.is_dir():
            return None
        try:
            return _load(folder)
        except SchemaError:
            _discard(folder)
            return None

    def finished(self, step: str) -> Iterator[StoredPartition]:
        """Yield all of a step's results that are in the store and whole."""
        for folder in sorted(path for path in (self.root / step).glob("*") if _is_entry(path)):
            with contextlib.suppress(SchemaError, FileNotFoundError):
                yield _load(folder)

    def add(self, step: str, fingerprint: str, record: StoreRecord, paths: Mapping[str, Path]) -> bool:
        """Take in a finished result from files that were made elsewhere; return whether it was not there yet.

        Args:
            step: Which kind it is.
            fingerprint: Its folder's name.
            record: What it is.
            paths: Where its files are now; they are linked, or copied where links are impossible.
        """
        target = self.root / step / fingerprint
        if target.exists():
            return False
        with scratch_folder(target.parent) as folder:
            for name, path in paths.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(path, folder / name)
            record.write(folder)
            _publish(folder, target)
        return True

    def drop_damaged(self, names: Collection[str]) -> int:
        """Remove results one of whose files is damaged; return how many.

        Args:
            names: Of files. Every result with a file of one of these names is looked at, and removed if it is not the
                file that its record states, or if the record is damaged itself.
        """
        dropped = 0
        for name in sorted(names):
            for path in sorted(self.root.glob(f"*/{'[0-9a-f]' * _FINGERPRINT_DIGITS}/{name}")):
                folder = path.parents[name.count("/")]
                if _is_damaged(folder, name):
                    _discard(folder)
                    dropped += 1
        return dropped

    def compute(
        self, tasks: Sequence[Task], plan: WorkerPlan, report: Reporter
    ) -> Iterator[StoredPartition | TaskResult]:
        """Compute tasks, yielding each one's result, or how it failed, as it ends.

        Args:
            tasks: Those that are not in the store.
            plan: Who works on them.
            report: Receives progress.
        """
        for step in {task.step for task in tasks}:
            sweep(self.root / step)
        work = [(f"{task.step} {task.name}", partial(_compute, task, self.folder(task))) for task in tasks]
        for outcome in run_tasks(work, plan, report):
            yield outcome if outcome.error is not None else outcome.result
        for step in {task.step for task in tasks}:  # after a full disk: what stopped workers left
            sweep(self.root / step)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep `prune` away while a step runs; any number of steps may run at once."""
        with self._lock(fcntl.LOCK_SH):
            yield

    def prune(self, referenced: Iterable[str]) -> tuple[int, int]:
        """Remove partitions whose fingerprint is not referenced, fetched files, and what dead runs left.

        Returns:
            Number of folders removed, and the bytes of files that no hard link elsewhere keeps alive.

        Raises:
            StepError: A step is running.
        """
        keep = set(referenced)
        removed = freed = 0
        with self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB):
            for step in sorted(path for path in self.root.glob("*") if path.is_dir()):
                removed += sweep(step)
                for folder in sorted(path for path in step.iterdir() if _is_entry(path) and path.name not in keep):
                    stats = [path.stat() for path in folder.rglob("*") if path.is_file()]
                    freed += sum(stat.st_size for stat in stats if stat.st_nlink == 1)
                    _discard(folder)
                    removed += 1
        return removed, freed

    @contextmanager
    def _lock(self, mode: int) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, mode)
        except BlockingIOError:
            os.close(descriptor)
            raise StepError(f"{self.root}: a step is running. Try again when it has finished.") from None
        try:
            yield
        finally:
            os.close(descriptor)


def _is_entry(path: Path) -> bool:
    return path.is_dir() and len(path.name) == _FINGERPRINT_DIGITS


def _discard(folder: Path) -> None:
    """Remove a folder by way of a rename, so that a kill leaves nothing half-removed under its name."""
    with scratch_folder(folder.parent) as scratch:
        folder.rename(scratch / folder.name)


def _load(folder: Path) -> StoredPartition:
    record = StoreRecord.read(folder)
    paths = {name: folder / name for name in record.files}
    for name, path in paths.items():
        size = path.stat().st_size if path.is_file() else None
        if size != record.files[name].num_bytes:
            raise SchemaError(f"{path}: expected {record.files[name].num_bytes} bytes, found {size}")
    result = Result(record.counts, record.facts)
    return StoredPartition(folder.parent.name, record.name, (folder.name,), result, record.files, paths)


def _is_damaged(folder: Path, name: str) -> bool:
    """Tell whether a file is not the recorded one, or whether nothing can be told because the record is damaged."""
    try:
        recorded = StoreRecord.read(folder).files.get(name)
    except SchemaError:
        return True
    return recorded is not None and digest_file(folder / name) != recorded.sha256


def _compute(task: Task, target: Path, report: Reporter) -> StoredPartition:
    """Compute one task into a scratch folder and publish it under its fingerprint. Runs in a worker."""
    with writing_to(target.parent), scratch_folder(target.parent) as folder:
        result = task.compute(folder, report)
        files = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            sync(path)
            name = path.relative_to(folder).as_posix()
            files[name] = FileRecord(path.stat().st_size, result.digests.get(name) or digest_file(path))
        StoreRecord(task.name, result.counts, result.facts, files).write(folder)
        _publish(folder, target)
    return _load(target)


def _publish(folder: Path, target: Path) -> None:
    sync_folders(folder)
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno not in _ALREADY_THERE:
            raise
        # Another process finished the same task first: same fingerprint, same bytes.
    sync(target.parent)
