"""URLs of strangers: how they are requested, which are never fetched, what compressed answers hold, odd lists."""

import gzip
import os
import socket
import urllib.error
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from microdiff.core.ledger import Reason
from microdiff.errors import SourceError
from microdiff.formats import public_connection, url_failures, url_fetcher, url_list
from microdiff.formats.public_address import is_public, may_be_public
from microdiff.formats.records import Inputs, Rejection
from microdiff.formats.request_url import request_url
from microdiff.formats.url_list import fetch_urls, partition_lines, read_slice
from microdiff.formats.url_list_form import form_problem
from microdiff.handlers.cc12m import CC12M
from microdiff.pipeline.parsing import as_values, deciding_values
from microdiff.storage.opening import open_source
from tests.web_server import Fault, WebServer

DATA = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    public_connection._unknown.clear()


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer({"a.jpg": DATA}) as server:
        yield server


# --- how URLs are requested


@pytest.mark.parametrize(
    ("url", "requested"),
    [
        ("http://host/a.jpg", "http://host/a.jpg"),
        ("http://host", "http://host/"),
        ("HTTP://Host:8080/A.jpg", "http://host:8080/A.jpg"),
        ("  http://host/a b.jpg\t", "http://host/a%20b.jpg"),
        ("http://host/a\nb.jpg", "http://host/ab.jpg"),
        ("http://host/\u00e9t\u00e9.jpg", "http://host/%C3%A9t%C3%A9.jpg"),
        ("http://host/\u732b/\U0001f408.jpg?q=\u00e9&r=a b", "http://host/%E7%8C%AB/%F0%9F%90%88.jpg?q=%C3%A9&r=a%20b"),
        ("http://host/a%20b%C3%A9.jpg", "http://host/a%20b%C3%A9.jpg"),
        ("http://host/100%.jpg", "http://host/100%25.jpg"),
        ("http://host/%zz%4", "http://host/%25zz%254"),
        ("http://host/%20 \u00e9", "http://host/%20%20%C3%A9"),
        ('http://host/"a"\'s<b>.jpg', "http://host/%22a%22's%3Cb%3E.jpg"),
        ("http://host/[a]{b}|c^d`e.jpg?x[]=1", "http://host/%5Ba%5D%7Bb%7D%7Cc%5Ed%60e.jpg?x%5B%5D=1"),
        ("http://host/a\\b.jpg", "http://host/a%5Cb.jpg"),
        ("http://host/a.jpg#top", "http://host/a.jpg"),
        ("http://host/a.jpg?x=1#y?z", "http://host/a.jpg?x=1"),
        ("http://host/a+b;c=d,e!f$g(h)*i:j@k&l=m~n", "http://host/a+b;c=d,e!f$g(h)*i:j@k&l=m~n"),
        ("http://b\u00fccher.example/a", "http://xn--bcher-kva.example/a"),
        ("https://\u4f8b\u3048.jp/", "https://xn--r8jz45g.jp/"),
        ("http://b%C3%BCcher.example/a", "http://xn--bcher-kva.example/a"),
        ("http://\uff11\uff12\uff17.0.0.1/", "http://127.0.0.1/"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("http://under_score.example/", "http://under_score.example/"),
        ("http://host/\x01\x7f", "http://host/%01%7F"),
        ("http://host/\ud800", "http://host/%3F"),
    ],
)
def test_urls_are_requested_as_servers_want_them(url: str, requested: str) -> None:
    assert request_url(url) == requested
    assert request_url(requested) == requested


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("", "not an http or https URL"),
        ("file:///etc/passwd", "not an http or https URL"),
        ("a caption", "not an http or https URL"),
        ("http://", "no host given"),
        ("http:///a.jpg", "no host given"),
        ("http://[::1/", "Invalid IPv6 URL"),
        ("http://host:port/", "Port could not be cast"),
        ("http://host:99999/", "Port out of range"),
        ("http://user:secret@host/", "a user name in the URL"),
        ("http://a@127.0.0.1/", "a user name in the URL"),
        ("http://host\\@evil/", "a user name in the URL"),
        ("http://ho st/", "not a host's name"),
        ("http://host%00.example/", "not a host's name"),
        ("http://host%2f..example/", "not a host's name"),
        ("http://" + "\u00e9" * 70 + ".example/", "not a host's name"),
    ],
)
def test_what_cannot_be_requested_is_said(url: str, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        request_url(url)


@pytest.mark.parametrize(
    "name", ["a b.jpg", "\u00e9t\u00e9.jpg", '"q".jpg', "[a].jpg", "a\\b.jpg", "100%.jpg", "\u732b/\U0001f408.jpg"]
)
def test_a_server_gets_the_path_that_was_meant(server: WebServer, name: str) -> None:
    server.files[name] = DATA
    with url_fetcher.make_opener(True).open(request_url(f"{server.url}/{name}#part"), timeout=5) as answer:
        assert answer.read() == DATA
    assert server.requests[-1].path == name


@pytest.mark.parametrize("place", ["/\u00e9t\u00e9 1.jpg", "\u00e9t\u00e9 1.jpg", "/%C3%A9t%C3%A9%201.jpg#x"])
def test_redirects_are_encoded_too(server: WebServer, place: str) -> None:
    server.files["\u00e9t\u00e9 1.jpg"] = DATA
    server.on("GET", Fault(status=302, headers={"Location": place.encode().decode("latin-1")}))
    with url_fetcher.make_opener(True).open(f"{server.url}/a.jpg", timeout=5) as answer:
        assert answer.read() == DATA
    assert server.requests[-1].target.startswith("/%C3%A9t%C3%A9%201.jpg")


# --- compressed answers


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("gzip, gzip", lambda data: gzip.compress(gzip.compress(data))),
        ("gzip", bytes),
        ("deflate", bytes),
        ("identity", bytes),
    ],
)
@pytest.mark.parametrize("moved", [False, True])
def test_compressed_pictures_are_decompressed(
    server: WebServer, coding: str, pack: Callable[[bytes], bytes], moved: bool
) -> None:
    server.coding["a.jpg"] = (coding, pack)
    if moved:
        server.on("GET", Fault(status=302, headers={"Location": "/a.jpg", "Content-Encoding": coding}))
    with url_fetcher.make_opener(True).open(
        f"{server.url}/x.jpg" if moved else f"{server.url}/a.jpg", timeout=5
    ) as got:
        assert got.read() == DATA
        assert got.headers.get_all("X-Robots-Tag", []) == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(headers={"Content-Encoding": "br"}), "compressed by 'br'"),
        (Fault(headers={"Content-Encoding": "zstd"}), "compressed by 'zstd'"),
        (Fault(body=gzip.compress(DATA)[:-9], headers={"Content-Encoding": "gzip"}), "it ends early"),
        (Fault(body=gzip.compress(bytes(200_000)), headers={"Content-Encoding": "gzip"}), "more than 100000 bytes"),
    ],
)
def test_what_cannot_be_decompressed_is_said(
    server: WebServer, monkeypatch: pytest.MonkeyPatch, fault: Fault, message: str
) -> None:
    monkeypatch.setattr(url_fetcher, "_MAX_ANSWER_BYTES", 100_000)
    server.on("GET", fault)
    with pytest.raises(OSError, match=message):
        url_fetcher.make_opener(True).open(f"{server.url}/a.jpg", timeout=5)


# --- addresses that are not fetched

PRIVATE = [
    *(
        "127.0.0.1",
        "127.8.9.1",
        "0.0.0.0",  # noqa: S104 - not bound to
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
    ),
    *("100.64.0.1", "100.100.100.200", "192.0.0.192", "168.63.129.16", "198.18.0.1", "224.0.0.1", "239.1.1.1"),
    *("240.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254"),
    *("ff02::1", "fec0::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:a00:1", "::127.0.0.1"),
    *(
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2001:db8::1",
        "2001:0:4136::1",
        "2606::5efe:a00:1",
        "100::1",
    ),
]
PUBLIC = [
    "8.8.8.8",
    "93.184.216.34",
    "172.32.0.1",
    "100.128.0.1",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_these_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)
    assert not may_be_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_these_addresses_are(address: str) -> None:
    assert is_public(address)
    assert may_be_public(address)


@pytest.mark.parametrize(
    ("host", "may_be"),
    [
        ("2130706433", False),
        ("0x7f000001", False),
        ("0177.0.0.1", False),
        ("127.1", False),
        ("0x7f.1", False),
        ("2852039166", False),  # 169.254.169.254
        ("0xa9fea9fe", False),
        ("134744072", True),  # 8.8.8.8
        ("localhost", False),
        ("LocalHost.", False),
        ("a.localhost", False),
        ("metadata.google.internal", False),
        ("printer.local", False),
        ("intranet", False),
        ("example.com", True),
        ("local.example.com", True),
    ],
)
def test_hosts_that_a_proxy_looks_up(host: str, may_be: bool) -> None:
    assert may_be_public(host) is may_be


REFUSED = "not a public address: .*allow_private_addresses is off"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.1", "[::ffff:127.0.0.1]"])
def test_this_machine_is_not_fetched_from(server: WebServer, host: str) -> None:
    url = f"http://{host}:{server.address.partition(':')[2]}/a.jpg"
    with pytest.raises(urllib.error.URLError, match=REFUSED):
        url_fetcher.make_opener().open(url, timeout=5)
    assert not server.requests
    if ":" not in host:
        with url_fetcher.make_opener(True).open(url, timeout=5) as answer:
            assert answer.read() == DATA


class Names:
    """Name resolution as a test wants it; 127.0.0.1 counts as public, 127.0.0.2 as private."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: dict[str, list[list[str]]] = {}  # for each time it is asked; the last for all further times
        self.asked: list[str] = []
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self.resolve)
        monkeypatch.setattr(public_connection, "is_public", lambda address: address == "127.0.0.1")

    def resolve(self, host: str, port: int, *arguments: Any) -> Any:
        if host not in self.addresses:
            return self._real(host, port, *arguments)
        self.asked.append(host)
        answers = self.addresses[host]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [entry for address in found for entry in self._real(address, port, *arguments)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


def test_what_a_name_leads_to_counts(server: WebServer, names: Names) -> None:
    port = server.address.partition(":")[2]
    names.addresses = {
        "good.example": [["127.0.0.1"]],
        "bad.example": [["127.0.0.2"]],
        "both.example": [["127.0.0.2", "127.0.0.1"]],
        "turns.example": [["127.0.0.1"], ["127.0.0.2"]],
    }
    opener = url_fetcher.make_opener()
    for host in ("good", "both", "turns"):
        with opener.open(f"http://{host}.example:{port}/a.jpg", timeout=5) as answer:
            assert answer.read() == DATA
    for host in ("bad", "turns"):
        with pytest.raises(urllib.error.URLError, match=f"{host}.example is at 127.0.0.2"):
            opener.open(f"http://{host}.example:{port}/a.jpg", timeout=5)
    # What is looked up is what is connected to: a second look might give another address.
    assert Counter(names.asked) == {"good.example": 1, "both.example": 1, "turns.example": 2, "bad.example": 1}
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "place", ["http://127.0.0.2:{port}/a.jpg", "http://bad.example:{port}/a.jpg", "//bad.example/"]
)
def test_a_redirect_leads_to_no_private_address(server: WebServer, names: Names, place: str) -> None:
    names.addresses["bad.example"] = [["127.0.0.2"]]
    location = place.format(port=server.address.partition(":")[2])
    server.on("GET", Fault(status=302, headers={"Location": location}))
    with pytest.raises(urllib.error.URLError, match="not a public address"):
        url_fetcher.make_opener().open(f"{server.url}/a.jpg", timeout=5)
    assert len(server.requests) == 1


def test_https_is_checked_likewise() -> None:
    with pytest.raises(urllib.error.URLError, match=REFUSED):
        url_fetcher.make_opener().open("https://localhost:1/", timeout=5)


@pytest.mark.parametrize("url", ["http://10.0.0.1/a", "https://localhost/a", "http://0x7f000001/", "https://intranet/"])
def test_behind_a_proxy_addresses_are_checked_as_they_are_written(
    server: WebServer, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("https_proxy", server.url)
    with pytest.raises(OSError, match=REFUSED):
        url_fetcher.make_opener().open(url, timeout=5)
    assert not server.requests


def test_a_proxy_may_be_private_itself(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """And names are its to look up."""
    server.files["http://pictures.example/a.jpg"] = DATA
    monkeypatch.setenv("http_proxy", server.url)
    with url_fetcher.make_opener().open("http://pictures.example/a.jpg", timeout=5) as answer:
        assert answer.read() == DATA


@pytest.mark.parametrize(("scheme", "method"), [("http", "GET"), ("https", "CONNECT")])
def test_a_proxy_that_refuses_is_said(
    server: WebServer, monkeypatch: pytest.MonkeyPatch, scheme: str, method: str
) -> None:
    monkeypatch.setenv(f"{scheme}_proxy", server.url)
    server.on(method, Fault(status=407))
    with pytest.raises(urllib.error.URLError, match=r"the proxy does not let it through: .*407"):
        url_fetcher.make_opener().open(f"{scheme}://pictures.example/a.jpg", timeout=5)


@pytest.mark.parametrize(("code", "times"), [(socket.EAI_NONAME, 1), (socket.EAI_AGAIN, 3)])
def test_a_host_that_does_not_exist_is_looked_up_once(monkeypatch: pytest.MonkeyPatch, code: int, times: int) -> None:
    asked = []

    def resolve(host: str, *_: object) -> Any:
        asked.append(host)
        raise socket.gaierror(code, "in words")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for _ in range(3):
        with pytest.raises(urllib.error.URLError, match=r"no name resolution for gone\.example: .*in words"):
            url_fetcher.make_opener().open("http://gone.example/a.jpg", timeout=5)
    assert len(asked) == times


def test_the_setting_is_off_and_reaches_the_fetcher(server: WebServer, tmp_path: Path) -> None:
    """The real fetcher; what it must not fetch costs it no request."""
    settings = CC12M(form="url_list")
    assert settings.allow_private_addresses is False
    assert "allow_private_addresses" not in deciding_values(settings)  # so that what was fetched before is still found
    assert as_values(settings)["allow_private_addresses"] is False
    allowing = CC12M(form="url_list", allow_private_addresses=True)
    assert deciding_values(allowing)["allow_private_addresses"] is True
    (tmp_path / "cc12m.tsv").write_text(f"{server.url}/a.jpg\tone\nhttp://[::1]/\ttwo\n")
    (part,) = settings.partitions(open_source(str(tmp_path), tmp_path / "work"))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    inputs = Inputs(files={"cc12m.tsv": tmp_path / "cc12m.tsv"}, scratch=scratch)
    strict = CC12M(form="url_list", max_failed_share=1.0, retries=0)
    records = list(strict.read(part, inputs))
    assert [record.reason for record in records if isinstance(record, Rejection)] == [Reason.FAILED_DOWNLOAD] * 2
    assert all("not a public address" in record.meta["cause"] for record in records)
    assert not server.requests


# --- lists that are almost lists

URLS = [f"http://host{number}.example/{number}.jpg" for number in range(5)]
LINES = [f"{url}\ta caption of {number}, and more" for number, url in enumerate(URLS)]


def text(*lines: str, newline: str = "\n") -> bytes:
    return newline.join([*lines, ""]).encode()


SWAPPED = [f"a caption of {number}\t{url}" for number, url in enumerate(URLS)]
ODD_LISTS = [
    (text(*SWAPPED), "its columns are swapped"),
    (text(*SWAPPED, newline="\r\n"), "its columns are swapped"),
    (text(*SWAPPED[:3], "no tab", "", SWAPPED[4]), "its columns are swapped"),
    (text(*(f"{url}\t{'0f' * 32}\t{'a1' * 16}" for url in URLS)), "it is a list of checksums"),
    (text(*(f"{url}\t{'0f' * 16}" for url in URLS)), "it is a list of checksums"),
    (text("url\tcaption", *LINES), r"its first line is a header \('url\\tcaption'\)"),
    (b"\xef\xbb\xbf" + text("Image URL\tText", *LINES), "its first line is a header"),
    (text("url\talt\twidth", *LINES), "its first line is a header"),
    (text("caption\turl", *SWAPPED), r"its first line is a header \(.*\), and its columns are swapped"),
    (
        text("url\tsha256\tmd5", *(f"{url}\t{'0f' * 32}\t{'a1' * 16}" for url in URLS)),
        "its first line is a header .*list of checksums",
    ),
    (text("url,caption", *(f'{url},"a caption"' for url in URLS)), "it is CSV: its first line is a header"),
    (text(*(f'{url},"a caption"' for url in URLS)), "it is CSV"),
    (text(*(f'"{url}","a caption"' for url in URLS)), "it is CSV"),
    (text(*(f'"{url}"\t"a caption"' for url in URLS)), "its fields are in quotation marks"),
    (text(*(f"{number}\t{url}\ta caption" for number, url in enumerate(URLS))), "its URLs are not in the first column"),
]


@pytest.mark.parametrize(("data", "problem"), ODD_LISTS)
def test_an_odd_list_is_told_as_what_it_is(tmp_path: Path, data: bytes, problem: str) -> None:
    (tmp_path / "cc12m.tsv").write_bytes(data)
    with pytest.raises(SourceError, match=rf"cc12m\.tsv: {problem}") as error:
        partition_lines(open_source(str(tmp_path), tmp_path / "work"), "cc12m.tsv", 2)
    assert "network" not in str(error.value)
    assert "its URL, a tab, its caption" in str(error.value)


@pytest.mark.parametrize(
    "data",
    [
        text(*LINES),
        text(*LINES, newline="\r\n"),
        text(*(f"{url}\thttp://also.example" for url in URLS)),
        text(*(f"{url}?a=1,2\tone" for url in URLS)),
        text(*LINES[:3], "url\tcaption", LINES[4]),
        text("no tab", "\tno URL", LINES[0]),
        text(f"{URLS[0]}\t{'0f' * 32}", *LINES),
        text("12\t34"),
        text(f"{URLS[0]}\tone\ttab more"),
        b"",
    ],
)
def test_lists_with_odd_lines_are_lists(data: bytes) -> None:
    assert form_problem(data) is None


@pytest.mark.parametrize(
    ("causes", "remedy", "network"),
    [
        ({"HTTP Error 404: Not Found": 9, "timed out": 1}, "Run again later, or raise max_failed_share", False),
        ({"<urlopen error no name resolution for a: [Errno -2] Name": 9}, "Run again later, or raise", False),
        ({"no name resolution for a: [Errno -3] Temporary failure in name resolution": 9}, "check DNS", False),
        ({"<urlopen error the proxy does not let it through: HTTP 407>": 9}, "Check the proxy", False),
        (
            {"<urlopen error not a public address: a; allow_private_addresses is off>": 3},
            "only where allow_priv",
            False,
        ),
        ({"not an http or https URL": 3, "no host given": 1}, "Check the list. Expected", False),
        ({"timed out": 5, "HTTP Error 404: Not Found": 1}, "Check the network and run again", True),
        ({"[Errno 111] Connection refused": 5}, "Check the network and run again", True),
    ],
)
def test_the_network_is_blamed_where_it_is_to_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, causes: dict[str, int], remedy: str, network: bool
) -> None:
    outcomes = [url_failures.Fetched(None, cause) for cause, number in causes.items() for _ in range(number)]
    monkeypatch.setattr(url_list, "fetch_urls", lambda *_: outcomes)
    (tmp_path / "cc12m.tsv").write_text("".join("http://a\tb\n" for _ in outcomes))
    (part,) = partition_lines(open_source(str(tmp_path), tmp_path / "work"), "cc12m.tsv", 100)
    inputs = Inputs(files={"cc12m.tsv": tmp_path / "cc12m.tsv"}, scratch=tmp_path)
    with pytest.raises(SourceError, match="URLs failed") as error:
        list(read_slice(part, inputs, 0.1, 1.0, 0))
    assert remedy in str(error.value)
    assert ("Check the network" in str(error.value)) is network


def test_urls_that_cannot_be_requested_start_no_fetcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url_list, "_run", None)
    assert fetch_urls(["ftp://a", "http://u:p@a", "HTTP://"], tmp_path, 1.0, 0) == [
        url_failures.Fetched(None, "not an http or https URL"),
        url_failures.Fetched(None, "a user name in the URL"),
        url_failures.Fetched(None, "no host given"),
    ]
