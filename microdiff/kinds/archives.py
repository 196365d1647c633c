"""Partitions of sources that come in files of many records: a partition is a file, or a part of one."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from microdiff.kinds.partition_list import assign


def numbered(units: Sequence[str], recorded: Path) -> list[tuple[int, str]]:
    """Return the number of each file or part, sorted by number; new ones come last, and the list gets them.

    Args:
        units: Distinct.
        recorded: The list of partitions.
    """
    with closing(sqlite3.connect("")) as connection:  # a temporary file
        connection.execute("CREATE TABLE units (key BLOB)")
        rows = ((unit.encode("utf-8", "surrogateescape"),) for unit in units)
        connection.executemany("INSERT INTO units VALUES (?)", rows)
        assign(connection, recorded, "units", 1)
        found = connection.execute("SELECT number, key FROM home ORDER BY number, key")
        return [(number, key.decode("utf-8", "surrogateescape")) for number, key in found]
