"""Find samples whose stored picture and clean caption both equal an earlier sample's, over all partitions."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from microdiff.artifacts.tables import read_kept
from microdiff.clean.policy import caption_rows
from microdiff.config.settings import CleanSettings
from microdiff.core.ledger import KEPT


def find_duplicates(raw: Path, partitions: Iterable[str], settings: CleanSettings) -> dict[str, frozenset[str]]:
    """Return the keys to reject, by partition: of equal samples the first in source order stays.

    Only pictures whose bytes occur more than once are looked at; for the others eight bytes each are held in memory.

    Args:
        raw: The raw artifact's folder.
        partitions: All of them, in order.
        settings: The policy: samples that it rejects anyway are no duplicates.
    """
    names = list(partitions)
    suspects = _repeated(raw, names)
    seen: set[bytes] = set()
    found: dict[str, set[str]] = defaultdict(set)
    for name in names if suspects.size else ():
        columns = ["key", "captions", "meta", "sha256", "width", "height"]
        for raw_row in read_kept(raw / f"{name}.parquet", columns):
            if not _contains(suspects, raw_row["sha256"]):
                continue
            for row in caption_rows(raw_row, settings):
                if row["status"] == KEPT:
                    identity = hashlib.sha256(f"{row['sha256']}:{row['caption']}".encode()).digest()
                    if identity in seen:
                        found[name].add(row["key"])
                    seen.add(identity)
    return {name: frozenset(found[name]) for name in names}


def share_unique(captions: Path, partitions: Iterable[str]) -> float:
    """Return the number of distinct kept captions over the number of kept captions, 0 where there are none."""
    parts = [np.fromiter(_caption_digests(captions / f"{name}.parquet"), np.uint64) for name in partitions]
    digests = np.concatenate([np.empty(0, np.uint64), *parts])
    return round(float(np.unique(digests).size / digests.size), 6) if digests.size else 0.0


def _caption_digests(path: Path) -> Iterator[int]:
    for row in read_kept(path, ["caption"]):
        yield int.from_bytes(hashlib.blake2b(row["caption"].encode(), digest_size=8).digest(), "big")


def _repeated(raw: Path, names: list[str]) -> NDArray[np.uint64]:
    """Return the first eight bytes of every picture's SHA-256 that occurs more than once, sorted."""
    parts = [
        _prefixes(pq.read_table(raw / f"{name}.parquet", columns=["sha256"])["sha256"].to_pylist()) for name in names
    ]
    values, counts = np.unique(np.concatenate([np.empty(0, np.uint64), *parts]), return_counts=True)
    repeated: NDArray[np.uint64] = values[counts > 1]
    return repeated


def _prefixes(digests: list[Any]) -> NDArray[np.uint64]:
    return np.array([int(digest[:16], 16) for digest in digests if digest], np.uint64)


def _contains(suspects: NDArray[np.uint64], sha256: str) -> bool:
    prefix = np.uint64(int(sha256[:16], 16))
    place = int(np.searchsorted(suspects, prefix))
    return place < suspects.size and bool(suspects[place] == prefix)
