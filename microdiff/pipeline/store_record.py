"""`partition.json`: what a folder of the partition store says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from microdiff.artifacts.manifest import FileRecord, parse_counts, parse_files
from microdiff.core.files import read_json, write_json
from microdiff.core.ledger import Counts
from microdiff.errors import SchemaError

RECORD = "partition.json"


@dataclass(frozen=True)
class StoreRecord:
    """What `partition.json` in a folder of the store says.

    Attributes:
        name: The partition's name.
        counts: Its ledger.
        facts: What else its computation said.
        files: Its files by path.
    """

    name: str
    counts: Counts
    facts: Mapping[str, Any]
    files: Mapping[str, FileRecord]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a folder's record.

        Raises:
            SchemaError: It is missing or damaged.
        """
        path = folder / RECORD
        try:
            value = read_json(path)
            counts, files = parse_counts(value["counts"]), parse_files(value["files"])
            return cls(str(value["name"]), counts, dict(value["facts"]), files)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SchemaError(f"{path}: no record of a partition ({error!r})") from error

    def write(self, folder: Path) -> None:
        """Write the record into a folder, whose files must be there."""
        files = {name: file.to_json() for name, file in self.files.items()}
        value = {"name": self.name, "counts": self.counts, "facts": dict(self.facts), "files": files}
        write_json(folder / RECORD, value)
