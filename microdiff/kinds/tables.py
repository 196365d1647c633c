"""Pictures that the rows of tables name, by path or by URL: what `kind: jsonl` and `kind: csv` share.

Rows that name one picture are one record, with the captions of all of them in the order of tables and rows: so tables
with a row per caption are read. Nothing else is merged.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from microdiff.config.settings import LATER, Problems
from microdiff.core.ledger import Reason
from microdiff.core.prefetch import num_threads, prefetch_map
from microdiff.core.printable import escape_key
from microdiff.errors import SourceError
from microdiff.formats.archives import MAX_MEMBER_BYTES
from microdiff.formats.members import is_litter
from microdiff.formats.records import Inputs, Partition, Rejection, Sample
from microdiff.formats.url_failures import Fetched, check_failures
from microdiff.formats.url_list import fetch_urls
from microdiff.kinds import KindHandler, Listing
from microdiff.kinds.captions import Columns, as_columns, decided, from_values, json_value, plain_values
from microdiff.kinds.record_index import MakeRecord, RecordIndex, index_source, load, records_in
from microdiff.kinds.rows import BadRow, NamesNoPicture, read_rows, resolve, without_extension
from microdiff.storage import Source
from microdiff.storage.local import LocalSource

_URL = ("http://", "https://")
_URL_KEY_DIGITS = 32


@dataclass(frozen=True, kw_only=True)
class Tables(KindHandler):
    """Tables with a row per picture, or per caption.

    Attributes:
        files: Which files are tables: a path below the source or a pattern; null: all with the kind's extensions.
        caption: Columns or fields with captions; several give several captions, in this order.
        image: The column or field that names the picture: a path relative to the table, or a URL.
        key: The column or field that is the key; null: the path without its extension, of a URL a hash.
        records_per_partition: Of new partitions.
        absolute_paths: Whether pictures may be named by absolute paths, of this machine.
        max_failed_share: Largest share of a partition's URLs that may fail, 0 to 1.
        timeout_s: Longest wait for a connection, and for more of an answer.
        retries: Further attempts for a URL that failed.
        allow_private_addresses: Whether URLs may lead to this machine and to private networks.
    """

    suffixes: ClassVar[tuple[str, ...]]

    files: str | None = None
    caption: Columns = "caption"
    image: str = "image"
    key: str | None = None
    records_per_partition: int = 1000
    absolute_paths: bool = False
    max_failed_share: float = 0.5
    timeout_s: float = 10.0
    retries: int = 1
    allow_private_addresses: bool = field(default=False, metadata=LATER)

    @property
    def between_fields(self) -> str | None:
        """What separates fields, None if the table's name says so."""
        return None

    def problems(self) -> Problems:
        """Yield settings out of range."""
        if self.records_per_partition < 1:
            yield "records_per_partition", f"expected at least 1, got {self.records_per_partition}"
        if not as_columns(self.caption):
            yield "caption", "expected at least one column"
        if not 0 <= self.max_failed_share <= 1:
            yield "max_failed_share", f"expected 0 to 1, got {self.max_failed_share}"
        if not 0 < self.timeout_s <= 3600:
            yield "timeout_s", f"expected more than 0, at most 3600, got {self.timeout_s}"
        if self.retries < 0:
            yield "retries", f"expected at least 0, got {self.retries}"

    def survey(self, source: Source, place: Path, recorded: Path) -> Listing:
        """List the pictures that the tables name."""
        if self.absolute_paths and not _is_local(source):
            raise SourceError(f"{source.name}: absolute_paths needs a folder on this machine as source")
        tables = matching(source, self.files, self.suffixes)
        enter = partial(self._enter, source, tables)
        partitions, index = index_source(source, place, recorded, self.records_per_partition, enter)
        if not partitions:
            raise SourceError(f"{source.name}: no rows in {', '.join(tables[:3])}")
        return Listing(partitions, index)

    def read(self, partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
        """Yield the records of a partition, sorted by key."""
        entries = [each for group in records_in(inputs.annotations, partition) for each in group["records"]]
        urls = [entry["url"] for entry in entries if entry["url"] and not entry["problem"]]
        fetched: dict[str, Fetched] = {}
        if urls:
            limits = (self.timeout_s, self.retries, inputs.report, self.allow_private_addresses)
            found = fetch_urls(urls, inputs.scratch, *limits)
            check_failures(f"partition {partition.name}", found, self.max_failed_share)
            fetched = dict(zip(urls, found, strict=True))
        yield from prefetch_map(partial(_read, inputs.source, fetched), entries, 2 * num_threads())

    def _enter(self, source: Source, tables: Sequence[str], index: RecordIndex) -> MakeRecord:
        captions = as_columns(self.caption)
        columns = (self.image, *captions, *((self.key,) if self.key else ()))
        for order, table in enumerate(tables):
            path = source.fetch(source.stat(table))
            for number, row in read_rows(path, columns, self.between_fields):
                place, where = [order, number], f"{table}#{number}"
                try:
                    name, key = self._names(table, row)
                except NamesNoPicture as error:
                    index.enter(escape_key(where), [*place, where, None, [], {}, str(error), error.reason])
                    continue
                values = [json_value(row[each]) for each in captions if isinstance(row, dict) and each in row]
                meta = plain_values(row, columns, table) if isinstance(row, dict) else {}
                index.enter(key, [*place, where, name, values, meta, "", ""])
        return partial(_records, index, own_key=self.key is not None)

    def _names(self, table: str, row: dict[str, Any] | BadRow) -> tuple[str, str]:
        """Return the picture that a row names, and its key.

        Raises:
            NamesNoPicture: It names none, or has no key.
        """
        if isinstance(row, BadRow):
            raise NamesNoPicture(Reason.BAD_CAPTION, row.problem)
        value = row.get(self.image)
        is_url = isinstance(value, str) and value.strip().lower().startswith(_URL)
        name = str(value).strip() if is_url else resolve(table, value, absolute=self.absolute_paths)
        if self.key is not None:
            key = row.get(self.key)
            if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
                raise NamesNoPicture(Reason.BAD_CAPTION, f"no key in {self.key}: {str(key)[:80]!r}")
            return name, escape_key(str(key))
        if is_url:
            return name, hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:_URL_KEY_DIGITS]
        return name, escape_key(without_extension(name))


def matching(source: Source, pattern: str | None, suffixes: Sequence[str]) -> list[str]:
    """Return the files of a source that a pattern means, sorted, or those with one of some extensions.

    Raises:
        SourceError: There are none.
    """
    if pattern is None:
        wanted = {each.path for each in source.all_files() if each.path.lower().endswith(tuple(suffixes))}
    elif not any(mark in pattern for mark in "*?["):
        return [pattern]
    elif any(mark in pattern.rpartition("/")[0] for mark in "*?["):
        wanted = {each.path for each in source.all_files() if fnmatchcase(each.path, pattern.replace("**/", "*"))}
    else:
        wanted = {path for path in source.list(pattern.rpartition("/")[0]) if fnmatchcase(path, pattern)}
    found = sorted(path for path in wanted if not is_litter(path))
    if not found:
        raise SourceError(
            f"{source.name}: has no files {pattern or ' or '.join(f'*{each}' for each in suffixes)}. "
            "Check datasets.*.download: source, files."
        )
    return found


def _records(index: RecordIndex, key: str, found: list[Any], *, own_key: bool) -> dict[str, Any]:
    """Make the records of a key: one for each picture that rows with this key name."""
    rows = sorted(found, key=lambda row: row[:2])
    pictures: dict[str | None, list[Any]] = {}
    for row in rows:
        pictures.setdefault(row[3], []).append(row)
    records = []
    for name, group in sorted(pictures.items(), key=lambda item: item[1][0][:2]):
        cause, problem = group[0][6:]
        if not problem and name is not None and len(pictures) > 1 and own_key:
            problem, cause = Reason.AMBIGUOUS_KEY.value, "several pictures have this key"
        is_url = name is not None and name.lower().startswith(_URL)
        records.append(
            {
                "key": key if own_key or len(pictures) == 1 or name is None else escape_key(name),
                "file": index.describe(name) if name is not None and not is_url and not problem else None,
                "url": name if is_url else None,
                "values": list({json.dumps(value): value for row in group for value in row[4]}.values()),
                "meta": {**group[0][5], **({"url": name} if is_url else {})},
                "problem": problem,
                "cause": cause,
                "source": group[0][2] if name is None else f"{group[0][2]} {name}",
            }
        )
    return {"records": records}


def _read(source: Source | None, fetched: dict[str, Fetched], entry: dict[str, Any]) -> Sample | Rejection:
    captions, problem = from_values(entry["values"])
    image: bytes | Reason = Reason.MISSING_IMAGE
    cause = ""
    if entry["problem"]:
        image, cause = Reason(entry["problem"]), entry["cause"]
    elif entry["url"]:
        got = fetched[entry["url"]]
        image, cause = (got.path.read_bytes(), "") if got.path else (Reason.FAILED_DOWNLOAD, got.cause)
    elif entry["file"][1] > MAX_MEMBER_BYTES:
        image = Reason.TOO_LARGE
    else:
        data = load(source, entry["file"])
        image, cause = (data, "") if data is not None else (Reason.MISSING_IMAGE, "no such file, or it may not be read")
    return decided(image, entry["key"], captions, problem, entry["source"], entry["meta"], cause)


def _is_local(source: Source) -> bool:
    return isinstance(getattr(source, "source", source), LocalSource)
