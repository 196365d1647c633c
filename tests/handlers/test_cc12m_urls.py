"""CC12M as a list of URLs: img2dataset against a web server that misbehaves."""

import datetime
import io
import ipaddress
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import urllib.error
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image

from conftest import REPO
from microdiff.artifacts.tables import read_rows
from microdiff.core.files import read_json
from microdiff.core.ledger import Reason
from microdiff.core.progress import NullReporter
from microdiff.download.raw_writer import SCHEMA
from microdiff.download.step import download
from microdiff.errors import SourceError, StepError
from microdiff.formats import url_fetcher, url_list
from microdiff.formats.records import Inputs, Rejection, Sample
from microdiff.formats.url_failures import Fetched
from microdiff.formats.url_list import fetch_urls
from microdiff.handlers.cc12m import CC12M
from microdiff.pipeline.params import Params
from microdiff.pipeline.workspace import Workspace
from microdiff.storage.opening import open_source
from tests.handler_contract import Record, records_of
from tests.waiting import PATIENCE_S, end, run_python, wait_until
from tests.web_server import Fault, Request, WebServer

HANDLER = CC12M(form="url_list", timeout_s=2.0, retries=1, max_failed_share=1.0, allow_private_addresses=True)
MakeParams = Callable[..., Params]


def picture(side: int, kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((side, side)).save(out, kind)
    return out.getvalue()


class Sites(WebServer):
    """A web server with faults by path."""

    def __init__(self) -> None:
        super().__init__({})
        self._server.socket.listen(128)  # or those who come all at once wait a second
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)  # for the next requests of a path, one each
        self.down = False

    def take(self, request: Request) -> Fault:
        self.requests.append(request)
        faults = self.faults[request.path]
        return Fault(status=503) if self.down else faults.popleft() if faults else Fault()


@pytest.fixture
def sites(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sites]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Sites() as server:
        yield server


# --- the list


def cut(folder: Path, data: bytes, num_lines: int = 2) -> list[tuple[str, int, int | None, int, int]]:
    (folder / "cc12m.tsv").write_bytes(data)
    parts = url_list.partition_lines(open_source(str(folder), folder / "work"), "cc12m.tsv", num_lines)
    return [(part.name, part.number, part.num_records, part.first_byte, part.first_line) for part in parts]


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 5, 7, 4096])
@pytest.mark.parametrize(
    ("data", "slices"),
    [
        (b"a\tb\n", [("0000", 0, 1, 0, 1)]),
        (b"a\tb", [("0000", 0, 1, 0, 1)]),
        (b"a\tb\nc\td\n", [("0000", 0, 2, 0, 1)]),
        (b"a\tb\nc\td\n\n", [("0000", 0, 2, 0, 1), ("0001", 1, 1, 8, 3)]),
        (b"a\tb\r\nc\td\r\ne", [("0000", 0, 2, 0, 1), ("0001", 1, 1, 10, 3)]),
        (b"\n\n\n\n\t", [("0000", 0, 2, 0, 1), ("0001", 1, 2, 2, 3), ("0002", 2, 1, 4, 5)]),
    ],
)
def test_slices_begin_where_lines_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, data: bytes, slices: list[Any]
) -> None:
    monkeypatch.setattr(url_list, "_CHUNK_BYTES", chunk_bytes)
    assert cut(tmp_path, data) == slices


def test_names_of_many_slices_sort(tmp_path: Path) -> None:
    names = [name for name, *_ in cut(tmp_path, b"a\tb\n" * 10_001, 1)]
    assert names[0] == "00000"
    assert names == sorted(names)


@pytest.mark.parametrize("data", [b"", b"<!DOCTYPE html>\n<html></html>", b"http://a\nhttp://b\n"])
def test_what_is_no_list_is_an_error(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(SourceError, match=r"cc12m\.tsv: no list of URLs and captions"):
        cut(tmp_path, data)


def test_a_missing_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cc12m\.tsv: no such file"):
        HANDLER.partitions(open_source(str(tmp_path), tmp_path / "work"))


def test_a_line_without_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url_list, "MAX_LINE_BYTES", 10)
    (tmp_path / "cc12m.tsv").write_bytes(b"\t12345678\n\t123456789\n")
    with pytest.raises(SourceError, match="a line of more than 10 bytes after byte 0"):
        records_of(HANDLER, open_source(str(tmp_path), tmp_path / "work"))


def read_list(folder: Path, data: bytes, handler: CC12M = HANDLER) -> list[Record]:
    (folder / "cc12m.tsv").write_bytes(data)
    return records_of(handler, open_source(str(folder), folder / "work"))


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_every_line_is_a_record_whatever_it_holds(tmp_path: Path, size: int) -> None:
    lines = [
        b'ftp://a/b.jpg\t"begins with a quote, which nothing ends',
        b"file:///etc/passwd\t12345",
        b"data:image/png;base64,AAAA\tone\ttab more ",
        b"\tno URL",
        b"no tab",
        b"",
        b"url\tcaption\r",
        b"gopher://\xff\tS\xe3o",
        b"12\t34",
    ]
    handler = CC12M(form="url_list", urls_per_partition=size, max_failed_share=1.0)
    records = read_list(tmp_path, b"\n".join(lines), handler)
    assert [(record.key, *record.captions, record.source) for record in records] == [
        ("000000001", '"begins with a quote, which nothing ends', "ftp://a/b.jpg"),
        ("000000002", "12345", "file:///etc/passwd"),
        ("000000003", "one\ttab more ", "data:image/png;base64,AAAA"),
        ("000000004", "no URL", "cc12m.tsv#4"),
        ("000000005", "no tab", "cc12m.tsv#5"),
        ("000000006", "", "cc12m.tsv#6"),
        ("000000007", "caption", "url"),
        ("000000008", "cc12m.tsv#8"),
        ("000000009", "34", "12"),
    ]
    reasons = [record.reason for record in records if isinstance(record, Rejection)]
    assert reasons == [Reason.FAILED_DOWNLOAD] * 3 + [Reason.MISSING_IMAGE] * 3 + [
        Reason.FAILED_DOWNLOAD,
        Reason.BAD_CAPTION,
        Reason.FAILED_DOWNLOAD,
    ]
    causes = {record.meta["cause"] for record in records}
    assert causes == {"not an http or https URL", "not utf-8: invalid start byte at byte 9"}


def test_lines_in_another_encoding_are_read_by_the_fallback(tmp_path: Path) -> None:
    handler = CC12M(form="url_list", max_failed_share=1.0, fallback_encoding="latin-1")
    (record,) = read_list(tmp_path, b"gopher://a\tS\xe3o\n", handler)
    assert record.captions == ("S\xe3o",)


def test_a_list_in_utf_16_is_an_error_and_a_mark_of_utf_8_is_left_out(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cc12m\.tsv: in UTF-16, expected UTF-8"):
        read_list(tmp_path, "gopher://a\tone\n".encode("utf-16"))
    handler = CC12M(form="url_list", max_failed_share=1.0)
    (record,) = read_list(tmp_path, "gopher://a\tone\n".encode("utf-8-sig"), handler)
    assert (record.meta["url"], record.captions) == ("gopher://a", ("one",))


# --- the web


@pytest.mark.slow
def test_every_url_has_its_outcome(tmp_path: Path, sites: Sites) -> None:
    good, small = picture(300), picture(200, "PNG")
    sites.files = {"good.jpg": good, "small": small, "page.html": b"<html>", "empty.jpg": b""}
    sites.files |= dict.fromkeys(("flaky.jpg", "slow.jpg", "ours.jpg", "moved.jpg"), good)
    sites.files |= {"with blanks.jpg": good}
    sites.faults["flaky.jpg"].append(Fault(drop_after=100))
    sites.faults["slow.jpg"].extend([Fault(pause_s=5.0)] * 2)
    tags = ("noai", "noimageai", "noindex", "all, NoImageIndex")
    for number, tag in enumerate(tags):
        sites.files[f"tagged{number}.jpg"] = good
        sites.faults[f"tagged{number}.jpg"].extend([Fault(headers={"X-Robots-Tag": tag})] * 2)
    disallowed = "Use of image disallowed by X-Robots-Tag directive"
    sites.faults["ours.jpg"].append(Fault(headers={"X-Robots-Tag": "img2dataset: noimageai"}))
    sites.faults["ours.jpg"].append(Fault(headers={"X-Robots-Tag": "somebot: noai"}))
    sites.faults["moved.jpg"].append(Fault(status=302, headers={"Location": "/good.jpg"}))
    sites.faults["away.jpg"].extend([Fault(status=302, headers={"Location": "file:///etc/passwd"})] * 2)
    sites.faults["far.jpg"].extend([Fault(status=302, headers={"Location": "ftp://127.0.0.1:9/"})] * 2)
    with socket.socket() as unused:  # bound but not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        expected: list[tuple[str, str, Any]] = [
            (f"{sites.url}/good.jpg", "plain", good),
            (f"{sites.url}/good.jpg", '"the same URL again', good),
            (f"{sites.url}/small", "a PNG without extension", small),
            (f"{sites.url}/gone.jpg", "404", "HTTP Error 404: Not Found"),
            (f"{sites.url}/page.html", "a page", b"<html>"),  # undecodable, when it is stored
            (f"{sites.url}/empty.jpg", "nothing", b""),
            (f"{sites.url}/flaky.jpg", "dropped once", good),
            (f"{sites.url}/slow.jpg", "too slow", "timed out"),
            *((f"{sites.url}/tagged{number}.jpg", tag, disallowed) for number, tag in enumerate(tags)),
            (f"{sites.url}/ours.jpg", "not for us by name; then for others", good),
            (f"{sites.url}/moved.jpg", "moved", good),
            (
                f"{sites.url}/away.jpg",
                "moved to a file",
                "Found - Redirection to url 'file:///etc/passwd' is not allowed",
            ),
            (f"{sites.url}/far.jpg", "moved to FTP", "unknown url type: ftp"),
            (f"http://127.0.0.1:{unused.getsockname()[1]}/", "refused", "[Errno 111] Connection refused"),
            (f"{sites.url}/with blanks.jpg", "blanks", good),
            ("http://[::1/", "not a URL", "Invalid IPv6 URL"),
            ("HTTP://", "no host", "no host given"),
        ]
        records = read_list(tmp_path, "".join(f"{url}\t{caption}\n" for url, caption, _ in expected).encode())
    assert [(record.source, record.captions[0]) for record in records] == [pair[:2] for pair in expected]
    for record, (url, _, outcome) in zip(records, expected, strict=True):
        if isinstance(record, Sample):
            assert record.image == outcome
            assert record.meta == {"url": url}
        else:
            assert record.reason is Reason.FAILED_DOWNLOAD
            assert isinstance(outcome, str), record
            assert outcome in record.meta["cause"]
    asked = [request.path for request in sites.asked("GET")]
    assert asked.count("good.jpg") == 3  # once for the redirect
    assert asked.count("flaky.jpg") == asked.count("gone.jpg") == 2  # an attempt and one retry
    assert all("img2dataset" in request.headers["User-Agent"] for request in sites.requests)


@pytest.mark.slow
def test_a_partition_where_too_much_failed_is_fetched_again_and_no_other(
    tmp_path: Path, sites: Sites, workspace: Workspace, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wandb", "albumentations"):  # what img2dataset imports, with seconds, and does not use here
        (tmp_path / f"{name}.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    source = tmp_path / "source"
    source.mkdir()
    sites.files = {f"{number}.jpg": picture(256 + number) for number in range(1, 5)}
    lines = [f"{sites.url}/{number}.jpg\tpicture {number}\n" for number in (1, 2, 3, 4)]
    (source / "cc12m.tsv").write_text("".join([lines[0], lines[1], f"{sites.url}/gone.jpg\tdead\n", *lines[2:]]))
    where = "datasets.cc12m.download"
    changes = {
        "form": "url_list",
        "source": str(source),
        "urls_per_partition": 3,
        "max_failed_share": 0.4,
        "allow_private_addresses": True,
    }
    params = make_params(
        {f"{where}.{name}": value for name, value in {**changes, "timeout_s": 5, "retries": 0}.items()}
        | {"datasets.cc12m.max_rejected_share": 0.5}
    )
    sites.faults["3.jpg"].extend([Fault(status=503)] * 2)  # in both attempts at the second partition
    with pytest.raises(StepError) as failure:
        download("cc12m", params, workspace)
    assert "1 of 2 partitions failed; the others are kept" in str(failure.value)
    assert (
        "0001: cc12m.tsv, lines from 4: 1 of 2 URLs failed (1 of them: HTTP Error 503: Service Unavailable), "
        "more than max_failed_share 40%"
    ) in str(failure.value)
    assert not workspace.artifact("cc12m", "raw").exists()
    before = len(sites.requests)

    counts = download("cc12m", params, workspace)
    assert counts == {"in": 5, "kept": 4, "failed_download": 1}
    facts = read_json(workspace.run_facts("download", "cc12m"))
    assert (facts["partitions_computed"], facts["partitions_reused"]) == (1, 1)
    assert sorted(request.path for request in sites.requests[before:]) == ["3.jpg", "4.jpg"]
    rows = [
        row
        for name in ("0000", "0001")
        for row in read_rows(workspace.artifact("cc12m", "raw") / f"{name}.parquet", SCHEMA.names)
    ]
    assert [(row["key"], row["status"], row["width"]) for row in rows] == [
        ("000000001", "kept", 257),
        ("000000002", "kept", 258),
        ("000000003", "failed_download", 0),
        ("000000004", "kept", 259),
        ("000000005", "kept", 260),
    ]
    sites.down = True  # nothing is asked of anybody any more
    assert download("cc12m", params, workspace) == counts


# --- the process that fetches


def test_what_img2dataset_loses_is_a_failure_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(folder: Path, *_: object) -> None:
        (folder / "00000").mkdir()
        for key in ("0003", "0001"):  # the latter without a row: half written, perhaps
            (folder / "00000" / f"{key}.jpg").touch()
        rows = [
            ("0003", "success", None),
            ("0000", "failed_to_download", ""),
            ("0004", "failed_to_download", "x" * 999),
        ]
        columns = dict(zip(("key", "status", "error_message"), zip(*rows, strict=True), strict=True))
        pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), folder / "00000.parquet")

    monkeypatch.setattr(url_list, "_run", run)
    urls = ["http://a", "http://b", "ftp://x", "http://c", "https://d", "HTTP://e"]
    assert fetch_urls(urls, tmp_path, 1.0, 0) == [
        Fetched(None, "failed_to_download"),
        Fetched(None, "lost by img2dataset"),
        Fetched(None, "not an http or https URL"),
        Fetched(None, "lost by img2dataset"),
        Fetched(tmp_path / "00000" / "0003.jpg"),
        Fetched(None, "x" * 200),
    ]


def test_bytes_are_reported_as_pictures_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fetcher is img2dataset's in name only, and goes on when what it wrote has been reported."""
    package = tmp_path / "img2dataset"
    package.mkdir()
    for name, text in {
        "__init__": "",
        "resizer": "def Resizer(**_): pass",
        "writer": "FilesSampleWriter = None",
        "downloader": """
            import pathlib, time
            import pyarrow as pa, pyarrow.parquet as pq
            class Downloader:
                def __init__(self, output_folder, **_): self.folder = pathlib.Path(output_folder)
                def __call__(self, _):
                    (self.folder / "00000").mkdir()
                    for number in (0, 1):
                        (self.folder / "00000" / f"000{number}.jpg").write_bytes(bytes(1000 + number))
                        deadline = time.monotonic() + 60
                        while not (self.folder / f"seen{number}").exists():
                            if time.monotonic() > deadline: raise TimeoutError("nobody looks")
                            time.sleep(0.01)
                    rows = [{"key": f"000{number}", "status": "success", "error_message": None} for number in (0, 1)]
                    pq.write_table(pa.Table.from_pylist(rows), self.folder / "00000.parquet")
                    return True, None
        """,
    }.items():
        (package / f"{name}.py").write_text(textwrap.dedent(text))

    class Told(NullReporter):
        def tick(self, samples: int = 0, num_bytes: int = 0) -> None:
            if num_bytes:
                told.append(num_bytes)
                (folder / f"seen{num_bytes - 1000}").touch()

    told: list[int] = []
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{REPO}")
    monkeypatch.setattr(url_list, "_LOOK_EVERY_S", 0.05)
    fetched = fetch_urls(["http://a", "http://b"], folder, 1.0, 0, Told())
    assert [each.path is not None for each in fetched] == [True, True]
    assert told == [1000, 1001]


def test_a_fetcher_that_fails_is_an_error_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "img2dataset"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('no such library')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SourceError, match="img2dataset ended with code 1: ImportError: no such library"):
        fetch_urls(["http://127.0.0.1:9/"], tmp_path, 1.0, 0)


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_the_fetcher_ends_with_whoever_asked(tmp_path: Path, how: str) -> None:
    """The one who asks dies while the fetcher is at work; here it works on importing a library that takes for ever."""
    stuck = tmp_path / "img2dataset"
    stuck.mkdir()
    (stuck / "__init__.py").write_text(
        "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(600)"
    )
    script = (
        "from pathlib import Path; from microdiff.formats.url_list import fetch_urls\n"
        "fetch_urls(['http://a'], Path(), 1.0, 0)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPO}"}
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    try:
        pid = wait_until(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text(), "the fetcher works")
        parent.send_signal(getattr(signal, how))
        parent.wait(PATIENCE_S)
    finally:
        end(parent)
    wait_until(lambda: not is_running(int(pid)), "the fetcher has ended, too")


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # nobody waits for an orphan's end in a container without init


def test_a_worker_may_fetch(tmp_path: Path) -> None:
    """Workers are daemons: multiprocessing lets them start no processes."""
    broken = tmp_path / "img2dataset"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('reached')")
    script = (
        "import multiprocessing, sys; from pathlib import Path; from microdiff.formats.url_list import fetch_urls\n"
        "def work():\n"
        "    try: fetch_urls(['http://a'], Path(), 1.0, 0)\n"
        "    except Exception as error: sys.exit(0 if 'reached' in str(error) else str(error))\n"
        "process = multiprocessing.get_context('fork').Process(target=work, daemon=True)\n"
        "process.start(); process.join(60); sys.exit(process.exitcode)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPO}"}
    done = run_python("-c", script, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr


# --- answers are bounded


class Drip:
    """A server that sends `head` and then a byte every now and then, for ever."""

    def __init__(self, head: bytes) -> None:
        self._head = head
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/"

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)
        self._listener.close()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.recv(65536)
            try:
                connection.sendall(self._head)
                while not self._stop.wait(0.02):
                    connection.sendall(b"x")
            except OSError:  # the client has enough
                pass


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n",
        b"HTTP/1.1 200 OK\r\nX-Never-Ending: ",
        b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 100000\r\n\r\n",
        b"",
    ],
    ids=["length", "until the end", "chunks", "headers", "a redirect", "nothing"],
)
def test_an_answer_in_drops_ends(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(url_fetcher, "_ANSWER_TIMEOUTS", 0.01)  # of which a drop on a busy machine may take some
    opener = url_fetcher.make_opener(True)
    with (
        Drip(head) as url,
        pytest.raises((TimeoutError, urllib.error.URLError), match=r"the answer took more than 0\.6 s"),
    ):
        opener.open(url, timeout=60).read()  # a deadline that is not kept is the test's: drops come for ever


def test_an_answer_of_any_size_ends(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    sites.files = {"large": bytes(100_001), "fits": bytes(90_000)}
    monkeypatch.setattr(url_fetcher, "_MAX_ANSWER_BYTES", 100_000)
    opener = url_fetcher.make_opener(True)
    with opener.open(f"{sites.url}/fits", timeout=5) as answer:
        assert answer.read() == bytes(90_000)
    with opener.open(f"{sites.url}/large", timeout=5) as answer, pytest.raises(OSError, match="more than 100000 bytes"):
        answer.read()


def test_https_is_checked_and_bounded_too(tmp_path: Path, sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = self_signed(tmp_path)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate)
    sites._server.socket = server_side.wrap_socket(sites._server.socket, server_side=True)
    sites.files = {"fits": b"good", "large": bytes(100_001)}
    url = sites.url.replace("http:", "https:")
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        url_fetcher.make_opener(True).open(f"{url}/fits", timeout=5)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr(url_fetcher, "_MAX_ANSWER_BYTES", 100_000)
    opener = url_fetcher.make_opener(True)
    with opener.open(f"{url}/fits", timeout=5) as answer:
        assert answer.read() == b"good"
    with opener.open(f"{url}/large", timeout=5) as answer, pytest.raises(OSError, match="more than 100000 bytes"):
        answer.read()


def self_signed(folder: Path) -> Path:
    """Write a certificate for 127.0.0.1 and its key into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key(), serial_number=1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    encoding = serialization.Encoding.PEM
    form, secret = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(certificate.public_bytes(encoding) + key.private_bytes(encoding, form, secret))
    return path


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_only_http_is_opened(url: str) -> None:
    with pytest.raises(urllib.error.URLError, match="unknown url type"):
        url_fetcher.make_opener(True).open(url, timeout=1)


def test_reading_a_slice_cleans_up_after_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(urls: list[str], folder: Path, *_: object) -> list[Fetched]:
        for number, url in enumerate(urls):
            (folder / str(number)).write_text(url)
        return [Fetched(folder / str(number)) for number in range(len(urls))]

    monkeypatch.setattr(url_list, "fetch_urls", fetch)
    (tmp_path / "cc12m.tsv").write_text("http://a\tx\nhttp://b\ty\n")
    (part,) = HANDLER.partitions(open_source(str(tmp_path), tmp_path / "work"))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    records = HANDLER.read(part, Inputs(files={"cc12m.tsv": tmp_path / "cc12m.tsv"}, scratch=scratch))
    for left, url in ((2, b"http://a"), (1, b"http://b")):
        record = next(records)
        assert isinstance(record, Sample)
        assert record.image == url
        assert len(list(scratch.iterdir())) == left
