"""Compare steps with each other: the same samples in the same order, the same values; and name those that are not."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from microdiff.artifacts.mds_index import INDEX_NAME, read_index
from microdiff.artifacts.mds_scan import MdsFile
from microdiff.artifacts.tables import read_kept, read_rows
from microdiff.core.ledger import KEPT
from microdiff.verify.digests import digest_key, hashes
from microdiff.verify.findings import Findings, Problem
from microdiff.verify.tables import Row, caption_cells, recorded_rows

_SHOWN = 5
_CELLS: Mapping[str, Callable[[Iterable[Row]], Iterator[tuple[object, ...]]]] = {
    "captions": lambda rows: iter(
        dict.fromkeys((row["image_key"], row["sha256"], row["width"], row["height"]) for row in rows)
    ),
    "latents": caption_cells,
}


def compare_rows(
    folders: Mapping[str, Path], before: Sequence[Findings], after: Sequence[Findings]
) -> Iterator[Problem]:
    """Yield what differs between rows that left a step and rows that entered the next, partition by partition.

    Args:
        folders: The artifacts by kind.
        before: Of the earlier step.
        after: Of the later step.
    """
    left = {item.name: item for item in before}
    for item in after:
        other = left.get(item.name)
        if other is None or not other.went_out or not item.came_in or other.went_out == item.came_in:
            continue
        table = f"{item.name}.parquet"
        rows = [row for row in recorded_rows(folders[other.kind], table) if row["status"] == KEPT]
        if other.kind == "raw":
            sent: Iterable[tuple[object, ...]] = [
                (row["key"], row["sha256"], row["width"], row["height"]) for row in rows
            ]
        else:
            sent = caption_cells(rows)
        got = _CELLS[item.kind](recorded_rows(folders[item.kind], table))
        sent_cell, got_cell = next((pair for pair in zip_longest(sent, got) if pair[0] != pair[1]), (None, None))
        what = f"its rows are not those that {other.kind} kept: expected {sent_cell}, found {got_cell}"
        yield Problem(item.dataset, item.kind, table, what, str((got_cell or sent_cell or ("",))[0]))


def name_duplicates(folder: Path, findings: Sequence[Findings], twice: set[int]) -> Iterator[Problem]:
    """Yield the keys that are in two raw partitions, given the hashes of their digests."""
    first: dict[str, str] = {}
    for item in findings:
        if not twice.intersection(item.keys.tolist()):
            continue
        for row in read_rows(folder / f"{item.name}.parquet", ["key"]):
            key = row["key"]
            if int(hashes([digest_key(key)])[0]) in twice and first.setdefault(key, item.name) != item.name:
                what = f"partition {first[key]} has the same key"
                yield Problem(item.dataset, item.kind, f"{item.name}.parquet", what, key)


def compare_values(
    folders: Mapping[str, Path], latents: Sequence[Findings], shards: Sequence[Findings]
) -> Iterator[Problem]:
    """Yield the samples whose values in a shard are not those in the latents, or that only one of them has.

    Where the bytes of a latents file are at fault, it is the one that is blamed.

    Args:
        folders: The artifacts by kind.
        latents: Findings with `locations` of all samples.
        shards: Likewise.
    """
    stated, held = _sorted(latents), _sorted(shards)
    all_stated, all_held = (bool(each) and all(item.is_complete for item in each) for each in (latents, shards))
    blamed = any(item.damaged for item in latents)
    for item in shards:
        known, same = _matches(item.locations, stated)
        wrong = known & ~same if item.damaged or not blamed else np.zeros(len(known), bool)  # else see below
        wrong |= ~known & all_stated
        for number, key in _shard_keys(folders["shards"], item.name, np.flatnonzero(wrong)[:_SHOWN]):
            what = "its values are not those of the latents" if known[number] else "the latents have no such sample"
            yield Problem(item.dataset, "shards", item.name, what, key, bool(item.damaged))
    for item in latents:
        known, same = _matches(item.locations, held)
        wrong = (known & ~same & bool(item.damaged)) | (~known & all_held)
        keys = _latents_keys(folders["latents"], item.name) if wrong.any() else []
        for number in np.flatnonzero(wrong)[:_SHOWN]:
            if not known[number]:
                yield Problem(item.dataset, "shards", INDEX_NAME, "no shard has this sample", keys[number])
                continue
            for file in sorted(item.damaged):
                what = "its values are not those in the shards"
                yield Problem(item.dataset, "latents", file, what, keys[number], is_damage=True)


def _sorted(findings: Sequence[Findings]) -> NDArray[np.uint64]:
    every = np.concatenate([np.zeros((0, 2), np.uint64), *(item.locations for item in findings)])
    ordered: NDArray[np.uint64] = every[np.argsort(every[:, 0])]
    return ordered


def _matches(own: NDArray[np.uint64], others: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell of each key whether the others have it, and whether with the same values."""
    if not len(others):
        return np.zeros(len(own), bool), np.zeros(len(own), bool)
    at = np.searchsorted(others[:, 0], own[:, 0]).clip(max=len(others) - 1)
    return others[at, 0] == own[:, 0], others[at, 1] == own[:, 1]


def _latents_keys(folder: Path, name: str) -> list[str]:
    return [row["key"] for row in read_kept(folder / f"{name}.parquet", ["key"])]


def _shard_keys(folder: Path, file: str, numbers: NDArray[np.intp]) -> Iterator[tuple[int, str]]:
    """Yield numbers and keys of a shard's samples."""
    wanted = set(numbers.tolist())
    if not wanted:
        return
    entry = next(entry for entry in read_index(folder / INDEX_NAME) if entry.stored.name == file)
    for number, values in enumerate(MdsFile(folder, entry)):
        if number in wanted:
            yield number, str(values["key"], "utf-8", "replace")
