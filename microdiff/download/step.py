"""The download step: a dataset's source becomes its raw artifact."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np

from microdiff.artifacts.checks import check_raw
from microdiff.artifacts.tables import read_rows
from microdiff.config.settings import DownloadSettings
from microdiff.core.code_identity import code_identity
from microdiff.core.deciding_code import deciding_modules
from microdiff.core.files import scratch_folder
from microdiff.core.ledger import OTHER_MEMBERS, Counts, Reason, Result
from microdiff.core.printable import one_line, printable
from microdiff.core.progress import Progress, Reporter
from microdiff.core.withdrawn import Withdrawn, read_withdrawn
from microdiff.download.annotation_table import AnnotationTable
from microdiff.download.copies import read_copies, watched
from microdiff.download.losses import check_losses, how_to_fetch_again
from microdiff.download.origin import Origin
from microdiff.download.raw_writer import NO_WITHDRAWALS, add_profile_facts, write_raw
from microdiff.download.redact import Redaction
from microdiff.download.revisions import Revisions
from microdiff.errors import SchemaError
from microdiff.formats.annotations import Annotations
from microdiff.formats.records import Inputs, Partition
from microdiff.handlers import Handler
from microdiff.kinds.listing import listing_digest
from microdiff.pipeline.params import Params
from microdiff.pipeline.parsing import as_values, deciding_values
from microdiff.pipeline.run import Run
from microdiff.pipeline.task import StoredPartition, Task
from microdiff.pipeline.workspace import Workspace
from microdiff.storage import Source, SourceFile
from microdiff.storage.checksums import is_checksum

log = logging.getLogger("microdiff")


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
            revisions = Revisions(dataset, run.finder.manifests, run.store.root)
            recorded = workspace.partition_list(dataset)
            origin = Origin(entry, run.store.root, revisions, progress, recorded, may_be_lost=bool(withdrawn))
        source, partitions, files = origin.source, origin.inventory.partitions, origin.inventory.files
        shared = files if entry.handler.annotation_root() is None else ()
        index = None if origin.listing is None else origin.listing.index
        table = AnnotationTable(entry, origin.annotations, origin.inventory.annotations, run, keep=shared)
        if origin.listing is not None and origin.listing.others:
            log.info(
                "download %s: %d files are no records, such as %s",
                *(dataset, origin.listing.others, ", ".join(map(one_line, origin.listing.examples[:3]))),
            )
        code = code_identity(deciding_modules("download", dataset, entry.handler_module))
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
                    **({"again": entry.fetch_again[part.name]} if part.name in entry.fetch_again else {}),
                },
                compute=partial(
                    _compute,
                    entry.handler,
                    part,
                    source,
                    [files[path] for path in part.files],
                    index or table.path,
                    params.download,
                    anew=part.name in entry.fetch_again,
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
        if unknown := redaction.nowhere({item.name for item in stored}):
            log.warning(
                "download %s: %d withdrawn keys are in no partition, such as %s, and take nothing out. "
                "If keys are written in another way now, correct %s (docs/sources.md).",
                *(dataset, len(unknown), printable(unknown[0]), workspace.withdrawn(dataset)),
            )
        _check_keys(dataset, stored)
        losses = check_losses(dataset, stored, entry.max_rejected_share)
        if losses:
            lost = ", ".join(f"{name} (about {number or 0} records more)" for name, number in losses.items())
            log.warning("download %s: salvaged: %s. %s", dataset, lost, how_to_fetch_again(dataset, losses))
        suspects = [
            part.name
            for part, item in zip(partitions, stored, strict=True)
            if item.counts.get(Reason.UNDECODABLE.value)
            and any(not is_checksum(files[path].identity) for path in part.files)
        ]
        if suspects:
            log.warning(
                "download %s: pictures of %s cannot be decoded, and no checksum says whether they came here whole. %s",
                *(dataset, ", ".join(suspects), how_to_fetch_again(dataset, dict.fromkeys(suspects))),
            )
        facts = {
            "step": "download",
            "dataset": dataset,
            "source": source.name,
            "licence": entry.handler.licence,
            "code": code,
            "settings": settings,
            **({"listing": listing_digest(partitions, files)} if origin.listing is not None else {}),
            **({"other_files": origin.listing.others} if origin.listing is not None and origin.listing.others else {}),
            **({"revisions": revisions.used} if revisions.used else {}),
            **({"uncounted_losses": losses} if losses else {}),
            **({"fetch_again": dict(entry.fetch_again)} if entry.fetch_again else {}),
        }
        folder = workspace.artifact(dataset, "raw")
        return run.publish(
            *(folder, stored, None, None, None, entry.max_rejected_share, facts),
            measures=lambda: {
                OTHER_MEMBERS: sum(item.counts.get(OTHER_MEMBERS, 0) for item in stored),
                **add_profile_facts(item.result.facts for item in stored),
            },
        )


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
    *,
    anew: bool = False,
) -> Result:
    """Fetch and write one partition. Runs in a worker."""

    def write(local: Mapping[str, Path], settled: Collection[str]) -> Result:
        with scratch_folder(folder.parent) as scratch:
            table_of = Annotations(table)
            inputs = Inputs(files=local, scratch=scratch, annotations=table_of, report=report, source=reporting)
            records = watched(handler.read(partition, inputs), partition.files, settled)
            result = write_raw(records, settings, partition.name, folder, report, withdrawn)
            others = {OTHER_MEMBERS: inputs.tally.other_members} if inputs.tally.other_members else {}
            return replace(result, counts={**result.counts, **others})

    reporting = source.with_reporter(report)
    return read_copies(reporting, files, write, report, anew=anew)


def _without(compute: Callable[..., Result], withdrawn: Withdrawn) -> Callable[[Path, Reporter], Result]:
    return partial(compute, withdrawn=withdrawn)


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
