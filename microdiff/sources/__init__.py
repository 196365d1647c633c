"""Where a dataset comes from: the contract between handlers and the kinds of sources.

A source answers two questions about a path below its root: what is there (`stat`: size and a checksum or ETag, which
identify the bytes), and the bytes themselves as a verified local file (`fetch`). The kinds are modules beside this one;
`microdiff.sources.opening` chooses by the root's form.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from microdiff.progress import Reporter


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    Attributes:
        path: Below the source's root, with `/`.
        num_bytes: Size the source states.
        identity: `sha256:...` or `etag:...`: changes when the bytes do.
    """

    path: str
    num_bytes: int
    identity: str

    @property
    def sha256(self) -> str | None:
        """The content's SHA-256 in hexadecimal, if it is known."""
        return self.identity.removeprefix("sha256:") if self.identity.startswith("sha256:") else None


class Source(Protocol):
    """A root below which a dataset's files are."""

    @property
    def name(self) -> str:
        """The root as lineage shows it: no credentials, no absolute local path."""

    def with_reporter(self, report: Reporter) -> "Source":
        """Return this source, reporting bytes and retries to `report`."""

    def stat(self, path: str, sha256: str | None = None) -> SourceFile:
        """Describe a file.

        Args:
            path: Below the root.
            sha256: What its bytes must hash to, if known.

        Raises:
            SourceError: It is not there, or is not what `sha256` says.
        """

    def fetch(self, file: SourceFile) -> Path:
        """Return a local, verified copy of a file; safe to interrupt and to call from several processes.

        Raises:
            SourceError: It cannot be had, or its bytes are not the ones described.
        """

    def forget(self, file: SourceFile) -> None:
        """Remove the local copy of a file, if this source made one."""
