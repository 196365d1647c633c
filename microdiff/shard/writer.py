"""The writing of one shard: samples of any partitions, read from their latents files by offsets into one buffer."""

import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from microdiff.artifacts.mds import HASH_NAME, sorted_columns, write_encoded
from microdiff.artifacts.mds_header import Column
from microdiff.core.ledger import KEPT, Result
from microdiff.core.progress import Reporter
from microdiff.core.verified_files import InputFile
from microdiff.errors import DamagedError, SchemaError
from microdiff.shard.sample_index import (
    PLAIN_COLUMNS,
    RECORDS,
    TEXTS,
    digest_sample,
    read_locations,
    record_type,
)

if TYPE_CHECKING:
    from functools import _lru_cache_wrapper

LatentsFiles = tuple[tuple[str, InputFile], ...]
_BUFFER_BYTES = 8 * 2**20
_REMEDY = "Remove this folder and run the step again."
_FILES_LEFT = 256  # for everything else in the process
_FILES_OF_PARTITION = 8  # two of the sample index, one of image latents, one for each text column


@dataclass(frozen=True)
class ShardPlan:
    """Which samples a shard holds.

    Attributes:
        sample_indexes: Folder of the sample index of each partition that samples come from.
        latents: The latents files, with their names in the artifact, of each of these partitions.
        partitions: uint32 (N,): each sample's partition, as a position in `sample_indexes`.
        rows: uint32 (N,): each sample's record in that index.
        sizes: uint32 (N,): bytes each sample adds to the shard.
        columns: Encodings of the shard's columns.
        compression: As in `mds.write_encoded`.
    """

    sample_indexes: Sequence[Path]
    latents: Sequence[LatentsFiles]
    partitions: NDArray[np.uint32]
    rows: NDArray[np.uint32]
    sizes: NDArray[np.uint32]
    columns: Mapping[str, str]
    compression: str | None


def write_shard(plan: ShardPlan, name: str, folder: Path, report: Reporter) -> Result:
    """Write one shard.

    Args:
        plan: Its samples.
        name: The shard file's path in the artifact, such as `512/shard.0123456789abcdef.mds`.
        folder: Receives it.
        report: Receives progress.

    Returns:
        The shard's counts and, as `entry`, its entry for index.json.

    Raises:
        DamagedError: A sample's values are not those that were indexed.
        SchemaError: A column or a sample is not what the plan says.
    """
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = plan.sizes.astype(np.int64) - 4  # less the offset
    entry = write_encoded(path, plan.columns, sizes, _pieces(plan, sizes, report), plan.compression)
    stored_name = path.with_name(entry.stored.name).relative_to(folder).as_posix()
    counts = {"in": len(plan.rows), KEPT: entry.num_samples}
    return Result(counts, {"entry": entry.to_json()}, {stored_name: entry.stored.hashes[HASH_NAME]})


def _pieces(plan: ShardPlan, sizes: NDArray[np.int64], report: Reporter) -> Iterator[memoryview]:
    """Yield the encoded samples, several at a time, in a buffer that is used again."""
    buffer = memoryview(bytearray(max(_BUFFER_BYTES, int(sizes.max()))))
    columns = sorted_columns(plan.columns)
    checked: set[int] = set()
    used = waiting = 0
    for number, row, size in zip(plan.partitions.tolist(), plan.rows.tolist(), sizes.tolist(), strict=True):
        if used + size > len(buffer):
            yield buffer[:used]
            report.tick(waiting)
            used = waiting = 0
        partition = _open_partitions()(plan.sample_indexes[number], plan.latents[number])
        if number not in checked:
            partition.check(columns)
            checked.add(number)
        try:
            partition.encode(row, columns, buffer[used : used + size])
        except _ReplacedError:
            partition = _open_partitions()(plan.sample_indexes[number], plan.latents[number])
            partition.encode(row, columns, buffer[used : used + size])
        used += size
        waiting += 1
    yield buffer[:used]
    report.tick(waiting)


class _ReplacedError(SchemaError):
    """A sample is not what was indexed, but all files are whole: those open here are not those that are there now."""


class _Partition:
    """The open files of one partition."""

    def __init__(self, index: Path, latents: LatentsFiles) -> None:
        self._index, self._latents, self._locations = index, latents, read_locations(index)
        self._record_type = record_type(len(self._locations))
        self._records, self._texts = _OpenFile(index / RECORDS), _OpenFile(index / TEXTS)
        files = {name: _OpenFile(file.path) for name, file in latents}
        self._columns = {
            name: (number, files[location.file], location.offset, location.row_bytes)
            for number, (name, location) in enumerate(self._locations.items())
        }

    def check(self, columns: Sequence[Column]) -> None:
        """Check that its latents have the dtypes and shapes that a shard states: rows are copied as they are.

        Raises:
            SchemaError: They have others, or it lacks a column.
        """
        for column in columns:
            if column.name in PLAIN_COLUMNS:
                continue
            found = self._locations.get(column.name)
            if found is None or (found.encoding, found.row_bytes) != (column.encoding, column.size):
                got = "no such column" if found is None else f"{found.encoding} of {found.row_bytes} bytes"
                raise self._damaged(f"expected {column.name} as {column.encoding} of {column.size} bytes, got {got}")

    def encode(self, row: int, columns: Sequence[Column], into: memoryview) -> None:
        """Put a sample into memory as a shard holds it: the lengths of its texts, then all values, columns by name.

        Raises:
            DamagedError: Its values are not those that were indexed.
            SchemaError: They do not fill the memory, or it lacks a column.
        """
        data = bytearray(self._record_type.itemsize)
        if not self._records.read(row * len(data), memoryview(data)):
            raise self._damaged(f"it has no record {row}")
        record = np.frombuffer(data, self._record_type)[0]
        rows = record["rows"].tolist()
        plain = self._plain_values(record)
        lengths = [len(plain[column.name]) for column in columns if column.size is None]
        num_bytes = 4 * len(lengths) + sum(lengths) + sum(column.size or 0 for column in columns)
        if num_bytes != len(into):
            raise self._damaged(f"record {row}: its values take {num_bytes} bytes, expected {len(into)}")
        at = 4 * len(lengths)
        into[:at] = np.array(lengths, "<u4").tobytes()
        values = []
        for column in columns:
            if column.name in plain:
                value = plain[column.name]
                into[at : at + len(value)] = value
                at += len(value)
            else:
                number, file, offset, row_bytes = self._columns[column.name]
                if rows[number] < 0:
                    raise self._damaged(f"record {row}: it has no {column.name}")
                if not file.read(offset + rows[number] * row_bytes, into[at : at + row_bytes]):
                    self._blame(plain["key"].decode(errors="replace"))
                values.append(into[at : at + row_bytes])
                at += row_bytes
        key, caption = plain["key"].decode(errors="replace"), plain["caption"].decode(errors="replace")
        if digest_sample([key, caption, int(record["width"]), int(record["height"])], values) != bytes(
            record["digest"]
        ):
            self._blame(key)

    def _blame(self, key: str) -> NoReturn:
        """Say which file is not what it was when it was indexed."""
        _open_partitions().cache_clear()  # what will take a damaged file's place is another file
        for _, file in self._latents:
            try:
                file.check()
            except DamagedError as error:
                raise error.of_sample(key) from None
        what = f"sample {key}: its values are not those that were indexed"
        raise _ReplacedError(f"{self._index}: {what}. {_REMEDY}")

    def _damaged(self, what: str) -> SchemaError:
        return SchemaError(f"{self._index}: {what}. {_REMEDY}")

    def _plain_values(self, record: Any) -> dict[str, bytes]:
        key_bytes = int(record["key_bytes"])
        texts = bytearray(key_bytes + int(record["caption_bytes"]))
        if not self._texts.read(int(record["text_offset"]), memoryview(texts)):
            raise self._damaged("its texts end early")
        values = bytes(texts[:key_bytes]), bytes(texts[key_bytes:])
        return dict(zip(PLAIN_COLUMNS, (*values, record["width"].tobytes(), record["height"].tobytes()), strict=True))


class _OpenFile:
    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self._descriptor)

    def read(self, offset: int, into: memoryview) -> bool:
        """Fill memory from the file; return whether it goes so far."""
        return os.preadv(self._descriptor, [into], offset) == len(into)


@cache
def _open_partitions() -> "_lru_cache_wrapper[_Partition]":
    """Return what opens a partition's files and keeps them open, those used last if not all may be.

    A shuffled shard draws from nearly all partitions: with the usual limit of 1,024 open files, those of a large
    dataset would be opened again for every sample, so this process asks for as many as the system grants.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = 2**20 if hard == resource.RLIM_INFINITY else hard
    return lru_cache(maxsize=max((most - _FILES_LEFT) // _FILES_OF_PARTITION, 1))(_Partition)
