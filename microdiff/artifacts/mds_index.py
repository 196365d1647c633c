"""The index of an MDS shard set: what `index.json` says of each shard, and how it spells the types of columns.

Format: https://github.com/mosaicml/streaming/blob/v0.13.0/streaming/base/format/mds/writer.py
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np

from microdiff.errors import SchemaError

INDEX_NAME = "index.json"
_VERSION = 2
_FORMAT = "mds"
_NDARRAY = re.compile(r"ndarray:(u?int(?:8|16|32|64)|float(?:16|32|64)):([1-9][0-9]*(?:,[1-9][0-9]*)*)")


@dataclass(frozen=True)
class Column:
    """One typed column of a shard.

    Attributes:
        name: Column name.
        encoding: `str`, `int32` or `ndarray:<dtype>:<shape>`, as the index spells it.
        shape: Shape of an `ndarray` column, else None.
        dtype: Dtype of an `ndarray` column, else None.
        size: Bytes a value takes, None where that varies.
    """

    name: str
    encoding: str
    shape: tuple[int, ...] | None = None
    dtype: "np.dtype[Any] | None" = None
    size: int | None = None

    @classmethod
    def parse(cls, name: str, encoding: str) -> Self:
        """Read a column's encoding.

        Raises:
            SchemaError: The encoding is none of those that we write.
        """
        if encoding == "str":
            return cls(name, encoding)
        if encoding == "int32":
            return cls(name, encoding, size=4)
        match = _NDARRAY.fullmatch(encoding)
        if match is None:
            raise SchemaError(
                f"column {name!r}: expected encoding str, int32 or ndarray:<dtype>:<shape>, got {encoding!r}"
            )
        dtype, shape = np.dtype(match[1]), tuple(map(int, match[2].split(",")))
        return cls(name, encoding, shape, dtype, prod(shape) * dtype.itemsize)


@dataclass(frozen=True)
class ShardHeader:
    """What a shard says of itself in its first bytes, and its index entry says again.

    Attributes:
        column_names: Its columns, in the order in which a sample holds their values.
        column_encodings: Type of each column, as `Column` reads it; published shards have others, such as `bytes`.
        column_sizes: Bytes of each column's values, None where they vary.
        compression: None or, for example, `zstd:3`.
        hashes: Names of the hashes that its index entry holds.
        size_limit: What the writer was told; we tell it nothing.
    """

    column_names: tuple[str, ...]
    column_encodings: tuple[str, ...]
    column_sizes: tuple[int | None, ...]
    compression: str | None = None
    hashes: tuple[str, ...] = ()
    size_limit: int | None = None

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Self:
        """Read a header, or the part of an index entry that repeats it.

        Raises:
            ValueError: Naming the field that is missing or wrong.
        """
        if (value.get("version"), value.get("format")) != (_VERSION, _FORMAT):
            raise ValueError(f"version {value.get('version')!r} of format {value.get('format')!r}")
        names, encodings, sizes = (
            tuple(_get(value, name, list)) for name in ("column_names", "column_encodings", "column_sizes")
        )
        if not len(names) == len(encodings) == len(sizes):
            raise ValueError(f"columns {names} with encodings {encodings} and sizes {sizes}")
        return cls(
            names,
            encodings,
            sizes,
            compression=_get(value, "compression", str | None),
            hashes=tuple(_get(value, "hashes", list | None) or ()),
            size_limit=_get(value, "size_limit", int | None),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the header as JSON values."""
        return {
            "version": _VERSION,
            "format": _FORMAT,
            "compression": self.compression,
            "hashes": list(self.hashes),
            "size_limit": self.size_limit,
            "column_names": list(self.column_names),
            "column_encodings": list(self.column_encodings),
            "column_sizes": list(self.column_sizes),
        }

    @property
    def encodings(self) -> dict[str, str]:
        """The encoding of each column by its name."""
        return dict(zip(self.column_names, self.column_encodings, strict=True))


@dataclass(frozen=True)
class IndexedFile:
    """A file as the index has it.

    Attributes:
        name: Its path in the index's folder.
        num_bytes: Its size.
        hashes: Hex digests by the hash's name; published shards have none.
    """

    name: str
    num_bytes: int
    hashes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Self:
        """Read a `raw_data` or a `zip_data`.

        Raises:
            ValueError: Naming the field that is missing or wrong.
        """
        return cls(_get(value, "basename", str), _get(value, "bytes", int), _get(value, "hashes", dict | None) or {})

    def to_json(self) -> dict[str, Any]:
        """Return the file as JSON values."""
        return {"basename": self.name, "bytes": self.num_bytes, "hashes": dict(self.hashes)}


@dataclass(frozen=True)
class ShardEntry:
    """A shard as the index has it.

    Attributes:
        header: What the shard says of itself.
        num_samples: How many samples it holds.
        raw: The shard, uncompressed.
        zipped: The file that it is compressed to, None where it is not.
    """

    header: ShardHeader
    num_samples: int
    raw: IndexedFile
    zipped: IndexedFile | None = None

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read an entry.

        Raises:
            ValueError: Naming the field that is missing or wrong.
        """
        if not isinstance(value, dict):
            raise ValueError(f"{value!r:.200}")
        zipped = _get(value, "zip_data", dict | None)
        return cls(
            header=ShardHeader.parse(value),
            num_samples=_get(value, "samples", int),
            raw=IndexedFile.parse(_get(value, "raw_data", dict)),
            zipped=IndexedFile.parse(zipped) if zipped else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the entry as JSON values: what streaming reads, and what its own writer puts into an index."""
        return {
            **self.header.to_json(),
            "samples": self.num_samples,
            "raw_data": self.raw.to_json(),
            "zip_data": None if self.zipped is None else self.zipped.to_json(),
        }

    @property
    def stored(self) -> IndexedFile:
        """The file that is in the shard set: the compressed one, if it is compressed."""
        return self.zipped or self.raw

    def in_folder(self, folder: str) -> Self:
        """Return the entry for the index one folder higher: with `folder/` before the files' names."""
        return self._renamed(lambda name: f"{folder}/{name}")

    def without_folder(self) -> Self:
        """Return the entry for the index in the shard's own folder."""
        return self._renamed(lambda name: name.rpartition("/")[2])

    def uncompressed(self) -> Self:
        """Return the entry of the shard after it was decompressed."""
        return replace(self, zipped=None)

    def _renamed(self, rename: Any) -> Self:
        zipped = None if self.zipped is None else replace(self.zipped, name=rename(self.zipped.name))
        return replace(self, raw=replace(self.raw, name=rename(self.raw.name)), zipped=zipped)


def index_document(entries: Sequence[ShardEntry]) -> dict[str, Any]:
    """Return what a shard set's `index.json` holds; it is written after its shards."""
    return {"version": _VERSION, "shards": [entry.to_json() for entry in entries]}


def read_index(path: Path) -> list[ShardEntry]:
    """Read the entries of an `index.json`, by whomever it was written.

    Raises:
        SchemaError: The file is missing or is not an index of MDS version 2.
    """
    try:
        index = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise SchemaError(f"{path} is missing: is this the folder of a finished shard set?") from None
    except ValueError as error:  # not JSON, or not UTF-8
        raise SchemaError(f"{path}: expected a JSON index, got {error}: write or pull it again") from None
    if not isinstance(index, dict) or index.get("version") != _VERSION:
        raise SchemaError(f"{path}: expected an MDS index of version {_VERSION}, got {index!r:.80}")
    values = index.get("shards")
    if not isinstance(values, list):
        raise SchemaError(f"{path}: expected a list of shards, got {values!r:.80}: write or pull it again")
    entries: list[ShardEntry] = []
    headers: dict[ShardHeader, ShardHeader] = {}  # of a hundred thousand shards, nearly all have the same one
    for number, value in enumerate(values):
        try:
            entry = ShardEntry.parse(value)
            entries.append(replace(entry, header=headers.setdefault(entry.header, entry.header)))
        except (ValueError, TypeError) as error:  # a list among the columns' names cannot be hashed
            raise SchemaError(
                f"{path}: expected shard {number} to be an MDS entry, got {error}: write or pull it again"
            ) from None
    return entries


def _get(value: Mapping[str, Any], name: str, kind: Any) -> Any:
    found = value.get(name)
    if not isinstance(found, kind) or found is True or found is False:
        raise ValueError(f"{name} {found!r:.80}")
    return found
