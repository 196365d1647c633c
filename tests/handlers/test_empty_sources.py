"""A source that holds no record is an error, whatever its form; and what is said of it does not ask for its removal."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from microdiff.errors import SourceError
from microdiff.handlers import Handler
from microdiff.handlers.cc12m import CC12M
from microdiff.handlers.coco import Coco
from microdiff.handlers.diffdb import _COLUMNS, _DECIMALS, DiffusionDB
from microdiff.handlers.jdb import Jdb
from microdiff.handlers.sa1b import Sa1b
from microdiff.handlers.textcaps import _COLUMNS as TEXTCAPS_COLUMNS
from microdiff.handlers.textcaps import TextCaps
from microdiff.storage.opening import open_source
from tests.archive_order import write_members
from tests.handler_contract import records_of


def tar(*names: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name.rstrip("/"))
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(member, io.BytesIO())
    return out.getvalue()


def zipped(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return out.getvalue()


def cc12m(folder: Path, data: bytes) -> Handler:
    (folder / "cc12m-train-0000.tar").write_bytes(data)
    return CC12M(form="webdataset")


def sa1b(folder: Path, data: bytes) -> Handler:
    (folder / "sa_000000.tar").write_bytes(data)
    write_members(folder / "captions" / "c.tar.gz", [("sa_1.txt", b"one")])
    return Sa1b(captions_source=str(folder / "captions"), captions_file="c.tar.gz")


def jdb(folder: Path, data: bytes) -> Handler:
    write_members(
        folder / "data/train/train_anno_realease_repath.jsonl.tgz",
        [("a.jsonl", json.dumps({"img_path": "./003/a.jpg", "prompt": "p"}).encode())],
    )
    (folder / "data/train/imgs").mkdir()
    (folder / "data/train/imgs/000.tgz").write_bytes(data)
    return Jdb(split="train")


def diffdb(folder: Path, data: bytes) -> Handler:
    (folder / "diffusiondb-large-part-1").mkdir()
    (folder / "diffusiondb-large-part-1/part-000001.zip").write_bytes(data)
    types = [(field.name, pa.float32() if field.name in _DECIMALS else field.type) for field in _COLUMNS]
    pq.write_table(pa.Table.from_pylist([], pa.schema(types)), folder / "metadata-large.parquet")
    return DiffusionDB()


def textcaps(folder: Path, _: bytes) -> Handler:
    (folder / "data").mkdir()
    pq.write_table(pa.Table.from_pylist([], TEXTCAPS_COLUMNS), folder / "data/train-00000-of-00001.parquet")
    return TextCaps(form="parquet", splits=("train",))


def coco(folder: Path, data: bytes) -> Handler:
    document = {"images": [], "annotations": []}
    (folder / "zips").mkdir()
    (folder / "zips/val2014.zip").write_bytes(data)
    (folder / "annotations").mkdir()
    with zipfile.ZipFile(folder / "annotations/annotations_trainval2014.zip", "w") as archive:
        archive.writestr("annotations/captions_val2014.json", json.dumps(document))
    return Coco(split="val2014", images_per_partition=10)


@pytest.mark.parametrize(
    ("make", "data"),
    [
        *[(make, tar(*names)) for make in (cc12m, sa1b, jdb) for names in ((), ("a/",), ("._a.jpg", "README"))],
        (sa1b, tar("sa_1.json")),
        *[(make, zipped(*names)) for make in (diffdb, coco) for names in ((), ("a/",), ("__MACOSX/a.webp", "x.md5"))],
        (diffdb, zipped("part-000001.json")),
        (textcaps, b""),
    ],
)
def test_a_source_without_records_is_an_error(make: Callable[[Path, bytes], Any], data: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    handler = make(folder, data)
    with pytest.raises(SourceError, match=r"holds no|lists no") as caught:
        records_of(handler, open_source(str(folder), tmp_path / "work"))
    assert "emove it" not in str(caught.value)
