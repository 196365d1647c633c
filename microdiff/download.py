"""The download step: a dataset's source becomes its raw artifact."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from microdiff.annotations import Annotations, write_annotations
from microdiff.code import code_digest
from microdiff.crew import Crew
from microdiff.errors import SchemaError, StepError
from microdiff.executor import Outcome
from microdiff.handlers import Handler, Inputs, Partition
from microdiff.ledger import Counts, Result
from microdiff.params import Dataset, Params, as_values
from microdiff.progress import Progress, Reporter
from microdiff.publish import scratch_folder
from microdiff.raw_writer import NONE_WITHDRAWN, write_raw
from microdiff.redact import Redaction
from microdiff.rows import read_rows
from microdiff.selection import select
from microdiff.settings import DownloadSettings
from microdiff.sources import Source, SourceFile
from microdiff.sources.opening import open_source
from microdiff.step import Run, Workspace
from microdiff.store import Stored, Unit
from microdiff.withdrawn import Withdrawn, read_withdrawn

_TABLE = "annotations.sqlite"
_QUESTIONS_AT_ONCE = 8


def download(dataset: str, params: Params, workspace: Workspace) -> Counts:
    """Fetch a dataset's selected partitions and store their pictures and records.

    Args:
        dataset: The dataset's name.
        params: All settings.
        workspace: Where to read and write.

    Returns:
        The step's counts.

    Raises:
        SourceError: The source is missing, unreachable, or not what it says it is.
        StepError: Partitions failed.
        RejectionError: Too many records were rejected.
    """
    entry = params.dataset(dataset)
    run = Run("download", dataset, workspace)
    with run.store.in_use():
        source = open_source(entry.source, run.store.root)
        with Progress(f"list {dataset}", None) as listing:
            available = entry.handler.partitions(source.with_reporter(listing))
            partitions = select(available, entry.partitions, dataset)
            files = _describe(
                source.with_reporter(listing), entry.handler, [path for part in partitions for path in part.files]
            )
            table = _Table(entry, source, run, listing)
        code = code_digest(["microdiff.raw_writer", f"microdiff.handlers.{dataset}"])
        settings = {"download": as_values(params.download), "handler": as_values(entry.handler)}
        bases = [
            Unit(
                step="download",
                name=part.name,
                determined_by={
                    "code": code,
                    "settings": settings,
                    "partition": asdict(part),
                    "files": [asdict(files[path]) for path in part.files],
                    "annotations": [asdict(file) for file in table.files],
                },
                compute=partial(
                    _compute,
                    entry.handler,
                    part,
                    source,
                    [files[path] for path in part.files],
                    table.path,
                    params.download,
                ),
                num_samples=part.num_records,
                downloads={path: files[path].num_bytes for path in part.files},
            )
            for part in partitions
        ]
        redaction = Redaction(run.store, read_withdrawn(workspace.withdrawn(dataset)))
        release = _Release(source, partitions, files)

        def compute(bases: Sequence[Unit]) -> list[Stored]:
            units = [redaction.apply(base, partial(_without, base.compute)) for base in bases]
            if any(redaction.needs_source(unit) for unit in units):
                table.make()
            return run.compute(units, release)

        stored = compute(bases)
        if wrong := redaction.correct(stored):
            corrected = {item.name: item for item in compute([base for base in bases if base.name in wrong])}
            stored = [corrected.get(item.name, item) for item in stored]
        _check_keys(dataset, stored)
        facts = {
            "step": "download",
            "dataset": dataset,
            "source": source.name,
            "code": code,
            "settings": settings,
        }
        folder = workspace.artifact(dataset, "raw")
        return run.publish(folder, stored, None, None, None, entry.max_rejected_share, facts)


def _describe(source: Source, handler: Handler, paths: Sequence[str]) -> dict[str, SourceFile]:
    """Ask the source about files, several at once."""
    distinct = sorted(set(paths))
    with ThreadPoolExecutor(_QUESTIONS_AT_ONCE) as pool:
        answers = pool.map(lambda path: source.stat(path, handler.checksum(path)), distinct)
        return dict(zip(distinct, answers, strict=True))


def _compute(
    handler: Handler,
    partition: Partition,
    source: Source,
    files: Sequence[SourceFile],
    table: Path | None,
    settings: DownloadSettings,
    folder: Path,
    report: Reporter,
    withdrawn: Withdrawn = NONE_WITHDRAWN,
) -> Result:
    """Fetch and write one partition. Runs in a worker."""
    source = source.with_reporter(report)
    local = {file.path: source.fetch(file) for file in files}
    with scratch_folder(folder.parent) as scratch:
        inputs = Inputs(files=local, scratch=scratch, annotations=Annotations(table), report=report)
        return write_raw(handler.read(partition, inputs), settings, partition.name, folder, report, withdrawn)


def _without(compute: Callable[..., Result], withdrawn: Withdrawn) -> Callable[[Path, Reporter], Result]:
    return partial(compute, withdrawn=withdrawn)


class _Table:
    """A dataset's table of annotations, made once in the store; a dataset without annotation files has none."""

    def __init__(self, entry: Dataset, source: Source, run: Run, report: Reporter) -> None:
        self._run = run
        root = entry.handler.annotation_root()
        self._source = source if root is None else open_source(root, run.store.root)
        source = self._source.with_reporter(report)
        described = _describe(source, entry.handler, entry.handler.annotation_files(source))
        self.files = list(described.values())
        modules = ["microdiff.annotations", f"microdiff.handlers.{entry.name}"]
        self._unit = Unit(
            step="download-annotations",
            name=entry.name,
            determined_by={
                "code": code_digest(modules),
                "handler": as_values(entry.handler),
                "files": [asdict(file) for file in self.files],
            },
            compute=partial(_write_table, entry.handler, self._source, self.files),
        )

    @property
    def path(self) -> Path | None:
        """Where the table is once it is made."""
        return self._run.store.folder(self._unit) / _TABLE if self.files else None

    def make(self) -> None:
        """Make the table unless it is there.

        Raises:
            StepError: It could not be made.
        """
        if not self.files or self._run.store.find(self._unit) is not None:
            return
        with Progress(f"annotations {self._unit.name}", None) as progress:
            for item in self._run.store.compute([self._unit], Crew(1), progress):
                if isinstance(item, Outcome):
                    raise StepError(f"{item.name}: {item.error}")
        for file in self.files:
            self._source.forget(file)


def _write_table(
    handler: Handler, source: Source, files: Sequence[SourceFile], folder: Path, report: Reporter
) -> Result:
    """Fetch the annotation files and write their table."""
    source = source.with_reporter(report)
    local = {file.path: source.fetch(file) for file in files}
    num_rows = write_annotations(folder / _TABLE, handler.read_annotations(local), report)
    return Result({"in": num_rows, "kept": num_rows})


class _Release:
    """Gives a fetched file back as soon as the last partition that needs it is stored."""

    def __init__(self, source: Source, partitions: Sequence[Partition], files: Mapping[str, SourceFile]) -> None:
        self._source = source
        self._files = files
        self._needs = {partition.name: partition.files for partition in partitions}
        self._uses = Counter(path for partition in partitions for path in partition.files)

    def __call__(self, stored: Stored) -> None:
        for path in self._needs[stored.name]:
            self._uses[path] -= 1
            if self._uses[path] <= 0:
                self._source.forget(self._files[path])


def _check_keys(dataset: str, stored: Sequence[Stored]) -> None:
    """Check that no key occurs in two partitions; 8 bytes of memory per key.

    Raises:
        SchemaError: One does.
    """
    hashes = np.fromiter((hash(key) for item in stored for key in _keys(item)), np.int64)
    hashes.sort()
    suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not suspects:
        return
    seen: dict[str, str] = {}
    for item in stored:
        for key in _keys(item):
            if hash(key) in suspects and (first := seen.setdefault(key, item.name)) != item.name:
                raise SchemaError(
                    f"download {dataset}: the key {key!r} is in partitions {first} and {item.name}. "
                    "Keys must be unique in a dataset; the handler has to make them so."
                )


def _keys(item: Stored) -> Iterator[str]:
    return (row["key"] for row in read_rows(item.paths[f"{item.name}.parquet"], ["key"]))
