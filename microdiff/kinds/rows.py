"""Rows of tables as people write them: JSON lines, CSV, TSV and parquet. A row that is none is a row of its own.

A CSV or TSV file has a header; a field may be quoted and then hold commas, tabs, quotation marks, which are doubled,
and ends of lines. A row with more or fewer fields than the header is not understood: which is whose would be a guess.
"""

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from microdiff.core.ledger import Reason
from microdiff.errors import SourceError
from microdiff.formats.archives import MAX_LINE_BYTES
from microdiff.formats.text import BadTextError, parse_json, utf_8_lines
from microdiff.storage.fetched_source import remedy

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_ROWS_AT_ONCE = 256
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read, and why."""

    problem: str


Row = dict[str, Any] | BadRow


class NamesNoPicture(ValueError):
    """A row names no picture, or none of the source's.

    Attributes:
        reason: What becomes of it.
    """

    def __init__(self, reason: Reason, problem: str) -> None:
        super().__init__(problem)
        self.reason = reason


def read_rows(path: Path, columns: Sequence[str], delimiter: str | None = None) -> Iterator[tuple[int, Row]]:
    """Yield a table's rows with their numbers: those of lines, from 1, of JSON lines; else of rows.

    Args:
        path: The table; what its name ends in says what it is.
        columns: Columns that a table with a header must have.
        delimiter: Between the fields of a CSV file; None: by its name.

    Raises:
        SourceError: It is not such a table, or has no such column.
    """
    suffix = path.suffix.lower()
    if suffix in _DELIMITERS:
        return _delimited(path, columns, delimiter or _DELIMITERS[suffix])
    if suffix == ".parquet":
        return _parquet(path, columns)
    return _json_lines(path, columns)


def resolve(table: str, value: object, *, absolute: bool = False) -> str:
    """Return the path below the source's root of a picture that a row of a table names, relative to the table.

    Args:
        table: The table's path.
        value: What the row says.
        absolute: Whether absolute paths are allowed: they are returned as they are.

    Raises:
        NamesNoPicture: It is no path, or leads out of the source.
    """
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise NamesNoPicture(
            Reason.MISSING_IMAGE, f"names no picture: {'null' if value is None else str(value)[:80]!r}"
        )
    name = value.replace("\\", "/")
    if name.startswith("/") or name[1:3] == ":/":
        if absolute:
            return name
        raise NamesNoPicture(Reason.UNSAFE_MEMBER, f"an absolute path: {value[:200]!r}")
    parts: list[str] = [*PurePosixPath(table).parent.parts]
    for part in name.split("/"):
        if part == ".." and not parts:
            raise NamesNoPicture(Reason.UNSAFE_MEMBER, f"a path that leads out of the source: {value[:200]!r}")
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def without_extension(path: str) -> str:
    """Return a path up to the last point of its last part."""
    folder, slash, name = path.rpartition("/")
    stem = name.rpartition(".")[0]
    return f"{folder}{slash}{stem or name}"


def _delimited(path: Path, columns: Sequence[str], delimiter: str) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(MAX_LINE_BYTES)
    with path.open("rb") as file, _text(file) as text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            header = next(reader, None)
        except (csv.Error, UnicodeDecodeError) as error:
            raise SourceError(f"{path}: not a table ({error}). {remedy(path)}") from error
        _check_header(path, header, columns, delimiter)
        number = 0
        while True:
            number += 1
            try:
                fields = next(reader, None)
            except (csv.Error, UnicodeDecodeError) as error:
                raise SourceError(
                    f"{path}, line {reader.line_num}: {error}. Quotation marks within quoted fields are doubled. "
                    f"{remedy(path)}"
                ) from error
            if fields is None:
                return
            if not fields:  # an empty line
                continue
            if header is None or len(fields) != len(header):
                yield number, BadRow(f"has {len(fields)} fields, the header has {len(header or ())}")
            else:
                yield number, {name: field or None for name, field in zip(header, fields, strict=True)}


def _text(file: IO[bytes]) -> io.TextIOWrapper:
    """Return a text: by its byte order mark, or as UTF-8, in which bytes that are none come as halves of surrogates."""
    head = file.read(4)
    mark, encoding = next((pair for pair in _MARKS if head.startswith(pair[0])), (b"", "utf-8"))
    file.seek(len(mark))
    return io.TextIOWrapper(file, encoding, "surrogateescape" if encoding == "utf-8" else "strict", newline="")


def _check_header(path: Path, header: list[str] | None, columns: Sequence[str], delimiter: str) -> None:
    names = header or []
    missing = [name for name in columns if name not in names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if missing or twice:
        what = f"has no column {', '.join(missing)}" if missing else f"has the column {', '.join(twice)} twice"
        raise SourceError(
            f"{path}: {what}, but {', '.join(names)[:300] or 'nothing'} (fields between {delimiter!r}).\n"
            "Check datasets.*.download: image, caption, key, delimiter. The first line must be a header."
        )


def _json_lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Row]]:
    found = False
    with path.open("rb") as file:
        try:
            for number, line in enumerate(utf_8_lines(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")), 1):
                if len(line) > MAX_LINE_BYTES:
                    raise SourceError(f"{path}, line {number}: more than {MAX_LINE_BYTES} bytes. {remedy(path)}")
                if not line.strip():
                    continue
                try:
                    row = parse_json(line)
                except BadTextError as error:
                    yield number, BadRow(f"no JSON: {error}"[:300])
                    continue
                if not isinstance(row, dict):
                    yield number, BadRow(f"expected an object, got {type(row).__name__}")
                    continue
                found = found or not columns or columns[0] in row
                yield number, {**dict.fromkeys(columns[:1]), **row}
        except BadTextError as error:
            raise SourceError(f"{path}: {error}. {remedy(path)}") from error
    if not found:
        raise SourceError(
            f"{path}: no line is a JSON object with {columns[0]!r}. Check datasets.*.download: image. {remedy(path)}"
        )


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Row]]:
    try:
        with pq.ParquetFile(path) as parquet:
            _check_header(path, parquet.schema_arrow.names, columns, "|")
            number = 0
            for batch in parquet.iter_batches(_ROWS_AT_ONCE, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: not a complete parquet file ({error}). {remedy(path)}") from error
