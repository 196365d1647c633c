"""The sample index of a partition of latents: a record of fixed size per sample, its texts, and where latents are.

Millions of samples are then packed as a few arrays, and a worker that writes a shard finds a sample's bytes by
offsets, without reading the tables and headers of every partition that the shard draws from.

Files: `records` (see `record_type`), `texts` (every sample's key and caption, UTF-8, one after another), and
`listing.json` (the columns of latents: the file each is in, and where).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from microdiff.artifacts.finiteness import check_finite
from microdiff.artifacts.latents import LatentsFile
from microdiff.artifacts.mds_header import Column
from microdiff.artifacts.tables import read_kept
from microdiff.core.files import read_json, write_json
from microdiff.core.ledger import KEPT, Result
from microdiff.core.progress import Reporter
from microdiff.core.verified_files import Input, InputFile, path_of
from microdiff.errors import SchemaError

RECORDS, TEXTS, LOCATIONS = "records", "texts", "listing.json"
_IMAGE_PREFIXES = ("latents_", "moments_")
PLAIN_COLUMNS = {"key": "str", "caption": "str", "width": "int32", "height": "int32"}


@dataclass(frozen=True)
class ColumnLocation:
    """Where a column's values are, one row after another.

    Attributes:
        file: Name of the latents file.
        offset: Of the first row in it.
        row_bytes: Bytes of a row.
        encoding: As MDS spells it, such as `ndarray:float16:4,32,32`.
    """

    file: str
    offset: int
    row_bytes: int
    encoding: str


def record_type(num_columns: int) -> "np.dtype[Any]":
    """Return the type of a sample's record in an index of so many columns of latents."""
    return np.dtype(
        [
            ("key_hash", "<u8"),
            ("digest", "V16"),  # of all that the sample puts into a shard, besides the columns' names and types
            ("group", "<u4"),  # its largest resolution in pixels
            ("size", "<u4"),  # bytes it adds to a shard, that of its offset included
            ("text_offset", "<u8"),
            ("key_bytes", "<u4"),
            ("caption_bytes", "<u4"),
            ("width", "<i4"),
            ("height", "<i4"),
            ("rows", "<i4", (num_columns,)),  # row in each column, columns by name, -1 for none
        ]
    )


@dataclass(frozen=True)
class Samples:
    """All samples of a dataset, in source order, as arrays of one length.

    Attributes:
        key_hashes: uint64.
        digests: 16 bytes each, of what the sample puts into a shard.
        groups: uint32, largest resolution in pixels.
        sizes: uint32, bytes it adds to a shard.
        partitions: uint32, its partition's position.
        rows: uint32, its record in the partition's index.
    """

    key_hashes: NDArray[np.uint64]
    digests: NDArray[np.void]
    groups: NDArray[np.uint32]
    sizes: NDArray[np.uint32]
    partitions: NDArray[np.uint32]
    rows: NDArray[np.uint32]


@dataclass(frozen=True)
class _Column:
    name: str
    location: ColumnLocation
    rows: NDArray[Any]
    row_of: Mapping[str, int]  # by the sample's key, or for image latents by the picture's
    is_image: bool

    def find(self, sample: Mapping[str, Any]) -> int:
        """Return the row of a sample, -1 where there is none."""
        return self.row_of.get(sample["image_key" if self.is_image else "key"], -1)


def write_sample_index(table: Input, name: str, files: Mapping[str, Input], folder: Path, report: Reporter) -> Result:
    """Index one partition's samples.

    Args:
        table: What became of the partition's samples, and all that shards hold of them besides latents.
        name: The partition.
        files: Its latents files by name.
        folder: Receives the index.
        report: Receives progress.

    Returns:
        The number of samples, and as `columns` the encodings of every group's columns by the group's name.

    Raises:
        DamagedError: A file is not the recorded one.
        SchemaError: A kept sample lacks latents or has some that are not finite, or two files have a column of the
            same name.
    """
    columns = _open_columns(name, files)
    records: list[tuple[Any, ...]] = []
    groups: dict[str, list[str]] = {}
    offset = 0
    with (folder / TEXTS).open("wb") as texts:
        for sample in read_kept(table, ["key", "caption", "image_key", "width", "height"]):
            rows = [column.find(sample) for column in columns]
            present = [column for column, row in zip(columns, rows, strict=True) if row >= 0]
            names = [column.name for column in present]
            group = max((_pixels(column.name) for column in present if column.is_image), default=0)
            expected = groups.setdefault(str(group), names)
            if names != expected or not group:
                raise SchemaError(
                    f"{path_of(table)}: sample {sample['key']} of partition {name} has {names}, expected latents of a "
                    f"picture and {expected}"
                )
            key, caption = sample["key"].encode(), sample["caption"].encode()
            texts.write(key + caption)
            records.append(
                (
                    xxhash.xxh3_64_intdigest(key),
                    _digest(sample, columns, rows),
                    group,
                    _size(len(key) + len(caption), present),
                    offset,
                    *(len(key), len(caption), sample["width"], sample["height"]),
                    rows,
                )
            )
            offset += len(key) + len(caption)
            report.tick(1)
    np.array(records, record_type(len(columns))).tofile(folder / RECORDS)
    write_json(folder / LOCATIONS, {column.name: asdict(column.location) for column in columns})
    encodings = {column.name: column.location.encoding for column in columns}
    of_groups = {
        group: {**PLAIN_COLUMNS, **{name: encodings[name] for name in names}} for group, names in groups.items()
    }
    return Result({"in": len(records), KEPT: len(records)}, {"columns": of_groups})


def read_locations(index: Path) -> dict[str, ColumnLocation]:
    """Return where an indexed partition has its columns, in the order of the records' rows."""
    return {column: ColumnLocation(**values) for column, values in sorted(read_json(index / LOCATIONS).items())}


def load_samples(indexes: Sequence[Path]) -> Samples:
    """Read the indexes of all of a dataset's partitions, keeping 44 bytes a sample."""
    parts = [_read_records(number, index) for number, index in enumerate(indexes)]
    return Samples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _read_records(number: int, folder: Path) -> tuple[NDArray[Any], ...]:
    records = np.fromfile(folder / RECORDS, record_type(len(read_locations(folder))))
    fields = [records[name].copy() for name in ("key_hash", "digest", "group", "size")]
    return (*fields, np.full(len(records), number, np.uint32), np.arange(len(records), dtype=np.uint32))


def _open_columns(partition: str, files: Mapping[str, Input]) -> list[_Column]:
    found: dict[str, _Column] = {}
    for file, source in files.items():
        path = source.check() if isinstance(source, InputFile) else source
        opened = LatentsFile(path)
        for name in opened.names:
            if name in found:
                raise SchemaError(f"partition {partition}: {found[name].location.file} and {file} both hold {name}")
            rows = opened.rows(name)
            check_finite(path, name, opened)
            encoding = f"ndarray:{rows.dtype.name}:{','.join(map(str, rows.shape[1:]))}"
            location = ColumnLocation(file, opened.offset(name), Column.parse(name, encoding).size or 0, encoding)
            row_of = {key: row for row, key in enumerate(opened.keys(name))}
            found[name] = _Column(name, location, rows, row_of, name.startswith(_IMAGE_PREFIXES))
    return [found[name] for name in sorted(found)]


def _pixels(image_column: str) -> int:
    return int(image_column.rpartition("_")[2])


def _digest(sample: Mapping[str, Any], columns: Sequence[_Column], rows: Sequence[int]) -> bytes:
    values = (column.rows[row] for column, row in zip(columns, rows, strict=True) if row >= 0)
    return digest_sample([sample[name] for name in PLAIN_COLUMNS], values)


def digest_sample(plain: Sequence[str | int], values: Iterable[Any]) -> bytes:
    """Return the digest of what a sample puts into a shard, 16 bytes.

    Args:
        plain: Its values of `PLAIN_COLUMNS`.
        values: The bytes of its rows of the columns of latents, columns by name.
    """
    digest = xxhash.xxh3_128(json.dumps(plain).encode())
    for each in values:
        digest.update(each)
    return digest.digest()


def _size(text_bytes: int, present: Sequence[_Column]) -> int:
    """Return what a sample adds to a shard: its offset, the lengths of its texts, and its values."""
    num_texts = sum(encoding == "str" for encoding in PLAIN_COLUMNS.values())
    num_numbers = len(PLAIN_COLUMNS) - num_texts
    return 4 + 4 * num_texts + text_bytes + 4 * num_numbers + sum(column.location.row_bytes for column in present)
