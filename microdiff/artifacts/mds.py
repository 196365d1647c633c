"""MDS shards: write them, write and read their index, read one sample back. Needs numpy and zstd.

The bytes are those of mosaicml-streaming's `MDSWriter(size_limit=None, hashes=["sha256"])`, compressed or not. Ours
because that one costs a ten-second import in every process, lets `bytes` pass through any column, and publishes an
index over half the samples when its `with` block ends in an exception. Layout, numbers being little-endian uint32:

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
from io import BufferedWriter, BytesIO
from itertools import chain
from math import prod
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import zstd

from microdiff.errors import SchemaError

INDEX_NAME = "index.json"
ZSTD_LEVEL = 3
ZSTD = f"zstd:{ZSTD_LEVEL}"  # the one compression we write, named as streaming names it
# By compression. Offsets are uint32; the zstd package takes less than 2 GiB at once.
MAX_BYTES = {None: 2**32 - 1, ZSTD: 2**31 - 1}
# Streaming's `validate_hash` takes any name of hashlib or xxhash. SHA-256 is what manifests hold too, so one
# digest serves the index, the manifest and whoever verifies a download; CPUs have instructions for it.
HASH_NAME = "sha256"

Buffer = bytes | bytearray | memoryview

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
    path: Path,
    columns: Mapping[str, str],
    samples: Iterable[Mapping[str, object]],
    num_samples: int,
    compression: str | None = None,
) -> dict[str, Any]:
    """Encode samples and write them to one shard file; see `write_encoded`.

    Args:
        path: The `.mds` file; its folder exists.
        columns: Encoding of each column, see `Column`.
        samples: Exactly `num_samples` mappings with exactly these columns.
        num_samples: Their number, at least 1.
        compression: None or `ZSTD`.

    Raises:
        SchemaError: A sample does not fit its columns, or there are more or fewer than stated.
    """
    parsed = sorted_columns(columns)
    encoded: list[bytes] = []
    for number, sample in enumerate(samples):
        if number == num_samples:
            raise SchemaError(f"{path}: expected {num_samples} samples, got more")
        try:
            encoded.append(_encode_sample(parsed, sample))
        except SchemaError as error:
            raise SchemaError(f"{path}: sample {number}: {error}") from None
    if len(encoded) != num_samples or not num_samples:
        raise SchemaError(f"{path}: expected {max(num_samples, 1)} samples, got {len(encoded)}")
    return write_encoded(path, columns, [len(data) for data in encoded], encoded, compression)


def write_encoded(
    path: Path,
    columns: Mapping[str, str],
    sizes: "Sequence[int] | np.ndarray[Any, Any]",
    data: Iterable[Buffer],
    compression: str | None = None,
) -> dict[str, Any]:
    """Write samples that are encoded already to one shard file, in one pass.

    The file takes its name only when it is whole and on disk; a failure leaves the folder as it was.

    Args:
        path: The `.mds` file; its folder exists. A compressed shard gets `.zstd` after its name.
        columns: Encoding of each column.
        sizes: Bytes of each sample; at least one.
        data: The samples' bytes in order, in pieces of any length. Each piece is used up before the next is asked
            for, so that one buffer can carry them all.
        compression: None or `ZSTD`, which holds the whole shard in memory.

    Returns:
        The shard's entry for `index_document`.

    Raises:
        SchemaError: The file would exceed `MAX_BYTES`, or the pieces are not as long as the sizes say.
    """
    config, header = _config(columns, compression)
    offsets = np.zeros(len(sizes) + 1, np.int64)
    offsets[0] = 4 + 4 * len(offsets) + len(header)
    np.cumsum(sizes, out=offsets[1:])
    offsets[1:] += offsets[0]
    total, most = int(offsets[-1]), MAX_BYTES[compression]
    if total > most:
        number = int(np.argmax(offsets > most)) - 1
        raise SchemaError(
            f"{path}: expected at most {most} bytes, exceeded at sample {number} of {len(sizes)}: put fewer "
            "samples into a shard"
        )
    table = len(sizes).to_bytes(4, "little") + offsets.astype("<u4").tobytes() + header
    raw = _Digest(chain([table], data))
    written = path if compression is None else path.with_name(f"{path.name}.zstd")
    with _whole_file(written) as file:
        if compression is None:
            file.writelines(raw)
        else:
            stored = _Digest([_compress(raw)])
            file.writelines(stored)
        if raw.num_bytes != total:
            raise SchemaError(f"{path}: expected {total} bytes of samples and header, got {raw.num_bytes}")
    return {
        "samples": len(sizes),
        "raw_data": raw.facts(path.name),
        "zip_data": None if compression is None else stored.facts(written.name),
        **config,
    }


def sorted_columns(columns: Mapping[str, str]) -> list[Column]:
    """Return parsed columns in the order in which a sample holds their values."""
    return [Column.parse(name, columns[name]) for name in sorted(columns)]


def empty_bytes(columns: Mapping[str, str], compression: str | None = None) -> int:
    """Return the size a shard has before its samples, each of which adds its own bytes and 4 for its offset."""
    return 8 + len(_config(columns, compression)[1])


def _config(columns: Mapping[str, str], compression: str | None) -> tuple[dict[str, Any], bytes]:
    """Return what a shard says of itself, as a mapping and as its header holds it."""
    parsed = sorted_columns(columns)
    config: dict[str, Any] = {
        "version": _VERSION,
        "format": "mds",
        "compression": compression,
        "hashes": [HASH_NAME],
        "size_limit": None,
        "column_names": [column.name for column in parsed],
        "column_encodings": [column.encoding for column in parsed],
        "column_sizes": [column.size for column in parsed],
    }
    return config, json.dumps(config, sort_keys=True).encode("utf-8")


class _Digest:
    """Hashes and counts bytes as they pass."""

    def __init__(self, pieces: Iterable[Buffer]) -> None:
        self._pieces = pieces
        self._hash = hashlib.new(HASH_NAME)
        self.num_bytes = 0

    def __iter__(self) -> Iterator[Buffer]:
        for piece in self._pieces:
            self._hash.update(piece)
            self.num_bytes += memoryview(piece).nbytes
            yield piece

    def facts(self, name: str) -> dict[str, Any]:
        """Return a file's description in the index."""
        return {"basename": name, "bytes": self.num_bytes, "hashes": {HASH_NAME: self._hash.hexdigest()}}


def _compress(pieces: Iterable[Buffer]) -> bytes:
    """Return one zstd frame with the content's size in it; the same bytes whatever the number of cores."""
    data = BytesIO()
    data.writelines(pieces)
    compressed: bytes = zstd.compress(data.getvalue(), ZSTD_LEVEL, 1)
    return compressed


def nest_entry(entry: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Return an index entry for the index one folder higher: with `folder/` before the files' names."""
    files = {name: entry[name] for name in ("raw_data", "zip_data") if entry.get(name)}
    return {
        **entry,
        **{name: {**facts, "basename": f"{folder}/{facts['basename']}"} for name, facts in files.items()},
    }


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

    A compressed shard is decompressed for it, in memory, unless a reader has left its decompressed copy.

    Args:
        folder: The folder that holds the index.
        entry: A shard's entry from `read_index`.
        number: Which of the shard's samples.
    """
    with _open_raw(folder, entry) as file:
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


def _open_raw(folder: Path, entry: Mapping[str, Any]) -> IO[bytes]:
    path: Path = folder / entry["raw_data"]["basename"]
    if not entry.get("zip_data") or path.is_file():
        return path.open("rb")
    zipped = folder / entry["zip_data"]["basename"]
    try:
        return BytesIO(zstd.decompress(zipped.read_bytes()))
    except zstd.Error as error:
        raise SchemaError(f"{zipped}: not a whole zstd file ({error}): write or pull it again") from None


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
def _whole_file(path: Path) -> Iterator[BufferedWriter]:
    """Give a file that takes the name `path` only when the block has ended well and the bytes are on disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
