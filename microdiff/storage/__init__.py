"""Where a dataset comes from: the contract between handlers and the kinds of sources.

A source answers three questions about what is below its root: which files there are (`list`), what one of them is
(`stat`: size and what identifies the bytes), and its bytes as a verified local file (`fetch`). The kinds are modules
beside this one; `microdiff.storage.opening` chooses by the root's form.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from microdiff.core.progress import Reporter

SETTING = "datasets.*.download.source"  # where a root is set, for messages; unless it is another's


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

    @property
    def etag(self) -> str | None:
        """The ETag, where the file is identified by it."""
        return self.identity.removeprefix("etag:") if self.kind == "etag" else None


class Source(Protocol):
    """A root below which a dataset's files are."""

    @property
    def name(self) -> str:
        """The root as lineage shows it: no credentials, no absolute local path."""

    def with_reporter(self, report: Reporter) -> "Source":
        """Return this source, reporting bytes and retries to `report`."""

    def list(self, folder: str) -> Sequence[str]:
        """Return the paths of the files in a folder (not of those in folders below it), sorted; none if it is absent.

        Args:
            folder: Below the root; the root itself if empty.

        Raises:
            SourceError: This kind of source cannot tell, or is unreachable.
        """

    def stat(self, path: str, checksum: str | None = None) -> SourceFile:
        """Describe a file.

        Args:
            path: Below the root.
            checksum: What its bytes must hash to, if known: `sha256:...` or `md5:...` with hexadecimal digits.

        Raises:
            SourceError: It is not there, or is known to differ from `checksum`.
        """

    def fetch(self, file: SourceFile) -> Path:
        """Return a local, verified copy of a file; safe to interrupt and to call from several processes.

        Raises:
            SourceError: It cannot be had, or its bytes are not the ones described.
        """

    def forget(self, file: SourceFile) -> None:
        """Remove the local copy of a file, if this source made one."""
