"""Sources that are not on this machine: loose files come one by one and leave no copy; URLs by img2dataset."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from conftest import REPO
from microdiff.artifacts.manifest import parse_manifest
from microdiff.commands.add import add
from microdiff.core.ledger import Reason
from microdiff.download.step import download
from microdiff.errors import SourceError
from microdiff.formats.records import Rejection, Sample
from microdiff.kinds import KindHandler
from microdiff.kinds.csv import Csv
from microdiff.kinds.folder import Folder
from microdiff.kinds.jsonl import JsonLines
from microdiff.kinds.parquet import Parquet
from microdiff.kinds.webdataset import WebDataset
from microdiff.pipeline.params import load_params
from microdiff.pipeline.workspace import Workspace
from microdiff.storage.fetched_source import FetchedSource
from microdiff.storage.local import LocalStorage
from microdiff.storage.opening import open_source
from tests.hub_server import HubServer
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


def test_a_dataset_of_the_hub_as_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found out, shown, listed by the ends of its files, and read a row group at a time."""
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": image, "text": pa.list_(pa.string())})
    rows = [{"image": {"bytes": picture(i), "path": f"{i}.jpg"}, "text": [f"one {i}", f"two {i}"]} for i in range(4)]
    write_parquet(tmp_path / "t.parquet", rows, schema, group=2)
    data = (tmp_path / "t.parquet").read_bytes()
    root = tmp_path / "project"
    root.mkdir()
    shutil.copy(REPO / "presets/sample.yaml", root / "params.yaml")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with HubServer({"ORG/NAME": {"data/train-0.parquet": data, "data/test-0.parquet": data, "README.md": b"x"}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        said: list[str] = []
        add("mine", f"{hub.root('ORG/NAME')}/data/train-*.parquet", root, said.append, None, {}, dry_run=False)
        assert "  data%2Ftrain-0_000000  (4 kB)  one 0 | two 0" in said
        assert "2 records in data/train-0.parquet, which was looked at; 2 partitions" in said
        download("mine", load_params(root / "params.yaml", "mine"), Workspace(root))
    manifest = parse_manifest(root / "data/mine/raw")
    assert manifest.counts == {"in": 4, "kept": 4}
    assert list(manifest.partitions) == ["000000", "000001"]


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
