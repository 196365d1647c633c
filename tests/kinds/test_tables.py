"""Tables whose rows name pictures: JSON lines, CSV, TSV, and parquet with paths."""

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from microdiff.core.ledger import Counts
from microdiff.errors import SourceError
from microdiff.kinds import KindHandler
from microdiff.kinds.csv import Csv
from microdiff.kinds.jsonl import JsonLines
from microdiff.kinds.parquet import Parquet
from microdiff.kinds.tables import Tables
from tests.kinds.contract import (
    KindContract,
    outcomes,
    picture,
    put,
    read_all,
    write_csv,
    write_jsonl,
    write_parquet,
)

NAMES = ["a.jpg", "b/c.jpg", "d.png", "gone.jpg", "../out.jpg", "e.jpg"]


def write_pictures(folder: Path) -> None:
    for i, name in enumerate(NAMES):
        if name not in ("gone.jpg", "../out.jpg"):
            put(folder / name, picture(i, form="PNG" if name.endswith("png") else "JPEG"))
    put(folder / "e.jpg", b"no picture at all")


class TestJsonLines(KindContract):
    dataset = "jsonl"
    kind: ClassVar[KindHandler] = JsonLines()
    counts: ClassVar[Counts] = {
        "in": 8,
        "kept": 3,
        "bad_caption": 1,
        "missing_caption": 1,
        "missing_image": 1,
        "undecodable": 1,
        "unsafe_member": 1,
    }
    slice_setting = "records_per_partition"
    loose = True

    def write_source(self, folder: Path) -> None:
        write_pictures(folder)
        put(folder / "f.jpg", picture(9))
        rows = [{"image": name, "caption": f"of {name}", "score": 0.5} for name in NAMES]
        write_jsonl(folder / "list.jsonl", [*rows, {"image": "f.jpg", "caption": None}])
        with (folder / "list.jsonl").open("a") as file:
            file.write("{broken\n")

    def add_records(self, folder: Path) -> None:
        put(folder / "0.jpg", picture(50))
        put(folder / "b/b.jpg", picture(51))
        lines = (folder / "list.jsonl").read_text()
        new = "".join(json.dumps({"image": name, "caption": name}) + "\n" for name in ("0.jpg", "b/b.jpg"))
        (folder / "list.jsonl").write_text(lines + new)


class TestCsv(KindContract):
    dataset = "csv"
    kind: ClassVar[KindHandler] = Csv()
    counts: ClassVar[Counts] = {
        "in": 7,
        "kept": 3,
        "bad_caption": 1,
        "missing_image": 1,
        "undecodable": 1,
        "unsafe_member": 1,
    }
    slice_setting = "records_per_partition"
    loose = True

    def write_source(self, folder: Path) -> None:
        write_pictures(folder)
        write_csv(folder / "list.csv", ["image", "caption"], [[name, f"of {name}"] for name in NAMES])
        with (folder / "list.csv").open("a") as file:
            file.write("x.jpg,a,b\n")

    def add_records(self, folder: Path) -> None:
        put(folder / "0.jpg", picture(50))
        write_csv(folder / "another.csv", ["image", "caption"], [["0.jpg", "zero"]])


def as_table(form: str, folder: Path, rows: list[dict[str, Any]]) -> Tables:
    """Write rows as a table of a form; return its handler."""
    if form == "jsonl":
        write_jsonl(folder / "t.jsonl", rows)
        return JsonLines()
    if form == "parquet":
        write_parquet(folder / "t.parquet", rows)
        return Parquet()
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [["" if row.get(name) is None else str(row[name]) for name in names] for row in rows]
    write_csv(folder / f"t.{form}", names, cells, "\t" if form == "tsv" else ",")
    return Csv()


FORMS = ["jsonl", "csv", "tsv", "parquet"]


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_one_picture_are_one_sample_with_all_their_captions(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "source"
    put(folder / "x/a.jpg", picture(1))
    put(folder / "x/b.jpg", picture(2))
    rows = [("x/a.jpg", "one"), ("x/b.jpg", "other"), ("./x//a.jpg", "two"), ("x/a.jpg", "one")]
    handler = as_table(form, folder, [{"image": name, "caption": text, "n": 3} for name, text in rows])
    found = {record.key: record.captions for record in read_all(handler, folder, tmp_path)}
    assert found == {"x%2Fa": ("one", "two"), "x%2Fb": ("other",)}


@pytest.mark.parametrize("form", FORMS)
def test_pictures_that_differ_in_their_extension_have_keys_that_do(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "source"
    for i, name in enumerate(("a.jpg", "a.png", "b.jpg")):
        put(folder / name, picture(i))
    handler = as_table(form, folder, [{"image": name, "caption": name} for name in ("a.jpg", "a.png", "b.jpg")])
    found = {record.key: record.captions for record in read_all(handler, folder, tmp_path)}
    assert found == {"a%2Ejpg": ("a.jpg",), "a%2Epng": ("a.png",), "b": ("b.jpg",)}


@pytest.mark.parametrize("form", FORMS)
def test_keys_of_a_column(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "source"
    for i in range(3):
        put(folder / f"{i}.jpg", picture(i))
    rows = [("0.jpg", "k/1"), ("1.jpg", "same"), ("2.jpg", "same"), ("0.jpg", None)]
    handler = as_table(form, folder, [{"image": name, "caption": "x", "id": key} for name, key in rows])
    found = read_all(dataclasses.replace(handler, key="id"), folder, tmp_path)
    assert sorted((record.key.partition("%")[0], getattr(record, "reason", "")) for record in found) == [
        ("k", ""),
        ("same", "ambiguous_key"),
        ("same", "ambiguous_key"),
        ("t", "bad_caption"),
    ]


@pytest.mark.parametrize("form", FORMS)
def test_numbers_are_in_meta(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "source"
    put(folder / "a.jpg", picture(1))
    handler = as_table(form, folder, [{"image": "a.jpg", "caption": "x", "score": 0.25, "n": 3}])
    (found,) = read_all(handler, folder, tmp_path)
    assert found.meta == {"score": 0.25, "n": 3}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"image": "a.jpg", "caption": ["x", ["y", None]]}, "sample"),
        ({"image": "a.jpg", "caption": ["x", 5]}, "bad_caption"),
        ({"image": "a.jpg", "caption": {"en": "x"}}, "bad_caption"),
        ({"image": "a.jpg"}, "missing_caption"),
        ({"image": 5, "caption": "x"}, "missing_image"),
        ({"image": "", "caption": "x"}, "missing_image"),
        ({"image": "/etc/a.jpg", "caption": "x"}, "unsafe_member"),
        ({"image": "C:\\a.jpg", "caption": "x"}, "unsafe_member"),
        ({"image": "x/../../a.jpg", "caption": "x"}, "unsafe_member"),
        ({"image": "x\\..\\a.jpg", "caption": "x"}, "sample"),
        ({"image": "a.jpg", "caption": "\ud800"}, "sample"),
    ],
)
def test_rows_of_json(tmp_path: Path, row: dict[str, Any], expected: str) -> None:
    put(tmp_path / "source/a.jpg", picture(1))
    write_jsonl(tmp_path / "source/t.jsonl", [row])
    assert list(outcomes(read_all(JsonLines(), tmp_path / "source", tmp_path)).values()) == [expected]


def test_a_number_is_not_taken_for_the_caption_that_reads_like_it(tmp_path: Path) -> None:
    put(tmp_path / "source/a.jpg", picture(1))
    write_jsonl(tmp_path / "source/t.jsonl", [{"image": "a.jpg", "caption": text} for text in ("1", 1)])
    assert outcomes(read_all(JsonLines(), tmp_path / "source", tmp_path)) == {"a": "bad_caption"}


def test_absolute_paths_where_they_are_allowed(tmp_path: Path) -> None:
    put(tmp_path / "else/a.jpg", picture(1))
    write_jsonl(tmp_path / "source/t.jsonl", [{"image": str(tmp_path / "else/a.jpg"), "caption": "x"}])
    (found,) = read_all(JsonLines(absolute_paths=True), tmp_path / "source", tmp_path)
    assert getattr(found, "image", None) == picture(1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a.jpg,x\n", "no column image, caption"),
        ("image;caption\na.jpg;x\n", "no column image, caption"),
        ("image,caption,caption\na.jpg,x,y\n", "caption twice"),
        ("", "no column"),
        ('image,caption\n"a.jpg,x\n', "line"),
        ('image,caption\n"a" b,x\n', "line"),
    ],
)
def test_tables_that_are_not_understood_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    put(tmp_path / "source/t.csv", text)
    with pytest.raises(SourceError, match=problem):
        read_all(Csv(), tmp_path / "source", tmp_path)


def test_fields_may_be_quoted_and_texts_in_other_encodings(tmp_path: Path) -> None:
    put(tmp_path / "source/a.jpg", picture(1))
    text = 'image;caption\na.jpg;"one; ""two""\nthree"\n'
    put(tmp_path / "source/t.csv", b"\xff\xfe" + text.encode("utf-16-le"))
    (found,) = read_all(Csv(delimiter=";"), tmp_path / "source", tmp_path)
    assert found.captions == ('one; "two"\nthree',)


def test_a_caption_that_is_not_utf_8_is_bad(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(tmp_path / f"source/{name}.jpg", picture(1))
    put(tmp_path / "source/t.csv", b"image,caption\na.jpg,caf\xe9\nb.jpg,tea\n")
    assert outcomes(read_all(Csv(), tmp_path / "source", tmp_path)) == {"a": "bad_caption", "b": "sample"}
