"""How often the kept captions of a dataset repeat themselves, and how often its pictures do: metrics and run facts."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from microdiff.artifacts.tables import open_table, read_kept
from microdiff.clean.picture_digests import NO_DIGESTS, Digests, digests_of, is_in

_SHOWN = 10


def share_unique(captions: Path, partitions: Iterable[str]) -> float:
    """Return the number of distinct kept captions over the number of kept captions, 0 where there are none."""
    parts = [np.fromiter(_caption_digests(captions / f"{name}.parquet"), np.uint64) for name in partitions]
    digests = np.concatenate([NO_DIGESTS, *parts])
    return round(float(np.unique(digests).size / digests.size), 6) if digests.size else 0.0


class PictureCounts:
    """Counts the records of each picture, by its bytes, whatever became of their captions.

    Args:
        captions: The captions artifact's folder.
        partitions: Its partitions.
    """

    def __init__(self, captions: Path, partitions: Iterable[str]) -> None:
        self._tables = [captions / f"{name}.parquet" for name in partitions]
        parts = [digests_of(sha256 for _, sha256 in _records(table)) for table in self._tables]
        self._digests, self._counts = np.unique(np.concatenate([NO_DIGESTS, *parts]), return_counts=True)

    def metrics(self) -> dict[str, int]:
        """Return how many pictures occur more than once, and how often the most frequent one does."""
        most = int(self._counts.max()) if self._counts.size else 0
        return {"repeated_pictures": int((self._counts > 1).sum()), "most_records_of_a_picture": most}

    def most_frequent(self) -> list[dict[str, Any]]:
        """Return the most frequent pictures of more than one record: SHA-256, number of records, key of the first."""
        order = np.argsort(-self._counts, kind="stable")[:_SHOWN]
        wanted = np.sort(self._digests[order[self._counts[order] > 1]])
        found: dict[str, dict[str, Any]] = {}
        for table in self._tables if wanted.size else ():
            for key, sha256 in _records(table, wanted):
                entry = found.setdefault(sha256, {"sha256": sha256, "records": 0, "key": key})
                entry["records"] += 1
        return sorted(found.values(), key=lambda entry: (-entry["records"], entry["sha256"]))


def _records(table: Path, wanted: Digests | None = None) -> Iterator[tuple[str, str]]:
    """Yield the key and the SHA-256 of each picture in a table, once where it has several captions."""
    last = None
    with open_table(table) as parquet:
        for batch in parquet.iter_batches(columns=["image_key", "sha256"]):
            if wanted is not None:
                batch = batch.filter(is_in(digests_of(batch["sha256"].to_pylist()), wanted))
            for key, sha256 in zip(batch["image_key"].to_pylist(), batch["sha256"].to_pylist(), strict=True):
                if key != last:
                    yield key, sha256
                last = key


def _caption_digests(path: Path) -> Iterator[int]:
    for row in read_kept(path, ["caption"]):
        yield int.from_bytes(hashlib.blake2b(row["caption"].encode(), digest_size=8).digest(), "big")
