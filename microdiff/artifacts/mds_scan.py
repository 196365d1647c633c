"""Read whole shards sample by sample, to check them or to search them; what training reads goes through streaming."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from microdiff.artifacts.mds_header import MAX_HEADER_BYTES, MAX_SHARD_BYTES, ShardHeader
from microdiff.artifacts.mds_index import ShardEntry
from microdiff.artifacts.zstd_frame import decompress
from microdiff.core.regular_files import open_regular, read_regular
from microdiff.core.untrusted import load_json
from microdiff.errors import SchemaError

_KEY = "key"
Values = dict[str, memoryview]


class MdsFile:
    """An open shard, mapped into memory; a compressed one is decompressed in memory.

    Args:
        folder: The folder that holds the index.
        entry: The shard's entry in it.

    Attributes:
        header: What the shard says of itself; its index entry says the same.
        num_samples: Likewise.
        data: All bytes, decompressed.

    Raises:
        SchemaError: The file is missing, or is not a whole shard.
    """

    def __init__(self, folder: Path, entry: ShardEntry) -> None:
        self._path = folder / entry.stored.name
        try:
            self.data = self._decompressed(entry) if entry.zipped else _map(self._path)
            self.num_samples = int.from_bytes(self.data[:4], "little")
            self._offsets = np.frombuffer(self.data, "<u4", self.num_samples + 1, 4).astype(np.int64)
            self.header = ShardHeader.parse(load_json(self._header_text()))
        except (FileNotFoundError, NotADirectoryError):
            raise SchemaError(f"{self._path}: missing") from None
        except ValueError as error:
            raise SchemaError(f"{self._path}: not a shard, or damaged ({error})") from None
        self._columns = list(zip(self.header.column_names, self.header.column_sizes, strict=True))
        if (np.diff(self._offsets) < 0).any() or self._offsets[-1] != len(self.data):
            raise SchemaError(f"{self._path}: damaged: its samples do not end where the file does")

    def _decompressed(self, entry: ShardEntry) -> memoryview:
        return memoryview(decompress(read_regular(self._path, MAX_SHARD_BYTES), entry.raw.num_bytes))

    def _header_text(self) -> bytes:
        begin, end = 4 + 4 * len(self._offsets), int(self._offsets[0])
        if not begin <= end <= begin + MAX_HEADER_BYTES:
            raise ValueError(f"its first sample begins at byte {end}, its header at {begin}")
        return bytes(self.data[begin:end])

    def __iter__(self) -> Iterator[Values]:
        """Yield each sample's values by column, as they are stored.

        Raises:
            SchemaError: A sample's values do not fill its bytes.
        """
        return map(self.sample, range(self.num_samples))

    def keys(self) -> Iterator[str]:
        """Yield each sample's key.

        Raises:
            SchemaError: The shard has no keys, or one of them is no text.
        """
        if _KEY not in self.header.column_names:
            raise SchemaError(f"{self._path}: it has no column {_KEY!r}, only {sorted(self.header.column_names)}")
        for number, values in enumerate(self):
            try:
                yield str(values[_KEY], "utf-8")
            except UnicodeDecodeError:
                raise SchemaError(f"{self._path}: sample {number} is damaged: its key is no UTF-8 text") from None

    def sample(self, number: int) -> Values:
        """Return one sample's values by column, as they are stored.

        Raises:
            SchemaError: They do not fill its bytes.
        """
        data = self.data[self._offsets[number] : self._offsets[number + 1]]
        num_variable = self.header.column_sizes.count(None)
        position = 4 * num_variable
        if len(data) < position:
            raise SchemaError(f"{self._path}: sample {number} is damaged")
        lengths = iter(np.frombuffer(data, "<u4", num_variable).tolist())
        values = {}
        for name, size in self._columns:
            length = next(lengths) if size is None else size
            values[name] = data[position : position + length]
            position += length
        if position != len(data):
            raise SchemaError(f"{self._path}: sample {number} is damaged: {len(data)} bytes, its values {position}")
        return values


def _map(path: Path) -> memoryview:
    descriptor = open_regular(path)
    try:
        return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)
