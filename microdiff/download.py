"""The download step: a dataset's source becomes its raw artifact."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from microdiff.code import code_digest
from microdiff.errors import SchemaError
from microdiff.handlers import Handler, Partition
from microdiff.ledger import Counts, Result
from microdiff.params import Params, as_values
from microdiff.progress import Progress, Reporter
from microdiff.raw_writer import write_raw
from microdiff.rows import read_rows
from microdiff.selection import select
from microdiff.settings import DownloadSettings
from microdiff.sources import Source
from microdiff.sources.opening import open_source
from microdiff.step import Run, Workspace
from microdiff.store import Stored, Unit


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
        code = code_digest(["microdiff.raw_writer", f"microdiff.handlers.{dataset}"])
        settings = {"download": as_values(params.download), "handler": as_values(entry.handler)}
        units = [
            Unit(
                step="download",
                name=partition.name,
                determined_by={"code": code, "settings": settings, "partition": asdict(partition)},
                compute=partial(_compute, entry.handler, partition, source, params.download),
            )
            for partition in partitions
        ]
        hints = [partition.num_records for partition in partitions]
        total = None if None in hints else sum(hint or 0 for hint in hints)
        release = _Release(source, partitions)
        stored = run.compute(units, total, release)
        _check_keys(dataset, stored)
        facts = {
            "step": "download",
            "dataset": dataset,
            "source": source.name,
            "code": code,
            "settings": settings,
        }
        counts = run.publish(workspace.artifact(dataset, "raw"), stored, None, None, entry.max_rejected_share, facts)
    return counts


def _compute(
    handler: Handler,
    partition: Partition,
    source: Source,
    settings: DownloadSettings,
    folder: Path,
    report: Reporter,
) -> Result:
    """Fetch and write one partition. Runs in a worker."""
    source = source.with_reporter(report)
    files = {file.path: source.fetch(file) for file in partition.files}
    return write_raw(handler.read(partition, files), settings, partition.name, folder, report)


class _Release:
    """Gives a fetched file back as soon as the last partition that needs it is stored."""

    def __init__(self, source: Source, partitions: Sequence[Partition]) -> None:
        self._source = source
        self._files = {partition.name: partition.files for partition in partitions}
        self._uses = Counter(file for partition in partitions for file in partition.files)

    def __call__(self, stored: Stored) -> None:
        for file in self._files[stored.name]:
            self._uses[file] -= 1
            if not self._uses[file]:
                self._source.forget(file)


def _check_keys(dataset: str, stored: Sequence[Stored]) -> None:
    """Check that no key occurs in two partitions.

    Raises:
        SchemaError: One does.
    """
    seen: dict[str, str] = {}
    for item in stored:
        for row in read_rows(item.paths[f"{item.name}.parquet"], ["key"]):
            first = seen.setdefault(row["key"], item.name)
            if first != item.name:
                raise SchemaError(
                    f"download {dataset}: the key {row['key']!r} is in partitions {first} and {item.name}. "
                    "Keys must be unique in a dataset; the handler has to make them so."
                )
