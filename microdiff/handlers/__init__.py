"""The handler contract: what a module that knows one public dataset provides.

A handler module is `microdiff/handlers/<dataset>.py` and ends in `HANDLER = <its class>`. The class is a frozen
dataclass; its fields are the dataset's own settings under `datasets.<dataset>.download` in params.yaml. Handlers only
read: storing, resizing, cleaning and counting are the same for all datasets and happen elsewhere.
"""

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from microdiff.annotations import Annotations
from microdiff.ledger import Reason
from microdiff.progress import Reporter, Silent
from microdiff.sources import Source


@dataclass(frozen=True, kw_only=True)
class Partition:
    """The unit of work, retry and caching: one or a few source archives, or a slice of one.

    Attributes:
        name: Zero-padded, so that names sort in source order.
        number: What `partitions:` in params.yaml selects by.
        files: Paths of the source files it needs; none where all that is known of it is in the annotations.
        first_key: Where a slice starts, None for a whole archive.
        end_key: The first key after the slice, None for the source's end.
        num_records: Number of records to expect, for progress, if the source says so.
    """

    name: str
    number: int
    files: tuple[str, ...]
    first_key: str | None = None
    end_key: str | None = None
    num_records: int | None = None


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a handler reads a partition from.

    Attributes:
        files: Local copies of the partition's files, verified, by their path in the source.
        scratch: An empty folder for whatever reading needs; removed afterwards.
        annotations: What `Handler.read_annotations` gave, as a table.
        report: Hears of bytes that reading itself receives, where a handler fetches more than the source's files.
    """

    files: Mapping[str, Path]
    scratch: Path
    annotations: Annotations = field(default_factory=Annotations)
    report: Reporter = field(default_factory=Silent, compare=False)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One picture with its captions, as the source has them.

    Attributes:
        key: Unique in the dataset; without `/` and `.`, which WebDataset gives a meaning.
        image: The encoded picture.
        captions: All of them, untouched; may be empty.
        source: Archive and member, or URL.
        meta: What else the source says; JSON values.
    """

    key: str
    image: bytes
    captions: tuple[str, ...]
    source: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A source record that cannot become a sample, and why. Other fields as in `Sample`."""

    key: str
    reason: Reason
    source: str
    captions: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Handler(ABC):
    """Turns one public dataset into a stream of samples and rejections."""

    @abstractmethod
    def partitions(self, source: Source) -> Sequence[Partition]:
        """List the units of work the source really has, sorted by name.

        Raises:
            SourceError: The source is missing or is not this dataset.
        """

    @abstractmethod
    def read(self, partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
        """Yield every record of a partition, in the order of keys in the source.

        Args:
            partition: One of `partitions`.
            inputs: Its files, and the annotations.

        Raises:
            SourceError: A file is not what it should be.
        """

    # A dataset whose captions are in files of their own, apart from the pictures, also has:

    def annotation_root(self) -> str | None:
        """Return the root of the annotation files, or None where it is the source of the pictures."""
        return None

    def annotation_files(self, source: Source) -> Sequence[str]:
        """Return the paths of files that `read_annotations` reads, once for all partitions."""
        return ()

    def read_annotations(self, files: Mapping[str, Path]) -> Iterator[tuple[str, Any]]:
        """Yield keys and JSON values for the table of annotations.

        Args:
            files: Local copies of `annotation_files`, verified, by their path in the source.

        Raises:
            SourceError: A file is not what it should be.
        """
        yield from ()

    def checksum(self, path: str) -> str | None:
        """Return what a file must hash to, as `sha256:...` or `md5:...`, where the settings say so."""
        return None


def handler_class(dataset: str) -> type[Handler] | None:
    """Return a dataset's handler class, or None when there is no such dataset."""
    name = f"{__name__}.{dataset}"
    if not dataset.isidentifier() or importlib.util.find_spec(name) is None:
        return None
    handler: type[Handler] = importlib.import_module(name).HANDLER
    return handler
