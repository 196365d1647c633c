"""Withdraw samples: find them in whatever artifacts are there, and put them on their dataset's list.

The loader leaves out what is on the list from its next start; the pipeline takes it out of the artifacts at its next
run. So that this costs no more than the partitions concerned, the store is given what the artifacts hold first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from microdiff.artifacts.kinds import KINDS
from microdiff.artifacts.mds_index import INDEX_NAME, read_index
from microdiff.artifacts.mds_scan import MdsFile
from microdiff.artifacts.tables import read_kept
from microdiff.core.printable import escape_key
from microdiff.core.withdrawn import Withdrawal, Withdrawn, picture_key, read_withdrawn, write_withdrawn
from microdiff.errors import ParamsError
from microdiff.pipeline.restore import restore_dataset
from microdiff.pipeline.workspace import Workspace

_KEYS = ("image_key", "key")  # a table of captions has a row per caption
_SHOWN = 5


@dataclass(frozen=True)
class Request:
    """One line of a list of keys; `dataset` is None where it may be any."""

    key: str
    dataset: str | None
    reason: str


@dataclass
class Forgotten:
    """What became of the requests for one dataset.

    Attributes:
        dataset: Its name.
        list_path: Its list of withdrawn samples.
        added: Keys that are new on it.
        already: How many were on it before.
        partitions: Where the new ones were found.
        restored: How many partitions the store got back.
        twins: Samples of any dataset here whose picture has the same bytes and is not withdrawn, as `dataset: key`.
    """

    dataset: str
    list_path: Path
    added: list[str] = field(default_factory=list)
    already: int = 0
    partitions: set[str] = field(default_factory=set)
    restored: int = 0
    twins: list[str] = field(default_factory=list)


def read_requests(path: Path, dataset: str | None, reason: str) -> list[Request]:
    """Read a list of keys: a key per line, or `dataset`, key and, if there is one, reason, separated by tabs.

    Args:
        path: The list.
        dataset: For lines that name none; None means that any dataset may have the key.
        reason: For lines that give none.

    Raises:
        ParamsError: The list is missing or empty, or is no such list.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: expected a list of keys in UTF-8, one per line ({error})") from None
    requests = []
    for number, line in enumerate(lines, 1):
        fields = line.rstrip("\r").split("\t")
        if fields == [""]:
            continue
        if len(fields) > 3 or not all(fields[:2]):
            raise ParamsError(f"{path}, line {number}: expected a key, or dataset, key, reason between tabs: {line!r}")
        if len(fields) == 1:
            requests.append(Request(fields[0], dataset, reason))
        else:
            requests.append(Request(fields[1], fields[0], fields[2] if len(fields) == 3 else reason))
    if not requests:
        raise ParamsError(f"{path}: holds no keys")
    return requests


def forget(requests: Sequence[Request], workspace: Workspace, *, allow_unknown: bool = False) -> list[Forgotten]:
    """Put samples on the lists of withdrawn samples; all of them, or after an error none.

    Args:
        requests: Which ones.
        workspace: Where the datasets are.
        allow_unknown: Whether keys found in no artifact are listed nevertheless, where their dataset is given.

    Raises:
        ParamsError: A key is unknown, or a dataset is.
        SchemaError: A list or an artifact is damaged.
    """
    here = sorted(path.name for path in (workspace.root / "data").glob("*") if path.is_dir())
    named = {request.dataset for request in requests if request.dataset is not None}
    if named - set(here):
        raise ParamsError(f"no such dataset: {', '.join(sorted(named - set(here)))}; data/ has {', '.join(here)}")
    datasets = here if any(request.dataset is None for request in requests) else sorted(named)
    unknown = {request: request.key for request in requests}
    lists: list[tuple[Forgotten, Withdrawn]] = []
    for dataset in datasets:
        wanted = [request for request in requests if request.dataset in (None, dataset)]
        withdrawn = read_withdrawn(workspace.withdrawn(dataset))
        result = Forgotten(dataset, workspace.withdrawn(dataset))
        entries = dict(withdrawn.entries)
        partition_of = find(dataset, workspace, {form for request in wanted for form in _forms(request.key)})
        for request in wanted:
            found = [form for form in _forms(request.key) if form in partition_of]
            if len(pictures := {picture_key(form) for form in found}) > 1:
                raise ParamsError(
                    f"{dataset}: {request.key} may mean {' or '.join(sorted(pictures))}. Nothing was changed. "
                    "Give the key that is meant, as tables show it."
                )
            key = found[0] if found else None
            if key is None and withdrawn.contains(request.key):
                key = request.key if request.key in entries else picture_key(request.key)
            if key is None and allow_unknown and request.dataset is not None:
                key = request.key
            if key is None:
                continue
            unknown.pop(request, None)
            if key in entries:
                result.already += key in withdrawn.entries
                continue
            entries[key] = Withdrawal(key, request.reason, partition_of.get(key, ""))
            result.added.append(key)
            result.partitions |= {partition_of[key]} if partition_of.get(key) else set()
        if result.added or result.already:
            lists.append((result, Withdrawn(entries)))
    if unknown:
        shown = ", ".join(list(unknown.values())[:_SHOWN]) + (", ..." if len(unknown) > _SHOWN else "")
        raise ParamsError(
            f"{len(unknown)} of {len(requests)} keys are in no artifact of {', '.join(datasets)}: {shown}\n"
            "Nothing was changed. Correct them, pull the artifact that has them, or give --dataset and --allow-unknown."
        )
    for result, _ in lists:
        result.restored = restore_dataset(result.dataset, workspace)
    for result, withdrawn in lists:
        write_withdrawn(result.list_path, withdrawn)
    for result, _ in lists:
        result.twins = _twins(result, here, workspace)
    return [result for result, _ in lists]


def _twins(done: Forgotten, datasets: Sequence[str], workspace: Workspace) -> list[str]:
    """Return the samples that have the same pictures as those withdrawn, as far as raw artifacts are here."""
    added = set(done.added)
    pictures = {sha256 for key, sha256 in _pictures(done.dataset, workspace) if key in added}
    found = []
    for dataset in datasets if pictures else ():
        withdrawn = read_withdrawn(workspace.withdrawn(dataset))
        found += [
            f"{dataset}: {key}"
            for key, sha256 in _pictures(dataset, workspace)
            if sha256 in pictures and not withdrawn.contains(key)
        ]
    return found


def _pictures(dataset: str, workspace: Workspace) -> Iterator[tuple[str, str]]:
    for path in sorted(workspace.artifact(dataset, "raw").glob("*.parquet")):
        for row in read_kept(path, ["key", "sha256"]):
            yield row["key"], row["sha256"]


def _forms(key: str) -> tuple[str, ...]:
    """Return what a key can mean, likeliest first; the last is for a name as its source has it."""
    return picture_key(key), key, escape_key(key)


def find(dataset: str, workspace: Workspace, keys: set[str]) -> dict[str, str]:
    """Return those of the keys that a dataset has, and the partition of each, empty where shards alone tell of it."""
    partition_of: dict[str, str] = {}
    for kind in KINDS:
        folder = workspace.artifact(dataset, kind)
        if len(partition_of) == len(keys) or not workspace.is_here(dataset, kind):
            continue
        for partition, found in _shard_keys(folder) if kind == "shards" else _table_keys(folder):
            for key in found & keys:
                partition_of.setdefault(key, partition)
    return partition_of


def _table_keys(folder: Path) -> Iterator[tuple[str, set[str]]]:
    for path in sorted(folder.glob("*.parquet")):
        column = next(name for name in _KEYS if name in pq.read_schema(path).names)
        yield path.stem, set(pq.read_table(path, columns=[column])[column].to_pylist())


def _shard_keys(folder: Path) -> Iterator[tuple[str, set[str]]]:
    for entry in read_index(folder / INDEX_NAME):
        keys = set(MdsFile(folder, entry).keys())
        yield "", keys | {picture_key(key) for key in keys}
