"""Where a finished partition is looked for: here first, then wherever this project or its team has it.

In this order: the store; the artifact folder that is here; the artifact as dvc.lock has recorded it, as the last commit
has, and as earlier commits have, from DVC's cache or its remote; the shared store. What is found elsewhere is verified,
checked, and put into the store.
"""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from microdiff.artifacts.manifest import Manifest, parse_manifest
from microdiff.errors import DamagedError, MicrodiffError, SchemaError
from microdiff.pipeline.offer import Offer
from microdiff.pipeline.recorded import RecordedParts, parts_of_folder, recorded_versions
from microdiff.pipeline.shared_store import SharedStore
from microdiff.pipeline.store import RECORDED, Store
from microdiff.pipeline.task import StoredPartition, Task
from microdiff.remote.dvc_artifacts import DvcArtifacts
from microdiff.storage import NotFound

log = logging.getLogger("microdiff")


class Finder:
    """Finds finished partitions of one artifact.

    Args:
        store: This machine's.
        path: The artifact's as DVC tracks it, such as `data/coco/latents`.
        folder: The artifact's, which need not be here; None: it is not looked into.
        project: What DVC has recorded; None where DVC tracks nothing.
        shared: The shared store; None where there is none.
    """

    def __init__(
        self, store: Store, path: str, folder: Path | None, project: DvcArtifacts | None, shared: SharedStore | None
    ) -> None:
        self._store = store
        self._folder = folder
        self._path = path
        self._project = project
        self._shared = shared
        self._lock = threading.Lock()
        self._opened: list[RecordedParts] = []
        self._unwritable: OSError | None = None
        self._unopened = self._recorded()
        self.damaged_there: set[str] = set()  # fingerprints whose files in the shared store are damaged

    def find(self, task: Task) -> StoredPartition | None:
        """Return a task's result, brought here if need be; None if it has to be computed."""
        stored = self._store.find(task)
        if stored is not None:
            return stored
        fingerprint = self._store.folder(task).name
        for offer in self._offers(task.step, fingerprint):
            if self._take(task, fingerprint, offer):
                return self._store.find(task)
        return None

    def restore_named(self, step: str, name: str) -> None:
        """Put into the store what recorded artifacts have of a partition, whatever its fingerprint."""
        for parts in self._recorded_parts():
            for fingerprint, offer in parts.named(step, name):
                self._take(Task(step, name, {}, _never), fingerprint, offer)

    def manifests(self) -> Iterator[Manifest]:
        """Yield the manifests of the artifact: the one that is here, then those that DVC has recorded, latest first."""
        for parts in self._recorded_parts():
            yield parts.manifest

    def _take(self, task: Task, fingerprint: str, offer: Offer) -> bool:
        if offer.record.name != task.name:
            log.warning("%s: it is partition %s, expected %s: not used", offer.place, offer.record.name, task.name)
            return False
        if self._unwritable is not None:
            raise self._unwritable
        try:
            self._store.add(task.step, fingerprint, offer, task.check)
        except SchemaError as error:
            if fingerprint not in self.damaged_there:
                log.warning("%s: %s. It is %s.", offer.place, error, "dropped" if self._drop(error) else "not used")
            self.damaged_there.add(fingerprint)
            return False
        except NotFound as error:
            log.debug("%s", error)
            return False
        except OSError as error:  # as of a full disk, on which other threads need not try
            self._unwritable = error
            raise
        except MicrodiffError as error:
            log.warning("%s: partition %s cannot be had from there: %s", offer.place, task.name, error)
            return False
        return True

    def _drop(self, error: SchemaError) -> bool:
        """Remove a damaged file from the artifact that is here, under all its names; tell whether it was one."""
        if not isinstance(error, DamagedError) or self._folder is None or error.path.parent != self._folder:
            return False
        self._store.forget_damaged(error.path)
        error.path.unlink(missing_ok=True)
        return True

    def _offers(self, step: str, fingerprint: str) -> Iterator[Offer]:
        for parts in self._recorded_parts():
            if (offer := parts.find(step, fingerprint)) is not None:
                yield offer
        if self._shared is not None and (offer := self._shared.find(step, fingerprint)) is not None:
            yield offer

    def _recorded_parts(self) -> Iterator[RecordedParts]:
        """Yield the recorded artifacts, each read when it is first needed."""
        number = 0
        while True:
            with self._lock:
                if number == len(self._opened):
                    parts = next(self._unopened, None)
                    if parts is None:
                        return
                    self._opened.append(parts)
            yield self._opened[number]
            number += 1

    def _recorded(self) -> Iterator[RecordedParts]:
        if self._folder is not None and self._folder.is_dir():
            try:
                yield parts_of_folder(parse_manifest(self._folder))
            except SchemaError as error:
                log.debug("%s", error)
        if self._project is not None:
            yield from recorded_versions(self._project, self._path, self._store.root / RECORDED)


def _never(*_: object) -> NoReturn:
    raise AssertionError("this task is not computed")
