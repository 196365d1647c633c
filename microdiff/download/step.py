"""The download step: a dataset's source becomes its raw artifact."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from microdiff.artifacts.checks import check_raw
from microdiff.artifacts.tables import read_rows
from microdiff.config.roots import public_root
from microdiff.config.settings import DownloadSettings
from microdiff.core.code_identity import code_identity
from microdiff.core.deciding_code import deciding_modules
from microdiff.core.files import scratch_folder
from microdiff.core.ledger import Counts, Result
from microdiff.core.progress import Progress, Reporter
from microdiff.core.withdrawn import Withdrawn, read_withdrawn
from microdiff.download.inventory import LostSource, SourceInventory, describe, recall, remember
from microdiff.download.raw_writer import NO_WITHDRAWALS, add_profile_facts, write_raw
from microdiff.download.redact import Redaction
from microdiff.errors import SchemaError, SourceError, StepError
from microdiff.formats.annotations import Annotations, write_annotations
from microdiff.formats.records import Inputs, Partition
from microdiff.handlers import Handler
from microdiff.pipeline.executor import TaskResult
from microdiff.pipeline.params import Dataset, Params
from microdiff.pipeline.parsing import as_values, deciding_values
from microdiff.pipeline.run import Run
from microdiff.pipeline.selection import select
from microdiff.pipeline.task import StoredPartition, Task
from microdiff.pipeline.workers import WorkerPlan
from microdiff.pipeline.workspace import Workspace
from microdiff.storage import Source, SourceFile
from microdiff.storage.opening import open_source

_TABLE = "annotations.sqlite"


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
    run = Run("download", dataset, workspace, params)
    with run.active():
        withdrawn = read_withdrawn(workspace.withdrawn(dataset))
        with Progress(f"list {dataset}", None) as progress:
            origin = _Origin(entry, run.store.root, progress, may_be_lost=bool(withdrawn))
        source, partitions, files = origin.source, origin.inventory.partitions, origin.inventory.files
        table = _Table(entry, origin, run)
        code = code_identity(deciding_modules("download", dataset))
        settings = {"download": as_values(params.download), "handler": as_values(entry.handler)}
        deciding = {"download": as_values(params.download), "handler": deciding_values(entry.handler)}
        bases = [
            Task(
                step="download",
                name=part.name,
                cache_key={
                    "code": code,
                    "settings": deciding,
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
                check=check_raw,
            )
            for part in partitions
        ]
        redaction = Redaction(run.store, run.finder, withdrawn)
        release = _Release(source, partitions, files)

        def compute(bases: Sequence[Task]) -> list[StoredPartition]:
            tasks = [redaction.apply(base, partial(_without, base.compute)) for base in bases]
            if any(redaction.needs_source(task) for task in tasks):
                table.make()
            return run.compute(tasks, release)

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
        return run.publish(
            *(folder, stored, None, None, None, entry.max_rejected_share, facts),
            measures=lambda: add_profile_facts(item.result.facts for item in stored),
        )


class _Origin:
    """Where a dataset comes from, and what is there.

    Args:
        entry: The dataset.
        work: The store's folder, where the inventory is kept.
        report: Receives messages.
        may_be_lost: Whether the inventory kept will do if the source does not answer.
    """

    def __init__(self, entry: Dataset, work: Path, report: Reporter, *, may_be_lost: bool) -> None:
        question = {
            "source": public_root(entry.source),
            "handler": as_values(entry.handler),
            "partitions": entry.partitions,
        }
        kept = work / "listings" / f"{entry.name}.json"
        self.source: Source
        self.annotations: Source  # where annotation files are
        try:
            self._ask(entry, work, report)
        except SourceError as error:
            earlier = recall(kept, question) if may_be_lost else None
            if earlier is None:
                raise
            report.say(f"{error}\nGoing on with what the source listed last time, to take out withdrawn samples.")
            self.source = self.annotations = LostSource(earlier.source, error)
            self.inventory = earlier
        else:
            remember(kept, question, self.inventory)

    def _ask(self, entry: Dataset, work: Path, report: Reporter) -> None:
        self.source = self.annotations = open_source(entry.source, work)
        source = self.source.with_reporter(report)
        partitions = tuple(select(entry.handler.partitions(source), entry.partitions, entry.name))
        files = describe(source, entry.handler, [path for part in partitions for path in part.files])
        root = entry.handler.annotation_root()
        if root is not None:
            self.annotations = open_source(root, work)
        source = self.annotations.with_reporter(report)
        annotations = describe(source, entry.handler, entry.handler.annotation_files(source))
        self.inventory = SourceInventory(self.source.name, partitions, files, tuple(annotations.values()))


def _compute(
    handler: Handler,
    partition: Partition,
    source: Source,
    files: Sequence[SourceFile],
    table: Path | None,
    settings: DownloadSettings,
    folder: Path,
    report: Reporter,
    withdrawn: Withdrawn = NO_WITHDRAWALS,
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

    def __init__(self, entry: Dataset, origin: _Origin, run: Run) -> None:
        self._run = run
        self._source = origin.annotations
        self.files = origin.inventory.annotations
        self._task = Task(
            step="download-annotations",
            name=entry.name,
            cache_key={
                "code": code_identity(deciding_modules("download-annotations", entry.name)),
                "handler": deciding_values(entry.handler),
                "files": [asdict(file) for file in self.files],
            },
            compute=partial(_write_table, entry.handler, self._source, self.files),
        )

    @property
    def path(self) -> Path | None:
        """Where the table is once it is made."""
        return self._run.store.folder(self._task) / _TABLE if self.files else None

    def make(self) -> None:
        """Make the table unless it is there.

        Raises:
            StepError: It could not be made.
        """
        if not self.files or self._run.finder.find(self._task) is not None:
            return
        with Progress(f"annotations {self._task.name}", None) as progress:
            for item in self._run.store.compute([self._task], WorkerPlan(1), progress):
                if isinstance(item, TaskResult):
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

    def __call__(self, stored: StoredPartition) -> None:
        for path in self._needs[stored.name]:
            self._uses[path] -= 1
            if self._uses[path] <= 0:
                self._source.forget(self._files[path])


def _check_keys(dataset: str, stored: Sequence[StoredPartition]) -> None:
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


def _keys(item: StoredPartition) -> Iterator[str]:
    return (row["key"] for row in read_rows(item.paths[f"{item.name}.parquet"], ["key"]))
