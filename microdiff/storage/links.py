"""A source that is a list of links: signed ones, which work for some days, as Meta gives them out for SA-1B.

The list is a text file of two columns, `file_name` and `cdn_link`, separated by a tab, with this header. A link says
nothing that lasts: not which file it leads to, and the next list has others. So a file is identified by its name and
size; sizes are remembered, and what is finished stays finished when the links have expired. The list is read again for
each request: a fresh one put in its place is used at once. Links are secrets; no message shows one.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import requests

from microdiff.core.files import digest_json, read_json, write_json
from microdiff.core.progress import Reporter
from microdiff.errors import SourceError
from microdiff.storage import SourceFile, response_headers
from microdiff.storage.http import HttpSource
from microdiff.storage.local import local_name
from microdiff.storage.urls import expires_at, without_secrets

_HEADER = "file_name\tcdn_link"
_SOON_S = 3600.0
_DEAD = (401, 403, 404, 410)
_REFRESH = "Refresh the link file: get a new one from the dataset's page, put it in its place, and run again."


def open_links(root: str, work: Path, report: Reporter) -> "LinkSource":
    """Return the source whose links are in a file, or at a URL, whose text is kept for when it has expired itself.

    Raises:
        SourceError: There is no such list, or it is something else.
    """
    remembered, fetched = work / "listings", work / "fetch"
    if "://" not in root:
        source = LinkSource(label=local_name(root), table=Path(root), sizes=remembered, fetched=fetched, report=report)
        source.links()
        return source
    name = without_secrets(root)
    table = remembered / f"{digest_json(['links', name])}.json"
    source = LinkSource(label=name, table=table, sizes=remembered, fetched=fetched, report=report)
    try:
        text = source.ask("GET", "", lambda answer: answer.content.decode("utf-8", "replace"), url=root)
        _parse(text, name)
    except SourceError as error:
        if not source.table.is_file():
            raise
        report.say(f"{error}\nUsing the links of last time.")
    else:
        write_json(source.table, text)
        source.table.chmod(0o600)
    return source


@dataclass(frozen=True, kw_only=True)
class LinkSource(HttpSource):
    """Files behind a list of links.

    Attributes:
        label: The list's name.
        table: The list: text, or JSON that holds the text.
        sizes: Remembers how many bytes files have.
    """

    label: str
    table: Path = field(repr=False)
    sizes: Path

    @property
    def name(self) -> str:
        """The list's name, without its own signature."""
        return self.label

    def links(self) -> Mapping[str, str]:
        """Return the links by file name, as the list is now.

        Raises:
            SourceError: The list is gone, or is none.
        """
        if not self.table.is_file():
            raise SourceError(f"{self.label}: no such list of links. Check datasets.*.download.source.")
        facts = self.table.stat()
        return _read(self.table, self.label, facts.st_mtime_ns, facts.st_size)

    def url(self, path: str) -> str:
        """Return a file's link if it still works."""
        link = self.links().get(path)
        if link is None:
            raise SourceError(f"{self.label}/{path}: not in the list of links. {_REFRESH}")
        if (end := expires_at(link)) is not None and end <= time.time():
            raise SourceError(f"{self.label}/{path}: the link expired on {_date(end)}. {_REFRESH}")
        return link

    def refusal(self, answer: requests.Response) -> str:
        """Say that the link is dead, if it is."""
        if answer.status_code in _DEAD:
            return f"HTTP {answer.status_code}: the link has expired. {_REFRESH}"
        return super().refusal(answer)

    def list(self, folder: str) -> Sequence[str]:
        """Return the names in the list, sorted; say if links have expired or soon will."""
        links = self.links()
        ends = sorted(end for end in map(expires_at, links.values()) if end is not None)
        expired = sum(end <= time.time() for end in ends)
        if expired:
            self.report.say(f"{self.label}: {expired} of {len(links)} links have expired. {_REFRESH}")
        elif ends and ends[0] < time.time() + _SOON_S:
            self.report.say(
                f"{self.label}: links expire on {_date(ends[0])}, the first in less than an hour. {_REFRESH}"
            )
        return sorted(path for path in links if path.rpartition("/")[0] == folder.strip("/"))

    def stat(self, path: str, checksum: str | None = None) -> SourceFile:
        """Describe a file by its name and size; asks nothing if the size is known."""
        record = self._size_record(path)
        if not record.is_file():
            # Not HEAD: a signature may be for GET alone.
            num_bytes = self.ask("GET", path, response_headers.stated_size, headers={"Range": "bytes=0-0"})
            if num_bytes is None:
                raise SourceError(f"{self.label}/{path}: the server does not state the file's size")
            write_json(record, num_bytes)
        return SourceFile(path, read_json(record), checksum or f"name:{path}")

    def append(self, file: SourceFile, part: Path) -> str:
        """Add what comes; say if the link may expire before it is all there."""
        end = expires_at(self.url(file.path))
        if end is not None and end < time.time() + _SOON_S:
            self.report.say(f"{self.label}/{file.path}: the link expires on {_date(end)}, in less than an hour")
        return super().append(file, part)

    def changed(self, file: SourceFile, found: str) -> SourceError:
        """Return the error for a file that is no longer the one described, and forget its size."""
        self._size_record(file.path).unlink(missing_ok=True)
        return super().changed(file, found)

    def _size_record(self, path: str) -> Path:
        return self.sizes / f"{digest_json(['size', self.label, path])}.json"


@lru_cache(maxsize=4)
def _read(table: Path, label: str, mtime_ns: int, num_bytes: int) -> Mapping[str, str]:
    text = read_json(table) if table.suffix == ".json" else table.read_text(encoding="utf-8", errors="replace")
    return _parse(text, label)


def _parse(text: str, label: str) -> Mapping[str, str]:
    """Return the links by file name; errors show no line, which may hold a link."""
    links: dict[str, str] = {}
    lines = [line.rstrip("\r") for line in text.removeprefix("\ufeff").split("\n")]
    if lines[0] != _HEADER:
        raise SourceError(f"{label}: not a list of links; expected a first line {_HEADER!r}. {_REFRESH}")
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        name, _, link = line.partition("\t")
        parts = PurePosixPath(name).parts
        if urlsplit(link).scheme not in ("http", "https") or not parts or {"/", ".."} & set(parts):
            raise SourceError(f"{label}, line {number}: expected a file name, a tab, and a link. {_REFRESH}")
        if links.setdefault(name, link) != link:
            raise SourceError(f"{label}, line {number}: the file name is there twice, with two links")
    return links


def _date(time_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(time_s))
