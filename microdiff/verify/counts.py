"""Check that what artifacts say of themselves adds up: within each, and from each to the next."""

from collections.abc import Mapping, Sequence

import numpy as np

from microdiff.artifacts.kinds import KINDS
from microdiff.artifacts.manifest import MANIFEST, Manifest
from microdiff.core.files import read_json
from microdiff.core.ledger import EXPANDED, KEPT, OTHER_MEMBERS, add_up, check_balance, metrics
from microdiff.errors import StepError
from microdiff.pipeline.workspace import Workspace
from microdiff.verify.digests import Multiset
from microdiff.verify.findings import Findings, Problem

BEFORE = {"captions": "raw", "latents": "captions", "shards": "latents"}


def check_counts(dataset: str, workspace: Workspace, manifests: Mapping[str, Manifest]) -> list[Problem]:
    """Check manifests against themselves, each other, and the metrics in git."""
    problems = []
    for kind, manifest in manifests.items():

        def add(file: str, what: str, kind: str = kind) -> None:
            problems.append(Problem(dataset, kind, file, what))

        for name, partition in manifest.partitions.items():
            try:
                check_balance(partition.counts, None, f"partition {name}")
            except StepError as error:
                add(MANIFEST, str(error))
        total = add_up(partition.counts for partition in manifest.partitions.values())
        if total != manifest.counts:
            add(MANIFEST, f"its counts are {manifest.counts}, but its partitions add up to {total}")
        path = workspace.metrics(KINDS[kind], dataset)
        if path.is_file():
            said = read_json(path)
            wrong = [name for name, number in metrics(manifest.counts).items() if said.get(name, 0) != number]
            if wrong:
                add(MANIFEST, f"{path.name} of metrics/{KINDS[kind]} has another number for {', '.join(wrong)}")
        before = manifests.get(BEFORE.get(kind, ""))
        if before is not None:
            for what in _differences(kind, manifest, before):
                add(MANIFEST, what)
    return problems


def _differences(kind: str, manifest: Manifest, before: Manifest) -> list[str]:
    """Tell where a manifest does not follow from the one of the step before."""
    found = []
    came_in = manifest.counts["in"] - manifest.counts.get(EXPANDED, 0)
    if came_in != before.counts[KEPT]:
        found.append(f"{came_in} samples came in, but {BEFORE[kind]} kept {before.counts[KEPT]}")
    if manifest.source_records != before.source_records + manifest.counts.get(EXPANDED, 0):
        found.append(f"it speaks of {manifest.source_records} source records, {BEFORE[kind]} {before.source_records}")
    if kind == "shards":
        if manifest.facts.get("encoders") != before.facts.get("encoders"):
            found.append("its encoders are not those of the latents")
        return found
    if manifest.partitions.keys() != before.partitions.keys():
        other = sorted(manifest.partitions.keys() ^ before.partitions.keys())
        return [*found, f"its partitions are not those of {BEFORE[kind]}: {', '.join(other[:5])}"]
    for name, partition in manifest.partitions.items():
        came_in = partition.counts["in"] - partition.counts.get(EXPANDED, 0)
        if came_in != before.kept()[name]:
            found.append(f"{name}: {came_in} samples came in, but {BEFORE[kind]} kept {before.kept()[name]}")
    return found


def check_recount(manifest: Manifest, findings: Sequence[Findings]) -> list[Problem]:
    """Check the counts of a manifest against those counted anew from the partitions' tables.

    Tables do not tell of members that were known to be no records.
    """
    problems = []
    for item in findings:
        said = {name: n for name, n in manifest.partitions[item.name].counts.items() if name != OTHER_MEMBERS}
        if item.counts is not None and _without_zeros(item.counts) != _without_zeros(said):
            what = f"the table adds up to {item.counts}, manifest.json says {said}"
            problems.append(Problem(item.dataset, item.kind, f"{item.name}.parquet", what))
    return problems


def _without_zeros(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: number for name, number in counts.items() if number}


def check_keys(findings: Sequence[Findings]) -> set[int]:
    """Return the hashes of keys that more than one raw partition has; 8 bytes of memory per key."""
    if not findings:
        return set()
    every = np.sort(np.concatenate([item.keys for item in findings]))
    twice: set[int] = set(every[1:][every[1:] == every[:-1]].tolist())
    return twice


def total_of(findings: Sequence[Findings], what: str) -> Multiset:
    """Return all that partitions hold: `samples` or `values`."""
    total = Multiset()
    for item in findings:
        total.merge(getattr(item, what))
    return total
