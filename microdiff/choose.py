"""The captions format, and the policy that chooses one caption of a sample and cleans it.

`<partition>.parquet` has a row per sample that the raw artifact kept, in its order.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from microdiff.captions import clean_caption
from microdiff.ledger import KEPT, Ledger, Reason, Result
from microdiff.progress import Reporter
from microdiff.rows import new_table, read_kept
from microdiff.settings import CleanSettings

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("status", pa.string()),  # `kept`, or a ledger.Reason
        ("caption", pa.string()),  # the chosen one, cleaned
        ("captions", pa.list_(pa.string())),  # all, cleaned, in the source's order
        ("original", pa.string()),  # the chosen one as in the source
        ("width", pa.int32()),  # of the stored picture
        ("height", pa.int32()),
    ]
)


def collapse_white_space(text: str) -> str:
    """Return the text with every run of white space as one blank, none at the ends."""
    return " ".join(text.split())


CLEANERS: Mapping[str, Callable[[str], str]] = {
    "none": collapse_white_space,
    "deepfloyd": clean_caption,
}


def choose(captions: Sequence[str], settings: CleanSettings, key: str) -> int:
    """Return the index of the caption to keep.

    Args:
        captions: Cleaned; those too short to keep are passed over if another one is long enough.
        settings: Which one is asked for.
        key: The sample's key, which `random` draws by.
    """
    usable = [i for i, caption in enumerate(captions) if is_caption(caption, settings.min_chars)] or [0]
    if settings.caption == "longest":
        return max(usable, key=lambda i: len(captions[i]))  # the first of equally long ones
    if settings.caption == "random":
        draw = hashlib.sha256(f"{settings.seed}:{key}".encode()).digest()
        return usable[int.from_bytes(draw[:8], "big") % len(usable)]
    return usable[0]


def is_caption(text: str, min_chars: int) -> bool:
    """Tell whether a cleaned caption says something: long enough, and not punctuation alone."""
    return len(text) >= min_chars and any(char.isalnum() for char in text)


def write_captions(raw: Path, name: str, settings: CleanSettings, folder: Path, report: Reporter) -> Result:
    """Choose and clean the captions of one partition.

    Args:
        raw: The raw artifact's folder.
        name: The partition.
        settings: The policy.
        folder: Receives `<name>.parquet`.
        report: Receives progress.

    Returns:
        The partition's counts.
    """
    ledger = Ledger()
    columns = ["key", "captions", "width", "height"]
    with new_table(folder / f"{name}.parquet", SCHEMA) as add_row:
        for raw_row in read_kept(raw / f"{name}.parquet", columns):
            ledger.enter()
            row = _row(raw_row, settings)
            ledger.leave(row["status"])
            add_row(row)
            report.tick(1)
    return Result(ledger.counts())


def _row(raw_row: Mapping[str, Any], settings: CleanSettings) -> dict[str, Any]:
    captions = [CLEANERS[settings.cleaner](caption) for caption in raw_row["captions"]]
    chosen = choose(captions, settings, raw_row["key"])
    kept = is_caption(captions[chosen], settings.min_chars)
    return {
        "key": raw_row["key"],
        "status": KEPT if kept else Reason.EMPTY_CAPTION.value,
        "caption": captions[chosen],
        "captions": captions,
        "original": raw_row["captions"][chosen],
        "width": raw_row["width"],
        "height": raw_row["height"],
    }
