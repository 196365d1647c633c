"""Find samples whose stored picture and clean caption both equal an earlier sample's, over all partitions."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from microdiff.artifacts.tables import read_kept, read_rows
from microdiff.clean.policy import caption_rows
from microdiff.config.settings import CleanSettings
from microdiff.core.ledger import KEPT
from microdiff.core.verified_files import Input


def find_duplicates(raw: Mapping[str, Input], settings: CleanSettings) -> dict[str, frozenset[str]]:
    """Return the keys to reject, by partition: of equal samples the first in source order stays.

    Only pictures whose bytes occur more than once are looked at; for the others eight bytes each are held in memory.

    Args:
        raw: The raw tables of all partitions, in order.
        settings: The policy: samples that it rejects anyway are no duplicates.
    """
    suspects = _repeated(raw.values())
    seen: set[bytes] = set()
    found: dict[str, set[str]] = defaultdict(set)
    for name, table in raw.items() if suspects.size else ():
        columns = ["key", "captions", "meta", "sha256", "width", "height"]
        for raw_row in read_kept(table, columns):
            if not _contains(suspects, raw_row["sha256"]):
                continue
            for row in caption_rows(raw_row, settings):
                if row["status"] == KEPT:
                    identity = hashlib.sha256(f"{row['sha256']}:{row['caption']}".encode()).digest()
                    if identity in seen:
                        found[name].add(row["key"])
                    seen.add(identity)
    return {name: frozenset(found[name]) for name in raw}


def share_unique(captions: Path, partitions: Iterable[str]) -> float:
    """Return the number of distinct kept captions over the number of kept captions, 0 where there are none."""
    parts = [np.fromiter(_caption_digests(captions / f"{name}.parquet"), np.uint64) for name in partitions]
    digests = np.concatenate([np.empty(0, np.uint64), *parts])
    return round(float(np.unique(digests).size / digests.size), 6) if digests.size else 0.0


def _caption_digests(path: Path) -> Iterator[int]:
    for row in read_kept(path, ["caption"]):
        yield int.from_bytes(hashlib.blake2b(row["caption"].encode(), digest_size=8).digest(), "big")


def _repeated(raw: Iterable[Input]) -> NDArray[np.uint64]:
    """Return the first eight bytes of every picture's SHA-256 that occurs more than once, sorted."""
    parts = [_prefixes(row["sha256"] for row in read_rows(table, ["sha256"])) for table in raw]
    values, counts = np.unique(np.concatenate([np.empty(0, np.uint64), *parts]), return_counts=True)
    repeated: NDArray[np.uint64] = values[counts > 1]
    return repeated


def _prefixes(digests: Iterable[str]) -> NDArray[np.uint64]:
    return np.array([int(digest[:16], 16) for digest in digests if digest], np.uint64)


def _contains(suspects: NDArray[np.uint64], sha256: str) -> bool:
    prefix = np.uint64(int(sha256[:16], 16))
    place = int(np.searchsorted(suspects, prefix))
    return place < suspects.size and bool(suspects[place] == prefix)
