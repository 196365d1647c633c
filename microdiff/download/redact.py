"""Take withdrawn samples out of raw partitions, without fetching anything where the store still has the partition.

A redacted partition is determined by the partition it comes from and the keys taken out. It is made from that one, or
from an earlier redaction of it, by leaving out pictures and blanking rows; where neither is in the store, from the
source. All ways give the same bytes. Partitions without withdrawn keys keep their fingerprint: they are not touched.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from microdiff.artifacts.tables import read_rows
from microdiff.core.files import digest_file
from microdiff.core.ledger import OTHER_MEMBERS, Reason, Result
from microdiff.core.progress import Reporter
from microdiff.core.withdrawn import Withdrawn, picture_key
from microdiff.download.raw_writer import copy_raw, withdrawn_row
from microdiff.errors import SchemaError
from microdiff.pipeline.finder import Finder
from microdiff.pipeline.store import Store
from microdiff.pipeline.task import StoredPartition, Task

Redacted = Callable[[Withdrawn], Callable[[Path, Reporter], Result]]


class Redaction:
    """Plans the raw partitions of one dataset without its withdrawn samples.

    Args:
        store: Where finished partitions are.
        finder: Finds those that are elsewhere.
        withdrawn: The dataset's list. The partitions it names are where keys are looked for first.
    """

    def __init__(self, store: Store, finder: Finder, withdrawn: Withdrawn) -> None:
        self._store = store
        self._finder = finder
        self._withdrawn = withdrawn
        self._keys: dict[str, frozenset[str]] = _by_partition(withdrawn)
        self._local: set[str] = set()

    def apply(self, base: Task, from_source: Redacted) -> Task:
        """Return the task of a partition less its withdrawn samples; the partition's own if it has none.

        Args:
            base: The whole partition.
            from_source: Gives what computes the partition without samples.
        """
        self._local.discard(base.name)
        keys = self._keys.get(base.name, frozenset())
        if not keys:
            return base
        task = self._task(base, keys)
        listed = Withdrawn({key: self._withdrawn.entries[key] for key in keys})
        stored = self._finder.find(task) or self._earlier(base, keys)
        if stored is None:
            return replace(task, compute=from_source(listed))
        self._local.add(base.name)
        return replace(task, compute=partial(redact, stored, listed), downloads={})

    def needs_source(self, task: Task) -> bool:
        """Tell whether a task that `apply` gave would be computed from the source."""
        return task.name not in self._local and self._finder.find(task) is None

    def correct(self, stored: Sequence[StoredPartition]) -> set[str]:
        """Look where the withdrawn keys really are, and return the names of partitions that `apply` got wrong.

        The list may name no partition or, after a change of settings, another one.
        """
        if not self._withdrawn:
            return set()
        found = {item.name: covered(item.paths[f"{item.name}.parquet"], self._withdrawn) for item in stored}
        wrong = {name for name, keys in found.items() if keys != self._keys.get(name, frozenset())}
        self._keys = {name: keys for name, keys in found.items() if keys}
        return wrong

    def nowhere(self, names: Collection[str]) -> list[str]:
        """Return the withdrawn keys of these partitions that no partition has, as far as `correct` has looked."""
        found = frozenset(key for keys in self._keys.values() for key in keys)
        return [key for key, entry in self._withdrawn.entries.items() if entry.partition in names and key not in found]

    def _task(self, base: Task, keys: Iterable[str]) -> Task:
        return replace(base, cache_key={"of": self._store.folder(base).name, "withdrawn": sorted(keys)})

    def _earlier(self, base: Task, keys: frozenset[str]) -> StoredPartition | None:
        """Return the whole partition, or the redaction of it with the most of these keys, if the store has any."""
        whole = self._finder.find(base)
        if whole is not None:
            return whole
        fitting = [
            (len(gone), number, item)
            for number, item in enumerate(self._redactions.get(base.name, ()))
            if (gone := _gone(item)) <= keys and self._store.folder(self._task(base, gone)).name in item.fingerprints
        ]
        return max(fitting)[-1] if fitting else None

    @cached_property
    def _redactions(self) -> dict[str, list[StoredPartition]]:
        for name in self._keys:
            self._finder.restore_named("download", name)
        found = defaultdict(list)
        for item in self._store.finished("download"):
            if item.counts.get(Reason.WITHDRAWN.value):
                found[item.name].append(item)
        return found


def redact(stored: StoredPartition, withdrawn: Withdrawn, folder: Path, report: Reporter) -> Result:
    """Write a raw partition less withdrawn samples.

    Args:
        stored: The partition as it was.
        withdrawn: What to leave out.
        folder: Receives `<name>.tar` and `<name>.parquet`.
        report: Receives progress.

    Returns:
        The partition's counts, and `profile_facts`.

    Raises:
        SchemaError: The partition is damaged; what is made of it would look whole.
    """
    tar_name, table_name = f"{stored.name}.tar", f"{stored.name}.parquet"
    for name, path in stored.paths.items():
        if digest_file(path) != stored.files[name].sha256:
            raise SchemaError(f"{path}: damaged, its sha256 is not the recorded one. Run it again.")

    def change(row: Mapping[str, Any]) -> Mapping[str, Any]:
        return withdrawn_row(row) if withdrawn.contains(row["key"]) else row

    copy = copy_raw(stored.paths[tar_name], stored.paths[table_name], stored.name, folder, change, report)
    beside = {name: number for name, number in stored.counts.items() if name == OTHER_MEMBERS}
    return replace(copy, counts={**copy.counts, **beside})


def covered(table: Path, withdrawn: Withdrawn) -> frozenset[str]:
    """Return the keys of the list that cover any row of a table with a `key` column."""
    keys = pq.read_table(table, columns=["key"])["key"]
    listed = pa.array(list(withdrawn.entries), pa.string())
    pictures = pc.replace_substring_regex(keys, r"#[0-9]+$", "")
    hits = keys.filter(pc.or_(pc.is_in(keys, listed), pc.is_in(pictures, listed))).to_pylist()
    return frozenset(form for key in hits for form in (key, picture_key(key)) if form in withdrawn.entries)


def _by_partition(withdrawn: Withdrawn) -> dict[str, frozenset[str]]:
    keys = defaultdict(set)
    for entry in withdrawn.entries.values():
        if entry.partition:
            keys[entry.partition].add(entry.key)
    return {name: frozenset(found) for name, found in keys.items()}


def _gone(item: StoredPartition) -> frozenset[str]:
    """Return the keys that a redaction took out; what bears a picture's key and a number went with the picture."""
    rows = read_rows(item.paths[f"{item.name}.parquet"], ["key", "status"])
    keys = {row["key"] for row in rows if row["status"] == Reason.WITHDRAWN}
    return frozenset(key for key in keys if picture_key(key) == key or picture_key(key) not in keys)
