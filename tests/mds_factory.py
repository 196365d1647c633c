"""MDS shards from samples in memory; the pipeline copies samples that are encoded already."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from microdiff.artifacts.mds import sorted_columns, write_encoded
from microdiff.artifacts.mds_header import Column
from microdiff.artifacts.mds_index import ShardEntry


def write_shard(
    path: Path, columns: Mapping[str, str], samples: Iterable[Mapping[str, object]], compression: str | None = None
) -> ShardEntry:
    """Write samples with exactly these columns to one shard file; return its index entry."""
    parsed = sorted_columns(columns)
    encoded = []
    for sample in samples:
        assert sample.keys() == columns.keys()
        values = [_encode(column, sample[column.name]) for column in parsed]
        lengths = [len(value) for column, value in zip(parsed, values, strict=True) if column.size is None]
        encoded.append(b"".join([np.array(lengths, "<u4").tobytes(), *values]))
    return write_encoded(path, columns, [len(data) for data in encoded], encoded, compression)


def _encode(column: Column, value: object) -> bytes:
    if column.shape is not None:
        assert isinstance(value, np.ndarray)
        assert (value.dtype, value.shape) == (column.dtype, column.shape)
        return value.tobytes()
    if column.encoding == "str":
        assert isinstance(value, str)
        return value.encode()
    assert isinstance(value, int | np.int32)
    return int(value).to_bytes(4, "little", signed=True)
