import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from microdiff.artifacts.raw import RawImage, read_images
from microdiff.artifacts.tables import read_kept, read_rows, table_writer
from microdiff.config.settings import DownloadSettings
from microdiff.core.files import digest_bytes
from microdiff.core.ledger import Counts, Reason, check_balance
from microdiff.core.progress import NullReporter
from microdiff.download.raw_writer import SCHEMA, write_raw
from microdiff.errors import SchemaError
from microdiff.formats.records import Rejection, Sample

SETTINGS = DownloadSettings(min_side_px=16, max_side_px=32, jpeg_quality=90)
COLUMNS = SCHEMA.names


def picture(side: int = 16, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((side + 4, side)).convert("RGB").save(out, form)
    return out.getvalue()


PNG = picture()


def sample(key: str, *captions: str, image: bytes = PNG, meta: dict[str, object] | None = None) -> Sample:
    return Sample(key=key, image=image, captions=captions, source=f"a.zip/{key}.png", meta=meta or {})


class Counter(NullReporter):
    def __init__(self) -> None:
        self.samples = 0

    def tick(self, samples: int = 0, num_bytes: int = 0) -> None:
        self.samples += samples


def written(records: Iterable[Sample | Rejection], folder: Path) -> tuple[Counts, list[dict[str, object]]]:
    """Write one partition, check what always holds, and return its counts and rows."""
    report = Counter()
    counts = write_raw(records, SETTINGS, "p", folder, report).counts
    rows = list(read_rows(folder / "p.parquet", COLUMNS))
    check_balance(counts, None, "test")
    assert len(rows) == counts["in"] == report.samples
    kept = list(read_kept(folder / "p.parquet", ["key", "sha256"]))
    assert [(image.key, digest_bytes(image.data)) for image in read_images(folder / "p.tar")] == [
        (row["key"], row["sha256"]) for row in kept
    ]
    assert len(kept) == counts["kept"]
    assert len({row["key"] for row in rows}) == len(rows)
    return counts, rows


def test_every_record_gets_a_row_with_its_outcome(tmp_path: Path) -> None:
    records: list[Sample | Rejection] = [
        sample("a", " One\ncaption ", "two", meta={"b": [1, None], "a": "é"}),
        sample("b", "small", image=picture(15)),
        sample("c", "large", image=picture(33, "WEBP")),
        sample("d", "damaged", image=PNG[:60]),
        Rejection(key="e", reason=Reason.FAILED_DOWNLOAD, source="http://host/e", captions=("gone",), meta={"n": 1}),
    ]
    counts, rows = written(records, tmp_path)
    assert counts == {"in": 5, "kept": 2, "failed_download": 1, "too_small": 1, "undecodable": 1}
    assert pq.read_schema(tmp_path / "p.parquet").equals(SCHEMA)
    sizes = ("width", "height", "original_width", "original_height")
    assert [(row["key"], row["status"], *(row[size] for size in sizes), bool(row["sha256"])) for row in rows] == [
        ("a", "kept", 20, 16, 20, 16, True),
        ("b", "too_small", 0, 0, 19, 15, False),
        ("c", "kept", 36, 32, 37, 33, True),
        ("d", "undecodable", 0, 0, 0, 0, False),
        ("e", "failed_download", 0, 0, 0, 0, False),
    ]
    assert [row["captions"] for row in rows][0::4] == [[" One\ncaption ", "two"], ["gone"]]
    assert [row["source"] for row in rows][3:] == ["a.zip/d.png", "http://host/e"]
    assert rows[0]["meta"] == '{"a": "é", "b": [1, null]}'
    with tarfile.open(tmp_path / "p.tar") as tar:
        assert [(member.name, member.mtime, member.mode, member.uid) for member in tar] == [
            ("a.png", 0, 0o644, 0),
            ("c.jpg", 0, 0o644, 0),
        ]


def test_a_repeated_key_is_numbered_and_rejected(tmp_path: Path) -> None:
    records: list[Sample | Rejection] = [
        sample("a", "first"),
        sample("a", "second"),
        Rejection(key="a", reason=Reason.NSFW, source="x"),
        sample("b", "other"),
        sample("a"),
    ]
    counts, rows = written(records, tmp_path)
    assert counts == {"in": 5, "kept": 2, "duplicate_key": 3}
    assert [(row["key"], row["status"]) for row in rows] == [
        ("a", "kept"),
        ("a#2", "duplicate_key"),
        ("a#3", "duplicate_key"),
        ("b", "kept"),
        ("a#4", "duplicate_key"),
    ]
    assert rows[1]["captions"] == ["second"]


@pytest.mark.parametrize(
    ("captions", "status"),
    [
        ((), "missing_caption"),
        (("",), "empty_caption"),
        ((" \n\t", "", "\u3000"), "empty_caption"),
        (("", "a cat"), "kept"),
        (("0",), "kept"),
    ],
)
def test_captions_are_judged_together_and_stored_untouched(
    captions: tuple[str, ...], status: str, tmp_path: Path
) -> None:
    (row,) = written([sample("a", *captions)], tmp_path)[1]
    assert row["status"] == status
    assert row["captions"] == list(captions)


def test_what_utf8_cannot_hold_becomes_a_question_mark(tmp_path: Path) -> None:
    half = "\ud83d"  # JSON files hold such halves
    _, rows = written([sample("a", f"a {half} cat", "\U0001f431", meta={half: half})], tmp_path)
    assert rows[0]["captions"] == ["a ? cat", "\U0001f431"]
    assert json.loads(str(rows[0]["meta"])) == {"?": "?"}


@pytest.mark.parametrize("key", ["", "a/b", "a.b", "a\n", "a\t", "\x1b[31m", "a\ud83d", "\u202ea"])
def test_a_key_that_is_none_is_a_fault_of_the_handler(key: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the handler gives a key that is none"):
        written([sample(key, "a cat")], tmp_path)


def ambiguous(key: str) -> Rejection:
    return Rejection(key=key, reason=Reason.AMBIGUOUS_KEY, source="a.zip/again.png", captions=("a dog",))


def test_what_turns_out_to_be_ambiguous_is_taken_back(tmp_path: Path) -> None:
    records = [sample("a", "a cat"), sample("b", "a bird"), ambiguous("a"), sample("a", "a cat"), sample("c", "a cow")]
    counts, rows = written(records, tmp_path)
    assert counts == {"in": 5, "kept": 2, "ambiguous_key": 2, "duplicate_key": 1}
    assert [(row["key"], row["status"], row["sha256"] == "") for row in rows] == [
        ("a", "ambiguous_key", True),
        ("b", "kept", False),
        ("a#2", "ambiguous_key", True),
        ("a#3", "duplicate_key", True),
        ("c", "kept", False),
    ]
    assert (rows[0]["width"], rows[0]["captions"]) == (0, ["a cat"])
    assert [image.key for image in read_images(tmp_path / "p.tar")] == ["b", "c"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.parquet", "p.tar"]


@pytest.mark.parametrize("key", ["x" * 150, "日本語" * 50], ids=["long", "long and not ASCII"])
def test_keys_longer_than_a_tar_header_are_kept_whole(key: str, tmp_path: Path) -> None:
    assert written([sample(key, "a cat")], tmp_path)[1][0]["key"] == key
    assert [image.key for image in read_images(tmp_path / "p.tar")] == [key]


def test_no_records_make_an_empty_partition(tmp_path: Path) -> None:
    counts, rows = written([], tmp_path)
    assert counts == {"in": 0, "kept": 0}
    assert rows == []
    assert pq.read_schema(tmp_path / "p.parquet").equals(SCHEMA)


@pytest.mark.parametrize("num_rows", [4095, 4096, 4097, 8193])
def test_tables_larger_than_a_row_group_are_whole_and_in_order(num_rows: int, tmp_path: Path) -> None:
    records = (Rejection(key=f"{n:06d}", reason=Reason.NSFW, source="") for n in range(num_rows))
    counts, rows = written(records, tmp_path)
    assert counts == {"in": num_rows, "kept": 0, "nsfw": num_rows}
    assert [row["key"] for row in rows] == [f"{n:06d}" for n in range(num_rows)]
    assert pq.ParquetFile(tmp_path / "p.parquet").metadata.num_row_groups >= num_rows / 4096


def test_kept_rows_are_those_whose_status_says_so(tmp_path: Path) -> None:
    schema = pa.schema([("key", pa.string()), ("status", pa.string())])
    with table_writer(tmp_path / "t.parquet", schema) as add_row:
        for number, status in enumerate(["kept", "nsfw", "kept", "too_small"]):
            add_row({"key": str(number), "status": status})
    assert [row["key"] for row in read_kept(tmp_path / "t.parquet", ["key"])] == ["0", "2"]


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        written([sample("a", "x", image=picture(40)), sample("b", "y"), sample("b", "z")], tmp_path / name)
    for file in ("p.tar", "p.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: data[:700], "ends inside the first picture"),
        (lambda data: data[: data.index(b"b.png")], "ends where the second picture starts"),
        (lambda data: data.replace(b"b.png", b"?.png"), "a header does not fit its checksum"),
        (lambda data: b"", "empty"),
        (lambda data: b"\xff" * len(data), "not a tar"),
    ],
)
def test_a_damaged_tar_is_an_error_and_never_fewer_pictures(damage: object, why: str, tmp_path: Path) -> None:
    written([sample("a", "x"), sample("b", "y")], tmp_path)
    path = tmp_path / "p.tar"
    assert callable(damage)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SchemaError, match=r"p\.tar: damaged \("):
        list(read_images(tmp_path / "p.tar"))


def test_a_tar_that_holds_no_files_or_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"q\.tar: missing"):
        next(read_images(tmp_path / "q.tar"))
    with tarfile.open(tmp_path / "q.tar", "w") as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    with pytest.raises(SchemaError, match="folder is not a file"):
        next(read_images(tmp_path / "q.tar"))


def test_pictures_are_read_one_at_a_time(tmp_path: Path) -> None:
    written([sample(key, "x") for key in "abc"], tmp_path)
    images = read_images(tmp_path / "p.tar")
    assert next(images) == RawImage("a", PNG)
    images.close()  # type: ignore[attr-defined]
