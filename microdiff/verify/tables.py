"""Check one partition of the raw and captions artifacts: tables, pictures, and what passes on to the next step."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from microdiff.artifacts.raw import read_members
from microdiff.artifacts.tables import read_rows
from microdiff.core.ledger import EXPANDED, KEPT, Counts, Reason
from microdiff.core.progress import Reporter
from microdiff.core.withdrawn import Withdrawn
from microdiff.errors import SchemaError
from microdiff.verify.digests import digest_key, digest_rows, hashes
from microdiff.verify.files import Expected, check_files
from microdiff.verify.findings import Findings

Row = dict[str, Any]
UNREADABLE = (SchemaError, pa.ArrowException, OSError, ValueError, KeyError, TypeError)
_STATUSES = {KEPT, *(reason.value for reason in Reason)}
_PICTURE = ("image_key", "sha256", "width", "height")  # what the captions artifact has of the raw one
_CAPTION = ("key", "caption", "image_key", "width", "height")  # what the latents artifact has of the captions


def check_raw(
    folder: Path, name: str, expected: Mapping[str, Expected], withdrawn: Withdrawn, dataset: str, report: Reporter
) -> Findings:
    """Check a raw partition: every byte, every picture's hash, every row.

    Args:
        folder: The artifact.
        name: The partition.
        expected: What is recorded of its files.
        withdrawn: Samples that must not be there.
        dataset: Whose it is.
        report: Receives progress.
    """
    findings = Findings(dataset, "raw", name)
    check_files(folder, expected, findings)
    table = f"{name}.parquet"
    columns = ["key", "status", "captions", "sha256", "width", "height"]
    rows = read_table(folder, table, columns, withdrawn, findings)
    if rows is None:
        return findings
    kept = [row for row in rows if row["status"] == KEPT]
    for row in rows:
        if (row["status"] == KEPT) != bool(row["sha256"] and row["width"] and row["height"]):
            findings.add(table, f"status {row['status']} with sha256 {row['sha256']!r}", row["key"])
        if row["status"] == Reason.WITHDRAWN and row["captions"]:
            findings.add(table, "it is withdrawn, but its captions are still there", row["key"])
    findings.counts = _recount(rows)
    findings.keys = hashes(digest_key(row["key"]) for row in rows)
    findings.went_out = digest_rows((row["key"], row["sha256"], row["width"], row["height"]) for row in kept)
    try:
        _check_pictures(folder, f"{name}.tar", kept, withdrawn, findings)
    except UNREADABLE as error:
        note_unreadable(f"{name}.tar", error, findings)
    report.tick(len(rows))
    return findings


def check_captions(
    folder: Path, name: str, expected: Mapping[str, Expected], withdrawn: Withdrawn, dataset: str, report: Reporter
) -> Findings:
    """Check a captions partition: every byte and every row. Arguments as for `check_raw`."""
    findings = Findings(dataset, "captions", name)
    check_files(folder, expected, findings)
    columns = ["key", "status", "caption", "image_key", "sha256", "width", "height"]
    rows = read_table(folder, f"{name}.parquet", columns, withdrawn, findings)
    if rows is None:
        return findings
    pictures = list(dict.fromkeys(tuple(row[column] for column in _PICTURE) for row in rows))
    expanded = len(rows) - len(pictures)
    findings.counts = _recount(rows) | ({EXPANDED: expanded} if expanded else {})
    findings.came_in = digest_rows(pictures)
    findings.went_out = digest_rows(caption_cells(row for row in rows if row["status"] == KEPT))
    report.tick(len(rows))
    return findings


def caption_cells(rows: Iterable[Row]) -> Iterator[tuple[object, ...]]:
    """Return of rows what the captions and the latents artifact share."""
    return (tuple(row[column] for column in _CAPTION) for row in rows)


def read_table(
    folder: Path, table: str, columns: list[str], withdrawn: Withdrawn, findings: Findings
) -> list[Row] | None:
    """Read a partition's table and check keys and statuses; None if its bytes are at fault, or if it cannot be read."""
    if table in findings.damaged:
        return None
    try:
        rows = list(read_rows(folder / table, columns))
    except UNREADABLE as error:
        note_unreadable(table, error, findings)
        return None
    findings.num_samples += len(rows)
    for key, number in Counter(row["key"] for row in rows).items():
        if number > 1:
            findings.add(table, f"{number} rows have this key", key)
    for row in rows:
        if row["status"] not in _STATUSES:
            findings.add(table, f"unknown status {row['status']!r}", row["key"])
        if row["status"] != Reason.WITHDRAWN and withdrawn.contains(row["key"]):
            findings.add(table, f"it is withdrawn, but still here as {row['status']}", row["key"])
    return rows


def recorded_rows(folder: Path, table: str) -> list[Row]:
    """Read the rows that a table has, for naming what differs."""
    names = [name for name in (*_CAPTION, *_PICTURE, "status") if name in pq.read_schema(folder / table).names]
    return list(read_rows(folder / table, list(dict.fromkeys(names))))


def note_unreadable(file: str, error: BaseException, findings: Findings) -> None:
    """Note a file that cannot be read, unless its bytes are known to be at fault: then that has been said."""
    if file not in findings.damaged:
        findings.add(file, f"it cannot be read ({str(error) or type(error).__name__})", is_damage=True)


def _recount(rows: Iterable[Row]) -> Counts:
    counted = Counter(row["status"] for row in rows)
    rejected = {name: counted[name] for name in sorted(counted) if name != KEPT}
    return {"in": counted.total(), KEPT: counted[KEPT], **rejected}


def _check_pictures(folder: Path, tar: str, kept: Iterable[Row], withdrawn: Withdrawn, findings: Findings) -> None:
    """Check that a tar holds the kept rows' pictures, in their order and nothing else; names the first one missing."""
    for row, member in zip_longest(kept, read_members(folder / tar)):
        key = None if member is None else member[0].partition(".")[0]
        if member is not None and key is not None and withdrawn.contains(key):
            findings.add(tar, "it is withdrawn, but its picture is still here", key)
        if row is None or key != row["key"]:
            wanted = "nothing" if row is None else f"the picture {row['key']}"
            found = "the end" if member is None else f"the member {member[0]}"
            at = row["key"] if row else str(key)
            findings.add(tar, f"expected {wanted}, found {found}", at, is_damage=tar in findings.damaged)
            return
        if hashlib.sha256(member[1]).hexdigest() != row["sha256"]:
            what = "the picture's bytes have changed: they have another sha256 than the table says"
            findings.add(tar, what, row["key"], is_damage=tar in findings.damaged)
