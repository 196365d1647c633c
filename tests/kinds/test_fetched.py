"""Sources that are not on this machine: loose files come one by one and leave no copy; URLs by img2dataset."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from microdiff.core.ledger import Reason
from microdiff.errors import SourceError
from microdiff.formats.records import Rejection, Sample
from microdiff.kinds import KindHandler
from microdiff.kinds.csv import Csv
from microdiff.kinds.folder import Folder
from microdiff.kinds.jsonl import JsonLines
from microdiff.kinds.parquet import Parquet
from microdiff.kinds.webdataset import WebDataset
from microdiff.storage.fetched_source import FetchedSource
from microdiff.storage.local import LocalStorage
from microdiff.storage.opening import open_source
from tests.kinds.contract import (
    picture,
    put,
    read_all,
    records,
    write_csv,
    write_jsonl,
    write_parquet,
    write_tar,
)
from tests.web_server import WebServer


@pytest.mark.parametrize(
    "handler", [Folder(), WebDataset(), Parquet(), JsonLines(), Csv()], ids=lambda each: type(each).__name__
)
def test_what_comes_from_afar_is_what_is_here(tmp_path: Path, handler: KindHandler) -> None:
    folder = tmp_path / "source"
    for i in range(5):
        put(folder / f"in/{i}.jpg", picture(i))
        put(folder / f"in/{i}.txt", f"c {i}")
    write_tar(folder / "a.tar", [("1.jpg", picture(1)), ("1.txt", b"x")])
    write_parquet(folder / "a.parquet", [{"image": picture(i), "caption": "x"} for i in range(6)], group=2)
    rows = [{"image": f"in/{i}.jpg", "caption": f"c {i}"} for i in range(6)]
    write_jsonl(folder / "a.jsonl", rows)
    write_csv(folder / "a.csv", ["image", "caption"], [[row["image"], row["caption"]] for row in rows])
    here = list(records(handler, open_source(str(folder), tmp_path / "work"), tmp_path / "a", tmp_path / "a.tsv"))
    source = FetchedSource(storage=LocalStorage(root=folder), fetched=tmp_path / "fetched")
    found = list(records(handler, source, tmp_path / "b", tmp_path / "b.tsv"))
    assert found == here
    assert any(isinstance(record, Sample) for record in here)
    assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "b.tsv").read_bytes()
    left = {
        path.name for path in (tmp_path / "fetched").rglob("*") if path.is_file() and path.suffix in (".jpg", ".txt")
    }
    assert left == set()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with WebServer({"a.jpg": picture(1), "b.jpg": picture(2)}) as running:
        yield running


def urls(server: WebServer, folder: Path) -> None:
    rows = [(f"{server.url}/a.jpg", "of a"), (f"{server.url}/gone.jpg", "of c"), ("ftp://x/y.jpg", "?")]
    rows += [(f"{server.url}/b.jpg", "of b"), (f"{server.url}/a.jpg", "of a, too")]
    write_jsonl(folder / "list.jsonl", [{"image": url, "caption": text} for url, text in rows])


@pytest.mark.slow
def test_pictures_by_url(server: WebServer, tmp_path: Path) -> None:
    urls(server, tmp_path / "source")
    handler = JsonLines(allow_private_addresses=True, timeout_s=5.0, retries=0)
    found = read_all(handler, tmp_path / "source", tmp_path)
    samples = {record.captions: record for record in found if isinstance(record, Sample)}
    assert samples.keys() == {("of a", "of a, too"), ("of b",)}
    assert samples["of b",].image == picture(2)
    assert samples["of b",].meta == {"url": f"{server.url}/b.jpg"}
    assert {record.reason for record in found if isinstance(record, Rejection)} == {
        Reason.FAILED_DOWNLOAD,
        Reason.MISSING_IMAGE,
    }


@pytest.mark.slow
def test_private_addresses_are_not_fetched_from_unasked(server: WebServer, tmp_path: Path) -> None:
    urls(server, tmp_path / "source")
    with pytest.raises(SourceError, match="allow_private_addresses"):
        read_all(JsonLines(timeout_s=5.0, retries=0), tmp_path / "source", tmp_path)
