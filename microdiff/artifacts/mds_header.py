"""What an MDS shard says of itself: its columns and how their types are spelt; its index entry repeats it.

It may be a stranger's: types and sizes that contradict each other go no further.

Format: https://github.com/mosaicml/streaming/blob/v0.13.0/streaming/base/format/mds/writer.py
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from microdiff.core.untrusted import is_number
from microdiff.errors import SchemaError

MDS_VERSION = 2
MAX_SHARD_BYTES = 2**32 - 1  # offsets in a shard are uint32
_COLUMN_FIELDS = ("column_names", "column_encodings", "column_sizes")
HEADER_FIELDS = ("version", "format", "compression", "hashes", "size_limit", *_COLUMN_FIELDS)
MAX_HEADER_BYTES = 2**20
_FORMAT = "mds"
_NDARRAY = re.compile(r"ndarray:(u?int(?:8|16|32|64)|float(?:16|32|64)):([1-9][0-9]{0,9}(?:,[1-9][0-9]{0,9}){0,15})")
_SCALAR = re.compile(r"u?int(?:8|16|32|64)|float(?:16|32|64)")


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


def _fits(encoding: str, size: int | None) -> bool:
    """Tell whether values of an encoding can have this size; of encodings that we do not know, any."""
    if encoding in ("str", "bytes"):
        return size is None
    if encoding == "int":
        return size == np.dtype(np.int64).itemsize
    if _SCALAR.fullmatch(encoding):
        return size == np.dtype(encoding).itemsize
    return _NDARRAY.fullmatch(encoding) is None or size == Column.parse("", encoding).size


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
    def parse(cls, value: object) -> Self:
        """Read a header, or the part of an index entry that repeats it.

        Raises:
            ValueError: Naming the field that is missing or wrong.
        """
        if not isinstance(value, dict):
            raise ValueError(f"{value!r:.80}")
        if (value.get("version"), value.get("format")) != (MDS_VERSION, _FORMAT):
            raise ValueError(f"version {value.get('version')!r:.80} of format {value.get('format')!r:.80}")
        names, encodings, sizes = (tuple(get_typed(value, name, list)) for name in _COLUMN_FIELDS)
        if not len(names) == len(encodings) == len(sizes):
            raise ValueError(f"columns {names!r:.400} with encodings {encodings!r:.400} and sizes {sizes!r:.400}")
        for name, encoding, size in zip(names, encodings, sizes, strict=True):
            is_column = all(isinstance(text, str) and text for text in (name, encoding))
            is_size = size is None or is_number(size, 1, MAX_SHARD_BYTES)
            if not (is_column and is_size and _fits(encoding, size)):
                raise ValueError(f"column {name!r:.80} with encoding {encoding!r:.80} and size {size!r:.80}")
        if len(set(names)) < len(names):
            raise ValueError(f"columns {names!r:.400}, one of them twice")
        hashes = get_typed(value, "hashes", list | None) or ()
        if not all(isinstance(name, str) for name in hashes):
            raise ValueError(f"hashes {hashes!r:.80}")
        return cls(
            names,
            encodings,
            sizes,
            compression=get_typed(value, "compression", str | None),
            hashes=tuple(hashes),
            size_limit=get_typed(value, "size_limit", int | None),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the header as JSON values."""
        return {
            "version": MDS_VERSION,
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

    @property
    def columns(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[int | None, ...]]:
        """What decides how samples are read."""
        return self.column_names, self.column_encodings, self.column_sizes

    def least_bytes(self, num_samples: int, values: Mapping[str, int] = MappingProxyType({})) -> int:
        """Return how many bytes a shard has at least.

        Args:
            num_samples: How many samples it holds.
            values: Bytes of each value in columns whose size the header leaves open.
        """
        offset = size = 4  # of each sample's beginning, of a value
        of_sample = sum(
            size + values.get(name, 0) if fixed is None else fixed
            for name, fixed in zip(self.column_names, self.column_sizes, strict=True)
        )
        return 2 * offset + num_samples * (offset + of_sample)


def get_typed(value: Mapping[str, Any], name: str, kind: Any) -> Any:
    """Return a field of a JSON object.

    Raises:
        ValueError: It is missing or of another kind; true and false are no numbers.
    """
    found = value.get(name)
    if not isinstance(found, kind) or found is True or found is False:
        raise ValueError(f"{name} {found!r:.80}")
    return found
