"""Where shards come from that are not on this machine: the contract between the loader and what fetches for it."""

from pathlib import Path
from typing import Protocol

from microdiff.core.withdrawn import Withdrawn


class ShardSource(Protocol):
    """One version of a shard set, fetched file by file into a local cache. Picklable: it travels to workers.

    Attributes:
        local: Folder laid out like the shard set (index.json, 512/..., manifest.json), holding what was fetched.
        withdrawn: The samples of it that may not be used any more.
    """

    @property
    def local(self) -> Path:
        """The cache folder."""

    @property
    def withdrawn(self) -> Withdrawn:
        """The withdrawn samples."""

    def fetch(self, name: str) -> None:
        """Put one file there: verified, atomic, safe from many processes at once; does nothing if it is there.

        Args:
            name: Relative to `local`, with `/`.

        Raises:
            SourceError: The set has no such file, or it cannot be had whole.
        """
