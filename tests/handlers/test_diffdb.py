import json
import math
import random
import stat
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from microdiff.artifacts.raw import read_images
from microdiff.artifacts.tables import read_rows
from microdiff.clean.policy import write_captions
from microdiff.core.ledger import Counts, Reason
from microdiff.core.progress import NullReporter
from microdiff.errors import SourceError
from microdiff.formats import zips
from microdiff.formats.records import Partition, Rejection, Sample
from microdiff.handlers import diffdb
from microdiff.handlers.diffdb import DiffusionDB
from microdiff.pipeline.params import load_params
from microdiff.storage.opening import open_source
from tests.handler_contract import HandlerContract, Raw, Record, records_of

REPO = Path(__file__).resolve().parents[2]
ZIP = "diffusiondb-large-part-1/part-000007.zip"
METADATA = "metadata-large.parquet"
SCHEMA = pa.schema(
    {
        "image_name": pa.string(),
        "prompt": pa.string(),
        "part_id": pa.uint16(),
        "seed": pa.uint32(),
        "step": pa.uint16(),
        "cfg": pa.float32(),
        "sampler": pa.uint8(),
        "width": pa.uint16(),
        "height": pa.uint16(),
        "user_name": pa.string(),
        "timestamp": pa.timestamp("us", "UTC"),
        "image_nsfw": pa.float32(),
        "prompt_nsfw": pa.float32(),
    }
)
MINUTE = 1_660_208_700  # 2022-08-11 09:05 UTC


def uuid(number: int) -> str:
    return f"d1ffdb{number:02d}-0000-4000-8000-{number:012d}"


def key(part: int, number: int) -> str:
    return f"{part:06d}_{uuid(number)}"


class TestDiffusionDB(HandlerContract):
    dataset = "diffdb"
    counts: ClassVar[Counts] = {
        "in": 20,
        "kept": 14,
        "empty_caption": 1,
        "missing_caption": 1,
        "missing_image": 2,
        "too_small": 1,
        "undecodable": 1,
    }

    def needed_files(self, partitions: Sequence[Partition]) -> list[str]:
        return [METADATA]  # a zip that is not there is no partition

    def reorder(self, folder: Path) -> None:
        super().reorder(folder)
        rows = pq.read_table(folder / METADATA)
        order = random.Random(2022).sample(range(rows.num_rows), rows.num_rows)
        pq.write_table(rows.take(order), folder / METADATA, row_group_size=4)

    def test_the_readme_of_the_samples_says_the_same(self, raw: Raw) -> None:
        lines = (REPO / "samples" / "README.md").read_text().splitlines()
        (row,) = [line for line in lines if line.startswith("| `diffdb`")]
        _, _, _, records, kept, with_512, rejected, _ = (cell.strip() for cell in row.split("|"))
        reasons = {name: int(count) for count, name in (part.split() for part in rejected.split(", "))}
        assert {"in": int(records), "kept": int(kept), **reasons} == self.counts
        assert int(with_512) == sum(min(row["width"], row["height"]) >= 512 for row in raw.rows)

    def test_partitions_are_zips_of_both_folders(self, raw: Raw) -> None:
        assert [(part.name, part.number, part.files[0]) for part in raw.partitions] == [
            ("000001", 1, "diffusiondb-large-part-1/part-000001.zip"),
            ("010000", 10000, "diffusiondb-large-part-1/part-010000.zip"),
            ("010001", 10001, "diffusiondb-large-part-2/part-010001.zip"),
        ]

    def test_the_rejected_ones_are_those_made_bad(self, raw: Raw) -> None:
        assert {row["key"]: row["status"] for row in raw.rows if row["status"] != "kept"} == {
            key(1, 6): "missing_image",
            key(1, 9): "undecodable",
            key(10000, 11): "missing_caption",
            key(10000, 12): "empty_caption",
            key(10000, 13): "too_small",
            key(10000, 16): "missing_image",
        }
        captions = {row["key"]: row["captions"] for row in raw.rows}
        assert captions[key(1, 6)][0].startswith("a lighthouse")
        assert captions[key(10000, 16)][0].startswith("an owl")

    def test_pictures_keep_their_bytes(self, raw: Raw) -> None:
        for partition in raw.partitions:
            with zipfile.ZipFile(REPO / "samples" / "diffdb" / partition.files[0]) as archive:
                members = {Path(name).stem: archive.read(name) for name in archive.namelist()}
            for image in read_images(raw.folder / f"{partition.name}.tar"):
                assert image.data == members[image.key.removeprefix(f"{partition.name}_")]

    def test_scores_decide_in_the_clean_step(self, raw: Raw, tmp_path: Path) -> None:
        settings = load_params(REPO / "presets" / "sample.yaml").dataset("diffdb").clean
        rows: dict[str, dict[str, Any]] = {}
        for partition in raw.partitions:
            write_captions(
                raw.folder / f"{partition.name}.parquet",
                partition.name,
                settings,
                {},
                tmp_path,
                NullReporter(),
            )
            table = tmp_path / f"{partition.name}.parquet"
            rows |= {row["key"]: row for row in read_rows(table, ["key", "status", "caption"])}
        assert {name: row["status"] for name, row in rows.items() if row["status"] != "kept"} == {
            key(1, 4): "nsfw",  # 2
            key(1, 5): "nsfw",  # NaN
            key(10000, 10): "nsfw",  # none
            key(10000, 17): "nsfw",  # the prompt's
        }
        assert rows[key(1, 3)]["status"] == "kept"  # exactly 0.2
        assert rows[key(10000, 15)]["caption"] == ("portrait of a tabby cat with green eyes, oil on canvas & gold leaf")

    def test_what_is_known_is_kept(self, raw: Raw) -> None:
        rows = {row["key"]: {**row, "meta": json.loads(row["meta"])} for row in raw.rows}
        first = rows[key(1, 1)]
        assert first["source"] == f"diffusiondb-large-part-1/part-000001.zip/{uuid(1)}.webp"
        assert first["meta"]["sampler"] == "k_lms"
        assert first["meta"]["timestamp"] == "2022-08-02T09:01:00Z"
        assert (first["meta"]["width"], first["meta"]["height"]) == (512, 512)
        assert rows[key(1, 3)]["meta"]["image_nsfw"] == rows[key(1, 3)]["meta"]["prompt_nsfw"] == 0.2
        assert rows[key(1, 4)]["meta"]["image_nsfw"] == 2
        assert rows[key(1, 5)]["meta"]["image_nsfw"] is None
        assert rows[key(10000, 14)]["meta"]["user_name"] is rows[key(10000, 14)]["meta"]["timestamp"] is None
        assert rows[key(10001, 18)]["meta"]["user_name"] == "deleted_account"
        noted = rows[key(10000, 10)]["meta"]
        assert noted["image_nsfw"] is noted["width"] is None
        assert noted["step"] in (25, 50, 150)
        assert len({frozenset(row["meta"]) for row in rows.values()}) == 1


# --- odd sources


class Miniature:
    """A source that a test changes before it is read: pictures `a.webp` and `b.webp`, both in the parquet file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.schema = SCHEMA
        self.rows_per_group = 100
        self.pictures = {"a.webp": b"picture a", "b.webp": b"picture b"}
        self.notes: dict[str, Any] = {}
        self.rows = [self.row("a.webp"), self.row("b.webp")]

    def row(self, name: str | None, **values: Any) -> dict[str, Any]:
        return {
            "image_name": name,
            "prompt": f"prompt of {name}",
            "part_id": 7,
            "seed": 2**32 - 1,
            "step": 50,
            "cfg": 7.5,
            "sampler": 8,
            "width": 512,
            "height": 640,
            "user_name": "someone",
            "timestamp": MINUTE * 10**6,
            "image_nsfw": 0.2,
            "prompt_nsfw": 0.001,
        } | values

    def write(self, members: dict[str, bytes] | None = None) -> None:
        if members is None:
            members = {**self.pictures, "part-000007.json": json.dumps(self.notes).encode()}
        (self.folder / ZIP).parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(self.folder / ZIP, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        table = pa.Table.from_pylist(self.rows, SCHEMA).select(set(self.schema.names) & set(SCHEMA.names))
        for name in set(self.schema.names) - set(SCHEMA.names):
            table = table.append_column(name, pa.nulls(table.num_rows))
        table = table.select(self.schema.names).cast(self.schema)
        pq.write_table(table, self.folder / METADATA, row_group_size=self.rows_per_group)

    def read(self) -> list[Record]:
        return records_of(DiffusionDB(), open_source(str(self.folder), self.folder / "work"))

    def records(self, members: dict[str, bytes] | None = None) -> list[Record]:
        self.write(members)
        return self.read()


@pytest.fixture
def mini(tmp_path: Path) -> Miniature:
    return Miniature(tmp_path)


def outcomes(records: Sequence[Record]) -> list[tuple[str, bytes | Reason, tuple[str, ...]]]:
    return [
        (
            record.key.removeprefix("000007_"),
            record.reason if isinstance(record, Rejection) else record.image,
            record.captions,
        )
        for record in records
    ]


def test_a_minimal_source_is_read(mini: Miniature) -> None:
    assert mini.records() == [
        Sample(
            key=f"000007_{name}",
            image=f"picture {name}".encode(),
            captions=(f"prompt of {name}.webp",),
            source=f"{ZIP}/{name}.webp",
            meta={
                "seed": 4294967295,
                "step": 50,
                "cfg": 7.5,
                "sampler": "k_lms",
                "width": 512,
                "height": 640,
                "user_name": "someone",
                "timestamp": "2022-08-11T09:05:00Z",
                "image_nsfw": 0.2,
                "prompt_nsfw": 0.001,
            },
        )
        for name in "ab"
    ]


def test_records_are_all_that_any_side_names(mini: Miniature) -> None:
    mini.pictures |= {"c.png": b"c", "part-000007/d.WEBP": b"d", "e.jpg": b"e", "f.txt": b"f", ".g.webp": b"g"}
    mini.notes = {
        "a.webp": {"p": "another prompt"},
        "c.png": {"p": "noted", "se": 1, "c": 12.0, "st": 30, "sa": "k_heun"},
        "h.webp": {"p": "no picture"},
        "i.webp": None,
    }
    mini.rows += [mini.row("j.webp"), mini.row("k.webp", part_id=8), mini.row("d.webp")]
    records = mini.records()
    assert outcomes(records) == [
        ("a", b"picture a", ("prompt of a.webp",)),
        ("b", b"picture b", ("prompt of b.webp",)),
        ("c", b"c", ("noted",)),
        ("d", b"d", ("prompt of d.webp",)),
        ("e", b"e", ()),
        ("f", b"f", ()),
        ("h", Reason.MISSING_IMAGE, ("no picture",)),
        ("i", Reason.MISSING_IMAGE, ()),
        ("j", Reason.MISSING_IMAGE, ("prompt of j.webp",)),
    ]
    noted = {"seed": 1, "cfg": 12.0, "step": 30, "sampler": "k_heun"}
    assert records[2].meta == dict.fromkeys(records[0].meta) | noted
    assert records[4].meta == dict.fromkeys(records[0].meta)


def test_a_prompt_that_is_null_comes_from_the_json_file_but_an_empty_one_stays(mini: Miniature) -> None:
    mini.notes = {"a.webp": {"p": "noted", "se": 1}, "b.webp": {"p": "noted"}}
    mini.rows = [mini.row("a.webp", prompt=None), mini.row("b.webp", prompt="")]
    records = mini.records()
    assert [record.captions for record in records] == [("noted",), ("",)]
    assert records[0].meta["seed"] == 2**32 - 1


def test_all_of_several_pictures_or_rows_with_the_same_name_are_records(mini: Miniature) -> None:
    mini.pictures |= {"a.png": b"the png", "folder/b.webp": b"again"}
    mini.rows += [mini.row("a.png"), mini.row("c.webp"), mini.row("c.webp", prompt="second")]
    assert outcomes(mini.records()) == [
        ("a", b"the png", ("prompt of a.png",)),
        ("a", b"picture a", ("prompt of a.webp",)),
        ("b", Reason.AMBIGUOUS_KEY, ("prompt of b.webp",)),
        ("b", Reason.AMBIGUOUS_KEY, ("prompt of b.webp",)),
        ("c", Reason.MISSING_IMAGE, ("prompt of c.webp",)),
        ("c", Reason.MISSING_IMAGE, ("second",)),
    ]


def test_a_picture_and_a_row_may_differ_in_extension_and_in_nothing_else(mini: Miniature) -> None:
    mini.pictures = {"a.2.webp": b"two", "b.webp": b"b"}
    mini.rows = [mini.row("a.1.webp"), mini.row("b.png")]
    assert [(image, captions) for _, image, captions in outcomes(mini.records())] == [
        (Reason.MISSING_IMAGE, ("prompt of a.1.webp",)),
        (b"two", ()),
        (b"b", ("prompt of b.png",)),
    ]


@pytest.mark.parametrize(
    ("score", "expected", "why"),
    [
        (0.2, 0.2, "as a double it is 0.200000003"),
        (float(np.nextafter(np.float32(0.2), np.float32(1))), 0.20000002, "the next float32"),
        (float(np.nextafter(np.float32(0.2), np.float32(0))), 0.19999999, "the one before"),
        (2.0, 2.0, "blurred by the service"),
        (1e-10, 1e-10, "written with an exponent"),
        (math.nan, None, "no number"),
        (math.inf, None, "no number"),
        (None, None, "null"),
    ],
)
def test_scores_are_the_shortest_decimals_of_float32(
    mini: Miniature, score: float | None, expected: float | None, why: str
) -> None:
    mini.rows = [mini.row("a.webp", image_nsfw=score), mini.row("b.webp", prompt_nsfw=score)]
    first, second = mini.records()
    assert first.meta["image_nsfw"] == second.meta["prompt_nsfw"] == expected, why
    if score is not None and expected is not None:
        assert (expected > 0.2) == (np.float32(score) > np.float32(0.2))


@pytest.mark.parametrize(("code", "name"), [(1, "ddim"), (5, "k_heun"), (9, "others"), (0, None), (10, None)])
def test_samplers_have_names(mini: Miniature, code: int, name: str | None) -> None:
    mini.rows = [mini.row("a.webp", sampler=code)]
    assert mini.records()[0].meta["sampler"] == name


def test_nulls_are_null(mini: Miniature) -> None:
    mini.rows = [dict.fromkeys(SCHEMA.names) | {"image_name": "a.webp", "part_id": 7}, mini.row(None)]
    nameless, first, second = mini.records()
    assert (nameless.key, first.key, second.key) == ("000007_", "000007_a", "000007_b")
    assert set(first.meta.values()) == {None}
    assert first.captions == ()
    assert isinstance(nameless, Rejection)
    assert nameless.captions == ("prompt of None",)


def test_rows_of_a_part_are_found_wherever_they_are(mini: Miniature) -> None:
    mini.rows = [mini.row(f"x{i}.webp", part_id=i % 9) for i in range(90)] + mini.rows
    expected = mini.records()
    assert len(expected) == 12
    for mini.rows_per_group in (1, 7):
        random.Random(mini.rows_per_group).shuffle(mini.rows)
        assert mini.records() == expected


@pytest.mark.parametrize("rows_per_group", [1, 7, 1000])
def test_a_table_of_the_metadata_gives_the_same_records(
    mini: Miniature, monkeypatch: pytest.MonkeyPatch, rows_per_group: int
) -> None:
    """Whether there is one depends on how often each row would be read; what is read does not."""
    mini.rows_per_group = rows_per_group
    mini.rows = (
        [mini.row(f"x{i}.webp", part_id=i % 9) for i in range(90)] + [mini.row("y.webp", part_id=None)] + mini.rows
    )
    random.Random(1).shuffle(mini.rows)
    metadata = mini.folder / METADATA
    monkeypatch.setattr(diffdb, "_MOST_READS", math.inf)
    expected = mini.records()
    assert not list(DiffusionDB().read_annotations({METADATA: metadata}))
    monkeypatch.setattr(diffdb, "_MOST_READS", 0)
    assert len(list(DiffusionDB().read_annotations({METADATA: metadata}))) == len(mini.rows) - 1
    assert mini.records() == expected


def test_a_table_is_made_where_a_part_may_be_anywhere(mini: Miniature) -> None:
    mini.rows = [mini.row(f"x{i}.webp", part_id=i % 300) for i in range(600)]
    mini.rows_per_group = 600
    mini.write()
    assert len(list(DiffusionDB().read_annotations({METADATA: mini.folder / METADATA}))) == 600
    mini.rows.sort(key=lambda row: row["part_id"])
    mini.rows_per_group = 40
    mini.write()
    assert not list(DiffusionDB().read_annotations({METADATA: mini.folder / METADATA}))


def test_the_metadata_may_have_more_columns_in_another_order(mini: Miniature) -> None:
    expected = mini.records()
    fields = [*reversed(SCHEMA), pa.field("caption", pa.string())]
    mini.schema = pa.schema(fields)
    assert mini.records() == expected


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("part_id", pa.int64()),
        ("seed", pa.int64()),
        ("prompt", pa.large_string()),
        ("user_name", pa.dictionary(pa.int32(), pa.string())),
        ("timestamp", pa.timestamp("ns", "UTC")),
        ("timestamp", pa.timestamp("s")),
        ("cfg", pa.float64()),
    ],
)
def test_the_metadata_may_have_wider_types(mini: Miniature, name: str, kind: pa.DataType) -> None:
    expected = mini.records()
    mini.schema = SCHEMA.set(SCHEMA.get_field_index(name), pa.field(name, kind))
    assert mini.records() == expected


def test_missing_columns_are_an_error_that_names_them(mini: Miniature) -> None:
    mini.schema = pa.schema([field for field in SCHEMA if field.name not in ("prompt_nsfw", "step")])
    with pytest.raises(SourceError, match=r"metadata-large\.parquet: has no column step, prompt_nsfw, but "):
        mini.records()


# --- archives


def test_a_damaged_member_costs_only_itself(mini: Miniature) -> None:
    mini.pictures["a.webp"] = random.Random(0).randbytes(500)
    mini.write()
    path = mini.folder / ZIP
    path.write_bytes(path.read_bytes().replace(mini.pictures["a.webp"][200:210], bytes(10)))
    assert outcomes(mini.read()) == [
        ("a", Reason.UNDECODABLE, ("prompt of a.webp",)),
        ("b", b"picture b", ("prompt of b.webp",)),
    ]


def test_a_member_that_is_too_large_is_not_read(mini: Miniature, monkeypatch: pytest.MonkeyPatch) -> None:
    mini.pictures["a.webp"] = bytes(2000)
    monkeypatch.setattr(zips.read_member, "__defaults__", (1000,))
    assert outcomes(mini.records())[0] == ("a", Reason.TOO_LARGE, ("prompt of a.webp",))


@pytest.mark.parametrize("place", ["/tmp/", "../", "part-000007/../../"])  # noqa: S108 - must not be written
def test_members_that_lead_out_of_the_archive_are_unsafe(mini: Miniature, place: str) -> None:
    before = {path for path in mini.folder.parent.rglob("*") if mini.folder not in path.parents}
    mini.pictures = {f"{place}a.webp": b"outside", "b.webp": b"picture b"}
    assert outcomes(mini.records()) == [
        ("a", Reason.UNSAFE_MEMBER, ("prompt of a.webp",)),
        ("b", b"picture b", ("prompt of b.webp",)),
    ]
    assert {path for path in mini.folder.parent.rglob("*") if mini.folder not in path.parents} == before
    assert not (mini.folder / "a.webp").exists()


def test_links_are_unsafe(mini: Miniature) -> None:
    mini.write()
    link = zipfile.ZipInfo("a.webp")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(mini.folder / ZIP, "w") as archive:
        archive.writestr(link, b"/etc/passwd")
    assert outcomes(mini.read())[0] == ("a", Reason.UNSAFE_MEMBER, ("prompt of a.webp",))


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"[]", b"null", b"\xff\xfe", b'{"c.webp": ', b"[" * 100_000, b'{"c.webp": {"se": ' + b"9" * 5000],
)
def test_a_json_file_that_is_none_says_nothing(mini: Miniature, content: bytes) -> None:
    expected = mini.records()
    assert mini.records({**mini.pictures, "part-000007.json": content}) == expected
    assert mini.records(mini.pictures) == expected


def test_a_damaged_json_file_costs_only_itself(mini: Miniature) -> None:
    mini.notes = {"a.webp": {"p": "noted"}, "c.webp": {"p": "lost"}}
    mini.write()
    path = mini.folder / ZIP
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("part-000007.json").header_offset + 50
    data = path.read_bytes()
    path.write_bytes(data[:start] + bytes(8) + data[start + 8 :])
    assert [outcome[0] for outcome in outcomes(mini.read())] == ["a", "b"]


def test_odd_notes_do_no_harm(mini: Miniature) -> None:
    mini.rows = []
    note = (
        b'{"a.webp": {"p": ["x"], "se": NaN, "c": 1e999, "st": {}, "sa": 3}, "b.webp": 5, "c.webp": {"p": "\\ud800"}}'
    )
    first, second, third = mini.records({**mini.pictures, "folder/part-000001.json": note})
    assert first.captions == second.captions == ()
    assert isinstance(first, Rejection)
    assert first.reason == Reason.BAD_CAPTION
    assert {name: value for name, value in first.meta.items() if value is not None} == {
        "sampler": 3,
        "cause": "expected text, got list",
    }
    assert set(second.meta.values()) == {None}
    assert third.captions == ("\ud800",)


@pytest.mark.parametrize(
    ("note", "reason"),
    [
        ('{"p": null}', Reason.BAD_CAPTION),
        ('{"p": 5}', Reason.BAD_CAPTION),
        ('{"p": ["a"]}', Reason.BAD_CAPTION),
        ('{"p": "a", "p": "b"}', Reason.BAD_CAPTION),
        ('{"p": "a\\u0000"}', Reason.BAD_CAPTION),
        ('{"p": "a"}, "a.webp": {"p": "b"}', Reason.AMBIGUOUS_KEY),
        ('{"p": "a"}, "a.webp": {"p": "a"}', None),
        ("{}", None),
    ],
)
def test_a_prompt_that_is_no_text_is_a_rejection(mini: Miniature, note: str, reason: Reason | None) -> None:
    mini.rows = []
    mini.pictures = {"a.webp": b"picture a"}
    (record,) = mini.records({**mini.pictures, "part-000007.json": f'{{"a.webp": {note}}}'.encode()})
    assert getattr(record, "reason", None) == reason
    if reason is None:
        assert record.captions == (("a",) if "p" in note else ())


def test_rows_of_one_name_that_differ_are_ambiguous(mini: Miniature) -> None:
    mini.rows += [mini.row("a.webp", image_nsfw=0.9), mini.row("b.webp")]
    assert outcomes(mini.records()) == [
        ("a", Reason.AMBIGUOUS_KEY, ("prompt of a.webp",)),
        ("a", Reason.AMBIGUOUS_KEY, ("prompt of a.webp",)),
        ("b", b"picture b", ("prompt of b.webp",)),
        ("b", Reason.MISSING_IMAGE, ("prompt of b.webp",)),  # the same again: becomes a duplicate_key
    ]


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda _: b"<!DOCTYPE html>", lambda _: b""])
def test_a_damaged_zip_is_an_error_that_names_it(mini: Miniature, damage: Any) -> None:
    mini.write()
    path = mini.folder / ZIP
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SourceError, match=r"part-000007\.zip"):
        mini.read()


# --- partitions


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["1/part-000001.zip", "1/part-000003.zip", "2/part-010001.zip"], {"000001": 1, "000003": 3, "010001": 10001}),
        (["1/part-9.zip", "1/part-10.zip"], {"09": 9, "10": 10}),
        (["2/part-000001.zip"], {"000001": 1}),
        (["1/part-000001.zip", "1/part-000001.zip.part", "1/apart-000002.zip", "1/notes.txt"], {"000001": 1}),
    ],
)
def test_partitions_are_what_the_folders_hold(tmp_path: Path, paths: list[str], expected: dict[str, int]) -> None:
    for path in paths:
        file = tmp_path / f"diffusiondb-large-part-{path}"
        file.parent.mkdir(exist_ok=True)
        file.touch()
    found = DiffusionDB().partitions(open_source(str(tmp_path), tmp_path / "work"))
    assert {partition.name: partition.number for partition in found} == expected
    assert [partition.number for partition in found] == sorted(expected.values())
    assert all(partition.files[1] == METADATA for partition in found)


def test_two_zips_of_one_number_are_an_error(tmp_path: Path) -> None:
    for folder in ("diffusiondb-large-part-1", "diffusiondb-large-part-2"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part-010000.zip").touch()
    with pytest.raises(SourceError, match=r"large-part-2/part-010000\.zip and .*have the same number"):
        DiffusionDB().partitions(open_source(str(tmp_path), tmp_path / "work"))


def test_a_folder_without_zips_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "part-000001.zip").touch()  # of the smaller set
    with pytest.raises(SourceError, match=r"expected part-\*\.zip in diffusiondb-large-part-1 and"):
        DiffusionDB().partitions(open_source(str(tmp_path), tmp_path / "work"))


def test_keys_of_one_picture_in_two_zips_differ(mini: Miniature) -> None:
    mini.write()
    copy = mini.folder / ZIP.replace("000007", "000008")
    copy.write_bytes((mini.folder / ZIP).read_bytes())
    assert [record.key for record in mini.read()] == ["000007_a", "000007_b", "000008_a", "000008_b"]


def test_settings_of_the_presets_are_those_of_the_published_pipeline() -> None:
    for preset in ("sample", "small", "full"):
        clean = load_params(REPO / "presets" / f"{preset}.yaml").dataset("diffdb").clean
        assert dict(clean.max_scores) == {"image_nsfw": 0.2, "prompt_nsfw": 0.2}
        assert clean == replace(clean, missing_scores="reject", cleaner="light")
