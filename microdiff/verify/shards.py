"""Check one shard: every byte, its header against the index, every sample's columns, and that values are finite."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from microdiff.artifacts.finiteness import is_finite
from microdiff.artifacts.mds_header import Column
from microdiff.artifacts.mds_index import ShardEntry
from microdiff.artifacts.mds_scan import MdsFile
from microdiff.core.progress import Reporter
from microdiff.core.withdrawn import Withdrawn
from microdiff.verify.digests import digest_key, digest_values, hashes, is_drawn
from microdiff.verify.files import Expected, check_files
from microdiff.verify.findings import Findings
from microdiff.verify.tables import UNREADABLE, note_unreadable


def check_shard(
    folder: Path,
    entry: ShardEntry,
    expected: Mapping[str, Expected],
    withdrawn: Withdrawn,
    dataset: str,
    bfloat16: frozenset[str],
    share: float,
    each: bool,
    report: Reporter,
) -> Findings:
    """Check a shard.

    Args:
        folder: The artifact.
        entry: The shard's entry in its index.json.
        expected: What is recorded of its file.
        withdrawn: Samples that must not be there.
        dataset: Whose it is.
        bfloat16: Columns whose uint16 are the bits of bfloat16.
        share: Of the samples, whose values are to be compared with the latents'.
        each: Whether to give their digests one by one.
        report: Receives progress.
    """
    file = entry.stored.name
    findings = Findings(dataset, "shards", file)
    check_files(folder, expected, findings)
    damaged = file in findings.damaged
    try:
        shard = MdsFile(folder, entry)
        if shard.header != entry.header:
            findings.add(file, "its header is not what index.json says", is_damage=damaged)
        if shard.num_samples != entry.num_samples:
            what = f"it holds {shard.num_samples} samples, index.json says {entry.num_samples}"
            findings.add(file, what, is_damage=damaged)
        if (entry.zipped or not expected[file].sha256) and not _is_recorded(shard, entry):
            findings.add(file, "its content has another hash than index.json says", is_damage=True)
        _check_samples(file, shard, withdrawn, bfloat16, (share, each), findings)
        findings.is_complete = True
    except UNREADABLE as error:
        note_unreadable(file, error, findings)
    report.tick(findings.num_samples)
    return findings


def _is_recorded(shard: MdsFile, entry: ShardEntry) -> bool:
    return all(hashlib.new(name, shard.data).hexdigest() == value for name, value in entry.raw.hashes.items())


def _check_samples(
    file: str,
    shard: MdsFile,
    withdrawn: Withdrawn,
    bfloat16: frozenset[str],
    wanted: tuple[float, bool],
    findings: Findings,
) -> None:
    share, each = wanted
    damaged = file in findings.damaged
    columns = [Column.parse(name, encoding) for name, encoding in shard.header.encodings.items()]
    listed: list[bytes] = []
    for values in shard:
        key = str(values["key"], "utf-8", "replace")
        findings.num_samples += 1
        if withdrawn.contains(key):
            findings.add(file, "it is withdrawn, but still here", key)
        for column in columns:
            data = values[column.name]
            if column.dtype is not None and not is_finite(
                np.frombuffer(data, column.dtype), "bfloat16" if column.name in bfloat16 else column.dtype.name
            ):
                findings.add(file, f"{column.name} holds NaN or infinity", key, is_damage=damaged)
        digest = digest_key(key)
        findings.samples.add(digest)
        if is_drawn(digest, share):
            value = digest_values(values)
            findings.values.add(value)
            if each:
                listed += [digest, value]
    if each:
        findings.locations = hashes(listed).reshape(-1, 2)
