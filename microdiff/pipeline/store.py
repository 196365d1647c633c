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
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from microdiff.artifacts.manifest import FileRecord
from microdiff.core.files import (
    digest_file,
    digest_json,
    scratch_folder,
    sweep,
    sync,
    sync_folders,
)
from microdiff.core.ledger import Result
from microdiff.core.places import writing_to
from microdiff.core.progress import LogReporter, Reporter
from microdiff.errors import DamagedError, SchemaError, StepError
from microdiff.pipeline.device_facts import device_facts
from microdiff.pipeline.executor import TaskResult, run_tasks
from microdiff.pipeline.hashed import check_hashed, remember_written
from microdiff.pipeline.offer import Offer
from microdiff.pipeline.store_record import StoreRecord
from microdiff.pipeline.task import Check, StoredPartition, Task, no_check
from microdiff.pipeline.workers import WorkerPlan

_FINGERPRINT_DIGITS = 32
INPUTS = "inputs"  # files of earlier artifacts that are not in the artifact's folder
RECORDED = "dvc"  # what was read of artifacts that DVC has recorded
LOG = LogReporter()
_ALREADY_THERE = (errno.ENOTEMPTY, errno.EEXIST)


class Store:
    """Finished partitions of all steps below one folder.

    Args:
        root: The store's folder.
        salt: `store_salt` of the settings: results computed under another one are not found.
        on_damage: Hears of a damaged file before it is dropped; other names of it hold the same bytes.
        report: Hears in words of what is dropped.
    """

    def __init__(
        self, root: Path, salt: str = "", on_damage: Callable[[Path], object] = lambda _: None, report: Reporter = LOG
    ) -> None:
        self.root = root
        self._salt = salt
        self._on_damage = on_damage
        self._report = report

    def folder(self, task: Task) -> Path:
        """Return where a task's result is kept once it is there: a fingerprint of 32 hexadecimal digits."""
        covered = {"step": task.step, "name": task.name, "cache_key": task.cache_key}
        if self._salt:
            covered["salt"] = self._salt
        return self.root / task.step / digest_json(covered)[:_FINGERPRINT_DIGITS]

    def find(self, task: Task) -> StoredPartition | None:
        """Return a task's result if it is in the store, its files hashed unless they are known to be unchanged.

        A result that is damaged is dropped, which is said, and counts as not found.
        """
        return self.get(task.step, self.folder(task).name)

    def get(self, step: str, fingerprint: str) -> StoredPartition | None:
        """Return the result in a folder of the store; see `find`."""
        folder = self.root / step / fingerprint
        if not folder.is_dir():
            return None
        try:
            stored = _load(folder)
            check_hashed(folder, stored.inputs)
        except FileNotFoundError:  # dropped by another process
            return None
        except SchemaError as error:
            self.drop(folder, error)
            return None
        return stored

    def forget_damaged(self, path: Path) -> None:
        """Have other names of a damaged file removed, such as that in DVC's cache."""
        self._on_damage(path)

    def drop(self, folder: Path, error: SchemaError) -> None:
        """Take a damaged result out of the store, and say so."""
        self._report.say(f"{error}. It is dropped from the store.")
        if isinstance(error, DamagedError):
            self.forget_damaged(error.path)
        _discard(folder)

    def finished(self, step: str) -> Iterator[StoredPartition]:
        """Yield all of a step's results that are in the store and whole."""
        for folder in sorted(path for path in (self.root / step).glob("*") if _is_entry(path)):
            with contextlib.suppress(SchemaError, FileNotFoundError):
                yield _load(folder)

    def add(self, step: str, fingerprint: str, offer: Offer, check: Check = no_check) -> bool:
        """Take in a finished result that was made elsewhere; return whether it was not there yet.

        Args:
            step: Which kind it is.
            fingerprint: Its folder's name.
            offer: What it is, and how its files come here.
            check: As `Task.check`.

        Raises:
            DamagedError: A file is not the one that the record states.
            SchemaError: The files are not what they should be.
            SourceError: A file cannot be had.
        """
        target = self.root / step / fingerprint
        if target.exists():
            return False
        with writing_to(target.parent), scratch_folder(target.parent) as folder:
            record = offer.record
            for name, file in record.files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                offer.put(name, file, folder / name)
            check(folder, record.name, Result(record.counts, record.facts))
            record.write(folder)
            _publish(folder, target)
        remember_written(target, record.files)
        return True

    def drop_files(self, names: Collection[str], *, whole: bool = False) -> int:
        """Remove results one of whose files is damaged; return how many.

        Args:
            names: Of files. Every result with a file of one of these names is looked at, and removed if it is not the
                file that its record states, or if the record is damaged itself.
            whole: Whether to remove those that are whole, too.
        """
        dropped = 0
        for name in sorted(names):
            for path in sorted(self.root.glob(f"*/{'[0-9a-f]' * _FINGERPRINT_DIGITS}/{name}")):
                folder = path.parents[name.count("/")]
                if whole or _is_damaged(folder, name):
                    self.forget_damaged(path)
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
        work = [(task.label, partial(_compute, task, self.folder(task))) for task in tasks]
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
            Number of folders and files removed, and the bytes of files that no hard link elsewhere keeps alive.

        Raises:
            StepError: A step is running.
        """
        keep = set(referenced)
        removed = freed = 0
        with self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB):
            for file in (path for path in (self.root / INPUTS).glob("*") if path.is_file()):
                stat = file.stat()
                freed += stat.st_size if stat.st_nlink == 1 else 0
                file.unlink()
                removed += 1
            shutil.rmtree(self.root / RECORDED, ignore_errors=True)
            for step in sorted(path for path in self.root.glob("*") if path.is_dir()):
                removed += sweep(step)
                for folder in sorted(path for path in step.iterdir() if _is_entry(path) and path.name not in keep):
                    stats = [path.stat() for path in folder.rglob("*") if path.is_file()]
                    freed += sum(stat.st_size for stat in stats if stat.st_nlink == 1)
                    _discard(folder)
                    removed += 1
        return removed, freed

    def remove(self, entries: Iterable[tuple[str, str]]) -> None:
        """Remove results, given by step and fingerprint.

        Raises:
            StepError: A step is running.
        """
        with self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB):
            for step, fingerprint in entries:
                if (folder := self.root / step / fingerprint).is_dir():
                    _discard(folder)

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
    return StoredPartition(
        folder.parent.name,
        record.name,
        (folder.name,),
        Result(record.counts, record.facts),
        record.files,
        {name: folder / name for name in record.files},
        computed_with=record.computed_with,
    )


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
        task.check(folder, task.name, result)
        files = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            sync(path)
            name = path.relative_to(folder).as_posix()
            files[name] = FileRecord(path.stat().st_size, result.digests.get(name) or digest_file(path))
        computed_with = device_facts() if task.on_device else {}
        StoreRecord(task.name, result.counts, result.facts, files, computed_with).write(folder)
        _publish(folder, target)
    remember_written(target, files)
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
