"""Answers of web servers that are not as asked for: compressed, under other names of versions, refused, or a page."""

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from microdiff.core.files import read_json
from microdiff.errors import SourceError
from microdiff.storage import retry
from microdiff.storage.codings import decoded
from microdiff.storage.fetched_source import FetchedSource
from microdiff.storage.opening import open_source
from microdiff.storage.pages import page_in_place_of
from microdiff.storage.versions import FileVersion, same_etag
from tests.reporters import Said
from tests.web_server import Fault, Reply, Request, WebServer, etag_of

DATA = b"".join(f"http://host/{number}.jpg\tcaption {number * number}\n".encode() for number in range(9_000))
NAME = "list.tsv"
A_DATE, ANOTHER_DATE = "Thu, 01 Jan 2026 00:00:00 GMT", "Fri, 02 Jan 2026 00:00:00 GMT"


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def two_members(data: bytes) -> bytes:
    return gzip.compress(data[:1000]) + gzip.compress(data[1000:])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=lambda _: None))
    with WebServer({NAME: DATA}) as server:
        yield server


def opened(server: WebServer, tmp_path: Path) -> FetchedSource:
    source = open_source(server.url, tmp_path)
    assert isinstance(source, FetchedSource)
    return source


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "fetch").rglob("*") if path.is_file())


def md5(data: bytes) -> str:
    return f"md5:{hashlib.md5(data, usedforsecurity=False).hexdigest()}"


# --- compressed, though nobody asked for it


CODINGS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("GZIP", gzip.compress),
    ("gzip", two_members),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("deflate, gzip", lambda data: gzip.compress(zlib.compress(data))),
    ("gzip, identity", gzip.compress),
    ("identity", bytes),
    ("UTF-8", bytes),
    ("gzip", bytes),  # named so, and not done
]


@pytest.mark.parametrize("of_head", [True, False], ids=["HEAD likewise", "HEAD not"])
@pytest.mark.parametrize("checksum", [None, md5(DATA)])
@pytest.mark.parametrize(("name", "pack"), CODINGS, ids=[f"{name} {pack.__name__}" for name, pack in CODINGS])
def test_what_a_server_compressed_is_decompressed(
    server: WebServer, tmp_path: Path, name: str, pack: Callable[[bytes], bytes], checksum: str | None, of_head: bool
) -> None:
    source = opened(server, tmp_path)
    packed = pack(DATA)
    file = source.stat(NAME, checksum) if not of_head else None
    server.coding[NAME] = (name, lambda _: packed)
    server.files[NAME] = DATA
    file = file or source.stat(NAME, checksum)
    server.on("GET", Fault(drop_after=5000), Fault(drop_after=9000))
    server.requests.clear()
    assert source.fetch(file).read_bytes() == DATA
    assert source.fetch(source.stat(NAME, checksum)).read_bytes() == DATA
    assert all(path.endswith((".tsv", ".fetched")) for path in left(tmp_path))


def test_one_kill_later_what_was_decompressed_is_not_continued(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(server, tmp_path)
    server.coding[NAME] = ("gzip", gzip.compress)
    file = source.stat(NAME)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    server.on("GET", Fault(drop_after=20_000))
    with monkeypatch.context() as patch:
        patch.setattr(retry, "time", SimpleNamespace(sleep=interrupt))
        with pytest.raises(KeyboardInterrupt):
            source.fetch(file)
    assert f"{NAME}.part.decoded" in left(tmp_path)
    del server.coding[NAME]  # or it would be told apart by the answer
    server.on("GET", Fault(headers={"ETag": file.identity.removeprefix("etag:")}))
    server.files[NAME] = DATA[::-1]
    with pytest.raises(SourceError, match="changed on the server"):
        source.fetch(file)
    server.files[NAME] = DATA
    assert source.fetch(source.stat(NAME)).read_bytes() == DATA


@pytest.mark.parametrize("name", ["br", "zstd", "compress", "gzip, br", "aes128gcm"])
def test_other_codings_are_refused_in_words(server: WebServer, tmp_path: Path, name: str) -> None:
    source = opened(server, tmp_path)
    file = source.stat(NAME)
    server.coding[NAME] = (name, bytes)
    word = name.rpartition(", ")[2]
    with pytest.raises(SourceError, match=rf"{NAME}: the server sends it compressed by '{word}'.* can be read\. Check"):
        source.fetch(file)
    assert len(server.asked("GET")) == 1  # nor is it asked again
    assert NAME not in left(tmp_path)


@pytest.mark.parametrize("spoil", [lambda data: data[:-9], lambda data: data[:2000] + b"?" * 50 + data[2050:]])
@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_what_is_damaged_inside_is_asked_for_again(
    server: WebServer, tmp_path: Path, pack: Callable[[bytes], bytes], spoil: Callable[[bytes], bytes]
) -> None:
    source, said = opened(server, tmp_path), Said()
    coding = "gzip" if pack is gzip.compress else "deflate"
    server.coding[NAME] = (coding, pack)
    file = source.stat(NAME)
    server.on("GET", Fault(body=spoil(pack(DATA))))
    assert source.with_reporter(said).fetch(file).read_bytes() == DATA
    assert "compressed is damaged" in said.messages[0]
    server.always["GET"] = Fault(body=spoil(pack(DATA)))
    source.forget(file)
    with pytest.raises(SourceError, match=r"compressed is damaged .*, 10 times in a row"):
        source.fetch(file)
    assert NAME not in left(tmp_path)


def tarred(data: bytes = DATA) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("a.txt")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("name", ["a.tgz", "a.tar.gz", "A.GZ"])
@pytest.mark.parametrize("twice", [False, True], ids=["its own", "and once more"])
def test_a_file_that_is_gzip_itself_stays_so(server: WebServer, tmp_path: Path, name: str, twice: bool) -> None:
    """Apache names the gzip of such a file a coding."""
    file_bytes = gzip.compress(tarred(), mtime=0)
    server.files[name] = file_bytes
    server.coding[name] = ("x-gzip", gzip.compress if twice else bytes)
    source = opened(server, tmp_path)
    file = source.stat(name)
    server.on("GET", Fault(drop_after=3000))
    assert source.fetch(file).read_bytes() == file_bytes
    if not twice:
        assert server.asked("GET")[-1].headers["Range"] == "bytes=3000-"


def test_a_checksum_says_that_gzip_is_the_files_own(server: WebServer, tmp_path: Path) -> None:
    """SA-1B's archives are gzip in spite of their names."""
    file_bytes = gzip.compress(tarred(), mtime=0)
    server.files["sa_000000.tar"] = file_bytes
    server.coding["sa_000000.tar"] = ("gzip", bytes)
    source = opened(server, tmp_path)
    assert source.fetch(source.stat("sa_000000.tar", md5(file_bytes))).read_bytes() == file_bytes
    assert source.fetch(source.stat("sa_000000.tar")).read_bytes() == tarred()  # and without one, it holds the same


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-MD5": "1B2M2Y8AsgTpgAmY7PhCfg=="},
        {"x-goog-hash": "md5=1B2M2Y8AsgTpgAmY7PhCfg=="},
        {
            "x-goog-hash": "md5=1B2M2Y8AsgTpgAmY7PhCfg==",
            "x-goog-stored-content-encoding": "gzip",
            "Content-Encoding": None,
        },
    ],
)
def test_a_checksum_of_what_was_compressed_is_not_the_files(
    server: WebServer, tmp_path: Path, headers: dict[str, str | None]
) -> None:
    server.coding[NAME] = ("gzip", gzip.compress)
    server.on("HEAD", Fault(headers=headers))
    file = opened(server, tmp_path).stat(NAME)
    assert file.kind == "etag"
    assert opened(server, tmp_path).fetch(file).read_bytes() == DATA


def test_a_size_that_nobody_can_state_is_said(server: WebServer, tmp_path: Path) -> None:
    server.coding[NAME] = ("gzip", gzip.compress)
    server.always = {method: Fault(headers={"Content-Length": None}, whole=True) for method in ("HEAD", "GET")}
    with pytest.raises(SourceError, match=r"does not state the file's size, which it compresses as it sends it"):
        opened(server, tmp_path).stat(NAME)


def test_much_is_decompressed_in_pieces() -> None:
    packed = gzip.compress(bytes(50 * 2**20))
    chunks, is_any = decoded(iter([packed]), ["gzip"], "a.bin")
    sizes = [len(chunk) for chunk in chunks]
    assert is_any
    assert (sum(sizes), max(sizes)) == (50 * 2**20, 2**18)


# --- one version under several names


class Nodes(WebServer):
    """Several servers behind one address, each with an ETag of its own, asked in turn."""

    def __init__(self, etags: list[str], modified: str | None = A_DATE) -> None:
        super().__init__({NAME: DATA})
        self.etags = etags
        self.modified: list[str | None] = [modified]
        self.number = 0

    def reply(self, request: Request) -> Reply:
        reply = super().reply(request)
        self.number += 1
        headers = {
            "ETag": self.etags[self.number % len(self.etags)],
            "Last-Modified": self.modified[self.number % len(self.modified)],
        }
        return Reply(reply.status, headers, reply.body, ranges=True)


@pytest.mark.parametrize(
    ("etags", "modified"),
    [
        (['"x"', 'W/"x"'], None),
        (['"x"', '"x-gzip"', 'W/"x-gzip"', '"x;gzip"', '"x--gzip"', '"x-br"'], None),
        (['W/"x"'], None),
        (['"a-1"', '"b-2"', '"c-3"'], A_DATE),
        (['"a-1"', 'W/"b-2"'], A_DATE),
    ],
)
def test_a_download_goes_on_whichever_server_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, etags: list[str], modified: str | None
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=lambda _: None))
    with Nodes(etags, modified) as server:
        source, said = opened(server, tmp_path), Said()
        file = source.stat(NAME)
        assert [source.stat(NAME) for _ in range(5)] == [file] * 5  # or what is finished would be done again
        server.on("GET", *[Fault(drop_after=60_000)] * 5)
        assert source.with_reporter(said).fetch(file).read_bytes() == DATA
        assert said.num_bytes == len(DATA)  # none of them twice
        assert opened(server, tmp_path).stat(NAME) == file


def test_a_list_of_links_goes_on_whichever_server_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=lambda _: None))
    with Nodes(['"a"', '"b"', '"c"']) as server:
        (tmp_path / "links.txt").write_text(f"file_name\tcdn_link\na.bin\t{server.url}/{NAME}")
        source, said = open_source(str(tmp_path / "links.txt"), tmp_path / "work"), Said()
        file = source.stat("a.bin")
        server.on("GET", *[Fault(drop_after=60_000)] * 5)
        assert source.with_reporter(said).fetch(file).read_bytes() == DATA
        assert said.num_bytes == len(DATA)


@pytest.mark.parametrize("modified", [[None], [A_DATE, ANOTHER_DATE], ["Thu, 01 Jan 1970 00:00:00 GMT"], ["yesterday"]])
def test_other_names_without_the_same_date_are_other_versions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, modified: list[str | None]
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Nodes(['"a"', '"b"']) as server:
        server.modified = modified
        source = opened(server, tmp_path)
        file = source.stat(NAME)
        with pytest.raises(SourceError, match="changed on the server: expected ETag"):
            source.fetch(file)
        assert NAME not in left(tmp_path)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ('"x"', 'W/"x"', True),
        ('"x-gzip"', '"x"', True),
        ('"x"', '"y"', False),
        ('"x-1"', '"x-2"', False),
        ('"x-gzip-1"', '"x"', False),
        ('"5-gz"', '"6-gz"', False),
    ],
)
def test_etags_are_compared_without_marks_of_compression(one: str, other: str, is_same: bool) -> None:
    assert same_etag(one, other) is is_same
    assert FileVersion(one, "", 5).is_same(FileVersion(other, "", 5)) is is_same
    assert not FileVersion(one, A_DATE, 5).is_same(FileVersion(other, A_DATE, 6))


# --- HEAD


@pytest.mark.parametrize("status", [204, 400, 403, 405, 406, 500, 501])
@pytest.mark.parametrize("whole", [False, True], ids=["ranges", "no ranges"])
def test_where_head_is_refused_get_is_asked(server: WebServer, tmp_path: Path, status: int, whole: bool) -> None:
    server.always["HEAD"] = Fault(status=status)
    source = opened(server, tmp_path)
    server.always["GET"] = Fault(whole=whole)
    file = source.stat(NAME)
    assert (file.num_bytes, file.identity) == (len(DATA), f"etag:{etag_of(DATA)}")
    assert [request.headers.get("Range") for request in server.asked("GET")] == ["bytes=0-0"]
    assert source.fetch(file).read_bytes() == DATA
    assert len(server.asked("HEAD")) == 1


@pytest.mark.parametrize("headers", [{"Content-Length": None}, {"Content-Length": "0"}, {"ETag": None}])
def test_where_head_says_too_little_get_is_asked(
    server: WebServer, tmp_path: Path, headers: dict[str, str | None]
) -> None:
    server.always["HEAD"] = Fault(headers=headers)
    file = opened(server, tmp_path).stat(NAME)
    assert (file.num_bytes, file.identity) == (len(DATA), f"etag:{etag_of(DATA)}")


@pytest.mark.parametrize("headers", [{"Content-Length": "100"}, {"ETag": '"another"'}])
def test_a_head_that_is_not_so_is_not_asked_for_again(
    server: WebServer, tmp_path: Path, headers: dict[str, str | None]
) -> None:
    server.always["HEAD"] = Fault(headers=headers)
    source = opened(server, tmp_path)
    with pytest.raises(SourceError, match="changed on the server"):
        source.fetch(source.stat(NAME))
    for _ in range(2):
        file = opened(server, tmp_path).stat(NAME)
        assert (file.num_bytes, file.identity) == (len(DATA), f"etag:{etag_of(DATA)}")
    assert source.fetch(file).read_bytes() == DATA


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_one_method_alone_may_be_compressed(server: WebServer, tmp_path: Path, method: str) -> None:
    packed = gzip.compress(DATA)
    etag = f'{etag_of(DATA)[:-1]}-gzip"'
    said: dict[str, str | None] = {"Content-Encoding": "gzip", "ETag": etag, "Content-Length": str(len(packed))}
    server.always[method] = Fault(headers=said, body=None if method == "HEAD" else packed)
    source = opened(server, tmp_path)
    file = source.stat(NAME)
    assert source.fetch(file).read_bytes() == DATA
    assert file.num_bytes == len(DATA)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(status=404), r"no such file \(HTTP 404\)"),
        (Fault(status=403), "HTTP 403 Forbidden. Check .*and the user and password"),
        (Fault(status=405), "HTTP 405 Method Not Allowed. Check"),
        (Fault(status=501), "HTTP 501, 5 times in a row"),
    ],
)
def test_what_get_says_is_the_error_then(server: WebServer, tmp_path: Path, fault: Fault, message: str) -> None:
    server.always = {"HEAD": Fault(status=405), "GET": fault}
    with pytest.raises(SourceError, match=f"{NAME}: {message}"):
        opened(server, tmp_path).stat(NAME)


# --- sizes, ranges, redirects


@pytest.mark.parametrize(
    ("faults", "why"),
    [
        ([Fault(body=b"")], "an empty answer"),
        ([Fault(body=b"", headers={"Content-Length": None})] * 3, "empty answers without a length"),
        ([Fault(drop_after=9000), Fault(status=206)], "a part without a range"),
        ([Fault(drop_after=9000), Fault(headers={"Content-Range": "bytes 9001-400000/*"})], "a byte too far"),
        ([Fault(drop_after=9000), Fault(headers={"Content-Range": "bytes 9000-/*"}, drop_after=99)], "an unknown end"),
        ([Fault(headers={"Content-Length": None})], "no length"),
        ([Fault(headers={"Content-Length": "9999999"})], "a length that is too large is waited for in vain"),
        ([Fault(status=302, headers={"Location": f"/{NAME}"})], "a relative redirect"),
        ([Fault(status=307, headers={"Location": f"./x/../{NAME}"})], "a redirect with dots"),
        ([Fault(status=429, headers={"Retry-After": "3"}), Fault(status=503)], "busy"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_in_the_end_the_bytes_are_right(server: WebServer, tmp_path: Path, faults: list[Fault], why: str) -> None:
    source = opened(server, tmp_path)
    file = source.stat(NAME, md5(DATA))
    server.on("GET", *faults)
    if "in vain" in why:
        with pytest.raises(SourceError, match=r"changed on the server: expected \d+ bytes, it has 9999999"):
            source.fetch(file)
    assert source.fetch(file).read_bytes() == DATA, why


@pytest.mark.parametrize("place", ["http://[::1", "http://", "//:x:1/", "http://a b/", "http://\x80/"])
def test_a_redirect_to_what_is_no_url_is_an_error(server: WebServer, tmp_path: Path, place: str) -> None:
    source = opened(server, tmp_path)
    server.always["HEAD"] = Fault(status=302, headers={"Location": place})
    with pytest.raises(SourceError, match=NAME):
        source.stat(NAME)


# --- pages in place of files

HTML = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
PAGES = [
    (HTML, "a web page (HTML)"),
    (b"\xef\xbb\xbf\r\n  <html lang=en>", "a web page (HTML)"),
    (b"<HTML><BODY>Access denied", "a web page (HTML)"),
    (b"<!-- proxy --><html>", "a web page (HTML)"),
    ("\ufeff<html>".encode("utf-16-le"), "a web page (HTML)"),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
    (b"<Error><Code>ExpiredToken</Code></Error>", "XML"),
    (b'{"error": "not logged in"}', "a message in JSON"),
    (b'{ "message" : "quota" }', "a message in JSON"),
]


@pytest.mark.parametrize(
    "name", ["sa_000000.tar", "a.tgz", "a.tar.gz", "A.ZIP", "x/a.parquet", "a.jpg", "l.tsv", "a.json"]
)
@pytest.mark.parametrize(("page", "what"), PAGES)
def test_pages_are_told_from_files(name: str, page: bytes, what: str) -> None:
    assert page_in_place_of(name, page) == what


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.tar.gz"])
def test_a_compressed_page_is_one(name: str) -> None:
    assert page_in_place_of(name, gzip.compress(HTML * 100)[:60]) == "a web page (HTML)"


def named(name: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.tar", named("<html>.jpg")),
        ("a.tar", named('{"error": "x"}')),
        ("a.tgz", gzip.compress(named("<!doctype html>"), mtime=0)),
        ("a.tar", bytes(10_240)),
        ("a.tar", b""),
        ("a.tar", b"newer"),
        ("a.gz", gzip.compress(HTML, mtime=0)),
        ("a.zip", b"PK\x03\x04" + HTML),
        ("a.parquet", b"PAR1<html>"),
        ("a.jpg", b"\xff\xd8\xff\xe1<html>\0"),
        ("page.html", HTML),
        ("a.xml", HTML),
        ("a", HTML),
        ("l.tsv", b"http://host/<html>\tcaption"),
        ("l.tsv", b"<PERSON> in a hat\thttp://a"),
        ("l.txt", b"{a} caption"),
        ("a.json", b'{"info": {"error": 1}, "images": []}'),
        ("a.json", b'[{"error": 1}]'),
        ("a.jsonl", b'{"img_path": "./000/a.jpg"}'),
    ],
)
def test_files_are_never_taken_for_pages(name: str, data: bytes) -> None:
    assert page_in_place_of(name, data[:1024]) is None


@pytest.mark.parametrize(("page", "what"), [PAGES[0], PAGES[5], PAGES[7]])
@pytest.mark.parametrize("kind", ["web", "links"])
def test_a_page_with_status_200_never_becomes_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, page: bytes, what: str
) -> None:
    """Not even where its size is all that is known: the size is forgotten with it, and the next run is right."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    archive = tarred()
    with WebServer({"sa_000000.tar": archive}) as server:
        (tmp_path / "links.txt").write_text(f"file_name\tcdn_link\nsa_000000.tar\t{server.url}/sa_000000.tar")
        root = server.url if kind == "web" else str(tmp_path / "links.txt")
        server.always = {method: Fault(body=page, headers={"ETag": '"p"'}) for method in ("GET", "HEAD")}
        source = open_source(root, tmp_path / "work")
        file = source.stat("sa_000000.tar")
        with pytest.raises(SourceError) as error:
            source.fetch(file)
        assert f"sa_000000.tar: the server sent {what} in its place" in str(error.value)
        server.always.clear()
        source = open_source(root, tmp_path / "work")
        assert source.fetch(source.stat("sa_000000.tar")).read_bytes() == archive


@pytest.mark.parametrize("length", [True, False])
def test_a_checksum_says_that_what_looks_like_a_page_is_the_file(
    server: WebServer, tmp_path: Path, length: bool
) -> None:
    server.files[NAME] = HTML
    server.always["GET"] = Fault(headers={} if length else {"Content-Length": None})
    source = opened(server, tmp_path)
    assert source.fetch(source.stat(NAME, md5(HTML))).read_bytes() == HTML
    with pytest.raises(SourceError, match="the server sent a web page"):
        source.fetch(source.stat(NAME, md5(DATA)))


def test_a_page_costs_nothing_of_what_has_come(server: WebServer, tmp_path: Path) -> None:
    """It may be a login that the network asks for, whatever was asked for."""
    source = opened(server, tmp_path)
    file = source.stat(NAME)
    server.on("GET", Fault(drop_after=100_000), Fault(body=HTML, headers={"Content-Length": None, "ETag": None}))
    with pytest.raises(SourceError, match="the server sent a web page"):
        source.fetch(file)
    assert source.fetch(source.stat(NAME)).read_bytes() == DATA
    assert server.asked("GET")[-1].headers["Range"] == "bytes=100000-"


def test_sizes_remembered_by_earlier_versions_are_still_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with WebServer({"a.bin": DATA}) as server:
        (tmp_path / "links.txt").write_text(f"file_name\tcdn_link\na.bin\t{server.url}/a.bin")
        source = open_source(str(tmp_path / "links.txt"), tmp_path / "work")
        file = source.stat("a.bin")
        (record,) = (tmp_path / "work" / "listings").glob("*.json")
        assert read_json(record)["num_bytes"] == len(DATA)
        record.write_text(str(len(DATA)))
        server.requests.clear()
        assert source.stat("a.bin") == file
        assert not server.requests
        assert source.fetch(file).read_bytes() == DATA
