"""Read parquet files that others made: in bounded memory, however they are laid out, and with errors that name them."""

import math
from collections.abc import Collection, Iterator
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
    path: Path,
    columns: pa.Schema,
    rows_at_once: int,
    equal: tuple[str, int] | None = None,
    as_text: Collection[str] = (),
) -> Iterator[dict[str, Any]]:
    """Yield a file's rows in its order.

    Args:
        path: The file.
        columns: Names and types of the columns wanted; others are not read. Texts, bytes, lists and integers may be of
            any Arrow type of their kind, dictionaries included.
        rows_at_once: How many rows may be in memory.
        equal: One of the columns, of integers, and the value it must have: other rows are left out. Row groups whose
            statistics exclude the value are not read; nothing else depends on how rows are sorted or grouped.
        as_text: Those of the columns that are wanted as text, and may be numbers.

    Returns:
        Values by column. A text that is not UTF-8 comes as its bytes.

    Raises:
        SourceError: It is not a complete parquet file, or not one of these columns.
    """
    with _errors_in_words(path), pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as parquet:
        _check_names(path, columns, parquet.schema_arrow)
        _check_types(path, columns, parquet.schema_arrow, as_text)
        groups = [i for i in range(parquet.num_row_groups) if equal is None or _may_hold(parquet, i, *equal)]
        for batch in parquet.iter_batches(rows_at_once, groups, columns.names, use_threads=False):
            for row in _select(path, batch, columns, equal).to_pylist():
                yield {name: _decoded(row[name], columns.field(name).type) for name in columns.names}


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
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path}: not a complete parquet file ({error}). {remedy(path)}") from error


def _check_names(path: Path, columns: pa.Schema, found: pa.Schema) -> None:
    missing = [name for name in columns.names if name not in found.names]
    if missing:
        raise SourceError(
            f"{path}: has no column {', '.join(missing)}, but {', '.join(found.names)}.\n"
            "Check datasets.*.download.source: this is another file, or another version of it."
        )


def _check_types(path: Path, columns: pa.Schema, found: pa.Schema, as_text: Collection[str]) -> None:
    """Check that columns are of the kinds wanted: a cast would make a text of a number, or an integer of a text."""
    wrong = [
        f"{column.name} is {found.field(column.name).type}, expected {column.type}"
        for column in columns
        if not _fits(found.field(column.name).type, column.type)
        and not (column.name in as_text and _is_number(found.field(column.name).type))
    ]
    if wrong:
        raise SourceError(f"{path}: a column is not of the type expected: {'; '.join(wrong)}")


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_dictionary(found):
        found = found.value_type
    if pa.types.is_null(found):
        return True
    if pa.types.is_string(wanted):
        return bool(pa.types.is_string(found) or pa.types.is_large_string(found) or _is_view(found, "string_view"))
    if pa.types.is_binary(wanted):
        return bool(
            pa.types.is_binary(found)
            or pa.types.is_large_binary(found)
            or pa.types.is_fixed_size_binary(found)
            or _is_view(found, "binary_view")
        )
    if pa.types.is_list(wanted):
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)
        return bool(is_list) and _fits(found.value_type, wanted.value_type)
    if pa.types.is_struct(wanted):
        return bool(pa.types.is_struct(found)) and all(
            found.get_field_index(field.name) >= 0 and _fits(found.field(field.name).type, field.type)
            for field in wanted
        )
    if pa.types.is_integer(wanted):
        return bool(pa.types.is_integer(found))
    return bool(pa.types.is_timestamp(found)) if pa.types.is_timestamp(wanted) else bool(found == wanted)


def _is_view(found: pa.DataType, name: str) -> bool:
    return str(found) == name


def _is_number(found: pa.DataType) -> bool:
    return bool(pa.types.is_floating(found) or pa.types.is_integer(found) or pa.types.is_decimal(found))


def _select(path: Path, batch: pa.RecordBatch, columns: pa.Schema, equal: tuple[str, int] | None) -> pa.RecordBatch:
    """Leave out the rows that are not wanted, and bring columns into their types, but with bytes for texts."""
    try:
        wanted = batch if equal is None else batch.filter(pc.equal(batch.column(equal[0]).cast(pa.int64()), equal[1]))
        typed = wanted.select(columns.names).cast(columns)
        return typed.cast(pa.schema([(column.name, _as_bytes(column.type)) for column in columns]))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:  # a cast
        raise SourceError(f"{path}: a column is not of the type expected: {error}") from error


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    """Return the type with bytes in place of text: pyarrow gives up on a whole batch for one text that is not UTF-8."""
    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_list(kind):
        return pa.list_(_as_bytes(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _as_bytes(field.type)) for field in kind])
    return kind


def _decoded(value: Any, kind: pa.DataType) -> Any:
    """Return a value with the texts in it decoded, as far as they are UTF-8."""
    if value is None:
        return None
    if pa.types.is_string(kind):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if pa.types.is_list(kind):
        return [_decoded(each, kind.value_type) for each in value]
    if pa.types.is_struct(kind):
        return {field.name: _decoded(value[field.name], field.type) for field in kind}
    return value


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
