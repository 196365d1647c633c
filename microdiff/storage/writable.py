"""Storage that can be written to: folders, S3, and what else fsspec writes to."""

import contextlib
import itertools
import os
import shutil
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from microdiff.core.files import copy_whole
from microdiff.core.progress import Reporter
from microdiff.errors import SourceError
from microdiff.storage import NotFound, Storage
from microdiff.storage.fsspec import FsspecStorage, open_fsspec
from microdiff.storage.local import LocalStorage
from microdiff.storage.opening import bucket_of
from microdiff.storage.retry import retried
from microdiff.storage.s3 import S3Storage
from microdiff.storage.urls import without_secrets


@dataclass(frozen=True)
class StoredFile:
    """A file below a root.

    Attributes:
        path: Below the root.
        num_bytes: Its size.
        modified: When it was written, in seconds since 1970.
    """

    path: str
    num_bytes: int
    modified: float


class WritableStorage(Storage):
    """A storage that files can be put into and removed from."""

    @abstractmethod
    def write(self, path: str, file: Path) -> None:
        """Put a file's bytes under a path, in place of whatever is there; never half of them.

        Raises:
            SourceError: It cannot be done: no permission, no room, or the storage stays out of reach (`Unreachable`).
        """

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is no error.

        Raises:
            SourceError: As for `write`.
        """

    @abstractmethod
    def walk(self, folder: str) -> Iterator[StoredFile]:
        """Yield all files in a folder, those of folders below it included.

        Raises:
            SourceError: As for `write`.
        """


def open_writable(root: str, setting: str, report: Reporter) -> WritableStorage:
    """Return the storage at a root.

    Args:
        root: A local folder, `s3://BUCKET/PREFIX`, or another URL that fsspec knows.
        setting: Where the root is set, for messages.
        report: Hears of requests that are repeated.

    Raises:
        SourceError: It is of an unknown kind.
    """
    parts = urlsplit(root)
    if "://" not in root or parts.scheme == "file":
        folder = Path(parts.path if parts.scheme == "file" else root).expanduser().absolute()
        return WritableFolder(root=folder, report=report, setting=setting)
    if parts.scheme in ("s3", "s3a"):
        return WritableS3(bucket=bucket_of(root, setting), prefix=parts.path.strip("/"), report=report, setting=setting)
    if parts.scheme in ("http", "https", "hf"):
        raise SourceError(f"{without_secrets(root)}: {parts.scheme}:// cannot be written to. Check {setting}.")
    opened = open_fsspec(root, report, setting)
    return WritableFsspec(root=opened.root, report=report, setting=setting)


@dataclass(frozen=True, kw_only=True)
class WritableFolder(LocalStorage, WritableStorage):
    """A folder, perhaps of a file system that several machines mount."""

    def write(self, path: str, file: Path) -> None:
        """Copy a file to a temporary name beside its place, and rename it."""
        target = self.root / path
        for is_last in (False, False, True):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                copy_whole(file, target)
                return
            except OSError as error:
                if isinstance(error, FileNotFoundError) and not is_last:
                    continue  # another process has removed the folder, which was empty
                raise SourceError(f"{target}: cannot be written: {error.strerror}. Check {self.setting}.") from None

    def remove(self, path: str) -> None:
        """Remove a file, and folders that are empty then."""
        target = self.root / path
        target.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # one is not empty, or another process has removed it
            for folder in itertools.takewhile(lambda folder: folder != self.root, target.parents):
                folder.rmdir()

    def walk(self, folder: str) -> Iterator[StoredFile]:
        """Yield all files in a folder."""
        for parent, _, names in os.walk(self.root / folder):
            for name in names:
                path = Path(parent, name)
                try:
                    facts = path.stat()
                except FileNotFoundError:  # removed meanwhile
                    continue
                yield StoredFile(path.relative_to(self.root).as_posix(), facts.st_size, facts.st_mtime)


@dataclass(frozen=True, kw_only=True)
class WritableS3(S3Storage, WritableStorage):
    """Objects in a bucket below a prefix."""

    def write(self, path: str, file: Path) -> None:
        """Put an object, a large one in parts; S3 shows it whole or not at all."""
        retried(self, path, partial(self._upload, path, file))

    def _upload(self, path: str, file: Path) -> None:
        from s3transfer.manager import TransferManager

        with self.errors_in_words(path) as client, TransferManager(client) as transfers:
            transfers.upload(str(file), self.bucket, self.key(path)).result()

    def remove(self, path: str) -> None:
        """Remove an object."""
        retried(self, path, partial(self.call, "delete_object", path, Key=self.key(path)))

    def walk(self, folder: str) -> Iterator[StoredFile]:
        """Yield all objects whose keys begin with a folder's."""
        prefix = f"{self.key(folder.strip('/'))}/".lstrip("/")
        for entry in self.pages("Contents", folder, Prefix=prefix):
            yield StoredFile(
                entry["Key"].removeprefix(f"{self.prefix}/" if self.prefix else ""),
                int(entry["Size"]),
                entry["LastModified"].timestamp(),
            )


@dataclass(frozen=True, kw_only=True)
class WritableFsspec(FsspecStorage, WritableStorage):
    """A folder of a file system that fsspec writes to."""

    def write(self, path: str, file: Path) -> None:
        """Put a file."""

        def put() -> None:
            with self.errors_in_words(path):
                system, root = self.system()
                system.makedirs(f"{root}/{path}".rpartition("/")[0], exist_ok=True)
                with file.open("rb") as source, system.open(f"{root}/{path}", "wb") as target:
                    shutil.copyfileobj(source, target, 2**22)

        retried(self, path, put)

    def remove(self, path: str) -> None:
        """Remove a file."""

        def delete() -> None:
            with self.errors_in_words(path):
                system, root = self.system()
                system.rm_file(f"{root}/{path}")

        try:
            retried(self, path, delete)
        except NotFound:
            return

    def walk(self, folder: str) -> Iterator[StoredFile]:
        """Yield all files in a folder; their times are 0 where the file system keeps none."""

        def find() -> dict[str, dict[str, object]]:
            with self.errors_in_words(folder):
                system, root = self.system()
                found: dict[str, dict[str, object]] = system.find(f"{root}/{folder}".rstrip("/"), detail=True)
                return {name[len(root) :].strip("/"): facts for name, facts in found.items()}

        for path, facts in retried(self, folder, find).items():
            time = facts.get("mtime") or facts.get("LastModified") or facts.get("updated") or facts.get("created") or 0
            modified = time.timestamp() if hasattr(time, "timestamp") else float(str(time))
            yield StoredFile(path, int(str(facts["size"])), modified)


def as_writable(storage: Storage) -> WritableStorage | None:
    """Return a storage as one that can be written to, None if its kind cannot."""
    kinds: dict[type[Storage], type[WritableStorage]] = {LocalStorage: WritableFolder, S3Storage: WritableS3}
    kind = kinds.get(type(storage))
    return None if kind is None else kind(**{field.name: getattr(storage, field.name) for field in fields(storage)})
