"""`partition.json`: what a folder of the partition store says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from microdiff.artifacts.manifest import FileRecord, parse_counts, parse_files
from microdiff.core.files import canonical_json, digest_json, write_text
from microdiff.core.ledger import Counts
from microdiff.core.untrusted import check_name, load_json
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
        computed_with: What computed it, where that decides bytes.
    """

    name: str
    counts: Counts
    facts: Mapping[str, Any]
    files: Mapping[str, FileRecord]
    computed_with: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a folder's record.

        Raises:
            SchemaError: It is missing or damaged.
        """
        path = folder / RECORD
        try:
            return cls.parse(path.read_bytes(), str(path))
        except OSError as error:
            raise SchemaError(f"{path}: no record of a partition ({error.strerror})") from error

    @classmethod
    def parse(cls, data: bytes, where: str) -> Self:
        """Return what a record's bytes say.

        Args:
            data: The bytes.
            where: Where they are, for messages.

        Raises:
            SchemaError: They are damaged: they are no record, or another one than was written.
        """
        try:
            value = load_json(data)
            digest = value.pop("digest", None)  # records of earlier versions have none
            if digest not in (None, digest_json(value)):
                raise ValueError("its digest does not fit")
            counts, files = parse_counts(value["counts"]), parse_files(value["files"])
            with_what = {str(key): str(item) for key, item in dict(value.get("computed_with", {})).items()}
            return cls(check_name(value["name"]), counts, dict(value["facts"]), files, with_what)
        except UnicodeDecodeError:
            raise SchemaError(f"{where}: no record of a partition (it is not UTF-8)") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SchemaError(f"{where}: no record of a partition ({error!r})") from error

    def to_bytes(self) -> bytes:
        """Return the record as its file has it, with a digest of its own."""
        files = {name: file.to_json() for name, file in self.files.items()}
        value = {"name": self.name, "counts": self.counts, "facts": dict(self.facts), "files": files}
        if self.computed_with:
            value["computed_with"] = dict(self.computed_with)
        return canonical_json({**value, "digest": digest_json(value)}).encode()

    def write(self, folder: Path) -> None:
        """Write the record into a folder, whose files must be there."""
        write_text(folder / RECORD, self.to_bytes().decode())
