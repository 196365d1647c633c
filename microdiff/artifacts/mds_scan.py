"""Read whole shards sample by sample, to check them or to search them; what training reads goes through streaming."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zstd

from microdiff.errors import SchemaError

Values = dict[str, memoryview]


class MdsFile:
    """An open shard, mapped into memory; a compressed one is decompressed in memory.

    Args:
        folder: The folder that holds the index.
        entry: The shard's entry in it.

    Attributes:
        config: What the shard's own header says; an index entry says the same.
        num_samples: Likewise.
        data: All bytes, decompressed.

    Raises:
        SchemaError: The file is missing, or is not a whole shard.
    """

    def __init__(self, folder: Path, entry: Mapping[str, Any]) -> None:
        zipped = entry.get("zip_data")
        self._path = folder / (zipped or entry["raw_data"])["basename"]
        try:
            self.data = memoryview(zstd.decompress(self._path.read_bytes())) if zipped else _map(self._path)
            self.num_samples = int.from_bytes(self.data[:4], "little")
            self._offsets = np.frombuffer(self.data, "<u4", self.num_samples + 1, 4).astype(np.int64)
            header = bytes(self.data[4 + 4 * (self.num_samples + 1) : self._offsets[0]])
            self.config: dict[str, Any] = json.loads(header)
            self._columns = list(zip(self.config["column_names"], self.config["column_sizes"], strict=True))
        except FileNotFoundError:
            raise SchemaError(f"{self._path}: missing") from None
        except (ValueError, KeyError, TypeError, zstd.Error) as error:
            raise SchemaError(f"{self._path}: not a shard, or damaged ({error!r})") from error
        if (np.diff(self._offsets) < 0).any() or self._offsets[-1] != len(self.data):
            raise SchemaError(f"{self._path}: damaged: its samples do not end where the file does")

    def __iter__(self) -> Iterator[Values]:
        """Yield each sample's values by column, as they are stored.

        Raises:
            SchemaError: A sample's values do not fill its place.
        """
        num_variable = sum(size is None for _, size in self._columns)
        for number, (begin, end) in enumerate(zip(self._offsets[:-1], self._offsets[1:], strict=True)):
            data = self.data[begin:end]
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
            yield values


def _map(path: Path) -> memoryview:
    return np.memmap(path, np.uint8, "r").data
