"""Tables of records: parquet files with a row per record, written and read in bounded memory."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from microdiff.core.ledger import KEPT
from microdiff.core.verified_files import Input, InputFile

_ROWS_PER_GROUP = 4096


class AddRow(Protocol):
    """Adds one row to a table."""

    def __call__(self, row: Mapping[str, Any]) -> None:
        """Add the row; its names are those of the schema."""


@contextmanager
def table_writer(path: Path, schema: pa.Schema) -> Iterator[AddRow]:
    """Give a function that adds rows to a new parquet file."""
    rows: list[Mapping[str, Any]] = []
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:

        def add(row: Mapping[str, Any]) -> None:
            rows.append(row)
            if len(rows) == _ROWS_PER_GROUP:
                flush()

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(rows, schema))
            rows.clear()

        yield add
        flush()


def read_rows(table: Input, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Yield a table's rows in order, with the columns asked for.

    Args:
        table: An input, whose bytes are read whole and verified first; or a file that is read as it is.
        columns: Names of columns.

    Raises:
        DamagedError: The input is not the recorded one.
    """
    with open_table(table) as parquet:
        for batch in parquet.iter_batches(batch_size=_ROWS_PER_GROUP, columns=columns):
            yield from batch.to_pylist()


def open_table(table: Input) -> pq.ParquetFile:
    """Return a table's open file; arguments and errors as for `read_rows`."""
    return pq.ParquetFile(pa.BufferReader(table.read()) if isinstance(table, InputFile) else table)


def read_kept(table: Input, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows whose status is `kept`, with `status` and the columns asked for; see `read_rows`."""
    for row in read_rows(table, ["status", *columns]):
        if row["status"] == KEPT:
            yield row
