"""Select partitions by number: `all`, ranges such as `0-9`, lists such as `0,5,7`, and mixtures."""

import re
from collections.abc import Sequence

from microdiff.errors import SourceError
from microdiff.formats.records import Partition

_ITEM = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")


def parse_selection(text: str) -> list[tuple[int, int]] | None:
    """Return inclusive ranges of partition numbers, or None for `all`.

    Raises:
        ValueError: The text is none of the forms.
    """
    if text.strip() == "all":
        return None
    ranges = []
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ValueError(f"expected 'all', or numbers and ranges such as '0-9' or '0,5,7', got {text!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {item.strip()!r} runs backwards")
        ranges.append((first, last))
    return ranges


def select(partitions: Sequence[Partition], text: str, dataset: str) -> list[Partition]:
    """Return the selected partitions in source order.

    A range may contain numbers the source lacks (sources have holes), but both of its ends must exist.

    Raises:
        SourceError: A number named does not exist.
    """
    ranges = parse_selection(text)
    if ranges is None:
        return list(partitions)
    numbers = {partition.number for partition in partitions}
    absent = sorted({end for span in ranges for end in span} - numbers)
    if absent:
        raise SourceError(
            f"datasets.{dataset}.download.partitions: {text!r} names {', '.join(map(str, absent))}, but the source has "
            f"{len(numbers)} partitions from {min(numbers, default='none')} to {max(numbers, default='none')}."
        )
    return [part for part in partitions if any(first <= part.number <= last for first, last in ranges)]
