"""MDS shards: write them, write and read their index, read one sample back. Needs numpy only.

The bytes are those of mosaicml-streaming's `MDSWriter(size_limit=None, hashes=["sha256"])`. Ours because that
one costs a ten-second import in every process, lets `bytes` pass through any column, and publishes an index
over half the samples when its `with` block ends in an exception. Layout, numbers being little-endian uint32:

    number of samples | offset of every sample and of the end | header (JSON) | samples
    sample = size of each variable-size column | values, columns sorted by name

Format: https://github.com/mosaicml/streaming/blob/v0.13.0/streaming/base/format/mds/writer.py
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedRandom
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np

from microdiff.errors import SchemaError

INDEX_NAME = "index.json"
MAX_SHARD_BYTES = 2**32 - 1  # offsets are uint32
# Streaming's `validate_hash` takes any name of hashlib or xxhash. SHA-256 is what manifests hold too, so one
# digest serves the index, the manifest and whoever verifies a download; CPUs have instructions for it.
HASH_NAME = "sha256"

_VERSION = 2
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
            SchemaError: The encoding is none of those this module writes.
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

    def encode(self, value: object) -> bytes:
        """Encode one value; nothing is converted.

        Args:
            value: A `str`; an `int` or `numpy.int32` for int32; an array of exactly this dtype and shape.

        Raises:
            SchemaError: The value is not exactly of this column's type.
        """
        if self.shape is not None:
            if isinstance(value, np.ndarray) and value.dtype == self.dtype and value.shape == self.shape:
                return value.tobytes()
        elif self.encoding == "str":
            if isinstance(value, str):
                try:
                    return value.encode("utf-8")
                except UnicodeEncodeError as error:
                    raise SchemaError(f"column {self.name!r}: expected UTF-8 text, got {error}") from None
        elif isinstance(value, np.int32) or (type(value) is int and -(2**31) <= value < 2**31):
            return int(value).to_bytes(4, "little", signed=True)
        raise SchemaError(f"column {self.name!r}: expected {self.encoding}, got {_describe(value)}")


def write_shard(
    path: Path, columns: Mapping[str, str], samples: Iterable[Mapping[str, object]], num_samples: int
) -> dict[str, Any]:
    """Write samples to one shard file, holding one sample in memory at a time.

    The file takes its name only when it is whole and on disk; a failure leaves the folder as it was.

    Args:
        path: The `.mds` file; its folder exists.
        columns: Encoding of each column, see `Column`.
        samples: Exactly `num_samples` mappings with exactly these columns.
        num_samples: Their number, at least 1; the table of offsets that precedes them needs it.

    Returns:
        The shard's entry for `index_document`.

    Raises:
        SchemaError: A sample does not fit its columns, there are more or fewer than stated, or the file would
            exceed `MAX_SHARD_BYTES`.
    """
    parsed = [Column.parse(name, columns[name]) for name in sorted(columns)]
    config: dict[str, Any] = {
        "version": _VERSION,
        "format": "mds",
        "compression": None,
        "hashes": [HASH_NAME],
        "size_limit": None,
        "column_names": [column.name for column in parsed],
        "column_encodings": [column.encoding for column in parsed],
        "column_sizes": [column.size for column in parsed],
    }
    header = json.dumps(config, sort_keys=True).encode("utf-8")
    offsets = np.zeros(num_samples + 1, "<u4")
    end = 4 + offsets.nbytes + len(header)
    written = 0
    with _whole_file(path) as file:
        file.seek(end)
        for sample in samples:
            if written == num_samples:
                raise SchemaError(f"{path}: expected {num_samples} samples, got more")
            try:
                data = _encode_sample(parsed, sample)
            except SchemaError as error:
                raise SchemaError(f"{path}: sample {written}: {error}") from None
            offsets[written] = end
            end += len(data)
            if end > MAX_SHARD_BYTES:
                raise SchemaError(
                    f"{path}: expected at most {MAX_SHARD_BYTES} bytes, exceeded at sample {written} of "
                    f"{num_samples}: put fewer samples into a shard"
                )
            file.write(data)
            written += 1
        if written != num_samples or not num_samples:
            raise SchemaError(f"{path}: expected {max(num_samples, 1)} samples, got {written}")
        offsets[written] = end
        file.seek(0)
        file.write(num_samples.to_bytes(4, "little") + offsets.tobytes() + header)
        file.seek(0)
        digest = hashlib.file_digest(file, HASH_NAME).hexdigest()
    raw_data = {"basename": path.name, "bytes": end, "hashes": {HASH_NAME: digest}}
    return {"samples": num_samples, "raw_data": raw_data, "zip_data": None, **config}


def nest_entry(entry: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Return an index entry for the index one folder higher: with `folder/` before the file's name."""
    raw_data = {**entry["raw_data"], "basename": f"{folder}/{entry['raw_data']['basename']}"}
    return {**entry, "raw_data": raw_data}


def index_document(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a shard set's `index.json` holds; it is written after its shards."""
    return {"version": _VERSION, "shards": list(entries)}


def read_index(path: Path) -> list[dict[str, Any]]:
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
    entries = index.get("shards")
    if not isinstance(entries, list):
        raise SchemaError(f"{path}: expected a list of shards, got {entries!r:.80}: write or pull it again")
    for number, entry in enumerate(entries):
        if not _is_entry(entry):
            raise SchemaError(f"{path}: expected shard {number} to be an MDS entry, got {entry!r:.200}")
    return entries


def read_sample(folder: Path, entry: Mapping[str, Any], number: int) -> dict[str, bytes]:
    """Read one sample's values as they are stored, undecoded.

    Args:
        folder: The folder that holds the index.
        entry: A shard's entry from `read_index`.
        number: Which of the shard's samples.
    """
    with (folder / entry["raw_data"]["basename"]).open("rb") as file:
        file.seek(4 + 4 * number)
        begin, end = np.frombuffer(file.read(8), "<u4").tolist()
        file.seek(begin)
        data = file.read(end - begin)
    num_variable = entry["column_sizes"].count(None)
    lengths = iter(np.frombuffer(data, "<u4", num_variable).tolist())
    position = 4 * num_variable
    values = {}
    for name, size in zip(entry["column_names"], entry["column_sizes"], strict=True):
        length = next(lengths) if size is None else size
        values[name] = data[position : position + length]
        position += length
    return values


def _encode_sample(columns: Sequence[Column], sample: Mapping[str, object]) -> bytes:
    names = {column.name for column in columns}
    if sample.keys() != names:
        missing, extra = sorted(names - sample.keys()), sorted(sample.keys() - names)
        raise SchemaError(f"expected columns {sorted(names)}, got {missing} missing and {extra} extra")
    values = [column.encode(sample[column.name]) for column in columns]
    lengths = [len(value) for column, value in zip(columns, values, strict=True) if column.size is None]
    return b"".join([np.array(lengths, "<u4").tobytes(), *values])


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {','.join(map(str, value.shape))}"
    return f"{type(value).__name__} {value!r:.80}"


def _is_entry(entry: object) -> bool:
    """Whether an index entry states what readers rely on."""
    match entry:
        case {
            "version": 2,
            "format": "mds",
            "samples": int(),
            "raw_data": {"basename": str(), "bytes": int()},
            "column_names": list(names),
            "column_encodings": list(encodings),
            "column_sizes": list(sizes),
        }:
            return len(names) == len(encodings) == len(sizes)
    return False


@contextmanager
def _whole_file(path: Path) -> Iterator[BufferedRandom]:
    """Give a file that takes the name `path` only when the block has ended well and the bytes are on disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
