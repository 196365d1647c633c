"""Folders on this machine, or on a file system that it mounts: as a storage, and as a source that is used in place."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from microdiff.config.roots import public_root
from microdiff.core.file_facts import HASH_ALWAYS, file_facts, is_unchanged, now_ns, were_stable
from microdiff.core.files import digest_json, read_json, write_json
from microdiff.core.progress import NullReporter, Reporter
from microdiff.errors import SourceError
from microdiff.storage import Body, CannotResume, Entry, NotFound, SourceFile, Storage, TryAgain
from microdiff.storage.checksums import checksum_of, new_digest

_CHUNK_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class LocalStorage(Storage):
    """A folder.

    Attributes:
        root: Its path.
    """

    root: Path

    @property
    def name(self) -> str:
        """The folder's path."""
        return str(self.root)

    def stat(self, path: str, checksum: str | None = None) -> SourceFile:
        """Describe a file by its time of change; reads none of its bytes."""
        num_bytes, version = self._facts(path)
        return SourceFile(path, num_bytes, checksum or f"version:{version}")

    def list(self, folder: str) -> Sequence[str]:
        """Return a folder's files, sorted."""
        return _files_in(self.root, folder)

    def all_files(self, *, follow_links: bool = False) -> Iterator[Entry]:
        """Yield all files below the folder."""
        return _walk(self.root, follow_links)

    @contextmanager
    def read(self, path: str, start: int = 0, version: str = "") -> Iterator[Body]:
        """Open a file."""
        num_bytes, version = self._facts(path)
        if start and start >= num_bytes:
            raise CannotResume("it ends before")
        try:
            file = (self.root / path).open("rb")
        except OSError as error:
            raise SourceError(f"{self.root / path}: {error.strerror}. Ask its owner for access.") from None
        with file:
            file.seek(start)
            yield Body(start, num_bytes, version, _chunks(file))

    def _facts(self, path: str) -> tuple[int, str]:
        """Return a file's size, and what tells its version."""
        file = self.root / path
        try:
            facts = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            if not self.root.is_dir():
                raise SourceError(f"{self.root}: no such folder. Mount it, or check {self.setting}.") from None
        except PermissionError:
            raise SourceError(f"{file}: may not be read. Ask its owner for access.") from None
        except OSError as error:  # a mounted file system has its moments
            raise TryAgain(f"{file}: {error.strerror}") from None
        else:
            if not file.is_dir():
                return facts.st_size, str(facts.st_mtime_ns)
        raise NotFound(f"{file}: no such file. Check {self.setting}.")


@dataclass(frozen=True)
class LocalSource:
    """A folder on this machine. Files are used in place; checksums are remembered, see `microdiff.core.file_facts`."""

    root: str
    digests: Path
    report: Reporter = field(default_factory=NullReporter, compare=False)

    @property
    def name(self) -> str:
        """The folder as given if relative, else its last part."""
        return local_name(self.root)

    def with_reporter(self, report: Reporter) -> "LocalSource":
        """Return this source with a reporter."""
        return replace(self, report=report)

    def list(self, folder: str) -> Sequence[str]:
        """Return the folder's files, sorted."""
        return _files_in(Path(self.root), folder)

    def all_files(self, *, follow_links: bool = False) -> Iterator[Entry]:
        """Yield all files below the folder."""
        return _walk(Path(self.root), follow_links)

    def facts(self, path: str) -> str | None:
        """Return the file's inode, size and times, unless everything is to be hashed always."""
        found = None if os.environ.get(HASH_ALWAYS) == "1" else file_facts(Path(self.root) / path)
        return None if found is None else json.dumps(found)

    def look(self, path: str) -> tuple[SourceFile, str | None]:
        """Describe a file by its size and SHA-256, and say by which facts it will be known.

        Raises:
            NotFound: There is none, or it may not be read.
        """
        file = Path(self.root) / path
        started, facts = now_ns(), file_facts(file)
        try:
            described = SourceFile(path, file.stat().st_size, checksum_of(file, "sha256"))
        except OSError as error:
            raise NotFound(f"{file}: {error.strerror}") from None
        return described, json.dumps(facts) if were_stable(facts, file, started) else None

    def open(self, file: SourceFile) -> BinaryIO:
        """Open a file."""
        return (Path(self.root) / file.path).open("rb")

    def load(self, file: SourceFile) -> bytes:
        """Return a file's bytes, after checking that they are the ones described."""
        path = Path(self.root) / file.path
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SourceError(
                f"{path}: {error.strerror}. It was there when the source was listed: run again."
            ) from None
        digest = new_digest(file.kind, len(data))
        digest.update(data)
        if f"{file.kind}:{digest.hexdigest()}" != file.identity:
            raise SourceError(f"{path}: it has changed since the source was listed. Run again.")
        return data

    def stat(self, path: str, checksum: str | None = None) -> SourceFile:
        """Describe a file by its size and checksum: SHA-256, unless another kind is given."""
        file = Path(self.root) / path
        if not file.is_file():
            raise SourceError(f"{file}: no such file. Check datasets.*.download.source in params.yaml.")
        found = self._checksum(file, (checksum or "sha256:").partition(":")[0])
        if checksum is not None and found != checksum:
            raise SourceError(
                f"{file}: expected {checksum}, found {found}: the file is damaged or another version.\n"
                "Fetch it again, or correct its checksum in params.yaml."
            )
        return SourceFile(path, file.stat().st_size, found)

    def fetch(self, file: SourceFile) -> Path:
        """Return the file itself, after checking that it is still the one described."""
        self.stat(file.path, file.identity)
        return Path(self.root) / file.path

    def fetch_again(self, file: SourceFile) -> Path:
        """Return the file itself: there is no other."""
        return self.fetch(file)

    def forget(self, file: SourceFile) -> None:
        """Do nothing: the file is the user's own."""

    def disown(self, file: SourceFile) -> None:
        """Do nothing: the file is the user's own."""

    def _checksum(self, file: Path, kind: str) -> str:
        """Return the file's checksum, computed again only after somebody may have written to it."""
        started, facts = now_ns(), file_facts(file)
        record = self.digests / f"{digest_json({'path': str(file.resolve()), 'kind': kind, 'facts': facts})}.json"
        if record.is_file() and is_unchanged(file, facts):
            checksum: str = read_json(record)["identity"]
            return checksum
        checksum = checksum_of(file, kind)
        if were_stable(facts, file, started):
            write_json(record, {"identity": checksum})
        return checksum


def local_name(root: str) -> str:
    """Return how lineage shows a local path: as given if it is in the project's folder, else its last part."""
    return public_root(root)


def _files_in(root: Path, folder: str) -> list[str]:
    """Return the paths of a folder's files below the root, sorted."""
    path = root / folder
    found = [each for each in path.iterdir() if each.is_file()] if path.is_dir() else []
    return sorted(each.relative_to(root).as_posix() for each in found)


def _walk(root: Path, follow_links: bool) -> Iterator[Entry]:
    """Yield the files below a folder; links are followed, or come as such."""
    pending: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(root),))]
    while pending:
        folder, above = pending.pop()
        try:
            with os.scandir(root / folder) as entries:
                for each in entries:
                    path = f"{folder}{each.name}"
                    if each.is_symlink() and not follow_links:
                        yield Entry(path, is_link=True)
                    elif each.is_dir():
                        real = os.path.realpath(each.path) if each.is_symlink() else f"{above[-1]}/{each.name}"
                        if real not in above:
                            pending.append((f"{path}/", (*above, real)))
                    else:
                        yield Entry(path)
        except OSError as error:
            raise SourceError(f"{root / folder}: {error.strerror}. Ask its owner for access, or mount it.") from None


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    try:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
    except OSError as error:  # a mounted file system has its moments
        raise TryAgain(f"reading broke off ({error.strerror})") from None
