"""Dataset repositories on the hub: what is listed, which commit, who may read, and where the token goes."""

import hashlib
import logging
import pickle
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi, hf_hub_download

from microdiff.errors import SourceError
from microdiff.storage import SourceFile, retry
from microdiff.storage.fetched_source import FetchedSource
from microdiff.storage.hub import HubStorage
from microdiff.storage.opening import open_source
from tests.hub_server import GRANTED, STRANGER, HubServer
from tests.reporters import Said
from tests.storage_contract import FILES as CONTRACT_FILES
from tests.storage_contract import Backend, ServedBackend, StorageContract
from tests.web_server import Fault

REPO = "ORG/Some-data.v1"
GATED = "ORG/gated"
ARCHIVE = bytes(range(256)) * 800
README = b"# A dataset\n"
FILES = {
    "README.md": README,
    "data/train/imgs/000.tgz": ARCHIVE,
    "data/train/imgs/001.tgz": ARCHIVE[::-1],
    "data/train/imgs/003.tgz": ARCHIVE[1:],
    "data/train/anno #1.jsonl.tgz": b"annotations",
    "data/valid/000.tgz": b"valid",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=lambda _: None))
    with HubServer({REPO: FILES, GATED: {"000.tgz": ARCHIVE, "README.md": README}}, gated={GATED}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")
        yield hub


@pytest.fixture
def source(hub: HubServer, tmp_path: Path) -> FetchedSource:
    source = open_source(hub.root(REPO), tmp_path)
    assert isinstance(source, FetchedSource)
    assert isinstance(source.storage, HubStorage)
    return source


class TestHubStorage(StorageContract):
    @pytest.fixture
    def backend(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Backend]:
        with HubServer({REPO: CONTRACT_FILES}, page_size=1) as hub:
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
            source = open_source(hub.root(REPO), tmp_path / "work")
            assert isinstance(source, FetchedSource)
            yield ServedBackend(source.storage, hub.blobs)


# --- what there is


@pytest.mark.parametrize("page_size", [1, 2, 1000])
def test_folders_are_listed_page_after_page(hub: HubServer, source: FetchedSource, page_size: int) -> None:
    hub.page_size = page_size
    assert source.list("") == ["README.md"]
    assert source.list("data/train/imgs") == [f"data/train/imgs/{number}.tgz" for number in ("000", "001", "003")]
    assert source.list("data/train/imgs/") == source.list("data/train/imgs")
    assert source.list("data") == []  # holds folders only
    assert source.list("data/test") == []


def test_files_are_described_by_their_checksum(source: FetchedSource) -> None:
    path, sha256 = "data/train/imgs/000.tgz", hashlib.sha256(ARCHIVE).hexdigest()
    assert source.stat(path) == SourceFile(path, len(ARCHIVE), f"sha256:{sha256}")
    assert source.stat(path, f"sha256:{sha256}") == source.stat(path)
    blob = hashlib.sha1(b"blob %d\0" % len(README) + README, usedforsecurity=False).hexdigest()
    assert source.stat("README.md") == SourceFile("README.md", len(README), f"git:{blob}")


def test_a_given_checksum_must_fit(source: FetchedSource) -> None:
    path, wrong = "data/train/imgs/000.tgz", "0" * 64
    with pytest.raises(SourceError, match=f"{path}: expected sha256:{wrong}, but the hub has sha256:"):
        source.stat(path, f"sha256:{wrong}")
    md5 = f"md5:{hashlib.md5(ARCHIVE, usedforsecurity=False).hexdigest()}"
    assert source.fetch(source.stat(path, md5)).read_bytes() == ARCHIVE
    with pytest.raises(SourceError, match=f"{path}: expected md5:{wrong[:32]}, got md5:.*twice"):
        source.fetch(source.stat(path, f"md5:{wrong[:32]}"))


def test_what_a_commit_holds_is_asked_once(hub: HubServer, source: FetchedSource, tmp_path: Path) -> None:
    source.list("data/test")
    file = source.stat("data/train/imgs/000.tgz")
    fetched = source.fetch(file)
    num_requests = len(hub.requests)
    again = open_source(hub.root(REPO), tmp_path)
    assert again == source
    assert len(again.list("data/train/imgs")) == 3
    assert again.list("data/test") == []
    assert again.stat("data/train/imgs/003.tgz").num_bytes == len(ARCHIVE) - 1
    assert again.fetch(again.stat(file.path)) == fetched
    assert len(hub.requests) == num_requests


def test_a_folder_is_listed_once_for_all_who_ask_at_once(hub: HubServer, source: FetchedSource) -> None:
    paths = [path for path in FILES if path.startswith("data/train/imgs/")] * 3
    with ThreadPoolExecutor(8) as pool:
        files = list(pool.map(source.stat, paths))
    assert [file.path for file in files] == paths
    assert len(hub.requests) == 1


def test_a_listing_that_broke_off_is_not_kept(hub: HubServer, source: FetchedSource) -> None:
    hub.page_size = 2
    hub.on("GET", Fault(), *[Fault(status=503)] * 5)
    with pytest.raises(SourceError, match=f"{REPO}@{hub.commit(REPO)}/data/train/imgs: HTTP 503, 5 times in a row"):
        source.list("data/train/imgs")
    assert len(source.list("data/train/imgs")) == 3


@pytest.mark.parametrize("path", FILES)
def test_files_are_fetched_and_verified(hub: HubServer, source: FetchedSource, path: str) -> None:
    fetched = source.fetch(source.stat(path))
    assert fetched.name == path.rpartition("/")[2]
    assert fetched.read_bytes() == FILES[path]
    source.forget(source.stat(path))
    assert not list(source.fetched.iterdir())


# --- which commit


def test_a_revision_that_moves_is_resolved_once(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = hub.commit(REPO)
    hub.push(REPO, {"other.tgz": b"other"}, branch="refs/pr/1")
    for root in (f"hf://datasets/{REPO}", f"hf://datasets/{REPO}@main"):
        assert open_source(root, tmp_path).name == f"hf://datasets/{REPO}@{first}"
    assert f"pin it as hf://datasets/{REPO}@{first}" in caplog.text
    source = open_source(f"hf://datasets/{REPO}@main", tmp_path)
    hub.push(REPO, {**FILES, "data/train/imgs/000.tgz": b"newer"})
    assert source.fetch(source.stat("data/train/imgs/000.tgz")).read_bytes() == ARCHIVE
    assert open_source(f"hf://datasets/{REPO}@main", tmp_path).stat("data/train/imgs/000.tgz").num_bytes == 5
    assert open_source(f"hf://datasets/{REPO}@refs/pr/1", tmp_path).list("") == ["other.tgz"]


def test_opening_a_pinned_root_asks_nothing(hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_source(hub.root(REPO), tmp_path)
    assert not hub.requests
    assert not caplog.text


def test_retries_are_said_also_while_opening(hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub.on("GET", Fault(status=503))
    open_source(f"hf://datasets/{REPO}@main", tmp_path)
    assert f"hf://datasets/{REPO}@main: HTTP 503, trying again" in caplog.text


# --- what is not there


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("hf://datasets/ORG/absent@main", "no such dataset, or a private one"),
        (f"hf://datasets/ORG/absent@{'0' * 40}", "no such dataset, or a private one"),
        (f"hf://datasets/{REPO}@v9", f"{REPO}@v9: no revision v9. Check datasets"),
        (f"hf://datasets/{REPO}@{'0' * 40}", f"{REPO}@0+: no revision 0+. Check datasets"),
    ],
)
def test_a_repository_or_revision_that_is_absent_is_an_error(
    hub: HubServer, tmp_path: Path, root: str, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(root, tmp_path).list("")


def test_with_a_token_an_absent_repository_is_told_from_a_private_one(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", GRANTED)
    with pytest.raises(SourceError, match="no dataset ORG/absent, or no permission to see it"):
        open_source("hf://datasets/ORG/absent@main", tmp_path)


def test_a_file_that_is_absent_is_an_error(hub: HubServer, source: FetchedSource) -> None:
    for path in ("data/train/imgs/002.tgz", "data/nothing/000.tgz"):
        with pytest.raises(SourceError, match=f"{path}: no such file"):
            source.stat(path)
    file = source.stat("README.md")
    hub.on("GET", Fault(status=404, headers={"X-Error-Code": "EntryNotFound"}))
    with pytest.raises(SourceError, match=f"README.md: no such file. Check datasets.*{hub.url}/datasets/{REPO}"):
        source.fetch(file)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>Log in to this network</html>", "JSONDecodeError, 5 times in a row"),
        (b'{"error": "?"}', "not a hub's listing"),
        (b'[{"type": "file", "path": "a"}]', "not a hub's listing"),
    ],
)
def test_an_answer_that_is_no_listing_is_an_error(
    hub: HubServer, source: FetchedSource, body: bytes, message: str
) -> None:
    hub.always["GET"] = Fault(body=body)
    with pytest.raises(SourceError, match=message):
        source.list("")
    hub.always.clear()
    assert source.list("") == ["README.md"]


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"sha": "main"}', b'{"sha": null}'])
def test_an_answer_without_a_commit_is_an_error(hub: HubServer, tmp_path: Path, body: bytes) -> None:
    hub.always["GET"] = Fault(body=body)
    with pytest.raises(SourceError, match=f"{REPO}@main: no commit in the hub's answer"):
        open_source(f"hf://datasets/{REPO}@main", tmp_path)


def test_an_endpoint_that_is_no_url_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "huggingface.co")
    with pytest.raises(SourceError, match="HF_ENDPOINT: expected the URL of a hub"):
        open_source(f"hf://datasets/{REPO}@main", tmp_path)


# --- who may read


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "gated. Accept the terms at {page}, then set HF_TOKEN"),
        ("hf_mistyped", "HF_TOKEN is not valid"),
        (STRANGER, "HF_TOKEN gives no access. Accept the terms at {page}"),
        (f"{GRANTED}\x7f", "HF_TOKEN: holds characters that no token has"),
        ("hf_ü", "HF_TOKEN: holds characters that no token has"),
    ],
)
@pytest.mark.parametrize("path", ["000.tgz", "README.md"])
def test_a_gated_file_is_refused_with_the_way_to_it(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, token: str | None, message: str
) -> None:
    source = open_source(hub.root(GATED), tmp_path)
    file = source.stat(path)  # listings are public
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    num_requests = len(hub.requests)
    with pytest.raises(SourceError, match=message.format(page=f"{hub.url}/datasets/{GATED}")) as error:
        source.fetch(file)
    assert len(hub.requests) <= num_requests + 1  # not asked again
    assert not hub.blobs.requests
    assert token is None or token not in str(error.value)


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_a_gated_file_is_read_with_a_token(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, f" {GRANTED}\n")  # as read from a file
    source = open_source(hub.root(GATED), tmp_path)
    for path, data in (("000.tgz", ARCHIVE), ("README.md", README)):
        assert source.fetch(source.stat(path)).read_bytes() == data


def test_the_newer_name_of_the_token_comes_first(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", GRANTED)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", STRANGER)
    source = open_source(hub.root(GATED), tmp_path)
    assert source.fetch(source.stat("000.tgz")).read_bytes() == ARCHIVE


# --- where the token goes


def test_the_token_is_sent_to_the_hub_alone_and_never_shown(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HF_TOKEN", GRANTED)
    hub.page_size = 1
    said = Said()
    source = open_source(f"hf://datasets/{GATED}@main", tmp_path).with_reporter(said)
    source.list("")
    hub.on("GET", Fault(status=503))
    hub.blobs.on("GET", Fault(drop_after=1000), Fault(status=500), Fault(damage=True))
    source.fetch(source.stat("000.tgz"))
    errors = []
    for fault in (Fault(status=404), Fault(status=403), Fault(status=503)):
        hub.always["GET"] = fault
        with pytest.raises(SourceError) as error:
            source.fetch(source.stat("README.md"))
        errors.append("".join(traceback.format_exception(error.value)))
    assert {request.headers.get("Authorization") for request in hub.requests} == {f"Bearer {GRANTED}"}
    assert len(hub.blobs.requests) == 4
    assert not [request for request in hub.blobs.requests if "Authorization" in request.headers]
    kept = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    shown = [repr(source), source.name, repr(pickle.dumps(source)), caplog.text, *kept, *errors, *said.messages]
    assert not [text for text in shown if GRANTED in text]
    assert not [text for text in shown if "Signature" in text]


class Elsewhere(HubServer):
    """A hub that sends those who ask for a file, or for the next page, to another server."""

    elsewhere: str = ""

    def reply(self, request: Any) -> Any:
        reply = super().reply(request)
        if "/resolve/" in request.target:
            return type(reply)(307, {"Location": f"{self.elsewhere}{request.target}"})
        headers = {name: value and value.replace(self.url, self.elsewhere) for name, value in reply.headers.items()}
        return type(reply)(reply.status, headers, reply.body)


def test_the_token_does_not_follow_to_another_port(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", GRANTED)
    hub.page_size = 1
    with Elsewhere({REPO: FILES}, page_size=1) as first:
        first.elsewhere = hub.url
        monkeypatch.setenv("HF_ENDPOINT", first.url)
        source = open_source(first.root(REPO), tmp_path)
        assert source.fetch(source.stat("data/train/imgs/000.tgz")).read_bytes() == ARCHIVE
        assert all("Authorization" in request.headers for request in first.requests)
    assert len(hub.requests) == 3  # two pages and the file
    assert not any("Authorization" in request.headers for request in hub.requests)


# --- links that expire


def test_an_expired_link_is_renewed(hub: HubServer, source: FetchedSource) -> None:
    said = Said()
    hub.stale_links = 2
    path = "data/train/imgs/000.tgz"
    assert source.with_reporter(said).fetch(source.stat(path)).read_bytes() == ARCHIVE
    assert len(hub.blobs.requests) == 3
    assert [message.partition(" in ")[0] for message in said.messages] == [
        f"{source.name}/{path}: HTTP 403 from 127.0.0.1, trying again"
    ] * 2


def test_a_link_that_expires_during_the_download_is_renewed(hub: HubServer, source: FetchedSource) -> None:
    hub.blobs.on("GET", Fault(drop_after=50_000), Fault(status=403))
    assert source.fetch(source.stat("data/train/imgs/000.tgz")).read_bytes() == ARCHIVE
    assert [request.headers.get("Range") for request in hub.blobs.requests] == [None, *["bytes=50000-"] * 2]


def test_links_are_not_renewed_for_ever(hub: HubServer, source: FetchedSource) -> None:
    hub.stale_links = 100
    with pytest.raises(SourceError, match=r"000\.tgz: HTTP 403 from 127.0.0.1, 10 times in a row"):
        source.fetch(source.stat("data/train/imgs/000.tgz"))
    assert len(hub.blobs.requests) == 10


# --- the imitation is one


@pytest.mark.parametrize("path", ["README.md", "data/train/imgs/000.tgz"])
def test_the_hubs_own_client_reads_the_imitation(hub: HubServer, tmp_path: Path, path: str) -> None:
    hub.page_size = 2
    api = HfApi(endpoint=hub.url, token=False)
    listed = [entry.path for entry in api.list_repo_tree(REPO, recursive=True, repo_type="dataset")]
    assert set(FILES) < set(listed)
    assert api.dataset_info(REPO).sha == hub.commit(REPO)
    (info,) = api.get_paths_info(REPO, [path], repo_type="dataset")
    fetched = hf_hub_download(
        REPO, path, repo_type="dataset", revision="main", endpoint=hub.url, token=False, local_dir=tmp_path
    )
    assert Path(fetched).read_bytes() == FILES[path]
    assert getattr(info, "size") == len(FILES[path])  # noqa: B009 - an entry may also be a folder


def test_the_hubs_own_client_is_refused_gated_files(hub: HubServer, tmp_path: Path) -> None:
    from huggingface_hub.errors import GatedRepoError

    for token in (False, STRANGER):
        with pytest.raises(GatedRepoError):
            hf_hub_download(GATED, "000.tgz", repo_type="dataset", endpoint=hub.url, token=token, local_dir=tmp_path)
    fetched = hf_hub_download(
        GATED, "000.tgz", repo_type="dataset", endpoint=hub.url, token=GRANTED, local_dir=tmp_path
    )
    assert Path(fetched).read_bytes() == ARCHIVE
