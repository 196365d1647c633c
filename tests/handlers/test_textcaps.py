import json
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from microdiff.core.ledger import Counts, Reason
from microdiff.errors import SourceError
from microdiff.formats.records import Partition, Rejection, Sample
from microdiff.handlers import Handler
from microdiff.handlers.textcaps import TextCaps
from microdiff.pipeline.params import load_params
from microdiff.storage.opening import open_source
from tests.handler_contract import HandlerContract, Raw, Record, records_of

REPO = Path(__file__).resolve().parents[2]
SAMPLES = REPO / "samples" / "textcaps"
FILES = ("data/train-00000-of-00002", "data/train-00001-of-00002", "data/val-00000-of-00001")
ZIP = "images/train_val_images.zip"
PARQUET_FORM = TextCaps(form="parquet", splits=("train", "val"))
ZIP_FORM = TextCaps(form="zip", splits=("train", "val"), images_per_partition=4)


def json_of(split: str) -> str:
    return f"data/textcaps/TextCaps_0.1_{split}.json"


def rows_of(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(SAMPLES / f"{name}.parquet").to_pylist()
    return rows


def image_id(number: int) -> str:
    return f"7e87ca95{number:08d}"


class TestTextCaps(HandlerContract):
    dataset = "textcaps"
    counts: ClassVar[Counts] = {
        "in": 17,
        "kept": 10,
        "duplicate_key": 1,
        "empty_caption": 1,
        "missing_caption": 1,
        "missing_image": 2,
        "too_small": 1,
        "undecodable": 1,
    }

    def is_ordered(self, keys: Sequence[str]) -> bool:
        """Rows come in the order of the files."""
        return list(keys) == [
            f"{name[5:].partition('-')[0]}_{row['image_id']}" for name in FILES for row in rows_of(name)
        ]

    def test_the_readme_of_the_samples_says_the_same(self, raw: Raw) -> None:
        lines = (REPO / "samples" / "README.md").read_text().splitlines()
        (row,) = [line for line in lines if line.startswith("| `textcaps`")]
        _, _, _, records, kept, with_512, rejected, _ = (cell.strip() for cell in row.split("|"))
        reasons = {name: int(count) for count, name in (part.split() for part in rejected.split(", "))}
        assert {"in": int(records), "kept": int(kept), **reasons} == self.counts
        assert int(with_512) == sum(min(row["width"], row["height"]) >= 512 for row in raw.rows)

    def test_a_partition_is_a_file(self, raw: Raw) -> None:
        assert [(part.name, part.number, part.files) for part in raw.partitions] == [
            (f"000{i}", i, (f"{name}.parquet",)) for i, name in enumerate(FILES)
        ]

    def test_the_rejected_ones_are_those_made_bad(self, raw: Raw) -> None:
        assert {row["key"]: row["status"] for row in raw.rows if row["status"] != "kept"} == {
            f"train_{image_id(5)}": "too_small",
            f"train_{image_id(6)}": "missing_image",
            f"train_{image_id(8)}": "missing_image",
            f"train_{image_id(9)}": "missing_caption",
            f"train_{image_id(10)}": "empty_caption",
            f"train_{image_id(11)}": "undecodable",
            f"train_{image_id(14)}#2": "duplicate_key",
        }

    def test_pictures_are_upright(self, raw: Raw) -> None:
        (row,) = [row for row in raw.rows if row["key"] == f"train_{image_id(3)}"]
        (source,) = [row for row in rows_of(FILES[0]) if row["image_id"] == image_id(3)]
        assert (source["image_width"], source["image_height"]) == (576, 384)
        assert (row["width"], row["height"]) == (384, 576)

    def test_all_five_captions_are_kept_in_order(self, raw: Raw) -> None:
        captions = {row["source"]: row["captions"] for row in raw.rows}
        for name in FILES:
            for number, row in enumerate(rows_of(name)):
                assert captions[f"{name}.parquet#{number}"] == row["caption_str"]
        assert sum(len(kept) == 5 for kept in captions.values()) == 16


class TestTextCapsAsZip(HandlerContract):
    dataset = "textcaps"
    counts: ClassVar[Counts] = {
        "in": 15,
        "kept": 10,
        "empty_caption": 1,
        "missing_image": 2,
        "too_small": 1,
        "undecodable": 1,
    }
    slice_setting = "images_per_partition"

    def write_source(self, folder: Path) -> None:
        """Write the same data as the original has it: an entry per caption, not grouped, and a zip."""
        entries: dict[str, list[tuple[int, dict[str, Any]]]] = {"train": [], "val": []}
        members: dict[str, bytes] = {"train_images/": b""}
        for row in (row for name in FILES for row in rows_of(name)):
            if f"train_images/{row['image_id']}.jpg" in members:
                continue  # the second row of one id
            if row["image"] and row["image"]["bytes"]:
                members[f"train_images/{row['image_id']}.jpg"] = row["image"]["bytes"]
            facts = {name: row[name] for name in row.keys() - {"image", "question", "question_id"}}
            facts |= {"reference_tokens": [["<s>"]] * 5, "image_path": f"{row['set_name']}/{row['image_id']}.jpg"}
            for number, caption in enumerate(row["caption_str"]):
                entry = facts | {"caption_id": row["caption_id"][number], "caption_str": caption}
                entries[row["set_name"]].append((number, entry))
        for split, numbered in entries.items():
            numbered.sort(key=lambda item: item[0])
            path = folder / json_of(split)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"dataset_type": split, "data": [entry for _, entry in numbered]}))
        (folder / ZIP).parent.mkdir()
        with zipfile.ZipFile(folder / ZIP, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)

    def make_handler(self, folder: Path) -> Handler:
        return ZIP_FORM

    def needed_files(self, partitions: Sequence[Partition]) -> list[str]:
        return [*super().needed_files(partitions), json_of("train"), json_of("val")]

    def test_slices_run_over_both_splits(self, raw: Raw) -> None:
        assert [(part.name, part.num_records, part.files) for part in raw.partitions] == [
            (f"000{i}", number, (ZIP,)) for i, number in enumerate([4, 4, 4, 3])
        ]
        keys = [row["key"] for row in raw.rows]
        assert keys == sorted(keys)
        assert [key for key in keys if key.startswith("val_")] == [f"val_{image_id(i)}" for i in (15, 16, 17)]

    def test_samples_are_those_of_the_other_form(self, folder: Path, tmp_path: Path) -> None:
        def samples(handler: TextCaps, root: Path) -> dict[str, Sample]:
            records = records_of(handler, open_source(str(root), tmp_path / "work"))
            return {record.key: record for record in reversed(records) if isinstance(record, Sample)}

        mine, theirs = samples(ZIP_FORM, folder), samples(PARQUET_FORM, SAMPLES)
        assert theirs.keys() - mine.keys() == {f"train_{image_id(9)}"}  # without captions the JSON does not name it
        for key, sample in mine.items():
            assert (sample.image, sample.captions, sample.meta) == (
                theirs[key].image,
                theirs[key].captions,
                theirs[key].meta,
            )
            assert sample.source == f"{ZIP}/train_images/{sample.meta['image_id']}.jpg"


# --- odd parquet files

SCHEMA = pq.read_schema(SAMPLES / f"{FILES[0]}.parquet")


PARQUET_TRAIN = TextCaps(form="parquet", splits=("train",))


def row(name: str, **values: Any) -> dict[str, Any]:
    captions = [f"caption {i} of {name}" for i in range(5)]
    return {
        "image": {"bytes": name.encode(), "path": f"{name}.jpg"},
        "image_id": name,
        "image_classes": ["Sign"],
        "flickr_original_url": f"https://example.org/{name}",
        "flickr_300k_url": None,
        "set_name": "train",
        "caption_str": captions,
        "reference_strs": captions,
    } | values


def read_rows_of(folder: Path, rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA) -> list[Record]:
    (folder / "data").mkdir(exist_ok=True)
    pq.write_table(
        pa.Table.from_pylist(rows, SCHEMA).select(schema.names).cast(schema), folder / "data/train-0-of-1.parquet"
    )
    return records_of(TextCaps(form="parquet", splits=("train",)), open_source(str(folder), folder / "work"))


def test_a_row_is_read(tmp_path: Path) -> None:
    assert read_rows_of(tmp_path, [row("b"), row("a")]) == [
        Sample(
            key=f"train_{name}",
            image=name.encode(),
            captions=tuple(f"caption {i} of {name}" for i in range(5)),
            source=f"data/train-0-of-1.parquet#{number}",
            meta={
                "image_id": name,
                "set_name": "train",
                "flickr_original_url": f"https://example.org/{name}",
                "flickr_300k_url": None,
                "image_classes": ["Sign"],
            },
        )
        for number, name in enumerate("ba")
    ]


@pytest.mark.parametrize(
    ("references", "strings", "expected"),
    [
        (["one", "two"], ["three"], ("one", "two")),
        (None, ["one", "two"], ("one", "two")),
        ([], ["one"], ("one",)),
        (None, None, ()),
        ([], [], ()),
        ([" "], ["one"], (" ",)),
    ],
)
def test_captions_are_the_references_or_else_the_strings(
    tmp_path: Path, references: list[str] | None, strings: list[str] | None, expected: tuple[str, ...]
) -> None:
    (record,) = read_rows_of(tmp_path, [row("a", reference_strs=references, caption_str=strings)])
    assert record.captions == expected


@pytest.mark.parametrize("image", [None, {"bytes": None, "path": "a.jpg"}])
def test_a_row_without_a_picture_is_a_rejection(tmp_path: Path, image: object) -> None:
    (record,) = read_rows_of(tmp_path, [row("a", image=image)])
    assert isinstance(record, Rejection)
    assert record.reason == Reason.MISSING_IMAGE
    assert len(record.captions) == 5


def test_a_picture_of_no_bytes_is_there_and_damaged(tmp_path: Path) -> None:
    (record,) = read_rows_of(tmp_path, [row("a", image={"bytes": b"", "path": "a.jpg"})])
    assert isinstance(record, Sample)
    assert record.image == b""


def test_odd_ids_make_keys_all_the_same(tmp_path: Path) -> None:
    records = read_rows_of(tmp_path, [row("a/b.c"), row("", image_id=None)])
    assert [record.key for record in records] == ["train_a%2Fb%2Ec", "train_"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("image_id", pa.large_string()),
        ("reference_strs", pa.large_list(pa.large_string())),
        ("image", pa.struct({"bytes": pa.large_binary(), "path": pa.string()})),
    ],
)
def test_columns_may_have_wider_types(tmp_path: Path, name: str, kind: pa.DataType) -> None:
    expected = read_rows_of(tmp_path, [row("a")])
    schema = SCHEMA.set(SCHEMA.get_field_index(name), pa.field(name, kind))
    assert read_rows_of(tmp_path, [row("a")], schema) == expected


def test_columns_may_be_more_but_not_fewer(tmp_path: Path) -> None:
    needed = ("image", "image_id", "set_name", "flickr_original_url", "flickr_300k_url", "image_classes")
    fewer = pa.schema([SCHEMA.field(name) for name in (*reversed(needed), "reference_strs", "caption_str")])
    assert read_rows_of(tmp_path, [row("a")], fewer) == read_rows_of(tmp_path, [row("a")])
    with pytest.raises(SourceError, match=r"train-0-of-1\.parquet: has no column reference_strs, but "):
        read_rows_of(tmp_path, [row("a")], pa.schema([field for field in SCHEMA if field.name != "reference_strs"]))


def test_pictures_that_are_no_structs_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    table = pa.Table.from_pylist([row("a")], SCHEMA)
    plain = table.set_column(SCHEMA.get_field_index("image"), "image", pa.array([b"picture"]))
    pq.write_table(plain, tmp_path / "data/val-0-of-1.parquet")
    with pytest.raises(SourceError, match=r"val-0-of-1\.parquet: a column is not of the type expected"):
        records_of(TextCaps(form="parquet", splits=("val",)), open_source(str(tmp_path), tmp_path / "work"))


# --- which files


def partitions(folder: Path, splits: Sequence[str], names: Sequence[str]) -> list[str]:
    (folder / "data").mkdir()
    for name in names:
        (folder / "data" / name).touch()
    handler = TextCaps(form="parquet", splits=tuple(splits))  # type: ignore[arg-type]
    found = handler.partitions(open_source(str(folder), folder / "work"))
    assert [part.number for part in found] == list(range(len(found)))
    return [path for part in found for path in part.files]


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (["train"], ["train-00000-of-00002", "train-00001-of-00002"]),
        (["val"], ["val-00000-of-00001"]),
        (["val", "train"], ["train-00000-of-00002", "train-00001-of-00002", "val-00000-of-00001"]),
    ],
)
def test_partitions_are_the_files_of_the_splits(tmp_path: Path, splits: list[str], expected: list[str]) -> None:
    names = [f"{name[5:]}.parquet" for name in FILES] + ["test-00000-of-00001.parquet", "train.parquet", "README.md"]
    assert partitions(tmp_path, splits, names) == [f"data/{name}.parquet" for name in expected]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train-00001-of-00003.parquet"], "expected data/train-00000-of-00003.parquet, data/train-00002-of-00003"),
        (["train-00000-of-00001.parquet", "train-00000-of-00002.parquet"], "expected data/train-00001-of-00002"),
        (["val-00000-of-00001.parquet"], "expected data/train-00000-of-00001.parquet or more; found none"),
    ],
)
def test_a_split_that_is_not_whole_is_an_error(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        partitions(tmp_path, ["train"], names)


@pytest.mark.parametrize(
    ("handler", "problems"),
    [
        (TextCaps(form="zip", splits=("val", "train")), []),
        (TextCaps(form="parquet", splits=("val",), images_per_partition=1), []),
        (TextCaps(form="zip", splits=(), images_per_partition=0), ["splits", "images_per_partition"]),
        (TextCaps(form="zip", splits=("train", "train")), ["splits"]),
    ],
)
def test_settings_out_of_range_are_problems(handler: TextCaps, problems: list[str]) -> None:
    assert [name for name, _ in handler.problems()] == problems


def test_all_presets_take_both_splits() -> None:
    for preset in ("sample", "small", "full"):
        assert load_params(REPO / "presets" / f"{preset}.yaml").dataset("textcaps").handler == PARQUET_FORM


# --- odd originals


class Original:
    """A source of the form `zip` that a test changes before it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.members = {"train_images/a.jpg": b"picture a", "train_images/v.jpg": b"picture v"}
        self.documents: dict[str, Any] = {
            "train": {"data": [self.entry("a", "one"), self.entry("a", "two")]},
            "val": {"data": [self.entry("v", "three")]},
        }

    def entry(self, name: str, caption: str | None, **values: Any) -> dict[str, Any]:
        return {"image_id": name, "caption_str": caption, "set_name": "train", "reference_tokens": [["x"]]} | values

    def records(self, handler: TextCaps = ZIP_FORM) -> list[Record]:
        for split, document in self.documents.items():
            path = self.folder / json_of(split)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
        (self.folder / ZIP).parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(self.folder / ZIP, "w") as archive:
            for name, data in self.members.items():
                archive.writestr(name, data)
        return records_of(handler, open_source(str(self.folder), self.folder / "work"))


@pytest.fixture
def original(tmp_path: Path) -> Original:
    return Original(tmp_path)


def test_captions_of_a_picture_come_in_the_order_of_entries(original: Original) -> None:
    original.documents["train"]["data"] += [original.entry("b", "b"), original.entry("a", "")]
    assert [(record.key, record.captions) for record in original.records()] == [
        ("train_a", ("one", "two", "")),
        ("train_b", ("b",)),
        ("val_v", ("three",)),
    ]


def test_references_come_before_captions(original: Original) -> None:
    original.documents["val"]["data"] = [original.entry("v", "no", reference_strs=["one", "two"])] * 2
    assert original.records()[1].captions == ("one", "two")


def test_a_picture_that_no_entry_names_is_no_record(original: Original) -> None:
    original.members["train_images/other.jpg"] = b"of TextVQA"
    assert [record.key for record in original.records()] == ["train_a", "val_v"]
    only = TextCaps(form="zip", splits=("val",))
    assert [record.key for record in original.records(only)] == ["val_v"]
    assert only.annotation_files(open_source(str(original.folder), original.folder)) == [json_of("val")]


def test_pictures_may_be_anywhere_in_the_zip_but_not_outside(original: Original) -> None:
    original.members = {"../a.jpg": b"outside", "v.jpg": b"at the root", "z/v.png": b"later", "n/v.txt": b"no picture"}
    first, *rest = original.records()
    assert isinstance(first, Rejection)
    assert first.reason == Reason.UNSAFE_MEMBER
    assert [record.reason for record in rest if isinstance(record, Rejection)] == [Reason.AMBIGUOUS_KEY] * 2
    original.members.pop("z/v.png")
    second = original.records()[1]
    assert isinstance(second, Sample)
    assert second.image == b"at the root"
    original.members |= {"other/v.jpg": b"of something else", "train_images/v.jpg": b"where they are"}
    second = original.records()[1]
    assert isinstance(second, Sample)
    assert second.image == b"where they are"


@pytest.mark.parametrize(
    "values",
    [
        {"caption_str": None},
        {"caption_str": 5},
        {"caption_str": ["a", "list"]},
        {"caption_str": {"a": "b"}},
        {"caption_str": True},
        {"reference_strs": "characters"},
        {"reference_strs": [None]},
        {"reference_strs": ["good", 7]},
        {"reference_strs": False},
    ],
)
def test_a_caption_that_is_no_text_is_a_rejection(original: Original, values: dict[str, Any]) -> None:
    original.documents["val"]["data"] = [original.entry("v", "three") | values]
    _, record = original.records()
    assert isinstance(record, Rejection)
    assert record.reason == Reason.BAD_CAPTION
    assert record.captions in ((), ("good",))


def test_what_json_says_twice_is_said_by_neither(original: Original) -> None:
    text = '{"data": [{"image_id": "v", "caption_str": "a", "caption_str": "b", "set_name": [{"x": 1, "x": 2}]}]}'
    original.documents["val"] = text.encode()
    _, record = original.records()
    assert isinstance(record, Rejection)
    assert (record.reason, record.captions, record.meta["set_name"]) == (Reason.BAD_CAPTION, (), None)


@pytest.mark.parametrize("data", [b"picture a", b"another"], ids=["same", "other"])
@pytest.mark.parametrize("name", ["train_images/a.jpg", "train_images\\a.jpg", "train_images/a.png"])
def test_a_picture_that_is_there_twice_is_no_sample(original: Original, name: str, data: bytes) -> None:
    original.records()
    with warnings.catch_warnings(), zipfile.ZipFile(original.folder / ZIP, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(name, data)
    records = records_of(ZIP_FORM, open_source(str(original.folder), original.folder / "work"))
    reason = None if data == b"picture a" else Reason.AMBIGUOUS_KEY
    assert [(record.key, getattr(record, "reason", None)) for record in records] == [
        ("train_a", reason),
        ("train_a", reason),  # becomes a duplicate_key where it is the same
        ("val_v", None),
    ]


def test_texts_in_parquet_that_are_not_utf_8_are_rejections(tmp_path: Path) -> None:
    schema = SCHEMA.set(SCHEMA.get_field_index("reference_strs"), pa.field("reference_strs", pa.list_(pa.binary())))
    table = pa.Table.from_pylist([{**row("a"), "reference_strs": [b"good", b"caf\xe9"]}], schema)
    texts = pa.ListArray.from_arrays([0, 2], pa.array([b"good", b"caf\xe9"]).view(pa.string()))
    (tmp_path / "data").mkdir()
    table = table.set_column(schema.get_field_index("reference_strs"), "reference_strs", texts)
    pq.write_table(table, tmp_path / "data/train-0-of-1.parquet")
    (record,) = records_of(PARQUET_TRAIN, open_source(str(tmp_path), tmp_path / "work"))
    assert isinstance(record, Rejection)
    assert (record.reason, record.captions) == (Reason.BAD_CAPTION, ("good",))


def test_an_entry_without_a_picture_is_a_rejection(original: Original) -> None:
    del original.members["train_images/a.jpg"]
    first, _ = original.records()
    assert isinstance(first, Rejection)
    assert (first.reason, first.captions, first.source) == (Reason.MISSING_IMAGE, ("one", "two"), f"{ZIP}/train_a")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_picture_in_both_splits_is_two_records(original: Original, size: int) -> None:
    original.documents["val"]["data"].append(original.entry("a", "again"))
    handler = TextCaps(form="zip", splits=("train", "val"), images_per_partition=size)
    assert [record.key for record in original.records(handler)] == ["train_a", "val_a", "val_v"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda _: [], "a list"),
        (lambda _: None, "null"),
        (lambda _: {}, "no data"),
        (lambda _: {"data": {}}, "data are not a list"),
        (lambda _: {"data": []}, "no entries"),
        (lambda _: {"data": ["x"]}, "an entry is not an object"),
        (lambda _: {"data": [{"caption_str": "x"}]}, "an entry of nothing"),
        (lambda _: {"data": [{"image_id": 1}]}, "an id is not text"),
        (lambda _: b"<html>", "a web page"),
        (lambda _: b"[" * 100_000, "nested too deeply"),
        (lambda _: b"\xff\xfe", "not text"),
    ],
)
def test_json_that_is_not_textcaps_is_an_error(original: Original, change: Callable[[Any], Any], why: str) -> None:
    original.documents["val"] = change(original.documents["val"])
    with pytest.raises(SourceError, match=r"TextCaps_0\.1_val\.json: not TextCaps annotations"):
        assert not original.records(), why
