"""Bytes from anywhere: the contract between those who need files and the kinds of storage that have them.

A `Storage` is a root with files below it: it describes them (`stat`), lists them (`list`) and sends their bytes from
any byte on (`read`). The kinds are modules beside this one: local, http, hub, links, s3, and fsspec for the rest;
`microdiff.storage.opening` chooses by the form of the root. What they share is written once: when to try again
(`retry`), how a file comes here whole and verified (`fetching`), and where copies are kept (`fetched_source`).

A `Source` is what handlers see of it: the same files, each as a verified file on this machine.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, Self

from microdiff.core.progress import NullReporter, Reporter
from microdiff.errors import SourceError

SETTING = "datasets.*.download.source"  # where a root is set, for messages; unless it is another's


class TryAgain(SourceError):
    """A request failed for a reason that may pass.

    Attributes:
        wait_s: For how many seconds the storage wants no further request; 0 if it does not say.
        remedy: What to check if it does not pass.
    """

    def __init__(self, problem: str, wait_s: float = 0.0, remedy: str = "the network") -> None:
        super().__init__(problem)
        self.wait_s = wait_s
        self.remedy = remedy


class CannotResume(TryAgain):
    """A file cannot be read from the byte wanted: it ends before it, or another range was sent."""


class Unreachable(SourceError):
    """A storage has failed too many times in a row."""


class NotFound(SourceError):
    """A file is not in the storage."""


class Changed(SourceError):
    """A file is no longer the one that was described."""


class Damaged(SourceError):
    """The bytes that come, time and again, are not those that the checksum is of.

    Attributes:
        found: What they are.
    """

    def __init__(self, message: str, found: str) -> None:
        super().__init__(message)
        self.found = found


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    Attributes:
        path: Below the source's root, with `/`.
        num_bytes: Size the source states.
        identity: Changes when the bytes do. `sha256:...`, `md5:...` and `git:...` (SHA-1 of the git blob) are checked
            after a fetch; `etag:...`, `version:...` (whatever else a storage says of a file) and `name:...` (its name,
            where nothing else lasts) say only that the source has not announced a change.
    """

    path: str
    num_bytes: int
    identity: str

    @property
    def kind(self) -> str:
        """The kind of identity: what stands before the colon."""
        return self.identity.partition(":")[0]


class Entry(NamedTuple):
    """A file that a walk met, or a link that it did not follow."""

    path: str
    is_link: bool = False


@dataclass(frozen=True)
class Body:
    """What a storage sends of a file.

    Attributes:
        start: Where in the file the first byte is: the one wanted, or 0 where the storage cannot begin elsewhere.
        num_bytes: Size of the whole file, None if it is not stated.
        version: What tells this version of the file from others, as in an identity `etag:...` or `version:...`; empty
            if the storage does not say.
        chunks: The bytes. Iterating raises `TryAgain` where they break off, `Changed` if they are of two versions.
        decoded: Whether the server had compressed them for the way, so that what it says of sizes and ranges is not of
            these bytes: such a body can only be read from its beginning to its end.
    """

    start: int
    num_bytes: int | None
    version: str
    chunks: Iterator[bytes]
    decoded: bool = False


@dataclass(frozen=True, kw_only=True)
class Storage(ABC):
    """A root with files below it. Picklable: it travels to workers, by fork or spawn.

    `stat` and `list` repeat a request that may succeed later, and give up soon (`retry.FEW_ATTEMPTS`). `read` does not:
    `fetching.fetch_verified` goes on where it broke off.

    Attributes:
        setting: Where the root is set, for messages.
        report: Hears of bytes received and of requests that are repeated.
    """

    setting: str = field(default=SETTING, compare=False)
    report: Reporter = field(default_factory=NullReporter, compare=False, repr=False)

    @property
    @abstractmethod
    def name(self) -> str:
        """The root as lineage and messages show it: no credentials."""

    @abstractmethod
    def stat(self, path: str, checksum: str | None = None) -> SourceFile:
        """Describe a file.

        Args:
            path: Below the root.
            checksum: What its bytes must hash to, if known: `sha256:...` or `md5:...` with hexadecimal digits. It then
                is the file's identity.

        Raises:
            NotFound: It is not there.
            SourceError: It is known to differ from `checksum`, or the storage refuses or stays out of reach.
        """

    @abstractmethod
    def list(self, folder: str) -> Sequence[str]:
        """Return the paths of the files in a folder (not of those in folders below it), sorted; none if it is absent.

        Args:
            folder: Below the root; the root itself if empty.

        Raises:
            SourceError: This kind of storage cannot tell, refuses, or stays out of reach.
        """

    def all_files(self, *, follow_links: bool = False) -> Iterator[Entry]:
        """Yield all files below the root, those of folders in it included, in no order and in bounded memory.

        Args:
            follow_links: Of a folder on this machine: whether symbolic links are taken for what they lead to; else each
                comes as a link. A folder that leads back to itself is entered once.

        Raises:
            SourceError: This kind of storage cannot tell, refuses, or stays out of reach.
        """
        raise SourceError(
            f"{self.name}: its files cannot be listed. Use a source that can: hf://, s3://, or a local folder."
        )

    @abstractmethod
    def read(self, path: str, start: int = 0, version: str = "") -> AbstractContextManager[Body]:
        """Open a file, by one request.

        Args:
            path: Below the root.
            start: First byte wanted.
            version: Of which version the bytes before it are, if known. A storage that has another one may send it
                from its beginning.

        Raises:
            TryAgain: The storage is busy or unreachable.
            CannotResume: It has no such byte, or sends others.
            NotFound: The file is not there.
            SourceError: Asking again cannot help: wrong credentials, no such bucket.
        """

    def changed(self, path: str) -> None:  # noqa: B027 - most kinds remember nothing
        """Forget what is remembered of a file, which has changed since."""

    def as_sent(self) -> Self:
        """Return this storage, giving bytes as they are sent, whatever the server says that it did to them."""
        return self

    def past_caches(self) -> Self:
        """Return this storage, asking for what it has itself, not for what something between keeps of it."""
        return self

    def with_reporter(self, report: Reporter) -> Self:
        """Return this storage, reporting to `report`."""
        return replace(self, report=report)


class Source(Protocol):
    """A root below which a dataset's files are."""

    @property
    def name(self) -> str:
        """The root as lineage shows it: no credentials, no absolute local path."""

    def with_reporter(self, report: Reporter) -> "Source":
        """Return this source, reporting bytes and retries to `report`."""

    def list(self, folder: str) -> Sequence[str]:
        """Return the paths of the files in a folder, sorted; see `Storage.list`."""

    def all_files(self, *, follow_links: bool = False) -> Iterator[Entry]:
        """Yield all files below the root; see `Storage.all_files`."""

    def facts(self, path: str) -> str | None:
        """Return what tells that a small file has not been written to since; None where only `look` can."""

    def look(self, path: str) -> tuple[SourceFile, str | None]:
        """Describe one of very many files, and remember nothing of it: whoever asks does, by its `facts`."""

    def open(self, file: SourceFile) -> BinaryIO:
        """Open a file for reading few parts of it, such as a table of contents at its end: unverified."""

    def load(self, file: SourceFile) -> bytes:
        """Return the verified bytes of one of very many files, and leave no copy behind.

        Raises:
            SourceError: It cannot be had, or its bytes are not the ones described.
        """

    def stat(self, path: str, checksum: str | None = None) -> SourceFile:
        """Describe a file; see `Storage.stat`."""

    def fetch(self, file: SourceFile) -> Path:
        """Return a local, verified copy of a file; safe to interrupt and to call from several processes.

        Raises:
            SourceError: It cannot be had, or its bytes are not the ones described.
        """

    def fetch_again(self, file: SourceFile) -> Path:
        """Return a local copy of a file, fetched anew in place of the one that is there.

        Raises:
            SourceError: As for `fetch`.
        """

    def forget(self, file: SourceFile) -> None:
        """Remove the local copy of a file, if this source made one."""

    def disown(self, file: SourceFile) -> None:
        """Remove the local copy of a file, and whatever is remembered of it: it cannot be read."""
