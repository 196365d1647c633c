"""What a shard holds: the columns of a sample, and the writing of one shard from latents files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from microdiff.latents import LatentsFile
from microdiff.ledger import KEPT, Ledger, Result
from microdiff.mds import Column, write_shard
from microdiff.progress import Reporter

CAPTION_LATENTS = "caption_latents"
_OPEN_FILES = 1024


@dataclass(frozen=True)
class Row:
    """One sample and where its latents are.

    Attributes:
        key: The sample's key.
        caption: The clean caption.
        width: Of the stored picture.
        height: Likewise.
        partition: Whose latents files hold it.
        text_row: Row in `caption_latents`.
        image_rows: Row in each `latents_<px>` by column name.
    """

    key: str
    caption: str
    width: int
    height: int
    partition: str
    text_row: int
    image_rows: Mapping[str, int]


def columns_of(text: LatentsFile, image: LatentsFile, image_columns: Sequence[str]) -> dict[str, str]:
    """Return a group's MDS columns and their encodings, shapes taken from a partition's files."""
    columns = {"key": "str", "caption": "str", "width": "int32", "height": "int32"}
    columns[CAPTION_LATENTS] = _encoding(text.rows(CAPTION_LATENTS))
    return {**columns, **{name: _encoding(image.rows(name)) for name in image_columns}}


def _encoding(rows: np.ndarray[Any, Any]) -> str:
    return f"ndarray:{rows.dtype.name}:{','.join(map(str, rows.shape[1:]))}"


def row_bytes(columns: Mapping[str, str], row: Row) -> int:
    """Return how much a sample adds to a shard: its values, the lengths of the texts, and its offset."""
    fixed = sum(Column.parse(name, encoding).size or 0 for name, encoding in columns.items())
    texts = len(row.key.encode()) + len(row.caption.encode())
    return fixed + texts + 4 * sum(encoding == "str" for encoding in columns.values()) + 4


def write_rows(
    latents: Path, rows: Sequence[Row], columns: Mapping[str, str], name: str, folder: Path, report: Reporter
) -> Result:
    """Write one shard.

    Args:
        latents: The latents artifact's folder.
        rows: Its samples in order.
        columns: Their columns.
        name: The shard file's path in the artifact, such as `512/shard.00000.mds`.
        folder: Receives it.
        report: Receives progress.

    Returns:
        The shard's counts and, as `entry`, its entry for index.json.
    """
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = write_shard(path, columns, _samples(latents, rows, report), len(rows))
    ledger = Ledger()
    for _ in rows:
        ledger.enter()
    for _ in range(entry["samples"]):
        ledger.leave(KEPT)
    return Result(ledger.counts(), {"entry": entry})


def _samples(latents: Path, rows: Sequence[Row], report: Reporter) -> Iterator[dict[str, object]]:
    for row in rows:
        text = _open(latents / f"{row.partition}.text.safetensors")
        image = _open(latents / f"{row.partition}.image.safetensors")
        yield {
            "key": row.key,
            "caption": row.caption,
            "width": row.width,
            "height": row.height,
            CAPTION_LATENTS: np.asarray(text.rows(CAPTION_LATENTS)[row.text_row]),
            **{name: np.asarray(image.rows(name)[number]) for name, number in row.image_rows.items()},
        }
        report.tick(1)


@lru_cache(maxsize=_OPEN_FILES)
def _open(path: Path) -> LatentsFile:
    return LatentsFile(path)
