"""Tables of records: parquet files with a row per record, written and read in bounded memory."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from microdiff.core.ledger import KEPT

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


def read_rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Yield a table's rows in order, with the columns asked for."""
    with pq.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(batch_size=_ROWS_PER_GROUP, columns=columns):
            yield from batch.to_pylist()


def read_kept(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows whose status is `kept`, with `status` and the columns asked for."""
    for row in read_rows(path, ["status", *columns]):
        if row["status"] == KEPT:
            yield row
