"""Sources in files of many records: WebDataset tars and parquet with pictures."""

import random
import tarfile
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from microdiff.core.ledger import Counts
from microdiff.errors import SourceError
from microdiff.formats.records import Sample
from microdiff.kinds import KindHandler
from microdiff.kinds.parquet import Parquet
from microdiff.kinds.webdataset import WebDataset
from tests.kinds.contract import KindContract, outcomes, picture, read_all, write_parquet, write_tar


class TestWebDataset(KindContract):
    dataset = "webdataset"
    kind: ClassVar[KindHandler] = WebDataset()
    counts: ClassVar[Counts] = {"in": 6, "kept": 4, "missing_caption": 1, "missing_image": 1}

    def write_source(self, folder: Path) -> None:
        members = []
        for i in range(3):
            members += [(f"{i}.jpg", picture(i)), (f"{i}.txt", b"caption"), (f"{i}.json", b'{"score": 0.5}')]
        write_tar(folder / "00000.tar", members)
        others = [("a.png", picture(5, form="PNG")), ("a.txt", b"x"), ("b.jpg", picture(6)), ("c.txt", b"y")]
        write_tar(folder / "sub/00001.tar", others)

    def reorder(self, folder: Path) -> None:
        for path in folder.rglob("*.tar"):
            with tarfile.open(path) as tar:
                members = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
            random.Random(5).shuffle(members)
            write_tar(path, members)

    def add_records(self, folder: Path) -> None:
        for name in ("0.tar", "00000b.tar"):
            write_tar(folder / name, [("x.jpg", picture(9)), ("x.txt", b"x")])


def test_fields_with_captions_and_what_else_is_said(tmp_path: Path) -> None:
    document = b'{"llava": "long", "blip": ["one", "two"], "score": 0.5, "key": "7", "exif": "{}", "width": 3}'
    write_tar(tmp_path / "source/a.tar", [("7.jpg", picture(1)), ("7.txt", b"alt"), ("7.json", document)])
    handler = WebDataset(caption=("json:llava", "txt", "json:blip"))
    (found,) = read_all(handler, tmp_path / "source", tmp_path)
    assert isinstance(found, Sample)
    assert (found.key, found.captions) == ("a_7", ("long", "alt", "one", "two"))
    assert found.meta == {"score": 0.5, "key": "7", "width": 3}


def test_captions_with_another_extension(tmp_path: Path) -> None:
    members = [("7.jpg", picture(1)), ("7.caption", b"c"), ("8.webp", picture(2, form="WEBP")), ("8.txt", b"t")]
    write_tar(tmp_path / "source/a.tar", members)
    found = outcomes(read_all(WebDataset(caption="caption"), tmp_path / "source", tmp_path))
    assert found == {"a_7": "sample", "a_8": "missing_caption"}


IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


class TestParquet(KindContract):
    dataset = "parquet"
    kind: ClassVar[KindHandler] = Parquet()
    counts: ClassVar[Counts] = {"in": 8, "kept": 5, "missing_caption": 1, "missing_image": 1, "undecodable": 1}

    def write_source(self, folder: Path) -> None:
        rows = [{"image": {"bytes": picture(i), "path": f"{i}.jpg"}, "caption": f"c {i}"} for i in range(6)]
        rows[4]["image"] = {"bytes": b"none", "path": None}
        rows += [{"image": None, "caption": "x"}, {"image": {"bytes": picture(8), "path": "8"}, "caption": None}]
        schema = pa.schema({"image": IMAGE, "caption": pa.string()})
        write_parquet(folder / "data/train-0.parquet", rows, schema, group=3)

    def add_records(self, folder: Path) -> None:
        rows = [{"image": {"bytes": picture(30), "path": "a"}, "caption": "new"}]
        write_parquet(folder / "data/a.parquet", rows, pa.schema({"image": IMAGE, "caption": pa.string()}))


@pytest.mark.parametrize(
    ("image", "caption"),
    [
        (IMAGE, pa.string()),
        (pa.binary(), pa.large_string()),
        (pa.large_binary(), pa.list_(pa.string())),
        (IMAGE, pa.list_(pa.list_(pa.string()))),
        (IMAGE, pa.dictionary(pa.int32(), pa.string())),
    ],
)
def test_types_of_columns(tmp_path: Path, image: pa.DataType, caption: pa.DataType) -> None:
    value: Any = {"bytes": picture(1), "path": "p/a.jpg"} if pa.types.is_struct(image) else picture(1)
    depth = 2 if pa.types.is_list(caption) and pa.types.is_list(caption.value_type) else int(pa.types.is_list(caption))
    text: Any = (
        ["one", [["one", "two"], ["one"]]][0] if depth == 0 else ["one", "two"] if depth == 1 else [["one"], ["two"]]
    )
    schema = pa.schema({"image": image, "caption": caption, "score": pa.float32(), "n": pa.int64()})
    write_parquet(tmp_path / "source/t.parquet", [{"image": value, "caption": text, "score": 0.5, "n": 2}], schema)
    (found,) = read_all(Parquet(), tmp_path / "source", tmp_path)
    assert isinstance(found, Sample)
    assert found.image == picture(1)
    assert found.captions == (("one",) if depth == 0 else ("one", "two"))
    assert {name: found.meta[name] for name in ("score", "n")} == {"score": 0.5, "n": 2}
    assert found.key == "t_000000"


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        (pa.schema({"img": pa.binary(), "caption": pa.string()}), "no column image, but img"),
        (pa.schema({"image": pa.int64(), "caption": pa.string()}), "image is int64"),
        (pa.schema({"image": pa.binary()}), "no column caption"),
    ],
)
def test_other_columns_are_refused_in_words(tmp_path: Path, schema: pa.Schema, problem: str) -> None:
    write_parquet(tmp_path / "source/t.parquet", [{}], schema)
    with pytest.raises(SourceError, match=problem):
        read_all(Parquet(), tmp_path / "source", tmp_path)


def test_a_row_group_is_a_partition_and_keys_go_through_the_file(tmp_path: Path) -> None:
    rows = [{"image": picture(i), "caption": str(i)} for i in range(5)]
    write_parquet(tmp_path / "source/t.parquet", rows, group=2)
    found = read_all(Parquet(), tmp_path / "source", tmp_path)
    assert [(record.key, record.captions) for record in found] == [(f"t_{i:06d}", (str(i),)) for i in range(5)]
    assert (tmp_path / "partitions.tsv").read_text().splitlines()[1:] == [f"{i:06d}\tt.parquet#{i}" for i in range(3)]
