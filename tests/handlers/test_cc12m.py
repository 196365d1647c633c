import dataclasses
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from conftest import REPO
from microdiff.artifacts.raw import read_images
from microdiff.core.ledger import Counts, Reason
from microdiff.errors import SourceError
from microdiff.formats.records import Inputs, Rejection, Sample
from microdiff.handlers.cc12m import CC12M
from microdiff.pipeline.selection import select
from microdiff.storage.opening import open_source
from tests.archive_order import read_members, write_members
from tests.handler_contract import HandlerContract, Raw, Record, records_of
from tests.hub_server import HubServer
from tests.waiting import run_python

SAMPLES = REPO / "samples"
HANDLER = CC12M(form="webdataset")


class TestCC12M(HandlerContract):
    dataset = "cc12m"
    counts: ClassVar[Counts] = {
        "in": 18,
        "kept": 13,
        "bad_caption": 1,
        "empty_caption": 1,
        "missing_image": 1,
        "too_small": 1,
        "undecodable": 1,
    }

    def reorder(self, folder: Path) -> None:
        dice = random.Random(2014)
        for path in sorted(folder.glob("*.tar")):
            members = read_members(path)
            dice.shuffle(members)
            write_members(path, members)

    def test_the_readme_of_the_samples_says_the_same(self, raw: Raw) -> None:
        (row,) = [line for line in (SAMPLES / "README.md").read_text().splitlines() if line.startswith("| `cc12m`")]
        _, _, _, records, kept, with_512, rejected, _ = (cell.strip() for cell in row.split("|"))
        reasons = {name: int(count) for count, name in (part.split() for part in rejected.split(", "))}
        assert {"in": int(records), "kept": int(kept), **reasons} == self.counts
        assert int(with_512) == sum(min(row["width"], row["height"]) == 512 for row in raw.rows)

    def test_the_tars_are_the_partitions_and_one_is_absent(self, raw: Raw) -> None:
        assert [(part.name, part.number, part.files, part.num_records) for part in raw.partitions] == [
            ("0000", 0, ("cc12m-train-0000.tar",), 6),
            ("0001", 1, ("cc12m-train-0001.tar",), 6),
            ("0003", 3, ("cc12m-train-0003.tar",), 5),  # what _info.json says, though the tar has six
        ]
        assert [part.number for part in select(raw.partitions, "0-3", "cc12m")] == [0, 1, 3]

    def test_the_rejected_ones_are_those_made_bad(self, raw: Raw) -> None:
        assert {row["key"]: row["status"] for row in raw.rows if row["status"] != "kept"} == {
            "0000_000000006": "too_small",
            "0001_000050003": "undecodable",
            "0001_000050006": "missing_image",
            "0001_000050008": "empty_caption",
            "0003_000060000": "bad_caption",  # null in the JSON, and no text
        }

    def test_captions_are_untouched(self, raw: Raw) -> None:
        captions = {row["key"]: row["captions"] for row in raw.rows}
        assert captions["0000_000000003"] == [
            "Astronaut <PERSON> poses in an orange space suit (Photo by <PERSON>/NASA)"
        ]
        assert captions["0000_000000004"][0].startswith("Oranges, lemons &amp; limes &#8211; sliced")
        assert captions["0000_000000009"] == ["葉の上で休むアライグマ"]
        assert captions["0001_000050005"] == ["Portrait of a tabby cat with green eyes, looking aside"]  # from the JSON
        assert captions["0001_000050008"] == [""]
        assert captions["0001_000050011"] == ["Espresso in a red cup at the café"]  # Latin-1, as the preset says
        assert captions["0003_000060000"] == []

    def test_meta_says_what_the_source_does(self, raw: Raw) -> None:
        meta = {row["key"]: json.loads(row["meta"]) for row in raw.rows}
        assert meta["0003_000060004"] == {
            "key": "000060004",
            "url": "https://pictures.example.com/3/60004.jpg",
            "status": "success",
            "original_width": 3088,
            "original_height": 2056,
            "orientation": "Rotated 90 CW",
        }
        assert meta["0001_000050006"]["status"] == "failed_to_download"
        assert set(meta["0003_000060007"].items()) == {
            ("key", "000060007"),
            *((name, None) for name in ("url", "status", "original_width", "original_height", "orientation")),
        }

    def test_pictures_are_the_source_bytes_unless_they_are_gray(self, raw: Raw) -> None:
        images = {
            image.key: image.data for part in raw.partitions for image in read_images(raw.folder / f"{part.name}.tar")
        }
        for row in raw.rows:
            if row["status"] != "kept":
                continue
            tar, _, name = row["source"].partition("/")
            original = dict(read_members(SAMPLES / "cc12m" / tar))[name]
            gray = Image.open(io.BytesIO(original)).mode == "L"
            assert (images[row["key"]] != original) == gray
            assert gray == (row["key"] == "0000_000000007")


def test_the_hub_gives_the_same_as_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SAMPLES / "cc12m"
    with HubServer({"ORG/cc12m-wds": {path.name: path.read_bytes() for path in folder.iterdir()}}, page_size=2) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        from_hub = open_source(hub.root("ORG/cc12m-wds"), tmp_path)
        from_folder = open_source(str(folder), tmp_path)
        assert HANDLER.partitions(from_hub) == HANDLER.partitions(from_folder)
        assert records_of(HANDLER, from_hub) == records_of(HANDLER, from_folder)


# --- odd sources


class Tars:
    """A folder of tars that a test fills; members' data are given, or are their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, *members: str | tuple[str, bytes]) -> None:
        pairs = [(member, member.encode()) if isinstance(member, str) else member for member in members]
        write_members(self.folder / name, pairs)

    @property
    def source(self) -> Any:
        return open_source(str(self.folder), self.folder / "work")

    def records(self) -> list[Record]:
        return records_of(HANDLER, self.source)


@pytest.fixture
def tars(tmp_path: Path) -> Tars:
    return Tars(tmp_path)


def test_output_of_img2dataset_is_read_too(tars: Tars) -> None:
    tars.write("00000.tar", "000000000.jpg", "000000000.txt", ("000000000.json", b"{}"))
    tars.write("00012.tar", "000120003.webp", "000120003.txt")
    for name in ("00000.parquet", "00000_stats.json", "00012.tar.part", "other.tar", "README.md"):
        (tars.folder / name).write_bytes(b"{}")
    assert [(part.name, part.number) for part in HANDLER.partitions(tars.source)] == [("00000", 0), ("00012", 12)]
    assert [(record.key, record.captions, record.source) for record in tars.records()] == [
        ("00000_000000000", ("000000000.txt",), "00000.tar/000000000.jpg"),
        ("00012_000120003", ("000120003.txt",), "00012.tar/000120003.webp"),
    ]


def test_numbers_of_any_width_sort_as_numbers(tars: Tars) -> None:
    for number in (9, 10, 100):
        tars.write(f"x-{number}.tar", "1.jpg")
    assert [part.name for part in HANDLER.partitions(tars.source)] == ["0009", "0010", "0100"]
    assert [record.key for record in tars.records()] == ["9_1", "10_1", "100_1"]


def test_more_tars_change_no_key(tars: Tars) -> None:
    """Or lists of withdrawn samples would name them no more."""
    tars.write("x-0009.tar", "1.jpg")
    (before,) = tars.records()
    tars.write("x-10000.tar", "1.jpg")
    assert [record.key for record in tars.records()] == [before.key, "10000_1"]


def test_two_tars_with_one_number_are_an_error(tars: Tars) -> None:
    tars.write("train-0001.tar")
    tars.write("valid-0001.tar")
    with pytest.raises(SourceError, match=r"train-0001\.tar and valid-0001\.tar have the same number"):
        HANDLER.partitions(tars.source)


def test_a_folder_without_tars_is_an_error(tars: Tars) -> None:
    (tars.folder / "cc12m.tsv").write_text("http://a\tb\n")
    with pytest.raises(SourceError, match=r"has no numbered tars such as cc12m-train-0000\.tar"):
        HANDLER.partitions(tars.source)


@pytest.mark.parametrize(
    ("text", "hints"),
    [
        ('{"splits": {"a": {"filenames": ["a-0.tar"], "shard_lengths": [7]}}}', [7, None]),
        (
            '{"splits": {"a": {"filenames": ["a-0.tar"], "shard_lengths": [7]},'
            ' "b": {"filenames": ["a-1.tar", "README.md"], "shard_lengths": [8, 9]}}}',
            [7, 8],
        ),
        ('{"splits": {"a": {"filenames": ["a-0.tar", "a-1.tar"], "shard_lengths": ["7", -1]}}}', [None, None]),
        ('{"splits": {"a": {"filenames": ["a-0.tar", "a-1.tar"], "shard_lengths": [true, 0]}}}', [None, 0]),
        ('{"splits": {"a": {"filenames": ["a-0.tar"], "shard_lengths": []}}}', [None, None]),
        ('{"splits": {"a": {"filenames": ["elsewhere/a-0.tar"], "shard_lengths": [7]}}}', [None, None]),
        ('{"splits": ["a"]}', [None, None]),
        ('{"splits": {"a": 5}}', [None, None]),
        ("[]", [None, None]),
        ("<html>", [None, None]),
        ("[" * 100_000, [None, None]),
    ],
)
def test_stated_lengths_are_hints_and_other_shapes_are_none(tars: Tars, text: str, hints: list[int | None]) -> None:
    for number in range(2):
        tars.write(f"a-{number}.tar")
    (tars.folder / "_info.json").write_text(text)
    assert [part.num_records for part in HANDLER.partitions(tars.source)] == hints


def test_a_tar_that_should_be_there_is_missed_when_it_is_selected(tars: Tars) -> None:
    tars.write("a-0.tar", "1.jpg")
    (tars.folder / "_info.json").write_text(
        '{"splits": {"a": {"filenames": ["a-0.tar", "a-1.tar"], "shard_lengths": [1, 1]}}}'
    )
    assert [part.number for part in HANDLER.partitions(tars.source)] == [0, 1]
    with pytest.raises(SourceError, match=r"a-1\.tar: no such file"):
        tars.records()


def test_members_of_a_sample_need_not_be_neighbours(tars: Tars) -> None:
    tars.write("0.tar", "2.txt", "./1.jpg", "3.jpg", ".//2.jpg", ("1.json", b'{"caption": "one"}'), "3.txt")
    assert [(record.key, record.captions) for record in tars.records()] == [
        ("0_1", ("one",)),
        ("0_2", ("2.txt",)),
        ("0_3", ("3.txt",)),
    ]


def test_every_key_is_a_record(tars: Tars) -> None:
    tars.write("0.tar", "1.jpg", "1.png", "2.txt", "3.cls", "4.JPG", "5.seg.png", "._6.jpg")
    with tarfile.open(tars.folder / "0.tar", "a") as tar:
        link = tarfile.TarInfo("7.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert [(record.key, record.source, getattr(record, "reason", None)) for record in tars.records()] == [
        ("0_1", "0.tar/1.jpg", Reason.AMBIGUOUS_KEY),
        ("0_1", "0.tar/1.png", Reason.AMBIGUOUS_KEY),
        ("0_2", "0.tar/2.txt", Reason.MISSING_IMAGE),
        ("0_3", "0.tar/3.cls", Reason.MISSING_IMAGE),
        ("0_4", "0.tar/4.JPG", None),
        ("0_5", "0.tar/5.seg.png", Reason.MISSING_IMAGE),
        ("0_7", "0.tar/7.jpg", Reason.UNSAFE_MEMBER),
    ]


def test_a_text_of_megabytes_is_not_kept_in_memory(tars: Tars) -> None:
    tars.write("0.tar", "1.jpg", ("1.txt", bytes(2**20 + 1)), "2.jpg", ("2.txt", b"x" * 2**20))
    first, second = tars.records()
    assert isinstance(first, Rejection)
    assert first.reason is Reason.TOO_LARGE
    assert second.captions == ("x" * 2**20,)


@pytest.mark.parametrize(
    ("document", "captions", "url"),
    [
        (b'{"caption": "a", "url": "u"}', ("a",), "u"),
        (b'{"url": "u"}', (), "u"),
        (b'{"caption": null, "url": ["u"]}', None, None),
        (b'{"caption": 5, "url": NaN}', None, None),
        (b'{"caption": ["a"]}', None, None),
        (b'{"caption": {"a": "b"}}', None, None),
        (b'{"caption": true}', None, None),
        (b'{"caption": "a\\u0000"}', None, None),
        (b'{"caption": "a", "caption": "b"}', None, None),
        (b'{"caption": "a", "caption": "a"}', ("a",), None),
        ('{"caption": "é"}'.encode("utf-8-sig"), ("é",), None),
        ('{"caption": "é"}'.encode("utf-16"), ("é",), None),
        (b'{"caption": "a", "original_width": 1e999, "exif": "{]"}', ("a",), None),
        (b'{"caption": "a", "exif": "[1]"}', ("a",), None),
        (b'{"caption": "a", "exif": "{\\"Image Orientation\\": 6}"}', ("a",), None),
        (b'{"caption": "\\ud800"}', ("\ud800",), None),
        (b"[]", (), None),
        (b"", None, None),
        (b'{"caption": "\xff"}', None, None),
        (b'{"caption": "cut', None, None),
        (b"[" * 100_000, None, None),
        (b"1" * 5000, None, None),
    ],
)
def test_odd_json_costs_only_what_it_says(
    tars: Tars, document: bytes, captions: tuple[str, ...] | None, url: str
) -> None:
    tars.write("0.tar", "1.jpg", ("1.json", document))
    (record,) = tars.records()
    if captions is None:
        assert isinstance(record, Rejection)
        assert record.reason == Reason.BAD_CAPTION
        assert record.meta["cause"]
    else:
        assert isinstance(record, Sample)
    assert record.captions == (captions or ())
    assert (record.meta["url"], record.meta["orientation"], record.meta["original_width"]) == (url, None, None)
    json.dumps(dict(record.meta), allow_nan=False)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:1536],
        lambda data: data[:-10240],
        lambda data: data.replace(b"2.jpg\0", b"3.jpg\0"),  # the header's checksum is wrong
    ],
    ids=["a member short", "the end missing", "a damaged header"],
)
def test_a_damaged_tar_yields_nothing(tars: Tars, damage: Callable[[bytes], bytes]) -> None:
    tars.write("0.tar", ("1.jpg", bytes(9000)), ("2.jpg", bytes(9000)))
    path = tars.folder / "0.tar"
    path.write_bytes(damage(path.read_bytes()))
    (partition,) = HANDLER.partitions(tars.source)
    (tars.folder / "scratch").mkdir()
    records = HANDLER.read(partition, Inputs(files={"0.tar": path}, scratch=tars.folder / "scratch"))
    with pytest.raises(SourceError, match=r"0\.tar: "):
        next(records)


def test_a_tar_larger_than_the_memory_allowed_is_read(tars: Tars) -> None:
    """192 MB of pictures, in the worst order, by a process that may need 64 MB more than at its start."""
    picture = bytes(4 * 2**20)
    with tarfile.open(tars.folder / "0.tar", "w") as tar:
        for key in reversed(range(48)):
            member = tarfile.TarInfo(f"{key:03d}.jpg")
            member.size = len(picture)
            tar.addfile(member, io.BytesIO(picture))
    script = (
        "import resource, sys; from pathlib import Path; from microdiff.handlers import Inputs\n"
        "from microdiff.handlers.cc12m import CC12M, Partition\n"
        "handler, part = CC12M(form='webdataset'), Partition(name='0', number=0, files=('0.tar',))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "inputs = Inputs(files={'0.tar': Path('0.tar')}, scratch=Path('scratch'))\n"
        "keys = [record.key for record in handler.read(part, inputs)]\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert keys == sorted(keys) and len(keys) == 48, keys\n"
        "sys.exit(0 if after - before < 65_536 else f'{after - before} KB')"
    )
    (tars.folder / "scratch").mkdir()
    done = run_python("-c", script, cwd=tars.folder, env={"PYTHONPATH": str(REPO)})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({}, []),
        ({"urls_per_partition": 0}, ["urls_per_partition"]),
        ({"max_failed_share": 1.1}, ["max_failed_share"]),
        ({"max_failed_share": -0.1}, ["max_failed_share"]),
        ({"max_failed_share": float("nan")}, ["max_failed_share"]),
        ({"timeout_s": 0.0}, ["timeout_s"]),
        ({"timeout_s": float("inf")}, ["timeout_s"]),
        ({"retries": -1}, ["retries"]),
        ({"fallback_encoding": "latin-1"}, []),
        ({"fallback_encoding": "latin-one"}, ["fallback_encoding"]),
        ({"fallback_encoding": "hex"}, ["fallback_encoding"]),
    ],
)
def test_settings_out_of_range_are_problems(changes: dict[str, Any], problems: list[str]) -> None:
    assert [name for name, _ in dataclasses.replace(HANDLER, **changes).problems()] == problems
