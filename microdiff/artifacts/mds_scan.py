"""Read whole shards sample by sample, to check them or to search them; what training reads goes through streaming."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zstd

from microdiff.artifacts.mds_index import ShardEntry, ShardHeader
from microdiff.errors import SchemaError

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
            self.data = memoryview(zstd.decompress(self._path.read_bytes())) if entry.zipped else _map(self._path)
            self.num_samples = int.from_bytes(self.data[:4], "little")
            self._offsets = np.frombuffer(self.data, "<u4", self.num_samples + 1, 4).astype(np.int64)
            self.header = ShardHeader.parse(
                json.loads(bytes(self.data[4 + 4 * (self.num_samples + 1) : self._offsets[0]]))
            )
        except FileNotFoundError:
            raise SchemaError(f"{self._path}: missing") from None
        except (ValueError, AttributeError, zstd.Error) as error:
            raise SchemaError(f"{self._path}: not a shard, or damaged ({error!r})") from error
        self._columns = list(zip(self.header.column_names, self.header.column_sizes, strict=True))
        if (np.diff(self._offsets) < 0).any() or self._offsets[-1] != len(self.data):
            raise SchemaError(f"{self._path}: damaged: its samples do not end where the file does")

    def __iter__(self) -> Iterator[Values]:
        """Yield each sample's values by column, as they are stored.

        Raises:
            SchemaError: A sample's values do not fill its bytes.
        """
        return map(self.sample, range(self.num_samples))

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
    return np.memmap(path, np.uint8, "r").data
