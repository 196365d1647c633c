"""Copies of a source's files that turn out damaged: fetched again, compared, and dropped if they cannot be read.

A file whose checksum the source publishes is what the source has: damage in it is the source's own. Of any other, the
copy may be what is damaged. Then it is fetched again, twice at most: the same bytes once more are what the source has,
and whatever can be read of them is kept; other bytes are read in place of the first.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

from microdiff.core.files import digest_file
from microdiff.core.ledger import Reason
from microdiff.core.progress import Reporter
from microdiff.errors import FinalSourceError, SourceError
from microdiff.formats.records import Rejection, Sample
from microdiff.formats.url_failures import FailedFetch
from microdiff.storage import Entry, Source, SourceFile
from microdiff.storage.checksums import is_checksum
from microdiff.storage.local import LocalSource

_TIMES = 2  # that a file is fetched again
_DAMAGE = (Reason.DAMAGED_ARCHIVE, Reason.UNDECODABLE)  # of a record that a handler rejects: a zip says so by CRC

T = TypeVar("T")
Local = Mapping[str, Path]


class Suspicious(Exception):
    """A file is damaged, and nothing says yet that the source has it so.

    Attributes:
        path: Of the file in its source.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


def watched(
    records: Iterable[Sample | Rejection], paths: Collection[str], settled: Collection[str]
) -> Iterator[Sample | Rejection]:
    """Yield records as they come, up to what stands for damage in a file that is not settled.

    Args:
        records: Of a partition.
        paths: Its files.
        settled: Those that are what the source has.

    Raises:
        Suspicious: There is damage.
    """
    for record in records:
        if isinstance(record, Rejection) and record.reason in _DAMAGE:
            path = next((path for path in paths if record.source.startswith(f"{path}/")), None)
            if path is not None and path not in settled:
                raise Suspicious(path)
        yield record


def read_copies(
    source: Source,
    files: Sequence[SourceFile],
    read: Callable[[Local, Collection[str]], T],
    report: Reporter,
    *,
    anew: bool = False,
) -> T:
    """Return what is made of a source's files, fetched again where their copies are damaged.

    Args:
        source: Has the files.
        files: The files.
        read: Gets their copies by path, and the paths of those that are what the source has, damaged or not. Called
            again after files have changed.
        report: Hears of what is fetched again.
        anew: Whether copies that are there are not to be used.

    Raises:
        SourceError: They cannot be had or read; copies without checksum are dropped, with all that is remembered of
            them, so that the next run fetches them anew.
    """
    local = {file.path: source.fetch_again(file) if anew else source.fetch(file) for file in files}
    settled = {file.path for file in files if is_checksum(file.identity)}
    seen: dict[str, list[str]] = {}
    while True:
        try:
            return read(local, settled)
        except FailedFetch:
            raise
        except Suspicious as found:
            suspects, problem = [file for file in files if file.path == found.path], "damaged"
        except SourceError as error:
            suspects, problem = [file for file in files if file.path not in settled], "it cannot be read"
            if not files:
                raise
            if not suspects:
                raise _unreadable(source, files, seen, error) from error
        for file in suspects:
            where, digests = f"{source.name}/{file.path}", seen.setdefault(file.path, [digest_file(local[file.path])])
            if len(digests) > _TIMES:
                source.disown(file)
                raise FinalSourceError(
                    f"{where}: damaged {len(digests)} times, each time in another way: it is damaged on its way here. "
                    "Nothing of it is kept.\nCheck the network, proxies, this machine's memory and disk; run again."
                )
            report.say(f"{where}: {problem}, and no checksum says how it should be: fetched again")
            local[file.path] = source.fetch_again(file)
            digests.append(digest_file(local[file.path]))
            if digests[-1] in digests[:-1]:
                settled.add(file.path)


def _unreadable(
    source: Source, files: Sequence[SourceFile], seen: Mapping[str, Sequence[str]], error: SourceError
) -> FinalSourceError:
    """Return the error for files that are as the source has them and cannot be read; drop those without checksum."""
    if isinstance(source, LocalSource):
        return FinalSourceError(str(error))
    unchecked = [file for file in files if not is_checksum(file.identity)]
    for file in unchecked:
        source.disown(file)
    if not unchecked:
        return FinalSourceError(f"{error}\nIts checksum is right: {source.name} has it so.")
    times = "twice" if len(seen) == 1 else "each twice"
    return FinalSourceError(
        f"{error}\nFetched {times}, with the same bytes. They are dropped: the next run fetches anew."
    )


@dataclass(frozen=True)
class NotedSource:
    """A source that notes which files were fetched, for dropping those that could not be read.

    Attributes:
        source: The source.
        fetched: The files, as they were fetched.
        failures: Errors that the source itself has raised: it does not answer, or has not what it is asked for.
    """

    source: Source
    fetched: list[SourceFile] = field(default_factory=list)
    failures: list[SourceError] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The source's name."""
        return self.source.name

    def with_reporter(self, report: Reporter) -> "NotedSource":
        """Return this source, reporting to `report`."""
        return NotedSource(self.source.with_reporter(report), self.fetched, self.failures)

    def list(self, folder: str) -> Sequence[str]:
        """Return a folder's files."""
        with self._noting():
            return self.source.list(folder)

    def all_files(self, *, follow_links: bool = False) -> Iterator[Entry]:
        """Yield all files."""
        return self.source.all_files(follow_links=follow_links)

    def facts(self, path: str) -> str | None:
        """Return what tells that a file is unchanged."""
        return self.source.facts(path)

    def look(self, path: str) -> tuple[SourceFile, str | None]:
        """Describe one of very many files."""
        return self.source.look(path)

    def open(self, file: SourceFile) -> BinaryIO:
        """Open a file for reading few parts of it."""
        return self.source.open(file)

    def load(self, file: SourceFile) -> bytes:
        """Return the bytes of one of very many files."""
        return self.source.load(file)

    def stat(self, path: str, checksum: str | None = None) -> SourceFile:
        """Describe a file."""
        with self._noting():
            return self.source.stat(path, checksum)

    def fetch(self, file: SourceFile) -> Path:
        """Return a copy of a file, and note it."""
        self.fetched.append(file)
        with self._noting():
            return self.source.fetch(file)

    def fetch_again(self, file: SourceFile) -> Path:
        """Return a copy of a file, fetched anew."""
        return self.source.fetch_again(file)

    def forget(self, file: SourceFile) -> None:
        """Remove the copy of a file."""
        self.source.forget(file)

    def disown(self, file: SourceFile) -> None:
        """Remove the copy of a file, and what is remembered of it."""
        self.source.disown(file)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except SourceError as error:
            self.failures.append(error)
            raise

    def disown_unchecked(self) -> bool:
        """Remove the copies of noted files without checksum, and what is remembered; return whether there are any."""
        unchecked = [file for file in self.fetched if not is_checksum(file.identity)]
        for file in unchecked:
            self.source.disown(file)
        return bool(unchecked)
