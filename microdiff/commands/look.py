"""Look at a source before it becomes a dataset: its first records, what does not match, and what it will cost."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from microdiff.core.ledger import Reason
from microdiff.core.printable import one_line
from microdiff.formats.annotations import Annotations
from microdiff.formats.records import Inputs, Rejection, Sample
from microdiff.kinds import DEFAULT_REJECTED_SHARE, KindHandler, Listing
from microdiff.kinds.record_index import is_readable
from microdiff.storage import Source

Say = Callable[[str], None]

_SHOWN = 3
_NAMED = 10
_CHARS = 100
_UNMATCHED = {
    Reason.MISSING_CAPTION: "pictures without a caption",
    Reason.MISSING_IMAGE: "captions without a picture",
    Reason.AMBIGUOUS_KEY: "records of which nobody can tell what belongs to what",
    Reason.UNSAFE_MEMBER: "links, or paths that lead out of the source",
    Reason.UNSUPPORTED_PICTURE: "pictures in a form that is not decoded (convert them to JPEG)",
    Reason.BAD_CAPTION: "captions that are no text, or rows that cannot be read",
}


@dataclass
class Survey:
    """What was found in a source.

    Attributes:
        listing: Its partitions.
        records: How many records there are; of archives, in the one that was looked at.
        examples: The first ones.
        counts: How many records cannot be samples, by reason, as far as pictures need not be decoded to see it.
        unmatched: The first of them by name.
        repeats: How many records are in folders such as `10_cat`, by the number.
        whole: Whether all records were looked at.
        num_bytes: Of the source's files that are read.
    """

    listing: Listing
    records: int = 0
    examples: list[Sample | Rejection] = field(default_factory=list)
    counts: Counter[Reason] = field(default_factory=Counter)
    unmatched: dict[Reason, list[str]] = field(default_factory=dict)
    repeats: Counter[int] = field(default_factory=Counter)
    whole: bool = True
    num_bytes: int = 0


def look(handler: KindHandler, source: Source, place: Path, recorded: Path, scratch: Path) -> Survey:
    """List a source and look at its records: all loose ones, or those of the first archive.

    Args:
        handler: Knows its layout.
        source: The source.
        place: As for `KindHandler.survey`.
        recorded: Likewise.
        scratch: An empty folder.

    Raises:
        SourceError: It cannot be read, or is of another kind.
    """
    found = Survey(handler.survey(source, place, recorded))
    listing = found.listing
    first = listing.partitions[0]
    if listing.index is not None:
        for name, entry in _entries(listing):
            _count(found, name, *_judged(entry))
            found.num_bytes += sum(file[1] for file in _files(entry))
            found.repeats.update([entry["repeats"]] if entry.get("repeats") else ())
        inputs = Inputs(files={}, scratch=scratch, annotations=Annotations(listing.index), source=source)
        found.examples = [] if _names_urls(listing) else list(islice(handler.read(first, inputs), _SHOWN))
        return found
    found.whole = len(listing.partitions) == 1
    files = {path: source.stat(path) for path in {path for part in listing.partitions for path in part.files}}
    found.num_bytes = sum(file.num_bytes for file in files.values())
    local = {path: source.fetch(files[path]) for path in first.files}
    for record in handler.read(first, Inputs(files=local, scratch=scratch, source=source)):
        if len(found.examples) < _SHOWN:
            found.examples.append(record)
        _count(found, record.source, record.reason if isinstance(record, Rejection) else None, record.captions)
    return found


def show(survey: Survey, say: Say) -> None:
    """Show the first records, how many there are, and what does not match."""
    for record in survey.examples:
        caption = one_line(" | ".join(record.captions))[:_CHARS]
        what = f"rejected: {record.reason}" if isinstance(record, Rejection) else f"{len(record.image) / 1000:.0f} kB"
        say(f"  {record.key}  ({what})  {caption or '(no caption)'}")
    where = "" if survey.whole else f" in {survey.listing.partitions[0].files[0]}, which was looked at"
    say(f"{survey.records} records{where}; {len(survey.listing.partitions)} partitions")
    for reason, named in survey.unmatched.items():
        many = ", ..." if survey.counts[reason] > len(named) else ""
        say(f"  {survey.counts[reason]} {_UNMATCHED.get(reason, reason)}: {', '.join(map(one_line, named))}{many}")
    if survey.repeats:
        said = ", ".join(f"{number} for {records} records" for number, records in sorted(survey.repeats.items()))
        say(f"  Folders state repeats ({said}): each picture is encoded once; see docs/own-data.md for the loader.")
    if survey.listing.others:
        named = list(map(one_line, survey.listing.examples))
        say(f"  {survey.listing.others} other files, which are no records: {', '.join(named)}")
    if survey.counts.total() > DEFAULT_REJECTED_SHARE * survey.records:
        share = f"{survey.counts.total() / survey.records:.1%}"
        limit = f"max_rejected_share {DEFAULT_REJECTED_SHARE:.0%}"
        say(f"  That is {share} of the records, more than {limit}: correct the source, or raise it in the entry.")


def show_cost(name: str, survey: Survey, say: Say) -> None:
    """Say what making the dataset will take."""
    records, about = survey.records - survey.counts.total(), ""
    if not survey.whole:
        records, about = records * len(survey.listing.partitions), "about "
    size = f"{survey.num_bytes / 1e6:.0f} MB"
    say(f"make {name} reads {size} and encodes {about}{records} pictures and their captions; how fast, it shows.")


def _entries(listing: Listing) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the records of an index, each with its source."""
    for _, value in Annotations(listing.index).between(None, None):
        for entry in value.get("records", [value]):
            for picture in entry.get("pictures") or [None]:
                yield picture[0] if picture else entry["source"], entry


def _judged(entry: Mapping[str, Any]) -> tuple[Reason | None, Sequence[object]]:
    """Return why an entry of an index cannot be a sample, as far as it says, and what captions it has."""
    captions = [*entry["values"], *entry.get("texts", ())]
    if entry["problem"]:
        return Reason(entry["problem"]), captions
    file = entry.get("file")
    there = entry.get("pictures") or entry.get("url") or (file is not None and is_readable(file))
    return (None if there else Reason.MISSING_IMAGE), captions


def _files(entry: Mapping[str, Any]) -> list[Any]:
    """Return the files of an entry, as the index describes them."""
    file = entry.get("file")
    return [*entry.get("pictures", ()), *(text for _, text in entry.get("texts", ())), *([file] if file else ())]


def _names_urls(listing: Listing) -> bool:
    return any(entry.get("url") for _, entry in islice(_entries(listing), _SHOWN))


def _count(found: Survey, name: str, reason: Reason | None, captions: Sequence[object]) -> None:
    found.records += 1
    reason = reason or (None if any(each is not None for each in captions) else Reason.MISSING_CAPTION)
    if reason is not None:
        found.counts[reason] += 1
        named = found.unmatched.setdefault(reason, [])
        if len(named) < _NAMED:
            named.append(name)
