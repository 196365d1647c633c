"""How many letters cleaning took from a caption, and which captions lost the most."""

from collections.abc import Iterator, Mapping, Sequence
from heapq import nlargest
from pathlib import Path
from typing import Any

from microdiff.artifacts.tables import read_kept

NUM_WORST = 20
_MOST_CHARS = 500  # of a caption in the run facts
_NO_LETTERS = bytes(code for code in range(256) if not chr(code).isalpha() or code > 127)


def num_letters(text: str) -> int:
    """Return the number of letters of any script."""
    if text.isascii():
        return len(text.encode().translate(None, _NO_LETTERS))
    return sum(map(str.isalpha, text))


def lost_letters(original: str, caption: str) -> int:
    """Return how many of a thousand letters cleaning took away."""
    if original == caption or not (before := num_letters(original)):
        return 0
    return max(0, 1000 * (before - num_letters(caption)) // before)


def worst_captions(folder: Path, lost: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """Return the twenty kept captions that lost the largest share of their letters, and more than half.

    Args:
        folder: The captions artifact. Only the partitions that hold one of the twenty are read.
        lost: The largest losses of each partition, in thousandths.
    """
    worst = nlargest(NUM_WORST, ((loss, name) for name, losses in lost.items() for loss in losses))
    names = sorted({name for _, name in worst})
    rows = [row for name in names for row in _losses(folder / f"{name}.parquet", worst[-1][0])]
    return sorted(rows, key=lambda row: (-row["lost_share"], row["key"]))[:NUM_WORST]


def _losses(path: Path, least: int) -> Iterator[dict[str, Any]]:
    for row in read_kept(path, ["key", "original", "caption"]):
        lost = lost_letters(row["original"], row["caption"])
        if lost >= least:
            original, caption = row["original"][:_MOST_CHARS], row["caption"][:_MOST_CHARS]
            yield {"key": row["key"], "lost_share": lost / 1000, "original": original, "caption": caption}
