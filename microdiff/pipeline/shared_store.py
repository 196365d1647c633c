"""The shared store: finished partitions where all machines of a team find them, `<store>/<step>/<fingerprint>/`.

It is a folder that they mount or a bucket, named by MICRODIFF_STORE. A partition's files come first and
`partition.json` last: what has one is whole, and what a writer that was killed left has none and is written again.
Whatever is read is verified against that record, and the record against its own digest. Nothing is remembered of what
was not found. Manifests are kept as `manifests/<md5>.json`, by the MD5 that dvc.lock records of them.
"""

import logging
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from microdiff.artifacts.manifest import FileRecord
from microdiff.core.files import md5_of_bytes
from microdiff.core.progress import NullReporter
from microdiff.errors import DamagedError, ParamsError, SchemaError, SourceError
from microdiff.pipeline.offer import Offer
from microdiff.pipeline.store_record import RECORD, StoreRecord
from microdiff.pipeline.task import StoredPartition
from microdiff.storage import Changed, Damaged, NotFound, Unreachable
from microdiff.storage.fetching import fetch_verified
from microdiff.storage.local import LocalStorage
from microdiff.storage.retry import read_whole
from microdiff.storage.writable import WritableStorage, open_writable

log = logging.getLogger("microdiff")

VARIABLE = "MICRODIFF_STORE"
MANIFESTS = "manifests"
_PROBE = "access"
_PAUSE_S = 60.0  # without requests, after the store could not be reached

T = TypeVar("T")


def open_shared_store(*own: Path) -> "SharedStore | None":
    """Return the store that MICRODIFF_STORE names, None where it names none.

    Args:
        own: Folders of the project, in which it must not be: what tidies these would take it for theirs.

    Raises:
        ParamsError: It is of an unknown kind, in a folder of the project, or access to it is refused. A store that
            cannot be reached is no error: work goes on without it.
    """
    root = os.environ.get(VARIABLE, "")
    if not root:
        return None
    try:
        store = SharedStore(open_writable(root, VARIABLE, NullReporter()))
    except SourceError as error:
        raise ParamsError(str(error)) from None
    if isinstance(store.storage, LocalStorage):
        place = store.storage.root.resolve()
        for folder in own:
            if place.is_relative_to(folder.resolve()):
                raise ParamsError(
                    f"{VARIABLE}: {place} is in {folder}, which is this project's own. Name another folder."
                )
    store.prove_access()
    return store


@dataclass
class SharedStore:
    """Finished partitions of all machines that share it.

    Attributes:
        storage: Where it is.
        may_write: Whether finished partitions can be put there.
    """

    storage: WritableStorage
    may_write: bool = True
    _resume_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """Its root, without secrets."""
        return self.storage.name

    def prove_access(self) -> None:
        """Write, read and remove a small file: with credentials that are refused, every partition would seem absent.

        Where reading is allowed and writing is not, the store is read only, which is said.

        Raises:
            ParamsError: Access is refused.
        """
        path = f"{_PROBE}/{uuid.uuid4().hex}"
        if isinstance(self.storage, LocalStorage) and not self.storage.root.is_dir():
            raise ParamsError(f"{self.name}: no such folder. Mount it, or make it; check {VARIABLE}.")
        try:
            try:
                self._write_bytes(path, path.encode())
            except Unreachable:
                raise
            except SourceError as refused:
                self._prove_reading(path, refused)
                return
            if read_whole(self.storage, path) != path.encode():
                raise ParamsError(f"{self.name}: other bytes come back than were written. Check {VARIABLE}.")
            self.storage.remove(path)
        except Unreachable as error:
            self._pause(error)
        except SourceError as error:
            raise ParamsError(f"{error}\nCheck {VARIABLE} and its credentials, or unset it.") from None

    def _prove_reading(self, path: str, refused: SourceError) -> None:
        try:
            read_whole(self.storage, path)
        except NotFound:
            self.may_write = False
            log.warning("%s\nThe shared store is read only: what is computed here is not put there.", refused)

    def find(self, step: str, fingerprint: str) -> Offer | None:
        """Return a finished partition, None where the store has none or cannot be reached."""
        folder = f"{step}/{fingerprint}"
        try:
            data = self._ask(lambda: read_whole(self.storage, f"{folder}/{RECORD}"))
            record = None if data is None else StoreRecord.parse(data, f"{self.name}/{folder}/{RECORD}")
        except NotFound:
            return None
        except SchemaError as error:
            log.warning("%s. It is not used.", error)
            return None
        return None if record is None else Offer(record, partial(self.put, folder), f"{self.name}/{folder}")

    def put(self, folder: str, name: str, file: FileRecord, target: Path) -> None:
        """Fetch a file of the store to a path, verified.

        Raises:
            SourceError: It cannot be had.
            DamagedError: It is not the recorded one, or missing, though there is a record of it.
        """
        path = f"{folder}/{name}"
        where = f"{self.name}/{path}"
        try:
            fetch_verified(
                self.storage, path, target, identity=f"sha256:{file.sha256}", num_bytes=file.num_bytes, attempts=5
            )
        except Damaged as error:
            raise DamagedError(Path(where), file.sha256, error.found.partition(":")[2]) from None
        except Changed:
            raise DamagedError(Path(where), file.sha256, f"another size than {file.num_bytes} bytes") from None
        except NotFound:
            raise DamagedError(Path(where), file.sha256, "it is missing") from None

    def has(self, step: str, fingerprint: str) -> bool:
        """Tell whether the store has a finished partition."""
        return self.find(step, fingerprint) is not None

    def send(self, stored: StoredPartition, *, replace: bool = False, insist: bool = False) -> bool:
        """Put a finished partition into the store; return whether it was not there yet.

        Args:
            stored: One result, not one that others are merged into. Its files are verified first.
            replace: Whether to write it even if it is there, since it is damaged there.
            insist: Whether to ask a store that could not be reached a moment ago.

        Raises:
            Unreachable: The store cannot be reached.
            SourceError: It refuses.
            DamagedError: A file here is not the recorded one.
        """
        folder = f"{stored.step}/{stored.fingerprints[0]}"
        with self._reached(insist=insist):
            if not replace and self.has(stored.step, stored.fingerprints[0]):
                return False
            for name, file in stored.inputs.items():
                self.storage.write(f"{folder}/{name}", file.check())
            self._write_bytes(f"{folder}/{RECORD}", stored.record.to_bytes())
        return True

    def send_manifest(self, md5: str, data: bytes) -> None:
        """Put a manifest into the store; errors as for `send`."""
        with self._reached(insist=False):
            self._write_bytes(f"{MANIFESTS}/{md5}.json", data)

    @contextmanager
    def _reached(self, *, insist: bool) -> Iterator[None]:
        """Refuse while the store is known to be out of reach, and note when it turns out to be."""
        with self._lock:
            if not insist and time.monotonic() < self._resume_at:
                raise Unreachable(f"{self.name}: out of reach")
        try:
            yield
        except Unreachable as error:
            self._pause(error)
            raise

    def manifest(self, md5: str) -> bytes | None:
        """Return the manifest of an MD5, None where the store has none, or a damaged one.

        Raises:
            SourceError: The store cannot be read.
        """
        path = f"{MANIFESTS}/{md5}.json"
        try:
            data = read_whole(self.storage, path)
        except NotFound:
            return None
        if (found := md5_of_bytes(data)) != md5:
            log.warning("%s/%s: damaged: expected MD5 %s, found %s. It is not used.", self.name, path, md5, found)
            return None
        return data

    def _write_bytes(self, path: str, data: bytes) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            self.storage.write(path, Path(file.name))

    def _ask(self, request: Callable[[], T]) -> T | None:
        """Return what a request returns, None while the store is out of reach."""
        with self._lock:
            if time.monotonic() < self._resume_at:
                return None
        try:
            return request()
        except NotFound:
            raise
        except SourceError as error:
            self._pause(error)
            return None

    def _pause(self, error: SourceError) -> None:
        """Ask the store no more for a while, and say so once."""
        with self._lock:
            if not self._resume_at:
                log.warning("%s\nWork goes on without the shared store, which is tried again later.", error)
            self._resume_at = time.monotonic() + _PAUSE_S
