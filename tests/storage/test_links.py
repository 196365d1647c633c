"""Lists of signed links: what identifies a file, what happens when links expire, and that no link is ever shown."""

import hashlib
import logging
import pickle
import re
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from microdiff.errors import SourceError
from microdiff.storage import SourceFile, retry
from microdiff.storage.fetched_source import FetchedSource
from microdiff.storage.links import LinkStorage
from microdiff.storage.opening import open_source
from microdiff.storage.urls import expires_at
from tests.reporters import Said
from tests.storage_contract import FILES as CONTRACT_FILES
from tests.storage_contract import Backend, ServedBackend, StorageContract
from tests.web_server import Fault, Reply, Request, WebServer, etag_of

DATA = {f"sa_{number:06d}.tar": bytes([number % 256]) * 60_000 + bytes(range(256)) * 500 for number in (20, 0, 949)}
FIRST = "sa_000000.tar"
REFRESH = "Refresh the link file: get a new one from the dataset's page, put it in its place, and run again."
SIGNATURE = "00_AfSECRETsignature"
DAY_S = 86_400
A_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


class Cdn(WebServer):
    """Serves files at paths that say nothing of their names, to those who ask with GET and a signature that holds."""

    def reply(self, request: Request) -> Reply:
        if request.method != "GET" or int(request.query["oe"], 16) < time.time():
            return Reply(403, {"Content-Type": "text/plain"}, b"URL signature expired")
        return super().reply(request)


@pytest.fixture
def cdn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cdn]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=lambda _: None))
    with Cdn({path_of(name): data for name, data in DATA.items()}) as cdn:
        yield cdn


@pytest.fixture
def table(cdn: Cdn, tmp_path: Path) -> Path:
    return write_list(tmp_path / "links.txt", links(cdn))


@pytest.fixture
def source(table: Path, tmp_path: Path) -> FetchedSource:
    return opened(table, tmp_path)


def opened(table: Path | str, tmp_path: Path) -> FetchedSource:
    source = open_source(str(table), tmp_path / "work")
    assert isinstance(source, FetchedSource)
    assert isinstance(source.storage, LinkStorage)
    return source


def path_of(name: str) -> str:
    return f"m1/v/t6/An{hashlib.sha256(name.encode()).hexdigest()[:20]}.tar"


def links(cdn: Cdn, left_s: float = 30 * DAY_S, names: Iterator[str] | None = None) -> dict[str, str]:
    end = int(time.time() + left_s)
    query = f"?_nc_gid&ccb=10-5&oh={SIGNATURE}&oe={end:X}&_nc_sid=0fdd51"
    return {name: f"{cdn.url}/{path_of(name)}{query}" for name in names or DATA}


def write_list(path: Path, links: Mapping[str, str], newline: str = "\n") -> Path:
    rows = ["file_name\tcdn_link", *(f"{name}\t{link}" for name, link in links.items())]
    path.write_bytes(newline.join(rows).encode())  # as it comes: unsorted, no newline at the end
    return path


def no_requests(cdn: Cdn) -> bool:
    requests, cdn.requests = cdn.requests, []
    return not requests


class TestLinkStorage(StorageContract):
    @pytest.fixture
    def backend(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Backend]:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with Cdn({path_of(name): data for name, data in CONTRACT_FILES.items()}) as cdn:
            table = write_list(tmp_path / "links.txt", links(cdn, names=iter(CONTRACT_FILES)))
            yield ServedBackend(opened(table, tmp_path).storage, cdn)


# --- the list


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: b"\xef\xbb\xbf" + text + b"\n\n",
        lambda text: text + b"\n" + text.split(b"\n")[1],
    ],
    ids=["plain", "CRLF", "BOM and blank lines", "the same row twice"],
)
def test_the_list_is_read_in_all_its_forms(table: Path, tmp_path: Path, spoil: Any) -> None:
    table.write_bytes(spoil(table.read_bytes()))
    source = opened(table.rename(tmp_path / "links.tsv"), tmp_path)
    assert source.name == "links.tsv"
    assert source.list("") == sorted(DATA)
    assert source.list("folder") == []
    for name, data in DATA.items():
        assert source.fetch(source.stat(name)).read_bytes() == data


def test_names_in_folders_are_listed_there(cdn: Cdn, tmp_path: Path) -> None:
    source = opened(write_list(tmp_path / "links.txt", links(cdn, names=iter(["b/2", "b/1", "a", "b/c/3"]))), tmp_path)
    assert source.list("") == ["a"]
    assert source.list("b") == ["b/1", "b/2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("URL signature expired", r"links\.txt: not a list of links; expected a first line 'file_name"),
        ("", "not a list of links"),
        ("sa_000000.tar\thttps://host/SECRET.tar", "not a list of links"),
        (
            "file_name\tcdn_link\nsa_000000.tar https://host/SECRET.tar",
            "line 2: expected a file name, a tab, and a link",
        ),
        ("file_name\tcdn_link\n\nsa_000000.tar\tSECRET.tar", "line 3: expected a file name"),
        ("file_name\tcdn_link\n/etc/a\thttps://host/SECRET.tar", "line 2: expected a file name"),
        ("file_name\tcdn_link\n..\thttps://host/SECRET.tar", "line 2: expected a file name"),
        (
            "file_name\tcdn_link\na\thttps://host/SECRET.tar\na\thttps://host/SECRET2.tar",
            "line 3: the file name is there",
        ),
    ],
)
def test_a_file_that_is_no_list_is_an_error_that_shows_no_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "links.txt").write_text(text)
    with pytest.raises(SourceError, match=message) as error:
        opened(tmp_path / "links.txt", tmp_path)
    assert "SECRET" not in str(error.value)


def test_a_file_that_is_not_listed_is_an_error(cdn: Cdn, source: FetchedSource) -> None:
    with pytest.raises(SourceError, match=r"links\.txt/sa_000001\.tar: not in the list of links. Refresh"):
        source.stat("sa_000001.tar")
    assert no_requests(cdn)


# --- what identifies a file


def test_a_file_is_identified_by_name_and_size(cdn: Cdn, source: FetchedSource) -> None:
    assert source.stat(FIRST) == SourceFile(FIRST, len(DATA[FIRST]), f"name:{FIRST}")
    assert [request.headers["Range"] for request in cdn.requests] == ["bytes=0-0"]


@pytest.mark.parametrize("fault", [Fault(), Fault(whole=True)], ids=["ranges", "no ranges"])
def test_sizes_are_remembered(cdn: Cdn, table: Path, tmp_path: Path, fault: Fault) -> None:
    cdn.always["GET"] = fault
    file = opened(table, tmp_path).stat(FIRST)
    assert not no_requests(cdn)
    write_list(table, links(cdn, left_s=-1))
    assert opened(table, tmp_path).stat(FIRST) == file
    assert no_requests(cdn)


def test_a_checksum_is_checked(source: FetchedSource) -> None:
    right = f"md5:{hashlib.md5(DATA[FIRST], usedforsecurity=False).hexdigest()}"
    assert source.fetch(source.stat(FIRST, right)).read_bytes() == DATA[FIRST]
    wrong = f"md5:{'0' * 32}"
    with pytest.raises(SourceError, match=rf"links\.txt/{FIRST}: expected {wrong}, got {right}, twice"):
        source.fetch(source.stat(FIRST, wrong))


def test_a_file_of_unknown_size_is_an_error(cdn: Cdn, source: FetchedSource) -> None:
    cdn.on("GET", Fault(whole=True, headers={"Content-Length": None}))
    with pytest.raises(SourceError, match="does not state the file's size"):
        source.stat(FIRST)


def test_another_size_than_the_remembered_one_is_an_error_and_then_learned(cdn: Cdn, source: FetchedSource) -> None:
    file = source.stat(FIRST)
    cdn.files[path_of(FIRST)] = b"newer"
    with pytest.raises(SourceError, match=f"changed on the server: expected {file.num_bytes} bytes, it has 5"):
        source.fetch(file)
    assert source.fetch(source.stat(FIRST)).read_bytes() == b"newer"


# --- links that expire

END = 1_738_968_920  # 2025-02-07 22:55:20 UTC


@pytest.mark.parametrize(
    ("query", "end"),
    [
        ("_nc_gid&ccb=10-5&oh=00_x&oe=67A68F58&_nc_sid=0fdd51", END),
        ("X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20250207T212520Z&X-Amz-Expires=5400&X-Amz-Signature=0", END),
        ("X-Goog-Date=20250207T212520Z&X-Goog-Expires=5400", END),
        (f"Expires={END}&Signature=x&Key-Pair-Id=y", END),
        ("oe=soon", None),
        ("X-Amz-Date=yesterday&X-Amz-Expires=5400", None),
        ("X-Amz-Date=20250207T212520Z", None),
        ("Expires=never", None),
        ("Expires=", None),
        ("", None),
    ],
)
def test_the_end_of_a_link_is_read_from_it(query: str, end: int | None) -> None:
    assert expires_at(f"https://host/a.tar?{query}") == end


def test_an_expired_link_is_not_asked(cdn: Cdn, table: Path, tmp_path: Path) -> None:
    write_list(table, links(cdn, left_s=-1))
    source = opened(table, tmp_path)
    said = Said()
    assert source.with_reporter(said).list("") == sorted(DATA)
    (message,) = said.messages
    assert message.startswith("links.txt: 3 of 3 links have expired. Refresh the link file")
    assert isinstance(source.storage, LinkStorage)
    (end,) = {expires_at(link) for link in source.storage.links().values()}
    day = time.strftime("%Y-%m-%d", time.gmtime(end))
    with pytest.raises(SourceError, match=rf"links\.txt/{FIRST}: the link expired on {day} .* Refresh the link file"):
        source.stat(FIRST)
    assert no_requests(cdn)


def test_a_link_that_soon_expires_is_said(cdn: Cdn, table: Path, tmp_path: Path) -> None:
    write_list(table, links(cdn) | links(cdn, left_s=3500, names=iter([FIRST])))
    said = Said()
    source = opened(table, tmp_path).with_reporter(said)
    source.list("")
    source.fetch(source.stat(FIRST))
    assert [re.sub(r"on [-0-9]+ [:0-9]+ UTC", "on ...", message) for message in said.messages] == [
        "links.txt: links expire on ..., the first in less than an hour. " + REFRESH,
        f"links.txt/{FIRST}: the link expires on ..., in less than an hour",
    ]
    said.messages.clear()
    source.fetch(source.stat("sa_000020.tar"))
    assert not said.messages


@pytest.mark.parametrize("status", [403, 404])
def test_a_refused_link_stops_at_once_and_a_fresh_list_continues(
    cdn: Cdn, source: FetchedSource, table: Path, status: int
) -> None:
    file = source.stat(FIRST)
    cdn.on("GET", Fault(drop_after=100_000), Fault(status=status))
    with pytest.raises(
        SourceError, match=rf"links\.txt/{FIRST}: HTTP {status}: the link has expired. Refresh the link"
    ):
        source.fetch(file)
    assert len(cdn.requests) == 3
    write_list(table, links(cdn, left_s=DAY_S))
    assert source.fetch(file).read_bytes() == DATA[FIRST]
    assert cdn.requests[-1].headers["Range"] == "bytes=100000-"
    assert cdn.requests[-1].headers["If-Range"] == etag_of(DATA[FIRST])
    assert {path.name for path in source.fetched.rglob("*") if path.is_file()} == {FIRST, f"{FIRST}.fetched"}


def test_a_link_that_expires_between_two_attempts_stops_the_download(
    cdn: Cdn, source: FetchedSource, table: Path
) -> None:
    class Expires(Said):
        def say(self, message: str) -> None:
            super().say(message)
            write_list(table, links(cdn, left_s=-1))

    file = source.stat(FIRST)
    cdn.on("GET", Fault(drop_after=100_000))
    with pytest.raises(SourceError, match="the link expired on"):
        source.with_reporter(Expires()).fetch(file)
    assert len(cdn.requests) == 2


# --- never two versions in one file


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault(), "If-Range brings the new version whole"),
        (Fault(careless=True), "the answer's ETag tells"),
        (Fault(headers={"ETag": None}, careless=True), "the answer does not tell"),
    ],
)
def test_a_new_version_of_the_same_size_is_fetched_from_its_beginning(
    cdn: Cdn, source: FetchedSource, fault: Fault, why: str
) -> None:
    file, newer = source.stat(FIRST), DATA[FIRST][::-1]
    cdn.on("GET", Fault(drop_after=100_000))

    class Replaces(Said):
        def say(self, message: str) -> None:
            cdn.files[path_of(FIRST)] = newer

    cdn.always["GET"] = fault
    assert source.with_reporter(Replaces()).fetch(file).read_bytes() == newer, why


@pytest.mark.parametrize(
    ("headers", "wanted", "only_if", "why"),
    [
        ({}, "bytes=100000-", etag_of(DATA[FIRST]), "an ETag"),
        ({"ETag": None, "Last-Modified": A_DATE}, "bytes=100000-", A_DATE, "a date"),
        ({"ETag": 'W/"weak"'}, "bytes=100000-", None, "a weak ETag cannot be asked for, but compared"),
        ({"ETag": None}, None, None, "nothing: from the beginning"),
    ],
)
def test_a_part_is_continued_if_the_server_tells_versions_apart(
    cdn: Cdn, source: FetchedSource, headers: dict[str, str | None], wanted: str | None, only_if: str | None, why: str
) -> None:
    file = source.stat(FIRST)
    cdn.on("GET", Fault(drop_after=100_000, headers=headers))
    cdn.always["GET"] = Fault(headers=headers)
    assert source.fetch(file).read_bytes() == DATA[FIRST], why
    last = cdn.requests[-1]
    assert len(cdn.requests) == 3
    assert (last.headers.get("Range"), last.headers.get("If-Range")) == (wanted, only_if)


# --- lists at a URL


@pytest.fixture
def shop(cdn: Cdn) -> Iterator[WebServer]:
    """Serves the list, as a page that a licence's acceptance leads to."""
    rows = ["file_name\tcdn_link", *(f"{name}\t{link}" for name, link in links(cdn).items())]
    with WebServer({"lists/all.txt": "\n".join(rows).encode()}) as shop:
        yield shop


def test_a_list_at_a_url_is_kept_for_when_it_has_expired_itself(
    cdn: Cdn, shop: WebServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = f"{shop.url}/lists/all.txt?oh={SIGNATURE}"
    shop.on("GET", Fault(status=403))
    with pytest.raises(SourceError, match=rf"{shop.url}/lists/all\.txt: HTTP 403: the link has expired"):
        opened(root, tmp_path)
    source = opened(root, tmp_path)
    assert source.name == f"{shop.url}/lists/all.txt"
    file = source.stat(FIRST)
    assert source.fetch(file).read_bytes() == DATA[FIRST]
    for fault in (Fault(status=403), Fault(body=b"<html>gone</html>")):
        shop.on("GET", fault)
        again = opened(root, tmp_path)
        assert (again.list(""), again.stat(FIRST)) == (sorted(DATA), file)
    assert caplog.text.count("Using the links of last time.") == 2
    assert SIGNATURE not in caplog.text
    storage = source.storage
    assert isinstance(storage, LinkStorage)
    assert {path.stat().st_mode & 0o777 for path in storage.sizes.iterdir() if path == storage.table} == {0o600}


# --- secrets


def test_no_link_is_ever_shown(
    cdn: Cdn, source: FetchedSource, table: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    said = Said()
    source = source.with_reporter(said)
    shown = [repr(source), repr(pickle.dumps(source))]
    file = source.stat(FIRST)
    faults = [Fault(status=403), Fault(status=404), Fault(status=400), Fault(status=503), Fault(drop_after=0)]
    faults += [Fault(body=b"?"), Fault(status=302, headers={"Location": "http://127.0.0.1:1/"})]
    for fault in faults:
        cdn.always["GET"] = fault
        with pytest.raises(SourceError) as error:
            source.fetch(file)
        shown.append("".join(traceback.format_exception(error.value)))
    cdn.always.clear()
    source.stat("sa_000020.tar")
    write_list(table, links(cdn, left_s=-1))
    with pytest.raises(SourceError) as error:
        source.stat("sa_000949.tar")
    shown += ["".join(traceback.format_exception(error.value)), caplog.text, *said.messages]
    shown += [path.read_text(errors="replace") for path in (tmp_path / "work").rglob("*.json")]
    secrets = [SIGNATURE, *(path_of(name) for name in DATA)]
    assert not [text for text in shown for secret in secrets if secret in text]
    assert pickle.loads(pickle.dumps(source)).list("") == sorted(DATA)  # noqa: S301 - sources travel to workers
