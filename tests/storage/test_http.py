"""Web servers: what they say of a file, and every way to misbehave while sending it."""

import base64
import hashlib
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from microdiff.core.files import locked_folder
from microdiff.core.progress import NullReporter
from microdiff.errors import SourceError
from microdiff.storage import SourceFile, http, retry
from microdiff.storage.fetched_source import FetchedSource
from microdiff.storage.opening import open_remote, open_source
from microdiff.storage.web import WebStorage
from tests.reporters import Said
from tests.storage_contract import DATA, FILES, MD5, PATH, Backend, ServedBackend, StorageContract
from tests.waiting import PATIENCE_S
from tests.web_server import Fault, WebServer, etag_of

SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
CORRUPT = DATA[:1000] + b"?" + DATA[1001:]
NEWER = DATA[::-1]


class Replaces(NullReporter):
    """A reporter that puts a newer version on the server as soon as it hears of a problem."""

    def __init__(self, server: WebServer) -> None:
        self.server = server

    def say(self, message: str) -> None:
        self.server.files[PATH] = NEWER


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with WebServer({PATH: DATA}) as server:
        yield server


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the waits between attempts; return how long they would have been."""
    pauses: list[float] = []
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=pauses.append))
    return pauses


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def source(server: WebServer, tmp_path: Path, said: Said) -> FetchedSource:
    return opened(server.url, tmp_path).with_reporter(said)


def opened(root: str, work: Path) -> FetchedSource:
    source = open_source(root, work)
    assert isinstance(source, FetchedSource)
    assert isinstance(source.storage, WebStorage)
    return source


def kept(source: FetchedSource) -> list[Path]:
    """Return all files a source keeps."""
    return [path for path in source.fetched.rglob("*") if path.is_file()]


class TestWebStorage(StorageContract):
    lists = False

    @pytest.fixture
    def backend(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with WebServer(FILES) as server:
            yield ServedBackend(WebStorage(root=server.url), server)


@pytest.mark.parametrize("checksum", [None, SHA256, MD5])
def test_a_web_file_is_fetched_once_and_kept_until_forgotten(
    server: WebServer, source: FetchedSource, said: Said, checksum: str | None
) -> None:
    file = source.stat(PATH, checksum)
    assert file == SourceFile(PATH, len(DATA), checksum or f"etag:{etag_of(DATA)}")
    assert source.fetch(file).read_bytes() == DATA
    assert source.fetch(file).read_bytes() == DATA
    assert len(server.asked("GET")) == 1
    assert said.num_bytes == len(DATA)
    source.forget(file)
    assert not kept(source)
    source.forget(file)
    assert source.fetch(file).read_bytes() == DATA


def test_an_empty_web_file_is_fetched(server: WebServer, source: FetchedSource) -> None:
    server.files[PATH] = b""
    assert source.fetch(source.stat(PATH)).read_bytes() == b""


def test_a_query_in_the_root_stays_behind_the_path(server: WebServer, tmp_path: Path) -> None:
    source = opened(f"{server.url}/zips?token=secret", tmp_path)
    assert source.fetch(source.stat("a #1.zip")).read_bytes() == DATA


def base64_of(kind: str, data: bytes = DATA) -> str:
    return base64.b64encode(hashlib.new(kind, data, usedforsecurity=False).digest()).decode()


@pytest.mark.parametrize(
    ("headers", "identity"),
    [
        ({"Repr-Digest": f"sha-256=:{base64_of('sha256')}:"}, SHA256),
        ({"Digest": f"SHA-256={base64_of('sha256')}"}, SHA256),
        ({"x-goog-hash": f"crc32c=n03x6A==,md5={base64_of('md5')}"}, MD5),
        ({"Content-MD5": base64_of("md5")}, MD5),
        ({"Digest": f"SHA-256={SHA256.partition(':')[2]}"}, f"etag:{etag_of(DATA)}"),  # hexadecimal: also base64
        ({"Content-MD5": "no base64"}, f"etag:{etag_of(DATA)}"),
    ],
)
def test_a_checksum_that_the_server_publishes_identifies_the_file(
    server: WebServer, source: FetchedSource, headers: dict[str, str | None], identity: str
) -> None:
    server.on("HEAD", Fault(headers=headers))
    file = source.stat(PATH)
    assert file.identity == identity
    assert source.fetch(file).read_bytes() == DATA


# (answers to HEAD, answers to GET, where the GETs start, pauses, why)
DROP = Fault(drop_after=100_000)
RECOVERIES = [
    ([Fault(status=429, headers={"Retry-After": "7"})], [], [0], [7.0], "busy, and says how long"),
    ([Fault(status=429, headers={"Retry-After": "200"})], [], [0], [200.0], "asks for minutes"),
    ([Fault(status=429, headers={"Retry-After": "3600"})], [], [0], [300.0], "asks for more than five minutes"),
    ([Fault(status=503, headers={"Retry-After": "Fri, 1 Jan 2100 00:00:00 GMT"})], [], [0], [300.0], "asks for a date"),
    ([Fault(status=503, headers={"Retry-After": "Fri, 1 Jan 1999 00:00:00 GMT"})], [], [0], [0.5], "a date long ago"),
    ([Fault(status=503, headers={"Retry-After": "soon"})], [], [0], [0.5], "asks for nonsense"),
    ([Fault(status=429, headers={"RateLimit": '"api";r=0;t=55'})], [], [0], [55.0], "a limit with its end"),
    ([], [Fault(status=503), Fault(status=503)], [0, 0, 0], [0.5, 1.0], "busy twice"),
    ([], [DROP], [0, 100_000], [0.5], "dropped, continued"),
    ([], [Fault(drop_after=0)], [0, 0], [0.5], "dropped before the first byte"),
    ([], [Fault(drop_after=100_000, headers={"Content-Length": None})], [0, 100_000], [0.5], "ends early, no length"),
    ([], [DROP, Fault(whole=True)], [0, 100_000], [0.5], "range ignored: from the beginning"),
    ([], [DROP, Fault(status=503)], [0, 100_000, 100_000], [0.5, 1.0], "dropped, then busy"),
    ([], [Fault(drop_after=30_000)] * 9, list(range(0, 300_000, 30_000)), [0.5] * 9, "many drops, each with progress"),
    ([], [DROP, Fault(headers={"Content-Range": "bytes 0-9/10"})], [0, 100_000, 0], [0.5, 1.0], "another range"),
    ([], [DROP, Fault(status=416)], [0, 100_000, 0], [0.5, 1.0], "range refused: from the beginning"),
    ([], [Fault(pause_s=0.001)], [0], [], "slow"),
    ([], [Fault(headers={"Content-Encoding": "gzip"})], [0], [], "named gzip: the bytes are what was stated"),
]


@pytest.mark.parametrize(("heads", "gets", "starts", "waits", "why"), RECOVERIES, ids=[row[-1] for row in RECOVERIES])
def test_afterwards_the_bytes_are_right(
    heads: list[Fault],
    gets: list[Fault],
    starts: list[int],
    waits: list[float],
    why: str,
    server: WebServer,
    source: FetchedSource,
    said: Said,
    pauses: list[float],
) -> None:
    server.on("HEAD", *heads)
    server.on("GET", *gets)
    assert source.fetch(source.stat(PATH)).read_bytes() == DATA, why
    headers = [request.headers for request in server.asked("GET")]
    assert [got.get("Range") for got in headers] == [f"bytes={start}-" if start else None for start in starts]
    assert [got.get("If-Range") for got in headers] == [etag_of(DATA) if start else None for start in starts]
    assert len(pauses) == len(waits)
    for wait, pause in zip(waits, pauses, strict=True):
        assert wait <= pause <= 1.5 * wait
    assert bool(said.messages) == bool(waits)


# (answers to every HEAD, to every GET, checksum known, message, why)
REFUSALS = [
    (Fault(status=404), None, None, r"no such file \(HTTP 404\)\. Check datasets", "absent"),
    (
        Fault(status=403),
        Fault(status=403),
        None,
        r"HTTP 403 Forbidden\. Check datasets.*, and the user and password in it",
        "not allowed",
    ),
    (Fault(status=503), None, None, r"HTTP 503, 5 times in a row\. Check the network and datasets", "never ready"),
    (*[Fault(whole=True, headers={"Content-Length": None})] * 2, SHA256, "does not state the file's size", "no size"),
    (*[Fault(headers={"ETag": None})] * 2, None, "states no ETag.*download.sha256", "nothing identifies the bytes"),
    (None, Fault(status=404), None, "HTTP 404", "gone between HEAD and GET"),
    (
        None,
        Fault(drop_after=0),
        None,
        r"the connection broke \(\w+\), 10 times in a row\. Check the network",
        "always dropped",
    ),
    (None, Fault(headers={"ETag": '"other"'}), None, "changed on the server", "another version"),
    (None, Fault(headers={"ETag": None}), None, "changed on the server", "perhaps another version"),
    (None, Fault(body=CORRUPT), SHA256, f"expected {SHA256}, got .*, twice. Nothing was kept", "damaged on the way"),
    (None, Fault(body=CORRUPT), MD5, f"expected {MD5}, got .*, twice. Nothing was kept", "damaged, MD5 known"),
    (None, Fault(body=DATA + b"!"), SHA256, "changed on the server: expected 307200 bytes, it has 307201", "longer"),
    (None, Fault(body=DATA + b"!", headers={"Content-Length": None}), None, "longer than 307200", "longer, unsaid"),
    (None, Fault(body=DATA[:-1]), SHA256, "changed on the server: expected 307200 bytes, it has 307199", "shorter"),
    (
        None,
        Fault(body=DATA[:-1], headers={"Content-Length": None}),
        SHA256,
        "the server closed after 307199 of 307200 bytes, 10 times in a row",
        "shorter, unsaid",
    ),
    (None, Fault(status=302, headers={"Location": "/elsewhere"}), None, "TooManyRedirects. Check", "in circles"),
    (None, Fault(status=302, headers={"Location": "ftp://host/"}), None, "InvalidSchema. Check", "led astray"),
]


@pytest.mark.parametrize(("head", "get", "checksum", "message", "why"), REFUSALS, ids=[row[-1] for row in REFUSALS])
def test_otherwise_there_is_a_clear_error_and_no_file(
    head: Fault | None,
    get: Fault | None,
    checksum: str | None,
    message: str,
    why: str,
    server: WebServer,
    source: FetchedSource,
) -> None:
    server.always = {method: fault for method, fault in {"HEAD": head, "GET": get}.items() if fault is not None}
    with pytest.raises(SourceError, match=message) as error:
        source.fetch(source.stat(PATH, checksum))
    assert f"{server.url}/{PATH}" in str(error.value), why
    assert all(path.suffix == ".part" for path in kept(source))
    assert not [path for path in kept(source) if path.read_bytes() != DATA[: path.stat().st_size]]


def test_a_server_that_is_not_there_is_an_error(server: WebServer, source: FetchedSource, pauses: list[float]) -> None:
    gone = WebStorage(root="http://127.0.0.1:1")
    with pytest.raises(SourceError, match=r"ConnectionError, 5 times in a row\. Check the network and datasets"):
        gone.stat(PATH)
    assert [wait <= pause <= 1.5 * wait for wait, pause in zip([0.5, 1, 2, 4], pauses, strict=True)] == [True] * 4


def test_a_stalled_download_is_continued(
    server: WebServer, source: FetchedSource, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = source.stat(PATH)
    monkeypatch.setattr(http, "TIMEOUT_S", 0.5)
    server.on("GET", Fault(stall_after=100_000))
    assert source.fetch(file).read_bytes() == DATA
    assert len(server.asked("GET")) >= 2  # more where this machine itself stalls
    assert "Timeout" in said.messages[0]


@pytest.mark.parametrize("checksum", [None, SHA256])
def test_an_interrupted_fetch_continues_when_it_is_repeated(
    server: WebServer, source: FetchedSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checksum: str | None
) -> None:
    file = source.stat(PATH, checksum)
    server.on("GET", Fault(drop_after=200_000))
    with monkeypatch.context() as patch:
        patch.setattr(retry, "time", SimpleNamespace(sleep=_interrupt))
        with pytest.raises(KeyboardInterrupt):
            source.fetch(file)
    (part,) = kept(source)
    assert (part.name, part.read_bytes()) == ("a #1.zip.part", DATA[:200_000])
    again = opened(server.url, tmp_path)
    assert again.fetch(file).read_bytes() == DATA
    assert server.asked("GET")[-1].headers["Range"] == "bytes=200000-"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("later", "why"),
    [
        (Fault(), "the server honours If-Range and sends the new version whole"),
        (Fault(headers={"ETag": None}), "it does not say which version its bytes are of"),
    ],
)
@pytest.mark.parametrize("checksum", [None, SHA256])
def test_bytes_of_two_versions_are_never_mixed(
    server: WebServer, source: FetchedSource, checksum: str | None, later: Fault, why: str
) -> None:
    file = source.stat(PATH, checksum)
    server.on("GET", Fault(drop_after=150_000))
    server.always["GET"] = later
    source = source.with_reporter(Replaces(server))
    with pytest.raises(SourceError, match="changed on the server" if checksum is None else "expected sha256"):
        source.fetch(file)
    assert all(path.suffix == ".part" for path in kept(source)), why
    server.always.clear()
    if checksum is None:
        assert source.fetch(source.stat(PATH)).read_bytes() == NEWER
    server.files[PATH] = DATA
    assert source.fetch(source.stat(PATH, checksum)).read_bytes() == DATA


def test_files_fetched_at_once_are_downloaded_once(server: WebServer, source: FetchedSource) -> None:
    server.always["GET"] = Fault(pause_s=0.002)  # 75 pieces: all have come before the first has done
    file = source.stat(PATH)
    program = (
        "import sys; from pathlib import Path; from microdiff.storage import SourceFile\n"
        "from microdiff.storage.checksums import checksum_of; from microdiff.storage.opening import open_source\n"
        "file = SourceFile(sys.argv[3], int(sys.argv[4]), sys.argv[5])\n"
        "source = open_source(sys.argv[1], Path(sys.argv[2]))\n"
        "print(checksum_of(source.fetch(file), 'sha256'))"
    )
    arguments = [server.url, str(source.fetched.parent), file.path, str(file.num_bytes), file.identity]
    with subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True) as other:
        while not server.asked("GET"):  # the other process has begun
            time.sleep(0.005)
            assert other.poll() is None
        with ThreadPoolExecutor(3) as pool:
            paths = list(pool.map(source.fetch, [file] * 3))
        assert other.communicate(timeout=PATIENCE_S)[0].strip() == SHA256
    assert len(set(paths)) == 1
    assert len(server.asked("GET")) == 1
    assert paths[0].read_bytes() == DATA


def test_a_file_forgotten_while_another_waits_for_it_is_downloaded_again(
    server: WebServer, source: FetchedSource
) -> None:
    file = source.stat(PATH)
    forgetting = threading.Event()

    def forget_slowly() -> None:
        with locked_folder(folder):
            forgetting.set()
            time.sleep(0.1)  # the fetch below comes to the lock
            for path in kept(source):
                path.unlink()
            folder.rmdir()

    folder = source.fetch(file).parent
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(forget_slowly)
        assert forgetting.wait(PATIENCE_S)
        assert source.fetch(file).read_bytes() == DATA
        done.result(PATIENCE_S)
    assert len(server.asked("GET")) == 2


@pytest.mark.parametrize(
    "fault", [Fault(status=404), Fault(status=503), Fault(drop_after=0), Fault(body=CORRUPT), Fault(body=DATA + b"!")]
)
def test_credentials_are_sent_but_never_shown(server: WebServer, tmp_path: Path, said: Said, fault: Fault) -> None:
    root = f"http://someone:s3cret%E2%82%AC@{server.address}"  # with a euro sign
    source = opened(root, tmp_path).with_reporter(said)
    file = source.stat(PATH, SHA256)
    server.always["GET"] = fault
    with pytest.raises(SourceError) as error:
        source.fetch(file)
    gone = opened("http://someone:s3cret@127.0.0.1:1", tmp_path).with_reporter(said)
    with pytest.raises(SourceError) as unreachable:
        gone.stat(PATH)
    shown = [repr(source), source.name, repr(file), *map(str, source.fetched.rglob("*")), *said.messages]
    shown += ["".join(traceback.format_exception(info.value)) for info in (error, unreachable)]
    assert not [text for text in shown if "s3cret" in text or "someone" in text]
    assert all(request.headers["Authorization"].startswith("Basic ") for request in server.requests)


@pytest.mark.parametrize("elsewhere", ["http://127.0.0.1:1/a?sig=s3cret", "ftp://host/a?sig=s3cret"])
def test_a_link_is_not_shown_by_the_error_that_another_was_made_of(server: WebServer, elsewhere: str) -> None:
    server.always["HEAD"] = Fault(status=302, headers={"Location": elsewhere})
    for root in (server.url, "http://127.0.0.1:1/?sig=s3cret"):
        with pytest.raises(SourceError, match=r"ConnectionError|InvalidSchema") as error:
            WebStorage(root=root).stat(PATH)
        assert "s3cret" not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize(
    ("url", "settings", "sent"),
    [
        ("http://{}", {"user": "someone", "password": "s3cret"}, ("someone", "s3cret")),
        ("http://someone@{}", {"password": "s3cret"}, ("someone", "s3cret")),
        ("http://someone:s3%40cret@{}", {}, ("someone", "s3@cret")),
        ("http://{}", {}, None),
    ],
)
def test_a_remotes_user_and_password_come_from_its_settings_or_its_url(
    server: WebServer, url: str, settings: dict[str, str], sent: tuple[str, str] | None
) -> None:
    storage = open_remote({"url": url.format(server.address), **settings})
    assert storage.stat(PATH, MD5).num_bytes == len(DATA)
    (request,) = server.requests
    basic = None if sent is None else f"Basic {base64.b64encode(':'.join(sent).encode()).decode()}"
    assert request.headers.get("Authorization") == basic
    server.always["HEAD"] = Fault(status=401)
    with pytest.raises(SourceError, match=r"HTTP 401 .*Check the remote's settings, and the user and password in it"):
        storage.stat(PATH, MD5)


def test_a_redirect_elsewhere_gets_no_credentials(server: WebServer, tmp_path: Path) -> None:
    with WebServer({PATH: DATA}) as other:
        server.always["GET"] = Fault(status=302, headers={"Location": f"{other.url}/zips/a%20%231.zip"})
        source = opened(f"http://someone:s3cret@{server.address}", tmp_path)
        assert source.fetch(source.stat(PATH, MD5)).read_bytes() == DATA
        assert ["Authorization" in request.headers for request in server.requests] == [True, True]
        assert ["Authorization" in request.headers for request in other.requests] == [False]
