"""A table of annotations: made once from a source's annotation files, then looked up by every partition.

Ten million captions do not fit in memory, and reading them all for each of a thousand archives would take days. The
table is an SQLite file: rows are appended as they come, the index is sorted outside memory once they are all there,
and lookups read only the pages they need.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from microdiff.core.progress import Reporter

_ROWS_PER_TICK = 4096
_AFTER_ANY_TEXT = b"\xff"  # no UTF-8 text holds this byte


def write_annotations(path: Path, rows: Iterable[tuple[str, Any]], report: Reporter) -> int:
    """Write a table.

    Args:
        path: A new file.
        rows: Keys and JSON values, in the source's order. A key may occur more than once.
        report: Receives a tick per row.

    Returns:
        Number of rows.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # The file is either finished and renamed, or thrown away: it needs no journal.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("CREATE TABLE annotations (key BLOB NOT NULL, value TEXT NOT NULL)")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO annotations VALUES (?, ?)", _ticking(rows, report))
        connection.execute("COMMIT")
        num_rows = connection.total_changes
        connection.execute("CREATE INDEX by_key ON annotations (key)")
    return num_rows


def _ticking(rows: Iterable[tuple[str, Any]], report: Reporter) -> Iterator[tuple[bytes, str]]:
    """Yield rows as the table holds them, reporting every few thousand."""
    num_rows = 0
    for num_rows, (key, value) in enumerate(rows, 1):
        yield _encoded(key), json.dumps(value)
        if num_rows % _ROWS_PER_TICK == 0:
            report.tick(_ROWS_PER_TICK)
    report.tick(num_rows % _ROWS_PER_TICK)


@dataclass(frozen=True)
class Annotations:
    """A table for reading; travels to workers as its path.

    Attributes:
        path: A file that `write_annotations` wrote, or None for a table without rows.
    """

    path: Path | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the connection behind."""
        return {"path": self.path}

    def all_of(self, key: str) -> list[Any]:
        """Return the values of a key in the source's order."""
        return [value for _, value in self.between(key, key + "\0")]

    def between(self, first: str | None, end: str | None) -> Iterator[tuple[str, Any]]:
        """Yield the rows with `first` <= key < `end`, sorted by key, rows of one key in the source's order.

        None leaves a side open.
        """
        return self._rows(_encoded(first or ""), _AFTER_ANY_TEXT if end is None else _encoded(end))

    @cached_property
    def _connection(self) -> sqlite3.Connection | None:
        """The open table: opening it for each key would take longer than finding the key."""
        if self.path is None:
            return None
        return sqlite3.connect(f"file:{quote(str(self.path.absolute()))}?mode=ro&immutable=1", uri=True)

    def _rows(self, first: bytes, end: bytes) -> Iterator[tuple[str, Any]]:
        if self._connection is None:
            return
        query = "SELECT key, value FROM annotations WHERE key >= ? AND key < ? ORDER BY key, rowid"
        for key, value in self._connection.execute(query, (first, end)):
            yield key.decode("utf-8", "surrogatepass"), json.loads(value)


def _encoded(key: str) -> bytes:
    """Return bytes that sort as the text does."""
    return key.encode("utf-8", "surrogatepass")
