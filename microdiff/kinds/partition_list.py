"""Which partition holds which of a source's records, or files: `data/<dataset>/partitions.tsv`, kept in git.

UTF-8; a header, then a line per record or file: the partition's number and the key, or the file's path, between them a
tab, sorted by both. It is an input: with the same source and the same list come the same partitions. What the list
does not have forms new partitions behind the others; what the source has no more leaves it.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from microdiff.core.files import whole_file
from microdiff.errors import SchemaError

PARTITIONS = "partitions.tsv"
_HEADER = "partition\tkey"
_DIGITS = 6


def partition_name(number: int) -> str:
    """Return the name of a partition, which sorts as its number does."""
    return f"{number:0{_DIGITS}d}"


def read_list(path: Path) -> Iterator[tuple[int, str]]:
    """Yield numbers and keys; none if there is no such file.

    Raises:
        SchemaError: It is something else. One that cannot be read must not pass for a shorter one.
    """
    if not path.is_file():
        return
    with path.open(encoding="utf-8", newline="\n", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            text = line.removesuffix("\n").removesuffix("\r")
            digits, tab, key = text.partition("\t")
            if number == 1 and text == _HEADER:
                continue
            if number == 1 or not tab or not key or not (digits.isascii() and digits.isdigit()):
                wanted = "its header" if number == 1 else "a number, a tab and a key"
                raise SchemaError(
                    f"{path}, line {number}: expected {wanted}, found {text[:80]!r}.\n"
                    "Restore it with git checkout, or remove it: all partitions are then cut anew."
                )
            yield int(digits), key


def write_list(path: Path, rows: Iterable[tuple[int, str]]) -> None:
    """Write the list if it is another than the one that is there."""
    new = path.with_name(f"{path.name}.new")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(new) as file:
        file.write(f"{_HEADER}\n".encode())
        for number, key in rows:
            file.write(f"{partition_name(number)}\t{key}\n".encode("utf-8", "surrogateescape"))
    if path.is_file() and path.stat().st_size == new.stat().st_size and path.read_bytes() == new.read_bytes():
        new.unlink()
    else:
        new.replace(path)


def assign(connection: sqlite3.Connection, recorded: Path, present: str, size: int) -> None:
    """Fill the table `home` (key, number) with a partition for each key that is there, and write the list.

    Args:
        connection: To a database that has no such table.
        recorded: The list.
        present: The name of a table whose column `key` holds the keys of the source, as bytes; distinct or not.
        size: Keys per new partition; the last one has the rest.

    Raises:
        SchemaError: The list is damaged.
    """
    connection.execute("CREATE TABLE home (key BLOB PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID")
    before = ((_bytes(key), number) for number, key in read_list(recorded))
    connection.executemany("INSERT OR IGNORE INTO home VALUES (?, ?)", before)
    connection.execute(f"DELETE FROM home WHERE key NOT IN (SELECT key FROM {present})")  # noqa: S608 - our own name
    (first,) = connection.execute("SELECT coalesce(max(number), -1) + 1 FROM home").fetchone()
    new = connection.execute(
        f"SELECT DISTINCT key FROM {present} WHERE key NOT IN (SELECT key FROM home) ORDER BY key"  # noqa: S608
    )
    connection.execute("CREATE TEMP TABLE fresh (key BLOB, number INTEGER)")
    connection.executemany(
        "INSERT INTO fresh VALUES (?, ?)", ((key, first + place // size) for place, (key,) in enumerate(new))
    )
    connection.execute("INSERT INTO home SELECT * FROM fresh")
    rows = connection.execute("SELECT number, key FROM home ORDER BY number, key")
    write_list(recorded, ((number, key.decode("utf-8", "surrogateescape")) for number, key in rows))


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")
