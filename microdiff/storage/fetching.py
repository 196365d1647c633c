"""Files fetched from elsewhere: resumed after a break, verified before they get their final name, never fetched twice.

How bytes arrive is the business of each kind of source, which adds to a partial file what it can get in one go.
Everything around that is here: the lock, the attempts, the checksum, the rename.
"""

import hashlib
import shutil
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from microdiff.core.files import digest_json, locked_folder, sync
from microdiff.core.progress import NullReporter, Reporter
from microdiff.errors import SourceError
from microdiff.storage import SETTING, SourceFile

ATTEMPTS = 6  # in a row without a byte of progress
_CHUNK_BYTES = 4 * 2**20
_LONGEST_PAUSE_S = 60.0
_CHECKED = {"sha256": "sha256", "md5": "md5", "git": "sha1"}  # the algorithm by the kind of identity


@dataclass(frozen=True, kw_only=True)
class FetchedSource(ABC):
    """A source whose files are copied to this machine, each to a folder of its own named by what identifies it.

    Attributes:
        fetched: Holds these folders.
        report: Hears of bytes received and of attempts that are repeated.
        setting: Where the root is set in params.yaml, for messages.
    """

    fetched: Path
    report: Reporter = field(default_factory=NullReporter, compare=False)
    setting: str = field(default=SETTING, compare=False)

    @property
    @abstractmethod
    def name(self) -> str:
        """The root as lineage shows it."""

    @abstractmethod
    def append(self, file: SourceFile, part: Path) -> str:
        """Add to a partial file what it lacks, or some of it, and return why no more came.

        Raises:
            SourceError: Trying again cannot help.
        """

    def with_reporter(self, report: Reporter) -> Self:
        """Return this source, reporting bytes and retries to `report`."""
        return replace(self, report=report)

    def fetch(self, file: SourceFile) -> Path:
        """Return a verified copy of a file, continuing where an earlier attempt stopped.

        Raises:
            SourceError: It cannot be had, or its bytes are not the ones described.
        """
        folder = self._folder(file)
        target = folder / Path(file.path).name
        with locked_folder(folder):
            if not target.is_file():
                part = target.with_name(f"{target.name}.part")
                self._fill(file, part)
                part.rename(target)
                sync(folder)
                validator(part).unlink(missing_ok=True)
        return target

    def forget(self, file: SourceFile) -> None:
        """Remove the copy of a file."""
        folder = self._folder(file)
        if folder.is_dir():
            with locked_folder(folder):
                shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, file: SourceFile) -> Path:
        return self.fetched / digest_json([self.name, file.path, file.num_bytes, file.identity])[:32]

    def _fill(self, file: SourceFile, part: Path) -> None:
        """Complete a partial file and verify it; one that came out wrong is fetched once more from its beginning."""
        where = f"{self.name}/{file.path}"
        for last in (False, True):
            self._complete(file, part)
            sync(part)
            if not is_checked(file) or (found := checksum_of(part, file.kind)) == file.identity:
                return
            discard(part)
            problem = f"{where}: expected {file.identity}, got {found}"
            if last:
                raise SourceError(f"{problem}, twice. Nothing was kept. Run again later, or correct the checksum.")
            self.report.say(f"{problem}, starting over")

    def _complete(self, file: SourceFile, part: Path) -> None:
        """Bring a partial file to its full size."""
        if size_of(part) > file.num_bytes:
            discard(part)
        most, failures = size_of(part), 0
        while size_of(part) < file.num_bytes or not part.exists():
            problem = self.append(file, part)
            size = size_of(part)
            if part.exists() and size == file.num_bytes:
                return
            failures = 0 if size > most else failures + 1
            most = max(most, size)
            progress = f"{self.name}/{file.path}: {problem} after {size} of {file.num_bytes} bytes"
            if failures == ATTEMPTS:
                raise SourceError(f"{progress}, {ATTEMPTS} times in a row. Run again later: it continues from there.")
            self.report.say(f"{progress}, continuing")
            pause(failures)


def is_checked(file: SourceFile) -> bool:
    """Tell whether a file's identity is a checksum of its bytes."""
    return file.kind in _CHECKED


def checksum_of(path: Path, kind: str) -> str:
    """Return a file's checksum: `sha256:...`, `md5:...`, or `git:...`, the SHA-1 that git gives the blob.

    Raises:
        SourceError: There is no such kind.
    """
    if kind not in _CHECKED:
        raise SourceError(f"{path.name}: unknown kind of checksum {kind!r}; expected one of {', '.join(_CHECKED)}")
    digest = hashlib.new(_CHECKED[kind], usedforsecurity=False)
    if kind == "git":
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return f"{kind}:{digest.hexdigest()}"


def validator(part: Path) -> Path:
    """Return the file beside a partial one that says which version of the source its bytes are of."""
    return part.with_name(f"{part.name}.version")


def discard(part: Path) -> None:
    """Remove a partial file and what is known of it."""
    part.unlink(missing_ok=True)
    validator(part).unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Return a file's size, 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def pause(attempt: int, least_s: float = 0.0) -> None:
    """Wait before another attempt, twice as long each time, at most a minute unless more is asked for."""
    time.sleep(max(least_s, min(0.5 * 2**attempt, _LONGEST_PAUSE_S)))
