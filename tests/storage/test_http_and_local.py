import base64
import fcntl
import hashlib
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import REPO
from microdiff.core.files import locked_folder
from microdiff.core.progress import NullReporter
from microdiff.errors import SourceError
from microdiff.storage import SourceFile, fetching, http
from microdiff.storage import local as local_module
from microdiff.storage.fetching import checksum_of
from microdiff.storage.local import LocalSource
from microdiff.storage.opening import open_source
from microdiff.storage.web import WebSource
from tests.reporters import Said
from tests.waiting import PATIENCE_S, end, run_python, wait_until
from tests.web_server import Fault, WebServer, etag_of

DATA = bytes(range(256)) * 1200  # 300 KiB: several pieces of the server, one chunk of the client
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
MD5 = f"md5:{hashlib.md5(DATA, usedforsecurity=False).hexdigest()}"
CORRUPT = DATA[:1000] + b"?" + DATA[1001:]
NEWER = DATA[::-1]
PATH = "zips/a #1.zip"


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
    monkeypatch.setattr(fetching, "time", SimpleNamespace(sleep=pauses.append))
    return pauses


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def source(server: WebServer, tmp_path: Path, said: Said) -> WebSource:
    return WebSource(root=server.url, fetched=tmp_path / "fetch", report=said)


def kept(source: WebSource) -> list[Path]:
    """Return all files a source keeps."""
    return [path for path in source.fetched.rglob("*") if path.is_file()]


# --- roots


@pytest.mark.parametrize(
    ("root", "message"),
    [
        (
            "gopher://host/files",
            "unknown kind of source; expected a local folder, a list of links, http://.*hf://.*s3://",
        ),
        ("gs://bucket/files", "gs:// needs the package gcsfs"),
        ("hf://ORG/REPO", "expected hf://datasets/ORG/REPO@REVISION"),
        ("hf://datasets/ORG/REPO/folder", "expected hf://datasets/ORG/REPO@REVISION"),
        ("https://user:secret@host/links.txt", r"https://host/links\.txt"),
        ("no/such/folder", "no/such/folder: no such folder"),
        ("no/such/links.txt", r"links\.txt: no such list of links. Check datasets"),
        ("pyproject.toml", "no such folder"),
    ],
)
def test_a_root_that_cannot_be_read_is_an_error(root: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(root, tmp_path)


def test_sources_are_quick_to_import() -> None:
    script = (
        "import sys, microdiff.storage.opening\n"
        "sys.exit(str({'fsspec', 's3fs', 'huggingface_hub', 'torch'} & sys.modules.keys() or '') or 0)"
    )
    done = run_python("-c", script, cwd=REPO)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("root", "name"),
    [
        ("http://host/files/", "http://host/files"),
        ("https://host:8443", "https://host:8443"),
        ("https://user:pass@host/files", "https://host/files"),
        ("https://host/files?token=secret", "https://host/files"),
        ("samples/coco", "samples/coco"),
        (str(Path("samples/coco").absolute()), "coco"),
    ],
)
def test_names_show_neither_secrets_nor_absolute_paths(root: str, name: str, tmp_path: Path) -> None:
    source = open_source(root, tmp_path)
    assert source.name == name
    assert source.with_reporter(Said()).name == name
    assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301 - sources travel to workers


# --- a local folder


@pytest.fixture
def local(tmp_path: Path) -> LocalSource:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.zip").write_bytes(DATA)
    return LocalSource(str(tmp_path / "root"), tmp_path / "digests")


def test_a_local_file_is_used_in_place(local: LocalSource) -> None:
    file = local.stat("a.zip", SHA256)
    assert file == local.stat("a.zip") == SourceFile("a.zip", len(DATA), SHA256)
    assert local.stat("a.zip", MD5).identity == MD5
    assert local.fetch(file) == Path(local.root) / "a.zip"
    local.forget(file)
    assert (Path(local.root) / "a.zip").read_bytes() == DATA


def test_a_missing_or_different_local_file_is_an_error_that_names_it(local: LocalSource) -> None:
    with pytest.raises(SourceError, match=r"b\.zip: no such file"):
        local.stat("b.zip")
    for found in (SHA256, MD5):
        kind, _, digits = found.partition(":")
        expected = f"{kind}:{'0' * len(digits)}"
        with pytest.raises(SourceError, match=rf"a\.zip: expected {expected}, found {found}"):
            local.stat("a.zip", expected)
    with pytest.raises(SourceError, match=r"a\.zip: unknown kind of checksum 'crc32'; expected one of sha256, md5"):
        local.stat("a.zip", "crc32:00000000")


def test_a_local_folder_is_listed(local: LocalSource) -> None:
    (Path(local.root) / "b" / "c").mkdir(parents=True)
    for path in ("b/2.zip", "b/1.zip", "b/c/3.zip"):
        (Path(local.root) / path).touch()
    assert local.list("") == ["a.zip"]
    assert local.list("b") == ["b/1.zip", "b/2.zip"]
    assert local.list("absent") == []


def test_a_digest_is_remembered_until_the_file_changes(local: LocalSource, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(local.root) / "a.zip"
    reads: list[Path] = []

    def checksum(path: Path, kind: str) -> str:
        reads.append(path)
        return checksum_of(path, kind)

    monkeypatch.setattr(local_module, "checksum_of", checksum)
    assert local.stat("a.zip") == local.stat("a.zip")
    assert len(reads) == 1
    path.write_bytes(NEWER)  # same size
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert local.stat("a.zip").identity == f"sha256:{hashlib.sha256(NEWER).hexdigest()}"
    assert len(reads) == 2


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(NEWER + b"!")], ids=["gone", "changed"])
def test_a_local_file_that_changes_after_stat_is_not_handed_out(local: LocalSource, change: object) -> None:
    file = local.stat("a.zip")
    assert callable(change)
    change(Path(local.root) / "a.zip")
    with pytest.raises(SourceError, match=r"a\.zip"):
        local.fetch(file)


# --- a web server


@pytest.mark.parametrize("checksum", [None, SHA256, MD5])
def test_a_web_file_is_fetched_once_and_kept_until_forgotten(
    server: WebServer, source: WebSource, said: Said, checksum: str | None
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


def test_an_empty_web_file_is_fetched(server: WebServer, source: WebSource) -> None:
    server.files[PATH] = b""
    assert source.fetch(source.stat(PATH)).read_bytes() == b""


def test_a_query_in_the_root_stays_behind_the_path(server: WebServer, tmp_path: Path) -> None:
    source = open_source(f"{server.url}/zips?token=secret", tmp_path)
    assert source.fetch(source.stat("a #1.zip")).read_bytes() == DATA


def test_a_web_server_is_not_listed(source: WebSource) -> None:
    with pytest.raises(SourceError, match=r"zips: the files on a plain web server cannot be listed"):
        source.list("zips")


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
    server: WebServer, source: WebSource, headers: dict[str, str | None], identity: str
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
    ([], [Fault(drop_after=0)], [0, 0], [1.0], "dropped before the first byte"),
    ([], [Fault(drop_after=100_000, headers={"Content-Length": None})], [0, 100_000], [0.5], "ends early, no length"),
    ([], [DROP, Fault(whole=True)], [0, 100_000], [0.5], "range ignored: from the beginning"),
    ([], [DROP, Fault(status=503)], [0, 100_000, 100_000], [0.5, 0.5], "dropped, then busy"),
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
    source: WebSource,
    said: Said,
    pauses: list[float],
) -> None:
    server.on("HEAD", *heads)
    server.on("GET", *gets)
    assert source.fetch(source.stat(PATH)).read_bytes() == DATA, why
    headers = [request.headers for request in server.asked("GET")]
    assert [got.get("Range") for got in headers] == [f"bytes={start}-" if start else None for start in starts]
    assert [got.get("If-Range") for got in headers] == [etag_of(DATA) if start else None for start in starts]
    assert pauses == waits
    assert bool(said.messages) == bool(waits)


# (answers to every HEAD, to every GET, checksum known, message, why)
REFUSALS = [
    (Fault(status=404), None, None, "HTTP 404 Not Found. Check datasets", "absent"),
    (Fault(status=403), None, None, "HTTP 403 Forbidden", "not allowed"),
    (Fault(status=503), None, None, "HTTP 503 in 6 attempts", "never ready"),
    (Fault(headers={"Content-Length": None}), None, SHA256, "does not state the file's size", "no size"),
    (Fault(headers={"ETag": None}), None, None, "states no ETag.*download.sha256", "nothing identifies the bytes"),
    (None, Fault(status=404), None, "HTTP 404", "gone between HEAD and GET"),
    (None, Fault(drop_after=0), None, "after 0 of 307200 bytes, 6 times in a row", "always dropped"),
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
        "server closed after 307199 of 307200 bytes, 6 times in a row",
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
    source: WebSource,
) -> None:
    server.always = {method: fault for method, fault in {"HEAD": head, "GET": get}.items() if fault is not None}
    with pytest.raises(SourceError, match=message) as error:
        source.fetch(source.stat(PATH, checksum))
    assert f"{server.url}/{PATH}" in str(error.value), why
    assert all(path.suffix == ".part" for path in kept(source))
    assert not [path for path in kept(source) if path.read_bytes() != DATA[: path.stat().st_size]]


def test_a_server_that_is_not_there_is_an_error(server: WebServer, source: WebSource, pauses: list[float]) -> None:
    gone = WebSource(root="http://127.0.0.1:1", fetched=source.fetched)
    with pytest.raises(SourceError, match="ConnectionError in 6 attempts"):
        gone.stat(PATH)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0]


def test_a_stalled_download_is_continued(server: WebServer, source: WebSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TIMEOUT_S", 0.2)
    server.on("GET", Fault(pause_s=0.4))
    assert source.fetch(source.stat(PATH)).read_bytes() == DATA
    assert len(server.asked("GET")) == 2


@pytest.mark.parametrize("checksum", [None, SHA256])
def test_an_interrupted_fetch_continues_when_it_is_repeated(
    server: WebServer, source: WebSource, monkeypatch: pytest.MonkeyPatch, checksum: str | None
) -> None:
    file = source.stat(PATH, checksum)
    server.on("GET", Fault(drop_after=200_000))
    with monkeypatch.context() as patch:
        patch.setattr(fetching, "pause", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            source.fetch(file)
    (part,) = kept(source)
    assert (part.name, part.read_bytes()) == ("a #1.zip.part", DATA[:200_000])
    again = WebSource(root=source.root, fetched=source.fetched)
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
    server: WebServer, source: WebSource, checksum: str | None, later: Fault, why: str
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


def test_files_fetched_at_once_are_downloaded_once(server: WebServer, source: WebSource) -> None:
    server.always["GET"] = Fault(pause_s=0.002)  # 75 pieces: all have come before the first has done
    file = source.stat(PATH)
    program = (
        "import sys; from pathlib import Path; from microdiff.storage import SourceFile\n"
        "from microdiff.storage.fetching import checksum_of; from microdiff.storage.web import WebSource\n"
        "file = SourceFile(sys.argv[3], int(sys.argv[4]), sys.argv[5])\n"
        "source = WebSource(root=sys.argv[1], fetched=Path(sys.argv[2]))\n"
        "print(checksum_of(source.fetch(file), 'sha256'))"
    )
    arguments = [source.root, str(source.fetched), file.path, str(file.num_bytes), file.identity]
    with subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True) as other:
        try:
            wait_until(lambda: server.asked("GET") or other.poll() is not None, "the other process has begun")
            with ThreadPoolExecutor(3) as pool:
                paths = list(pool.map(source.fetch, [file] * 3))
            assert other.communicate(timeout=PATIENCE_S)[0].strip() == SHA256
        finally:
            end(other)
    assert len(set(paths)) == 1
    assert len(server.asked("GET")) == 1
    assert paths[0].read_bytes() == DATA


def test_a_file_forgotten_while_another_waits_for_it_is_downloaded_again(
    server: WebServer, source: WebSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = source.stat(PATH)
    forgetting, waiting = threading.Event(), threading.Event()
    flock = fcntl.flock

    def noticed(descriptor: int, how: int) -> None:
        try:
            flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting.set()
            flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", noticed)

    def forget_slowly() -> None:
        with locked_folder(folder):
            forgetting.set()
            assert waiting.wait(PATIENCE_S)  # until the fetch below has come to the lock
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
    source = WebSource(root=root, fetched=tmp_path / "fetch", report=said)
    file = source.stat(PATH, SHA256)
    server.always["GET"] = fault
    with pytest.raises(SourceError) as error:
        source.fetch(file)
    gone = WebSource(root="http://someone:s3cret@127.0.0.1:1", fetched=tmp_path / "fetch", report=said)
    with pytest.raises(SourceError) as unreachable:
        gone.stat(PATH)
    shown = [repr(source), source.name, repr(file), *map(str, source.fetched.rglob("*")), *said.messages]
    shown += ["".join(traceback.format_exception(info.value)) for info in (error, unreachable)]
    assert not [text for text in shown if "s3cret" in text or "someone" in text]
    assert all(request.headers["Authorization"].startswith("Basic ") for request in server.requests)
