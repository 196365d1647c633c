"""Tell whether a source is still what an artifact was made of: DVC watches settings and code, not sources."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from microdiff.core.files import digest_json
from microdiff.formats.records import Partition
from microdiff.kinds import KindHandler
from microdiff.storage import Source, SourceFile

_LISTINGS = "listings"
Ranges = Sequence[tuple[int, int]]


def listing_place(work: Path, dataset: str) -> Path:
    """Return the folder that keeps what is known of a dataset's files."""
    return work / _LISTINGS / dataset


def listing_digest(partitions: Sequence[Partition], files: Mapping[str, SourceFile]) -> str:
    """Return a digest of partitions and of the files that they name, which manifests state."""
    described = [[asdict(part), [asdict(files[path]) for path in part.files]] for part in partitions]
    return digest_json(described)


def current_digest(
    handler: KindHandler,
    source: Source,
    work: Path,
    dataset: str,
    recorded: Path,
    ranges: Sequence[tuple[int, int]] | None,
) -> str:
    """Return the digest of what a source has now.

    Args:
        handler: Knows its layout.
        source: The source.
        work: The store's folder.
        dataset: The dataset's name.
        recorded: Its list of partitions, which is brought up to date.
        ranges: Inclusive ranges of numbers of partitions; None for all.

    Raises:
        SourceError: The source does not answer, or is something else.
    """
    partitions = handler.survey(source, listing_place(work, dataset), recorded).partitions
    spans = [(0, len(partitions) and partitions[-1].number)] if ranges is None else ranges
    wanted = [part for part in partitions if any(first <= part.number <= last for first, last in spans)]
    paths = sorted({path for part in wanted for path in part.files})
    return listing_digest(wanted, {path: source.stat(path) for path in paths})
