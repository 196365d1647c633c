"""Datasets without a module of their own: an entry of params.yaml says by `kind` how somebody's own source is laid out.

A kind is a handler like any other. What is special is that its source grows: `survey` is told which partition holds
which of the source's records or files (`microdiff.kinds.partition_list`), and puts new ones into new partitions,
wherever they sort. So what is finished stays finished.
"""

import importlib
import tempfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from microdiff.formats.records import Partition
from microdiff.handlers import Handler
from microdiff.storage import Source

KINDS = ("folder", "webdataset", "parquet", "jsonl", "csv")
DEFAULT_REJECTED_SHARE = 0.1
DEFAULT_CLEAN: Mapping[str, Any] = {
    "cleaner": "light",
    "caption": "first",
    "min_chars": 1,
    "max_scores": {},
    "missing_scores": "keep",
    "drop_duplicates": False,
    "seed": 2024,
}


@dataclass(frozen=True, kw_only=True)
class Listed(Partition):
    """A partition of loose records.

    Attributes:
        digest: Of its records: their files' names, sizes and checksums, and what tables say of them.
    """

    digest: str


@dataclass(frozen=True)
class Listing:
    """What a source has.

    Attributes:
        partitions: All of them, sorted by name.
        index: What `Inputs.annotations` is to be made of, None where partitions name all files that they need.
        others: How many files are known to be no records: hidden ones, checksums, documents, files of other kinds.
        examples: The first of these by name, at most ten.
    """

    partitions: Sequence[Partition]
    index: Path | None = None
    others: int = 0
    examples: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class KindHandler(Handler):
    """A handler for sources of one layout, whatever they are of."""

    licence: ClassVar[str] = "not stated"

    @abstractmethod
    def survey(self, source: Source, place: Path, recorded: Path) -> Listing:
        """List the source's records, and bring the list of partitions up to date.

        Args:
            source: The source.
            place: A folder that keeps what is known of its files from one time to the next.
            recorded: The list of partitions: read, if there is one, and written if it changes.

        Raises:
            SourceError: The source is missing, or not of this kind.
        """

    def partitions(self, source: Source) -> Sequence[Partition]:
        """List the partitions that a source has which nobody has listed before."""
        with tempfile.TemporaryDirectory() as folder:
            return self.survey(source, Path(folder), Path(folder) / "partitions.tsv").partitions


def kind_module(kind: str) -> str:
    """Return the name of a kind's module."""
    return f"{__name__}.{kind}"


def kind_class(kind: object) -> type[KindHandler] | None:
    """Return a kind's handler class, or None when there is no such kind."""
    if kind not in KINDS:
        return None
    handler: type[KindHandler] = importlib.import_module(kind_module(str(kind))).HANDLER
    return handler
