"""A list of links: signed ones, which work for some days, as Meta gives them out for SA-1B.

The list is a text file of two columns, `file_name` and `cdn_link`, separated by a tab, with this header. A link says
nothing that lasts: not which file it leads to, and the next list has others. So a file is identified by its name and
size; sizes are remembered, and what is finished stays finished when the links have expired. The list is read again for
each request: a fresh one put in its place is used at once. Links are secrets; no message shows one.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import requests

from microdiff.core.files import digest_json, read_json, write_json
from microdiff.core.progress import Reporter
from microdiff.errors import SourceError
from microdiff.storage import SETTING, Body, Entry, NotFound, SourceFile, response_headers
from microdiff.storage.fetched_source import FetchedSource
from microdiff.storage.http import HttpStorage
from microdiff.storage.local import local_name
from microdiff.storage.urls import expires_at, without_secrets
from microdiff.storage.versions import FileVersion

_HEADER = "file_name\tcdn_link"
_SOON_S = 3600.0
_DEAD = (401, 403, 404, 410)
_REFRESH = "Refresh the link file: get a new one from the dataset's page, put it in its place, and run again."


def open_links(root: str, work: Path, report: Reporter, setting: str = SETTING) -> FetchedSource:
    """Return the source whose links are in a file, or at a URL, whose text is kept for when it has expired itself.

    Raises:
        SourceError: There is no such list, or it is something else.
    """
    is_url, sizes = "://" in root, work / "listings"
    name = without_secrets(root) if is_url else local_name(root)
    table = sizes / f"{digest_json(['links', name])}.json" if is_url else Path(root)
    storage = LinkStorage(label=name, table=table, sizes=sizes, report=report, setting=setting)
    if is_url:
        storage.renew(root)
    else:
        storage.links()
    return FetchedSource(storage=storage, fetched=work / "fetch")


@dataclass(frozen=True, kw_only=True)
class LinkStorage(HttpStorage):
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

    def renew(self, url: str) -> None:
        """Get the list from a URL; where that fails, the one of last time will do.

        Raises:
            SourceError: There is none of last time.
        """
        try:
            text = self.ask("GET", "", lambda answer: answer.content.decode("utf-8", "replace"), url=url)
            _parse(text, self.label)
        except SourceError as error:
            if not self.table.is_file():
                raise
            self.report.say(f"{error}\nUsing the links of last time.")
        else:
            write_json(self.table, text)
            self.table.chmod(0o600)

    def links(self) -> Mapping[str, str]:
        """Return the links by file name, as the list is now.

        Raises:
            SourceError: The list is gone, or is none.
        """
        if not self.table.is_file():
            raise SourceError(f"{self.label}: no such list of links. Check {self.setting}.")
        facts = self.table.stat()
        return _read(self.table, self.label, facts.st_mtime_ns, facts.st_size)

    def url(self, path: str) -> str:
        """Return a file's link if it still works."""
        link = self.links().get(path)
        if link is None:
            raise NotFound(f"{self.label}/{path}: not in the list of links. {_REFRESH}")
        if (end := expires_at(link)) is not None and end <= time.time():
            raise SourceError(f"{self.label}/{path}: the link expired on {_date(end)}. {_REFRESH}")
        return link

    def refusal(self, answer: requests.Response, where: str) -> SourceError:
        """Return the error that an answer means: the link is dead, if it is."""
        if answer.status_code in _DEAD:
            return SourceError(f"{where}: HTTP {answer.status_code}: the link has expired. {_REFRESH}")
        return super().refusal(answer, where)

    def all_files(self, *, follow_links: bool = False) -> Iterator[Entry]:
        """Yield all names in the list."""
        yield from map(Entry, self.links())

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
        num_bytes, record = self._described(path)[0], self._size_record(path)
        if num_bytes is None:
            # Not HEAD: a signature may be for GET alone.
            num_bytes, version = self.ask("GET", path, _size_and_version, headers={"Range": "bytes=0-0"})
            if num_bytes is None:
                raise SourceError(f"{self.label}/{path}: the server does not state the file's size")
            write_json(record, {"num_bytes": num_bytes, "version": asdict(version)})
        return SourceFile(path, num_bytes, checksum or f"name:{path}")

    def known(self, path: str) -> FileVersion | None:
        """Return which version of a file was described."""
        return self._described(path)[1]

    def _described(self, path: str) -> tuple[int | None, FileVersion | None]:
        """Return a file's size and version as they were when it was described, if it was."""
        record = self._size_record(path)
        match read_json(record) if record.is_file() else None:
            case int(num_bytes):  # as earlier versions remember it
                return num_bytes, None
            case {"num_bytes": int(num_bytes), "version": dict(version)}:
                return num_bytes, FileVersion(**version)
        return None, None

    @contextmanager
    def read(self, path: str, start: int = 0, version: str = "") -> Iterator[Body]:
        """Open a file; say if the link may expire before it is all there."""
        end = expires_at(self.url(path))
        if end is not None and end < time.time() + _SOON_S:
            self.report.say(f"{self.label}/{path}: the link expires on {_date(end)}, in less than an hour")
        with super().read(path, start, version) as body:
            yield body

    def changed(self, path: str) -> None:
        """Forget the size of a file, which has changed since."""
        self._size_record(path).unlink(missing_ok=True)

    def _size_record(self, path: str) -> Path:
        return self.sizes / f"{digest_json(['size', self.label, path])}.json"


def _size_and_version(answer: requests.Response) -> tuple[int | None, FileVersion]:
    return response_headers.stated_size(answer), response_headers.version(answer)


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
