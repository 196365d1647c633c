"""Write MDS shards. Needs numpy and zstd.

The bytes are those of mosaicml-streaming's `MDSWriter(size_limit=None, hashes=["sha256"])`, compressed or not; why
they are not written by it is in docs/decisions/own-mds-writer.md. Layout, numbers being little-endian uint32:

    number of samples | offset of every sample and of the end | header (JSON) | samples
    sample = size of each variable-size column | values, columns sorted by name

Format: https://github.com/mosaicml/streaming/blob/v0.13.0/streaming/base/format/mds/writer.py
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import zstd

from microdiff.artifacts.mds_header import Column, ShardHeader
from microdiff.artifacts.mds_index import IndexedFile, ShardEntry
from microdiff.core.files import whole_file
from microdiff.errors import SchemaError

ZSTD_LEVEL = 3
ZSTD = f"zstd:{ZSTD_LEVEL}"  # the one compression we write, named as streaming names it
# By compression. Offsets are uint32; the zstd package takes less than 2 GiB at once.
MAX_BYTES = {None: 2**32 - 1, ZSTD: 2**31 - 1}
# Streaming's `validate_hash` takes any name of hashlib or xxhash. SHA-256 is what manifests hold too, so one
# digest serves the index, the manifest and whoever verifies a download; CPUs have instructions for it.
HASH_NAME = "sha256"

Buffer = bytes | bytearray | memoryview


def write_encoded(
    path: Path,
    columns: Mapping[str, str],
    sizes: "Sequence[int] | np.ndarray[Any, Any]",
    data: Iterable[Buffer],
    compression: str | None = None,
) -> ShardEntry:
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
        The shard's entry for the index of its folder.

    Raises:
        SchemaError: The file would exceed `MAX_BYTES`, or the pieces are not as long as the sizes say.
    """
    header = _header(columns, compression)
    text = _as_text(header)
    offsets = np.zeros(len(sizes) + 1, np.int64)
    offsets[0] = 4 + 4 * len(offsets) + len(text)
    np.cumsum(sizes, out=offsets[1:])
    offsets[1:] += offsets[0]
    total, most = int(offsets[-1]), MAX_BYTES[compression]
    if total > most:
        number = int(np.argmax(offsets > most)) - 1
        raise SchemaError(
            f"{path}: expected at most {most} bytes, exceeded at sample {number} of {len(sizes)}: put fewer "
            "samples into a shard"
        )
    table = len(sizes).to_bytes(4, "little") + offsets.astype("<u4").tobytes() + text
    raw = _Digest(chain([table], data))
    written = path if compression is None else path.with_name(f"{path.name}.zstd")
    with whole_file(written) as file:
        if compression is None:
            file.writelines(raw)
        else:
            stored = _Digest([_compress(raw)])
            file.writelines(stored)
        if raw.num_bytes != total:
            raise SchemaError(f"{path}: expected {total} bytes of samples and header, got {raw.num_bytes}")
    return ShardEntry(
        header=header,
        num_samples=len(sizes),
        raw=raw.facts(path.name),
        zipped=None if compression is None else stored.facts(written.name),
    )


def sorted_columns(columns: Mapping[str, str]) -> list[Column]:
    """Return parsed columns in the order in which a sample holds their values."""
    return [Column.parse(name, columns[name]) for name in sorted(columns)]


def empty_bytes(columns: Mapping[str, str], compression: str | None = None) -> int:
    """Return the size a shard has before its samples, each of which adds its own bytes and 4 for its offset."""
    return 8 + len(_as_text(_header(columns, compression)))


def _header(columns: Mapping[str, str], compression: str | None) -> ShardHeader:
    parsed = sorted_columns(columns)
    return ShardHeader(
        column_names=tuple(column.name for column in parsed),
        column_encodings=tuple(column.encoding for column in parsed),
        column_sizes=tuple(column.size for column in parsed),
        compression=compression,
        hashes=(HASH_NAME,),
    )


def _as_text(header: ShardHeader) -> bytes:
    return json.dumps(header.to_json(), sort_keys=True).encode("utf-8")


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

    def facts(self, name: str) -> IndexedFile:
        """Return what the index says of a file with these bytes."""
        return IndexedFile(name, self.num_bytes, {HASH_NAME: self._hash.hexdigest()})


def _compress(pieces: Iterable[Buffer]) -> bytes:
    """Return one zstd frame with the content's size in it; the same bytes whatever the number of cores."""
    data = BytesIO()
    data.writelines(pieces)
    compressed: bytes = zstd.compress(data.getvalue(), ZSTD_LEVEL, 1)
    return compressed
