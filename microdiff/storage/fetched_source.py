"""A source whose files are copied to this machine: each once, verified before it gets its name."""

import io
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

from microdiff.core.file_facts import file_facts, is_unchanged
from microdiff.core.files import digest_json, locked_folder, sync
from microdiff.core.places import writing_to
from microdiff.core.progress import Reporter
from microdiff.errors import SourceError
from microdiff.storage import Changed, Damaged, Entry, SourceFile, Storage
from microdiff.storage.checksums import checksum_of, is_checksum
from microdiff.storage.fetching import fetch_verified
from microdiff.storage.pages import PageInstead
from microdiff.storage.ranges import RangeFile


@dataclass(frozen=True, kw_only=True)
class FetchedSource:
    """A storage's files, each in a folder of its own that is named by what identifies it.

    Attributes:
        storage: Has the files.
        fetched: Holds these folders.
    """

    storage: Storage
    fetched: Path

    @property
    def name(self) -> str:
        """The root as lineage shows it."""
        return self.storage.name

    def with_reporter(self, report: Reporter) -> "FetchedSource":
        """Return this source, reporting bytes and retries to `report`."""
        return replace(self, storage=self.storage.with_reporter(report))

    def list(self, folder: str) -> Sequence[str]:
        """Return a folder's files, sorted."""
        return self.storage.list(folder)

    def all_files(self, *, follow_links: bool = False) -> Iterator[Entry]:
        """Yield all files below the root."""
        return self.storage.all_files(follow_links=follow_links)

    def facts(self, path: str) -> str | None:
        """Return None: only the storage can tell."""
        return None

    def look(self, path: str) -> tuple[SourceFile, str | None]:
        """Describe a file."""
        return self.storage.stat(path), None

    def open(self, file: SourceFile) -> BinaryIO:
        """Open a file; a request for each part that is read."""
        return cast("BinaryIO", io.BufferedReader(RangeFile(self.storage, file)))

    def load(self, file: SourceFile) -> bytes:
        """Return a file's bytes, without keeping a copy."""
        data = self.fetch(file).read_bytes()
        self.forget(file)
        return data

    def stat(self, path: str, checksum: str | None = None) -> SourceFile:
        """Describe a file."""
        return self.storage.stat(path, checksum)

    def fetch(self, file: SourceFile) -> Path:
        """Return a verified copy of a file, continuing where an earlier attempt stopped.

        Raises:
            SourceError: It cannot be had, or its bytes are not the ones described.
        """
        folder = self._folder(file)
        target = folder / Path(file.path).name
        with writing_to(folder), locked_folder(folder):
            if not self._is_whole(target, file):
                self._bring(file, target, self.storage)
        return target

    def fetch_again(self, file: SourceFile) -> Path:
        """Return a copy of a file, fetched anew; the one that is there stays until the new one is whole.

        Raises:
            SourceError: As for `fetch`.
        """
        folder = self._folder(file)
        target = folder / Path(file.path).name
        with writing_to(folder), locked_folder(folder):
            self._bring(file, target, self.storage.past_caches())
        return target

    def _bring(self, file: SourceFile, target: Path, storage: Storage) -> None:
        """Fetch a file, under its name once it is verified."""
        part = target.with_name(f"{target.name}.part")
        try:
            fetch_verified(storage, file.path, part, identity=file.identity, num_bytes=file.num_bytes)
        except (Changed, PageInstead):
            self.storage.changed(file.path)
            raise
        except Damaged:
            self._refuse_if_changed(file)
            raise
        part.rename(target)
        _note(target).write_text(json.dumps(file_facts(target)))
        sync(target.parent)

    def _is_whole(self, target: Path, file: SourceFile) -> bool:
        """Tell whether an earlier fetch left the file and nobody has written to it since; else remove it."""
        if not target.is_file():
            return False
        note = _note(target)
        if note.is_file() and is_unchanged(target, _parsed(note)):
            return True
        if is_checksum(file.identity) and checksum_of(target, file.kind) == file.identity:
            return True
        self.storage.report.say(f"{target}: not as it was fetched from {self.storage.name}. It is fetched again.")
        target.unlink()
        return False

    def forget(self, file: SourceFile) -> None:
        """Remove the copy of a file."""
        folder = self._folder(file)
        if folder.is_dir():
            with locked_folder(folder):
                shutil.rmtree(folder, ignore_errors=True)

    def disown(self, file: SourceFile) -> None:
        """Remove the copy of a file that cannot be read, and what is remembered of the file."""
        self.storage.changed(file.path)
        self.forget(file)

    def _folder(self, file: SourceFile) -> Path:
        return self.fetched / digest_json([self.name, file.path, file.num_bytes, file.identity])[:32]

    def _refuse_if_changed(self, file: SourceFile) -> None:
        """Raise `Changed` if the storage itself says that its bytes are others now."""
        try:
            now = self.storage.stat(file.path)
        except SourceError:
            return
        if now.kind == file.kind and now.identity != file.identity:
            raise Changed(
                f"{self.name}/{file.path}: changed on the server: expected {file.identity}, it has {now.identity}. "
                "Run again, or correct the checksum."
            ) from None


def _note(target: Path) -> Path:
    """Return the file that tells what the fetched one was."""
    return target.with_name(f"{target.name}.fetched")


def _parsed(note: Path) -> object:
    try:
        value: object = json.loads(note.read_text())
    except ValueError:
        return None
    return value


def remedy(path: Path) -> str:
    """Return what to do about a source's file that cannot be read: a copy is made again, the user's own cannot be."""
    if _note(path).is_file():
        return "It is a copy of the source's."
    return "Put a whole one in its place and run again."
