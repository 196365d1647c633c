"""Pictures in a folder, with their captions beside them or in a table: `kind: folder`.

Folders in it count, however deep. A picture and a caption belong together if their paths are equal but for the last
extension: `cats/1.jpg` and `cats/1.txt`. Nothing else pairs them; what is alone is a record without caption, or without
picture. Or the captions are in `metadata.csv`, `.jsonl` or `.parquet`, as in Hugging Face's imagefolder: in rows that
name pictures relative to the file.
"""

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import nsmallest
from pathlib import Path
from typing import Any

from microdiff.config.settings import Problems
from microdiff.core.ledger import Reason
from microdiff.core.prefetch import num_threads, prefetch_map
from microdiff.core.printable import escape_key
from microdiff.errors import SourceError
from microdiff.formats.archives import MAX_MEMBER_BYTES
from microdiff.formats.members import PICTURE_EXTENSIONS, is_document, is_litter
from microdiff.formats.records import Inputs, Partition, Rejection, Sample
from microdiff.formats.text import is_encoding
from microdiff.kinds import KindHandler, Listing
from microdiff.kinds.captions import Columns, as_columns, decided, from_file, from_values, json_value, plain_values
from microdiff.kinds.record_index import MakeRecord, RecordIndex, index_source, load, records_in
from microdiff.kinds.rows import TABLES, BadRow, NamesNoPicture, read_rows, resolve, without_extension
from microdiff.storage import Source

_MAX_TEXT_BYTES = 2**20
_REPEATS = re.compile(r"([0-9]{1,6})_.+")
_EXAMPLES = 10
# Pictures in forms that are not decoded; beside one that is, as cameras and telephones write them, they are no records.
NOT_DECODED = frozenset("heic heif jxl dng cr2 cr3 nef arw orf rw2 raf raw psd tga svg".split())  # noqa: SIM905


@dataclass(frozen=True, kw_only=True)
class Folder(KindHandler):
    """A folder of pictures.

    Attributes:
        caption: Extensions of the files with captions, `txt` or `caption`; `json`, or `json:FIELD`, for a field of a
            JSON file. With `metadata`: columns or fields of its rows. Several give several captions, in this order.
        metadata: Name of the tables with captions, such as `metadata.csv`, wherever in the folder they are; null: there
            are none.
        image: With `metadata`: the column or field that names the picture.
        records_per_partition: Of new partitions.
        follow_links: Whether symbolic links count as what they lead to; else they are rejected.
        fallback_encoding: Of texts without byte order mark that are not UTF-8, such as `latin-1`; null rejects them.
    """

    caption: Columns = "txt"
    metadata: str | None = None
    image: str = "file_name"
    records_per_partition: int = 1000
    follow_links: bool = False
    fallback_encoding: str | None = None

    def problems(self) -> Problems:
        """Yield settings out of range."""
        if self.records_per_partition < 1:
            yield "records_per_partition", f"expected at least 1, got {self.records_per_partition}"
        if not as_columns(self.caption):
            yield "caption", "expected at least one extension or column"
        if self.fallback_encoding is not None and not is_encoding(self.fallback_encoding):
            yield "fallback_encoding", f"expected null or an encoding such as latin-1, got {self.fallback_encoding!r}"
        if self.metadata is not None and not self.metadata.lower().endswith(TABLES):
            yield "metadata", f"expected a name that ends in {', '.join(TABLES)}, got {self.metadata!r}"
        if self.metadata is None:
            for name in as_columns(self.caption):
                if name.startswith(".") or name.lower() in PICTURE_EXTENSIONS:
                    yield "caption", f"expected an extension of texts, without its point, such as txt, got {name!r}"

    def survey(self, source: Source, place: Path, recorded: Path) -> Listing:
        """List the folder."""
        walk = _Walk(self, source)
        partitions, index = index_source(source, place, recorded, self.records_per_partition, walk.enter)
        if not partitions:
            raise SourceError(
                f"{source.name}: holds no pictures, and no captions either ({walk.others} other files, such as "
                f"{', '.join(walk.examples) or 'none'}). Check datasets.*.download.source."
            )
        return Listing(partitions, index, walk.others, walk.examples)

    def read(self, partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
        """Yield the records of a partition, sorted by key."""
        found = records_in(inputs.annotations, partition)
        for records in prefetch_map(partial(self._read, inputs.source), found, 2 * num_threads()):
            yield from records

    def _read(self, source: Source | None, entry: dict[str, Any]) -> list[Sample | Rejection]:
        """Return the records of one key: one, unless several pictures have it."""
        captions, problem, meta = self._said(source, entry)
        records = []
        for described in entry["pictures"] or [None]:
            image: bytes | Reason = Reason.MISSING_IMAGE
            cause = ""
            if entry["problem"]:
                image, cause = Reason(entry["problem"]), entry["cause"]
            elif described is not None and described[1] > MAX_MEMBER_BYTES:
                image = Reason.TOO_LARGE
            elif described is not None:
                data = load(source, described)
                image, cause = (data, "") if data is not None else (Reason.FAILED_DOWNLOAD, "the file may not be read")
            name = described[0] if described else entry["source"]
            records.append(decided(image, entry["key"], captions, problem, name, meta, cause))
        return records

    def _said(self, source: Source | None, entry: dict[str, Any]) -> tuple[tuple[str, ...], str, dict[str, Any]]:
        """Return captions, what is wrong with one, and what else is said of a picture."""
        meta: dict[str, Any] = {"repeats": entry["repeats"]} if entry["repeats"] else {}
        captions, problem = from_values(entry["values"])
        for name, described in entry["texts"]:
            path, num_bytes, _ = described
            data = None if num_bytes > _MAX_TEXT_BYTES else load(source, described)
            if data is None:
                problem = problem or f"{path}: too large, or it may not be read"
                continue
            more, wrong, values = from_file(data, _field(name), self.fallback_encoding)
            captions, problem, meta = captions + more, problem or wrong, {**values, **meta}
        return captions, problem, {**entry["meta"], **meta}


@dataclass
class _Walk:
    """Enters a folder's files into an index; counts those that are no records."""

    handler: Folder
    source: Source
    others: int = 0
    examples: Sequence[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, index: RecordIndex) -> MakeRecord:
        handler, tables = self.handler, []
        texts = (
            {} if handler.metadata else {name.partition(":")[0].lower(): name for name in as_columns(handler.caption)}
        )
        for path, is_link in self.source.all_files(follow_links=handler.follow_links):
            stem, _, extension = path.rpartition(".")
            extension = extension.lower()
            if "/" in extension or not stem.rpartition("/")[2]:
                stem, extension = path, ""
            if is_litter(path):
                self._other(path)
            elif handler.metadata and path.rpartition("/")[2].lower() == handler.metadata.lower():
                tables.append(path)
            elif extension in PICTURE_EXTENSIONS:
                index.enter(escape_key(stem), ["picture", path, is_link])
            elif extension in NOT_DECODED:
                index.enter(escape_key(stem), ["not decoded", path, is_link])
            elif extension in texts:
                index.enter(escape_key(stem), [texts[extension], path, is_link])
            elif is_link:
                index.enter(escape_key(path), ["link", path, True])
            else:
                self._other(path)
        for table in sorted(tables):
            self._enter_rows(index, table)
        if handler.metadata and not tables:
            raise SourceError(f"{self.source.name}: has no {handler.metadata}. Check datasets.*.download.metadata.")
        return partial(self._record, index)

    def _enter_rows(self, index: RecordIndex, table: str) -> None:
        handler = self.handler
        columns = (handler.image, *as_columns(handler.caption))
        path = self.source.fetch(self.source.stat(table))
        for number, row in read_rows(path, columns):
            where = f"{table}#{number}"
            try:
                if isinstance(row, BadRow):
                    raise NamesNoPicture(Reason.BAD_CAPTION, row.problem)
                name = resolve(table, row[handler.image])
            except NamesNoPicture as error:
                index.enter(escape_key(where), ["bad", where, str(error), error.reason])
                continue
            values = [json_value(row[each]) for each in as_columns(handler.caption) if each in row]
            said = ["row", where, number, name, values, plain_values(row, columns, table)]
            index.enter(escape_key(without_extension(name)), said)

    def _record(self, index: RecordIndex, key: str, found: list[Any]) -> dict[str, Any] | None:
        """Make a record of what has one key; documents are none where nothing else has theirs."""
        paths = [each[1] for each in found]
        if all(map(is_document, paths)):
            for path in paths:
                self._other(path)
            return None
        if any(each[0] == "picture" for each in found):
            for _, path, *_ in (each for each in found if each[0] == "not decoded"):
                self._other(path)
            found = [each for each in found if each[0] != "not decoded"]
        return _record(index, self.handler, key, found)

    def _other(self, path: str) -> None:
        with self.lock:
            self.others += 1
            self.examples = nsmallest(_EXAMPLES, [*self.examples, path])


def _record(index: RecordIndex, handler: Folder, key: str, found: list[Any]) -> dict[str, Any]:
    """Make the record of a key of whatever was found under it."""
    names = () if handler.metadata else as_columns(handler.caption)
    pictures = sorted(path for kind, path, *_ in found if kind == "picture")
    texts = sorted((names.index(kind), path) for kind, path, *_ in found if kind in names)
    rows = sorted((each[1:] for each in found if each[0] == "row"), key=lambda row: (row[0].rpartition("#")[0], row[1]))
    others = sorted(each[1:] for each in found if each[0] in ("bad", "link"))
    unread = sorted(path for kind, path, *_ in found if kind == "not decoded")
    paths = [*pictures, *unread, *(path for _, path in texts)]
    problem, cause = "", ""
    if any(each[2] is True for each in found if each[0] not in ("row", "bad")):
        problem, cause = Reason.UNSAFE_MEMBER, "a symbolic link; follow_links: true takes it for what it leads to"
    elif len(pictures) > 1 or len({place for place, _ in texts}) < len(texts):
        problem, cause = Reason.AMBIGUOUS_KEY, "several files of one name: " + ", ".join(paths)
    elif unread:
        problem, cause = Reason.UNSUPPORTED_PICTURE, "this form is not decoded; convert it to JPEG"
    elif others:
        cause, problem = others[0][1:]
    elif wrong := [row[2] for row in rows if row[2] not in pictures]:
        there = f", there is {pictures[0]}" if pictures else ""
        problem, cause = Reason.MISSING_IMAGE, f"the table names {wrong[0]}{there}"
    folders = (paths or [row[2] for row in rows] or [""])[0].split("/")[:-1]
    repeats = next((int(match[1]) for each in reversed(folders) if (match := _REPEATS.fullmatch(each))), 0)
    return {
        "key": key,
        "pictures": [[path, 0, ""] if problem else index.describe(path) for path in pictures],
        "texts": [] if problem else [[names[place], index.describe(path)] for place, path in texts],
        "values": [value for row in rows for value in row[3]],
        "meta": rows[0][4] if rows else {},
        "problem": problem,
        "cause": cause,
        "repeats": repeats,
        "source": [*paths, *(row[0] for row in rows), *(each[0] for each in others)][0],
    }


def _field(name: str) -> str | None:
    """Return which field of a JSON file has the caption; None for texts."""
    extension, _, field = name.partition(":")
    return (field or "caption") if extension.lower() == "json" else None


HANDLER = Folder
