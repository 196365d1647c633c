"""The handler contract: what a module that knows one public dataset provides.

A handler module is `microdiff/handlers/<dataset>.py` and ends in `HANDLER = <its class>`. The class is a frozen
dataclass; its fields are the dataset's own settings under `datasets.<dataset>.download` in params.yaml. Handlers only
read: storing, resizing, cleaning and counting are the same for all datasets and happen elsewhere.
"""

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from microdiff.formats.records import Inputs, Partition, Rejection, Sample
from microdiff.storage import Source


@dataclass(frozen=True, kw_only=True)
class Handler(ABC):
    """Turns one public dataset into a stream of samples and rejections.

    Attributes:
        licence: Of the dataset, as its home states it; manifests repeat it. A picture's own is in its sample's meta.
    """

    licence: ClassVar[str]

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
