"""What a step computes: a task for each partition, and what a finished one gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from microdiff.artifacts.manifest import FileRecord
from microdiff.core.ledger import Counts, Result
from microdiff.core.progress import SAMPLES, Reporter
from microdiff.core.verified_files import InputFile
from microdiff.pipeline.store_record import StoreRecord

Check = Callable[[Path, str, Result], None]


def no_check(folder: Path, name: str, result: Result) -> None:
    """Check nothing."""


@dataclass(frozen=True)
class Task:
    """One partition's computation in one step.

    Attributes:
        step: The store's name for this kind of partition, such as `download`.
        name: The partition's name.
        cache_key: JSON value: everything that determines the bytes, besides the step and the name.
        compute: Writes the partition's files into the folder given. Picklable.
        num_samples: How many it will report, if known.
        downloads: Bytes of the files it fetches, by path; tasks may share files.
        unit: What its samples are called in progress lines.
        on_device: Whether it computes with torch, on a GPU where there is one.
        inputs: The files of earlier steps' artifacts that it reads. They need not be here until it is computed.
        check: Raises SchemaError unless the files in a folder are what a partition of this name with this result
            consists of: counts, shapes, dtypes, finite values. Picklable.
    """

    step: str
    name: str
    cache_key: Mapping[str, Any]
    compute: Callable[[Path, Reporter], Result]
    num_samples: int | None = None
    downloads: Mapping[str, int] = field(default_factory=dict)
    unit: str = SAMPLES
    on_device: bool = False
    inputs: tuple[InputFile, ...] = ()
    check: Check = no_check

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return f"{self.step} {self.name}"


@dataclass(frozen=True)
class StoredPartition:
    """A finished partition.

    Attributes:
        step: Which kind it is.
        name: The partition's name.
        fingerprints: The store's folders it consists of.
        result: What its computation said.
        files: Its files by path in the artifact.
        paths: Where the store has them.
        others: The results it is merged from, besides its own.
        computed_with: What computed it, where that decides bytes: `torch` and `device`.
    """

    step: str
    name: str
    fingerprints: tuple[str, ...]
    result: Result
    files: Mapping[str, FileRecord]
    paths: Mapping[str, Path]
    others: "tuple[StoredPartition, ...]" = ()
    computed_with: Mapping[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, InputFile]:
        """Its files by path in the artifact, as a step reads them."""
        return {
            name: InputFile(path, self.files[name].num_bytes, self.files[name].sha256)
            for name, path in self.paths.items()
        }

    @property
    def record(self) -> StoreRecord:
        """What `partition.json` says of it."""
        return StoreRecord(self.name, self.counts, self.result.facts, self.files, self.computed_with)

    @property
    def parts(self) -> "tuple[StoredPartition, ...]":
        """The results that it consists of, each a folder of the store."""
        own = {name: file for name, file in self.files.items() if all(name not in each.files for each in self.others)}
        return replace(self, fingerprints=self.fingerprints[:1], files=own, others=()), *self.others

    @property
    def counts(self) -> Counts:
        """The partition's ledger."""
        return self.result.counts

    def merged_with(self, *others: "StoredPartition") -> "StoredPartition":
        """Return one partition with the files of all and the result of this one."""
        parts = (self, *others)
        return StoredPartition(
            self.step,
            self.name,
            tuple(fingerprint for part in parts for fingerprint in part.fingerprints),
            self.result,
            {name: file for part in parts for name, file in part.files.items()},
            {name: path for part in parts for name, path in part.paths.items()},
            others,
            self.computed_with,
        )
