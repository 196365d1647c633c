"""What a source has, and what it had when it last answered: withdrawn samples must go even if it answers no more."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

from microdiff.core.files import digest_json, read_json, write_json
from microdiff.errors import SourceError
from microdiff.formats.records import Partition
from microdiff.formats.url_list import Slice
from microdiff.handlers import Handler
from microdiff.kinds import Listed
from microdiff.kinds.parquet import RowGroup
from microdiff.storage import Entry, Source, SourceFile

_QUESTIONS_AT_ONCE = 8


@dataclass(frozen=True)
class SourceInventory:
    """A dataset as its source lists it.

    Attributes:
        source: The source's name.
        partitions: The selected ones.
        files: Those that the partitions need, by path.
        annotations: Those with annotations.
    """

    source: str
    partitions: tuple[Partition, ...]
    files: Mapping[str, SourceFile]
    annotations: tuple[SourceFile, ...]


class LostSource:
    """Stands for a source that could not be asked: it has nothing to give, and says why.

    Args:
        name: Of the source.
        error: Why.
    """

    def __init__(self, name: str, error: SourceError) -> None:
        self.name, self._error = name, error

    def with_reporter(self, report: object) -> "LostSource":
        """Return this source."""
        return self

    def list(self, folder: str) -> Sequence[str]:
        """Raise the error."""
        raise SourceError(f"{folder}: {self._error}")

    def all_files(self, *, follow_links: bool = False) -> Iterator[Entry]:
        """Raise the error."""
        raise self._error

    def facts(self, path: str) -> str | None:
        """Return None: nothing is known."""
        return None

    def look(self, path: str) -> tuple[SourceFile, str | None]:
        """Raise the error."""
        raise SourceError(f"{path}: {self._error}")

    def open(self, file: SourceFile) -> BinaryIO:
        """Raise the error."""
        raise SourceError(f"{file.path} is needed, but {self._error}")

    def load(self, file: SourceFile) -> bytes:
        """Raise the error."""
        raise SourceError(f"{file.path} is needed, but {self._error}")

    def stat(self, path: str, checksum: str | None = None) -> SourceFile:
        """Raise the error."""
        raise SourceError(f"{path}: {self._error}")

    def fetch(self, file: SourceFile) -> Path:
        """Raise the error."""
        raise SourceError(f"{file.path} is needed, but {self._error}")

    def fetch_again(self, file: SourceFile) -> Path:
        """Raise the error."""
        return self.fetch(file)

    def forget(self, file: SourceFile) -> None:
        """Do nothing: there is no copy."""

    def disown(self, file: SourceFile) -> None:
        """Do nothing: there is no copy."""


def describe(source: Source, handler: Handler, paths: Sequence[str]) -> dict[str, SourceFile]:
    """Ask a source about files, several at once.

    Raises:
        SourceError: One is not there, or the source does not answer.
    """
    distinct = sorted(set(paths))
    with ThreadPoolExecutor(_QUESTIONS_AT_ONCE) as pool:
        answers = pool.map(lambda path: source.stat(path, handler.checksum(path)), distinct)
        return dict(zip(distinct, answers, strict=True))


def remember(path: Path, question: Any, inventory: SourceInventory) -> None:
    """Keep an inventory.

    Args:
        path: Where.
        question: JSON value: all that the inventory depends on but the source.
        inventory: The answer.
    """
    write_json(path, {"question": digest_json(question), **asdict(inventory)})


def recall(path: Path, question: Any) -> SourceInventory | None:
    """Return the inventory kept, if there is one and the question is still the same."""
    try:
        kept = read_json(path)
    except FileNotFoundError:
        return None
    if kept["question"] != digest_json(question):
        return None
    return SourceInventory(
        kept["source"],
        tuple(_partition(values) for values in kept["partitions"]),
        {name: SourceFile(**values) for name, values in kept["files"].items()},
        tuple(SourceFile(**values) for values in kept["annotations"]),
    )


def _partition(values: Mapping[str, Any]) -> Partition:
    """Return a partition of the class that has these values: all of them are part of its fingerprint."""
    cls = next(
        cls for cls in (Partition, Slice, Listed, RowGroup) if {field.name for field in fields(cls)} == {*values}
    )
    return cls(**{**values, "files": tuple(values["files"])})
