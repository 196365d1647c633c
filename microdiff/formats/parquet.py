"""Read parquet files that others made: in bounded memory, however they are laid out, and with errors that name them."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from microdiff.errors import SourceError
from microdiff.storage.fetched_source import remedy

_BUFFER_BYTES = 2**20  # read at once of a column, whose part of a row group may be gigabytes


def read_parquet(
    path: Path, columns: pa.Schema, rows_at_once: int, equal: tuple[str, int] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield a file's rows in its order.

    Args:
        path: The file.
        columns: Names and types of the columns wanted; others are not read.
        rows_at_once: How many rows may be in memory.
        equal: One of the columns, of integers, and the value it must have: other rows are left out. Row groups whose
            statistics exclude the value are not read; nothing else depends on how rows are sorted or grouped.

    Raises:
        SourceError: It is not a complete parquet file, or not one of these columns.
    """
    with _errors_in_words(path), pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as parquet:
        _check_names(path, columns, parquet.schema_arrow)
        groups = [i for i in range(parquet.num_row_groups) if equal is None or _may_hold(parquet, i, *equal)]
        for batch in parquet.iter_batches(rows_at_once, groups, columns.names, use_threads=False):
            yield from _select(path, batch, columns, equal).to_pylist()


def reads_per_row(path: Path, column: str) -> float:
    """Return how many times each row is read, on average, when a file is read once for each value of a column.

    Args:
        path: The file.
        column: One of integers, as `equal` of `read_parquet`.

    Returns:
        1 where every row group has a value to itself; the number of values where they are in no order, or in one row
        group; infinity where the file's statistics do not tell.

    Raises:
        SourceError: It is not a complete parquet file.
    """
    num_reads = num_rows = 0
    with _errors_in_words(path), pq.ParquetFile(path) as parquet:
        for number in range(parquet.num_row_groups):
            limits = _limits(parquet, number, column)
            rows = parquet.metadata.row_group(number).num_rows
            if not rows:
                continue
            if limits is None:
                return math.inf
            num_reads += rows * (limits[1] - limits[0] + 1)
            num_rows += rows
    return num_reads / num_rows if num_rows else 0.0


@contextmanager
def _errors_in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: not a complete parquet file ({error}). {remedy(path)}") from error


def _check_names(path: Path, columns: pa.Schema, found: pa.Schema) -> None:
    missing = [name for name in columns.names if name not in found.names]
    if missing:
        raise SourceError(
            f"{path}: has no column {', '.join(missing)}, but {', '.join(found.names)}.\n"
            "Check datasets.*.download.source: this is another file, or another version of it."
        )


def _select(path: Path, batch: pa.RecordBatch, columns: pa.Schema, equal: tuple[str, int] | None) -> pa.RecordBatch:
    """Leave out the rows that are not wanted, and bring columns into their types."""
    try:
        wanted = batch if equal is None else batch.filter(pc.equal(batch.column(equal[0]).cast(pa.int64()), equal[1]))
        return wanted.cast(columns)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise SourceError(f"{path}: a column is not of the type expected: {error}") from error


def _may_hold(parquet: pq.ParquetFile, group: int, column: str, value: int) -> bool:
    """Tell by a row group's statistics, if it has any, whether a column of it may hold a value."""
    limits = _limits(parquet, group, column)
    return limits is None or limits[0] <= value <= limits[1]


def _limits(parquet: pq.ParquetFile, group: int, column: str) -> tuple[int, int] | None:
    """Return the least and the greatest value of a column in a row group, None if its statistics do not tell."""
    chunks = parquet.metadata.row_group(group)
    for i in range(chunks.num_columns):
        found = chunks.column(i).statistics if chunks.column(i).path_in_schema == column else None
        if found is not None and found.has_min_max and isinstance(found.min, int):
            return found.min, found.max
    return None
