import copy
import dataclasses
import io
import json
import random
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
from PIL import Image

from microdiff.artifacts.raw import read_images
from microdiff.core.files import digest_bytes
from microdiff.core.ledger import Counts, Reason
from microdiff.download.raw_writer import SCHEMA
from microdiff.errors import SourceError
from microdiff.formats import zips
from microdiff.formats.records import Inputs, Partition, Rejection, Sample
from microdiff.formats.zips import read_member
from microdiff.handlers import Handler
from microdiff.handlers.coco import Coco
from microdiff.storage.opening import open_source
from tests.handler_contract import HandlerContract, Raw, Record, records_of, write_partition

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
ZIP = "zips/val2014.zip"
ANNOTATIONS = "annotations/annotations_trainval2014.zip"
MEMBER = "annotations/captions_val2014.json"
HANDLER = Coco(split="val2014", images_per_partition=10)


def key(image_id: int) -> str:
    return f"COCO_val2014_{image_id:012d}"


@pytest.fixture(scope="session")
def members() -> dict[str, bytes]:
    """The miniature's pictures by member name."""
    with zipfile.ZipFile(SAMPLES / "coco" / ZIP) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


@pytest.fixture(scope="session")
def document() -> dict[str, Any]:
    """The miniature's annotations."""
    with zipfile.ZipFile(SAMPLES / "coco" / ANNOTATIONS) as archive:
        annotations: dict[str, Any] = json.loads(archive.read(MEMBER))
    return annotations


class TestCoco(HandlerContract):
    dataset = "coco"
    counts: ClassVar[Counts] = {
        "in": 38,
        "kept": 28,
        "duplicate_key": 1,
        "empty_caption": 1,
        "missing_caption": 2,
        "missing_image": 2,
        "too_small": 2,
        "undecodable": 2,
    }
    slice_setting = "images_per_partition"

    def test_the_readme_of_the_samples_says_the_same(self) -> None:
        (row,) = [line for line in (SAMPLES / "README.md").read_text().splitlines() if line.startswith("| `coco`")]
        _, _, _, records, kept, with_512, rejected, _ = (cell.strip() for cell in row.split("|"))
        reasons = {name: int(count) for count, name in (part.split() for part in rejected.split(", "))}
        assert {"in": int(records), "kept": int(kept), **reasons} == self.counts
        assert int(with_512) == 8

    def test_the_rejected_ones_are_those_made_bad(self, raw: Raw) -> None:
        assert {row["key"]: row["status"] for row in raw.rows if row["status"] != "kept"} == {
            key(676540): "too_small",
            key(679027): "too_small",
            key(681664): "undecodable",  # truncated
            key(684211): "undecodable",  # HTML
            key(686932): "missing_image",
            "annotation_000000689405": "missing_image",
            key(691878): "missing_caption",
            key(694316): "missing_caption",  # not in images[] either
            key(697550): "empty_caption",
            f"{key(617902)}#2": "duplicate_key",
        }

    def test_the_table_has_the_schema_that_others_read(self, raw: Raw) -> None:
        for partition in raw.partitions:
            schema = pq.read_schema(raw.folder / f"{partition.name}.parquet")
            assert schema.equals(SCHEMA)
        assert {name: str(schema.field(name).type) for name in schema.names} == {
            "key": "string",
            "status": "string",
            "captions": "list<element: string>",
            "width": "int32",
            "height": "int32",
            "original_width": "int32",
            "original_height": "int32",
            "sha256": "string",
            "source": "string",
            "meta": "string",
        }

    def test_kept_rows_describe_the_stored_pictures(self, raw: Raw) -> None:
        images = {
            image.key: image.data for part in raw.partitions for image in read_images(raw.folder / f"{part.name}.tar")
        }
        rows = {row["key"]: row for row in raw.rows if row["status"] == "kept"}
        for name, data in images.items():
            picture, row = Image.open(io.BytesIO(data)), rows[name]
            assert picture.mode == "RGB"
            assert picture.size == (row["width"], row["height"])
            assert 256 <= min(picture.size) <= 512
            assert digest_bytes(data) == row["sha256"]
            assert json.loads(row["meta"])["licence"].startswith("https://creativecommons.org/")
            assert row["source"] == f"{ZIP}/val2014/{name}.jpg"
        assert sum(min(row["width"], row["height"]) == 512 for row in rows.values()) == 8
        turned = rows[key(640066)]  # EXIF orientation 6
        assert (turned["width"], turned["height"], turned["original_width"], turned["original_height"]) == (
            480,
            640,
        ) * 2

    def test_members_are_in_key_order_and_unchanged_pictures_are_the_source_bytes(
        self, raw: Raw, members: dict[str, bytes]
    ) -> None:
        changed = set()
        for partition in raw.partitions:
            with tarfile.open(raw.folder / f"{partition.name}.tar") as tar:
                names = tar.getnames()
            assert names == sorted(names)
            for name, image in zip(names, read_images(raw.folder / f"{partition.name}.tar"), strict=True):
                assert Path(name).stem == image.key
                if image.data != members[f"val2014/{image.key}.jpg"]:
                    changed.add(image.key)
                elif image.key == key(649975):
                    assert name.endswith(".png")  # a PNG that the source calls .jpg
        reduced = {row["key"] for row in raw.rows if min(row["original_width"], row["original_height"]) > 512}
        odd = {key(601377), key(640066), key(667285), key(670913)}  # grey, turned, CMYK, grey
        assert changed == odd | (reduced & {row["key"] for row in raw.rows if row["status"] == "kept"})
        assert reduced

    def test_two_runs_write_the_same_bytes(self, raw: Raw, tmp_path: Path) -> None:
        source = open_source(str(SAMPLES / "coco"), tmp_path / "work")
        partition = raw.partitions[1]
        write_partition(HANDLER, partition, source, tmp_path)
        for suffix in ("tar", "parquet"):
            name = f"{partition.name}.{suffix}"
            assert (tmp_path / name).read_bytes() == (raw.folder / name).read_bytes()

    def test_captions_are_untouched_and_in_the_order_of_the_file(self, raw: Raw, document: dict[str, Any]) -> None:
        in_file: dict[int, list[str]] = {}
        for annotation in document["annotations"]:
            in_file.setdefault(annotation["image_id"], []).append(annotation["caption"])
        for row in raw.rows:
            assert row["captions"] == in_file.get(json.loads(row["meta"])["image_id"], [])
        captions = {row["key"]: row["captions"] for row in raw.rows}
        assert "\n" in captions[key(604721)][0]
        assert len(captions[key(603009)]) == 6
        assert any(not caption.strip() for caption in captions[key(646310)])
        assert any(caption.endswith("\n") for caption in captions[key(652248)][1:])

    def test_the_zip_is_cut_where_the_setting_says(self, handler: Handler, source: Any) -> None:
        assert [(part.name, part.num_records) for part in handler.partitions(source)] == [
            ("0000", 10),
            ("0001", 10),
            ("0002", 10),
            ("0003", 5),
        ]
        (whole,) = dataclasses.replace(HANDLER, images_per_partition=1000).partitions(source)
        assert (whole.first_key, whole.end_key, whole.num_records) == (None, None, 35)
        assert list(whole.files) == [ZIP, ANNOTATIONS]


# --- odd sources


class Miniature:
    """A source that a test changes before it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pictures = {f"val2014/{name}.jpg": name.encode() for name in "abc"}
        self.document: Any = {
            "images": [{"id": number, "file_name": f"{name}.jpg"} for number, name in enumerate("abc", 1)],
            "annotations": [{"image_id": number, "caption": f"caption {number}"} for number in (3, 1, 2)],
        }

    def write(self, annotations: bytes | None = None) -> None:
        text = json.dumps(self.document).encode() if annotations is None else annotations
        for path, entries in ((ZIP, self.pictures), (ANNOTATIONS, {MEMBER: text})):
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(self.folder / path, "w") as archive:
                for name, data in entries.items():
                    archive.writestr(name, data)

    def records(self, handler: Coco = HANDLER) -> list[Record]:
        self.write()
        return records_of(handler, open_source(str(self.folder), self.folder / "work"))


@pytest.fixture
def mini(tmp_path: Path) -> Miniature:
    return Miniature(tmp_path)


def test_a_minimal_source_is_read(mini: Miniature) -> None:
    assert mini.records() == [
        Sample(
            key=name,
            image=name.encode(),
            captions=(f"caption {number}",),
            source=f"{ZIP}/val2014/{name}.jpg",
            meta={"image_id": number, "licence": "", "flickr_url": ""},
        )
        for number, name in enumerate("abc", 1)
    ]


def test_captions_of_one_picture_keep_the_order_of_the_file(mini: Miniature) -> None:
    mini.document["annotations"] = [
        {"image_id": 2, "id": 30, "caption": " Second\n"},
        {"image_id": 1, "id": 9, "caption": "other"},
        {"image_id": 2, "id": 10, "caption": "first by id"},
        {"image_id": 2, "id": 20, "caption": ""},
    ]
    assert mini.records()[1].captions == (" Second\n", "first by id", "")


@pytest.mark.parametrize("caption", [None, 5, 1.5, True, ["list", "of"], {"a": "b"}, "a\0b", "absent"])
def test_a_caption_that_is_no_text_is_a_rejection(mini: Miniature, caption: object) -> None:
    entry = {"image_id": 2} if caption == "absent" else {"image_id": 2, "caption": caption}
    mini.document["annotations"].append(entry)
    record = mini.records()[1]
    assert isinstance(record, Rejection)
    assert record.reason == Reason.BAD_CAPTION
    assert record.captions[0] == "caption 2"
    assert "['list" not in "".join(record.captions)


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_what_only_one_side_names_is_a_record_too(mini: Miniature, size: int) -> None:
    mini.document["annotations"].append({"image_id": 77, "caption": "orphan"})
    mini.pictures |= {"val2014/": b"", "val2014/a0.jpg": b"nowhere", "elsewhere/a.jpg": b"second a", "0.jpg": b"early"}
    mini.pictures |= {"val2014/b.x.jpg": b"a point"}
    del mini.pictures["val2014/c.jpg"]
    records = mini.records(dataclasses.replace(HANDLER, images_per_partition=size))
    assert [(record.key, record.source.removeprefix(ZIP), record.captions) for record in records] == [
        ("0", "/0.jpg", ()),
        ("a", "/val2014/a.jpg", ("caption 1",)),
        ("a0", "/val2014/a0.jpg", ()),
        ("annotation_000000000077", f"{ANNOTATIONS}#77", ("orphan",)),
        ("b", "/val2014/b.jpg", ("caption 2",)),
        ("b%2Ex", "/val2014/b.x.jpg", ()),
        ("c", f"{ANNOTATIONS}#3", ("caption 3",)),
        ("elsewhere%2Fa", "/elsewhere/a.jpg", ()),
    ]
    assert [record.key for record in records if isinstance(record, Rejection)] == ["annotation_000000000077", "c"]


def reasons(records: list[Record]) -> list[tuple[str, Reason | None, tuple[str, ...]]]:
    return [
        (record.key, record.reason if isinstance(record, Rejection) else None, record.captions) for record in records
    ]


def test_entries_that_share_a_file_are_ambiguous(mini: Miniature) -> None:
    mini.document["images"].insert(0, {"id": 9, "file_name": "a.jpg"})
    mini.document["annotations"].append({"image_id": 9, "caption": "caption 9"})
    assert reasons(mini.records())[:3] == [
        ("a", Reason.AMBIGUOUS_KEY, ("caption 1",)),
        ("a", Reason.AMBIGUOUS_KEY, ("caption 9",)),
        ("b", None, ("caption 2",)),
    ]


def test_a_file_is_of_the_entry_whose_id_is_in_its_name(mini: Miniature) -> None:
    mini.document["images"] = [{"id": number, "file_name": "COCO_000000000007.jpg"} for number in (9, 7, 3)]
    mini.document["annotations"] = [{"image_id": number, "caption": f"caption {number}"} for number in (3, 7, 9)]
    mini.pictures = {"val2014/COCO_000000000007.jpg": b"seven"}
    assert reasons(mini.records()) == [  # the second and third become duplicate_key
        ("COCO_000000000007", None, (f"caption {number}",)) for number in (7, 3, 9)
    ]


def test_an_id_of_two_files_is_ambiguous(mini: Miniature) -> None:
    mini.document["images"].append({"id": 1, "file_name": "d.jpg"})
    mini.pictures["val2014/d.jpg"] = b"d"
    assert reasons(mini.records()) == [
        ("a", Reason.AMBIGUOUS_KEY, ("caption 1",)),
        ("b", None, ("caption 2",)),
        ("c", None, ("caption 3",)),
        ("d", Reason.AMBIGUOUS_KEY, ("caption 1",)),
    ]


def test_an_entry_that_is_there_twice_is_a_duplicate(mini: Miniature) -> None:
    mini.document["images"].append(dict(mini.document["images"][0]))
    assert reasons(mini.records())[:2] == [("a", None, ("caption 1",))] * 2


def test_a_picture_that_no_entry_names_has_no_captions_of_image_0(mini: Miniature) -> None:
    mini.pictures["val2014/z.jpg"] = b"z"
    mini.document["images"].append({"id": 0, "file_name": "zero.jpg"})
    mini.document["annotations"].append({"image_id": 0, "caption": "of zero"})
    captions = {record.key: record.captions for record in mini.records()}
    assert (captions["z"], captions["zero"]) == ((), ("of zero",))


@pytest.mark.parametrize(
    "form",
    ["{}.jpg", "./{}.jpg", "./val2014/{}.jpg", "val2014/{}.JPG", "val2014\\{}.jpg", "coco/val2014/{}.jpg", "{}.JPG"],
)
def test_the_zip_may_have_its_pictures_elsewhere(mini: Miniature, form: str) -> None:
    mini.pictures = {form.format(name): name.encode() for name in "abc"} | {"__MACOSX/._a.jpg": b""}
    assert [(record.key, getattr(record, "image", None), record.captions) for record in mini.records()] == [
        (name, name.encode(), (f"caption {number}",)) for number, name in enumerate("abc", 1)
    ]


def test_the_name_that_fits_exactly_counts(mini: Miniature) -> None:
    mini.pictures |= {"a.jpg": b"at the root", "val2014/b.JPG": b"large letters", "other/c.jpg": b"elsewhere"}
    mini.document["images"].append({"id": 4, "file_name": "b.JPG"})
    mini.document["annotations"].append({"image_id": 4, "caption": "caption 4"})
    assert [(record.key, getattr(record, "image", None), record.captions) for record in mini.records()] == [
        ("a", b"a", ("caption 1",)),
        ("a", b"at the root", ()),
        ("b", b"b", ("caption 2",)),
        ("b", b"large letters", ("caption 4",)),
        ("c", b"c", ("caption 3",)),
        ("other%2Fc", b"elsewhere", ()),
    ]


@pytest.mark.parametrize("other", ["val2014/b.jpg", "val2014\\b.jpg", "./val2014/b.jpg"])
@pytest.mark.parametrize("data", [b"b", b"another"], ids=["same", "other"])
def test_a_member_that_is_there_twice_is_no_sample(mini: Miniature, other: str, data: bytes) -> None:
    mini.write()
    with warnings.catch_warnings(), zipfile.ZipFile(mini.folder / ZIP, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(other, data)
    records = records_of(HANDLER, open_source(str(mini.folder), mini.folder / "work"))
    reason = None if data == b"b" else Reason.AMBIGUOUS_KEY
    assert reasons(records) == [
        ("a", None, ("caption 1",)),
        ("b", reason, ("caption 2",)),
        ("b", reason, ()),  # becomes a duplicate_key where it is the same
        ("c", None, ("caption 3",)),
    ]


def test_a_damaged_member_costs_only_itself(mini: Miniature) -> None:
    mini.pictures["val2014/b.jpg"] = b"the bytes of b"
    mini.write()
    path = mini.folder / ZIP
    path.write_bytes(path.read_bytes().replace(b"the bytes of b", b"the bytes of B"))
    records = records_of(HANDLER, open_source(str(mini.folder), mini.folder / "work"))
    assert [record.reason if isinstance(record, Rejection) else None for record in records] == [
        None,
        Reason.UNDECODABLE,
        None,
    ]
    assert records[1].captions == ("caption 2",)


def test_a_member_that_is_too_large_is_not_read(mini: Miniature, monkeypatch: pytest.MonkeyPatch) -> None:
    mini.pictures["val2014/b.jpg"] = bytes(2000)
    monkeypatch.setattr(zips, "read_member", lambda archive, name: read_member(archive, name, 1000))
    assert [record.reason for record in mini.records() if isinstance(record, Rejection)] == [Reason.TOO_LARGE]


def _without(name: str) -> Callable[[Any], Any]:
    return lambda document: {key: value for key, value in document.items() if key != name}


def _with(name: str, value: object) -> Callable[[Any], Any]:
    return lambda document: {**document, name: value}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda _: [], "a list"),
        (lambda _: None, "null"),
        (_without("images"), "no images"),
        (_without("annotations"), "no annotations"),
        (_with("images", {}), "images are not a list"),
        (_with("images", []), "no picture at all"),
        (_with("images", [1]), "an image is not an object"),
        (_with("images", [{"id": 1}]), "an image has no file"),
        (_with("images", [{"id": "1", "file_name": "a.jpg"}]), "an id is not a number"),
        (_with("images", [{"id": 1, "file_name": ""}]), "a file without a name"),
        (_with("images", [{"id": True, "file_name": "a.jpg"}]), "an id is neither"),
        (_with("images", [{"id": 1.0, "file_name": "a.jpg"}]), "an id has a point"),
        (_with("annotations", [{"image_id": "1", "caption": "x"}]), "an id is in another form"),
        (_with("images", [{"file_name": "a.jpg"}]), "an image has no id"),
        (_with("annotations", [{"caption": "x"}]), "an annotation of nothing"),
        (_with("annotations", ["x"]), "an annotation is not an object"),
        (_with("licenses", [{"url": "x"}]), "a licence has no id"),
        (_with("licenses", None), "licences are not a list"),
    ],
)
def test_json_that_is_not_coco_is_an_error(change: Callable[[Any], Any], why: str, mini: Miniature) -> None:
    mini.document = change(copy.deepcopy(mini.document))
    with pytest.raises(SourceError, match=f"annotations_trainval2014.zip: {MEMBER}: "):
        assert not mini.records(), why


@pytest.mark.parametrize("text", [b"", b'{"images": [', b"\xff\xfe", b"<html>"])
def test_annotations_that_are_not_json_are_an_error(text: bytes, mini: Miniature) -> None:
    mini.write(text)
    with pytest.raises(SourceError, match="not COCO annotations"):
        HANDLER.partitions(open_source(str(mini.folder), mini.folder / "work"))


def test_the_annotations_of_another_split_are_an_error(mini: Miniature) -> None:
    mini.write()
    (mini.folder / "zips/train2014.zip").write_bytes((mini.folder / ZIP).read_bytes())
    with pytest.raises(SourceError, match=r"captions_train2014\.json: not COCO annotations"):
        Coco(split="train2014", images_per_partition=5).partitions(open_source(str(mini.folder), mini.folder / "work"))


def test_a_wrong_checksum_is_an_error(mini: Miniature) -> None:
    mini.write()
    for path in (ZIP, ANNOTATIONS):
        handler = dataclasses.replace(HANDLER, sha256={path: "0" * 64})
        with pytest.raises(SourceError, match=f"{path}: expected sha256:0000"):
            records_of(handler, open_source(str(mini.folder), mini.folder / "work"))


@pytest.mark.parametrize(
    ("handler", "problems"),
    [
        (Coco(split="val2014", images_per_partition=1, sha256={ZIP: "", ANNOTATIONS: ""}), []),
        (Coco(split="val2014", images_per_partition=0), ["images_per_partition"]),
        (
            Coco(split="val2014", images_per_partition=1, sha256={"zips/train2014.zip": ""}),
            ["sha256.zips/train2014.zip"],
        ),
    ],
)
def test_settings_out_of_range_are_problems(handler: Coco, problems: list[str]) -> None:
    assert [name for name, _ in handler.problems()] == problems


def test_random_cuts_hold_every_record_once(mini: Miniature) -> None:
    mini.write()
    source = open_source(str(mini.folder), mini.folder / "work")
    (whole,) = HANDLER.partitions(source)
    files = {path: source.fetch(source.stat(path)) for path in whole.files}
    dice = random.Random(2014)
    for _ in range(20):
        cuts = sorted(dice.sample(["0", "a", "aa", "b", "b0", "c", "d"], 3))
        parts = [
            Partition(name=str(number), number=number, files=whole.files, first_key=first, end_key=end)
            for number, (first, end) in enumerate(zip([None, *cuts], [*cuts, None], strict=True))
        ]
        assert [
            record.key for part in parts for record in HANDLER.read(part, Inputs(files=files, scratch=mini.folder))
        ] == ["a", "b", "c"]
