"""What handlers list and yield: partitions, samples and rejections."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from microdiff.core.ledger import Reason
from microdiff.core.progress import NullReporter, Reporter
from microdiff.errors import SourceError
from microdiff.formats.annotations import Annotations
from microdiff.formats.members import Tally
from microdiff.storage import Source


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
        tally: Counts the members of archives that are known to be no records.
        report: Hears of bytes that reading itself receives, where a handler fetches more than the source's files.
        source: Has the loose files that no partition names: so many that nobody lists them in memory.
    """

    files: Mapping[str, Path]
    scratch: Path
    annotations: Annotations = field(default_factory=Annotations)
    tally: Tally = field(default_factory=Tally, compare=False)
    report: Reporter = field(default_factory=NullReporter, compare=False)
    source: Source | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One picture with its captions, as the source has them.

    Attributes:
        key: Unique in the dataset, printable, and without `/` and `.`, which WebDataset gives a meaning: what comes
            from names in the source went through `core.printable.escape_key`.
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
    """A source record that cannot become a sample, and why. Other fields as in `Sample`.

    `AMBIGUOUS_KEY` is also said of the records before it that have its key, even of samples: which caption is whose is
    not known. `cause` in `meta` has more words, where there are some.
    """

    key: str
    reason: Reason
    source: str
    captions: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


def record(
    image: bytes | Reason, key: str, captions: tuple[str, ...], source: str, meta: Mapping[str, Any], cause: str = ""
) -> Sample | Rejection:
    """Make a sample of a picture, or a rejection of a reason and its cause."""
    if isinstance(image, bytes):
        return Sample(key=key, image=image, captions=captions, source=source, meta=meta)
    more = {"cause": cause} if cause else {}
    return Rejection(key=key, reason=image, captions=captions, source=source, meta={**meta, **more})


def not_empty(records: Iterable[Sample | Rejection], what: str) -> Iterator[Sample | Rejection]:
    """Yield the records.

    Args:
        records: Of one partition.
        what: Where they come from, for the message.

    Raises:
        SourceError: There are none.
    """
    found = False
    for each in records:
        found = True
        yield each
    if not found:
        raise SourceError(f"{what}: holds no records: no pictures, and no captions either. Is it the right file?")


def partition_keys(keys: Sequence[str], size: int, files: tuple[str, ...]) -> list[Partition]:
    """Cut keys into slices, numbered from 0; the first one also takes whatever sorts before its keys.

    Args:
        keys: Distinct, sorted.
        size: Keys per slice; the last one has the rest.
        files: What each slice is read from.
    """
    starts = keys[::size]
    digits = max(4, len(str(len(starts) - 1)))
    return [
        Partition(
            name=f"{number:0{digits}d}",
            number=number,
            files=files,
            first_key=start if number else None,
            end_key=starts[number + 1] if number + 1 < len(starts) else None,
            num_records=min(size, len(keys) - number * size),
        )
        for number, start in enumerate(starts)
    ]
