"""An index of a source's loose records: a million files are sorted, paired and described on disk, not in memory.

Whatever is found is entered under its key. Then, key by key, it becomes a record, a JSON value with the files that it
needs, each described by size and checksum; and each record goes into its partition. What reading a partition needs is
then a table of annotations (`microdiff.formats.annotations`), by partition and key. The index of last time is kept: of
files that nobody has written to since, it has the checksums.
"""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from microdiff.core.files import scratch_folder, sweep
from microdiff.core.prefetch import num_threads, prefetch_map
from microdiff.errors import SourceError
from microdiff.formats.annotations import Annotations
from microdiff.formats.records import Partition
from microdiff.kinds import Listed
from microdiff.kinds.partition_list import assign, partition_name
from microdiff.storage import NotFound, Source, SourceFile

_NAME = "index.sqlite"
_UNREADABLE = "unreadable:"
Found = list[Any]
MakeRecord = Callable[[str, list[Any]], dict[str, Any] | None]


class RecordIndex:
    """An index in the making.

    Args:
        source: Has the files.
        place: Keeps the index.
        folder: For this one until it is whole.
    """

    def __init__(self, source: Source, place: Path, folder: Path) -> None:
        self._source = source
        self._place = place
        self._path = folder / _NAME
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        for line in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "PRAGMA temp_store = FILE",
            "CREATE TABLE entries (key BLOB NOT NULL, value TEXT NOT NULL)",
            "CREATE TABLE records (key BLOB NOT NULL, value TEXT NOT NULL)",
            "CREATE TABLE seen (path BLOB PRIMARY KEY, facts TEXT, size INTEGER, identity TEXT) WITHOUT ROWID",
            "BEGIN",
        ):
            self._connection.execute(line)
        earlier = place / _NAME
        self._earlier = sqlite3.connect(earlier, check_same_thread=False) if earlier.is_file() else None

    def close(self) -> None:
        """Close the files."""
        self._connection.close()
        if self._earlier is not None:
            self._earlier.close()

    def enter(self, key: str, value: Any) -> None:
        """Enter what was found, a JSON value, under its key."""
        self._connection.execute("INSERT INTO entries VALUES (?, ?)", (_bytes(key), json.dumps(value)))

    def describe(self, path: str) -> list[Any]:
        """Return path, size and identity of a file; one that may not be read has an identity that says so."""
        facts, name = self._source.facts(path), _bytes(path)
        if facts is not None and self._earlier is not None:
            with self._lock:
                row = self._earlier.execute("SELECT facts, size, identity FROM seen WHERE path = ?", (name,)).fetchone()
            if row is not None and row[0] == facts:
                self._remember(name, facts, SourceFile(path, row[1], row[2]))
                return [path, row[1], row[2]]
        try:
            file, facts = self._source.look(path)
        except NotFound:
            return [path, 0, _UNREADABLE]
        if facts is not None:
            self._remember(name, facts, file)
        return [path, file.num_bytes, file.identity]

    def _remember(self, name: bytes, facts: str, file: SourceFile) -> None:
        with self._lock:
            self._connection.execute(
                "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)", (name, facts, file.num_bytes, file.identity)
            )

    def finish(self, make: MakeRecord, recorded: Path, size: int) -> tuple[list[Listed], Path]:
        """Make records of what was entered, and partitions of records.

        Args:
            make: Returns the record for a key and what was entered under it, in no order; None if that is no record.
                Called on several threads.
            recorded: The list of partitions.
            size: Records per new partition.

        Returns:
            The partitions, and the finished index.

        Raises:
            SourceError: Nothing was entered.
        """
        run = self._connection.execute
        run("CREATE INDEX entries_by_key ON entries (key)")
        with self._lock:
            found = self._groups()
        for key, record in prefetch_map(lambda item: (item[0], make(*item)), found, 4 * num_threads()):
            if record is None:
                continue
            with self._lock:
                run("INSERT INTO records VALUES (?, ?)", (_bytes(key), json.dumps(record, sort_keys=True)))
        run("CREATE INDEX records_by_key ON records (key)")
        assign(self._connection, recorded, "records", size)
        run("CREATE TABLE annotations (key BLOB NOT NULL, value TEXT NOT NULL)")
        partitions = list(self._cut())
        for table in ("entries", "records", "home"):
            run(f"DROP TABLE {table}")
        run("CREATE INDEX by_key ON annotations (key)")
        run("COMMIT")
        self.close()
        self._place.mkdir(parents=True, exist_ok=True)
        return partitions, self._path.replace(self._place / _NAME)

    def _groups(self) -> Iterator[tuple[str, list[Any]]]:
        """Yield keys, sorted, and what was entered under each: a page at a time, since others write meanwhile."""
        cursor = self._connection.cursor()
        rows = cursor.execute("SELECT key, value FROM entries ORDER BY key, rowid")

        def paged() -> Iterator[tuple[bytes, str]]:
            while True:
                with self._lock:
                    page = rows.fetchmany(1000)
                if not page:
                    return
                yield from page

        for key, group in groupby(paged(), key=itemgetter(0)):
            yield key.decode("utf-8", "surrogateescape"), [json.loads(value) for _, value in group]

    def _cut(self) -> Iterator[Listed]:
        query = "SELECT number, records.key, value FROM home JOIN records ON records.key = home.key ORDER BY 1, 2"
        rows = self._connection.execute(query)
        for number, group in groupby(rows, key=itemgetter(0)):
            name, digest, count = partition_name(number), hashlib.sha256(), 0
            for _, key, value in group:
                digest.update(f"{value}\n".encode())
                count += 1
                self._connection.execute("INSERT INTO annotations VALUES (?, ?)", (f"{name}\t".encode() + key, value))
            yield Listed(name=name, number=number, files=(), num_records=count, digest=digest.hexdigest())


def index_source(
    source: Source, place: Path, recorded: Path, size: int, enter: Callable[[RecordIndex], MakeRecord]
) -> tuple[list[Listed], Path]:
    """Make an index.

    Args:
        source: Has the files.
        place: Keeps the index.
        recorded: The list of partitions.
        size: Records per new partition.
        enter: Enters whatever is found, and returns what makes records of it.

    Returns:
        The partitions, and the index.

    Raises:
        SourceError: The source has no records.
    """
    place.mkdir(parents=True, exist_ok=True)
    sweep(place)
    with scratch_folder(place) as folder, closing(RecordIndex(source, place, folder)) as index:
        return index.finish(enter(index), recorded, size)


def records_in(index: Annotations, partition: Partition) -> Iterator[dict[str, Any]]:
    """Yield the records of a partition, sorted by key.

    Raises:
        SourceError: They are not those that the partition was listed with: somebody has listed the source again.
    """
    name, digest = partition.name, hashlib.sha256()
    for _, value in index.between(*_span(name)):
        digest.update(_line(value))
    if not isinstance(partition, Listed) or digest.hexdigest() != partition.digest:
        raise SourceError(f"partition {name}: the source was listed again meanwhile, and has changed. Run again.")
    for _, value in index.between(*_span(name)):
        yield value


def _span(name: str) -> tuple[str, str]:
    """Return the first key of a partition in the index, and the first one after it."""
    return f"{name}\t", f"{name}\n"


def _line(record: Any) -> bytes:
    return f"{json.dumps(record, sort_keys=True)}\n".encode()


def is_readable(described: list[Any]) -> bool:
    """Tell whether a file as `RecordIndex.describe` describes it could be read."""
    return bool(described[2] != _UNREADABLE)


def load(source: Source | None, described: list[Any]) -> bytes | None:
    """Return the bytes of a file as `RecordIndex.describe` describes it; None if it could not be read.

    Raises:
        SourceError: It has changed since.
    """
    path, num_bytes, identity = described
    if source is None:
        raise SourceError(f"{path}: there is no source to read it from")
    return None if not is_readable(described) else source.load(SourceFile(path, num_bytes, identity))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
