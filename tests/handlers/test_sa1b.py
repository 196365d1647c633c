import dataclasses
import gzip
import hashlib
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from conftest import REPO, tree_bytes
from microdiff.artifacts.tables import read_rows
from microdiff.core.ledger import Counts, Reason
from microdiff.core.progress import NullReporter
from microdiff.download.raw_writer import write_raw
from microdiff.download.step import download
from microdiff.errors import RejectionError, SourceError, StepError
from microdiff.formats import archives
from microdiff.formats.records import Rejection, Sample
from microdiff.handlers import Handler
from microdiff.handlers.sa1b import Sa1b
from microdiff.pipeline.workspace import Workspace
from microdiff.storage import Source
from microdiff.storage.opening import open_source
from samples.build.sa1b import RECORDS
from tests.archive_order import ArchiveOrder, Members, read_members, write_members
from tests.handler_contract import SETTINGS, Raw, Record, records_of
from tests.hub_server import HubServer
from tests.web_server import WebServer

CAPTIONS = "captions/SA1B_caption.tar.gz"


class TestSa1b(ArchiveOrder):
    dataset = "sa1b"
    counts: ClassVar[Counts] = {
        "in": 18,
        "kept": 12,
        "damaged_archive": 1,
        "empty_caption": 1,
        "missing_caption": 2,
        "too_small": 1,
        "undecodable": 1,
    }
    annotations = CAPTIONS
    archives = "sa_0*.tar"

    def make_handler(self, folder: Path) -> Handler:
        handler = super().make_handler(folder)
        return dataclasses.replace(handler, captions_source=str(folder / "captions"))

    def key(self, archive: Path, name: str) -> str:
        return Path(name).stem

    def test_only_numbered_archives_are_partitions(self, raw: Raw) -> None:
        assert [(part.name, part.number, part.files) for part in raw.partitions] == [
            (f"{number:06d}", number, (f"sa_{number:06d}.tar",)) for number in range(3)
        ]

    def test_the_miniature_has_every_form_of_archive_and_name(self) -> None:
        folder = REPO / "samples" / "sa1b"
        heads = [path.read_bytes()[:2] for path in sorted(folder.glob(self.archives))]
        assert [head == b"\x1f\x8b" for head in heads] == [True, False, True]
        names = [read_members(path)[0][0] for path in sorted(folder.glob(self.archives))]
        assert [name.partition("sa_")[0] for name in names] == ["./", "", "images/"]
        assert {name.partition("sa_")[0] for name, _ in read_members(folder / CAPTIONS)} == {"", "./", "captions/"}
        with pytest.raises(EOFError), tarfile.open(folder / "sa_000002.tar") as tar:
            tar.getnames()

    def test_the_rejected_ones_are_those_made_bad(self, raw: Raw) -> None:
        expected = {f"sa_{record.id}": record.fate for record in RECORDS if record.fate != "kept"}
        del expected["sa_90000018"]  # what remains of it is no record
        assert {row["key"]: row["status"] for row in raw.rows if row["status"] != "kept"} == {
            **expected,
            "sa_000002_damaged": "damaged_archive",
        }

    def test_captions_are_untouched(self, raw: Raw) -> None:
        captions = {row["key"]: row["captions"] for row in raw.rows}
        for record in RECORDS[:-1]:
            text = record.caption.decode("latin-1") if isinstance(record.caption, bytes) else record.caption
            assert captions[f"sa_{record.id}"] == ([] if text is None else [text])
        assert captions["sa_90000009"][0].endswith("wooden table.\n")
        assert captions["sa_90000010"] == [""]

    def test_rows_say_where_they_are_from(self, raw: Raw) -> None:
        sources = {row["key"]: row["source"] for row in raw.rows}
        assert sources["sa_90000001"] == "sa_000000.tar/./sa_90000001.jpg"
        assert sources["sa_90000014"] == "sa_000002.tar/images/sa_90000014.jpg"


# --- odd sources


class Mini:
    """A source that a test fills."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.archives: dict[str, Members] = {"sa_000001.tar": [("sa_2.jpg", b"2"), ("sa_1.jpg", b"1")]}
        self.captions: Members = [("sa_1.txt", b"one"), ("sa_2.txt", b"two")]
        self.handler = Sa1b(captions_source=str(folder / "captions"), captions_file="SA1B_caption.tar.gz")

    def write(self) -> None:
        for name, members in self.archives.items():
            write_members(self.folder / name, members)
        write_members(self.folder / CAPTIONS, self.captions)

    def records(self) -> list[Record]:
        self.write()
        return self.read()

    def read(self) -> list[Record]:
        return records_of(self.handler, self.source)

    @property
    def source(self) -> Source:
        return open_source(str(self.folder), self.folder / "work")


@pytest.fixture
def mini(tmp_path: Path) -> Mini:
    return Mini(tmp_path)


def test_a_minimal_source_is_read_in_the_order_of_its_archive(mini: Mini) -> None:
    assert mini.records() == [
        Sample(key="sa_2", image=b"2", captions=("two",), source="sa_000001.tar/sa_2.jpg"),
        Sample(key="sa_1", image=b"1", captions=("one",), source="sa_000001.tar/sa_1.jpg"),
    ]


def test_archives_are_told_by_their_names_alone(mini: Mini) -> None:
    names = ["sa_000020.tar", "sa_000003.tar", "sa_000999.tar"]
    mini.archives = {name: [(f"sa_{number}.jpg", b"")] for number, name in enumerate(names)}
    others = ["sa_co_gold.tar", "sa_images_ids.txt", "sa_00001.tar", "sa_0000010.tar", "sa_000001.tar.part", "x.tar"]
    others += ["sa_000001.tgz", "xsa_000001.tar", "folder/sa_000002.tar"]
    mini.write()
    for name in others:
        (mini.folder / name).parent.mkdir(exist_ok=True)
        (mini.folder / name).write_bytes(b"never read")
    assert [(part.name, part.number) for part in mini.handler.partitions(mini.source)] == [
        ("000003", 3),
        ("000020", 20),
        ("000999", 999),
    ]


def test_a_source_without_archives_is_an_error(mini: Mini) -> None:
    mini.archives = {"sa_co_gold.tar": []}
    with pytest.raises(SourceError, match=r"lists no archives such as sa_000000\.tar"):
        mini.records()


@pytest.mark.parametrize("form", ["{}", "./{}", "images/{}", "./a/b/{}"])
@pytest.mark.parametrize("text_form", ["{}", "./{}", "captions/{}"])
def test_pictures_and_captions_are_joined_by_name_whatever_the_folder(form: str, text_form: str, mini: Mini) -> None:
    mini.archives["sa_000001.tar"] = [(form.format("sa_1.jpg"), b"1")]
    mini.captions = [(text_form.format("sa_1.txt"), b"one"), (text_form.format("sa_10.txt"), b"ten")]
    assert [(record.key, record.captions) for record in mini.records()] == [("sa_1", ("one",))]


def test_what_is_no_picture_is_no_record_and_not_read(mini: Mini, monkeypatch: pytest.MonkeyPatch) -> None:
    mini.archives["sa_000001.tar"][1:1] = [
        ("sa_2.json", bytes(5000)),
        ("._sa_2.jpg", b""),
        ("LICENSE.txt", bytes(5000)),
    ]
    mini.write()
    monkeypatch.setattr(archives.TarReader, "read", _no_more_than(1000, archives.TarReader.read))
    assert [record.key for record in mini.read()] == ["sa_2", "sa_1"]


def _no_more_than(limit: int, read: Any) -> Any:
    def checked(reader: Any) -> bytes:
        data: bytes = read(reader)
        assert len(data) <= limit
        return data

    return checked


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        (b"", ("",)),
        (b" \n", (" \n",)),
        (b"two lines\nof text\n", ("two lines\nof text\n",)),
        ("绘 é".encode(), ("绘 é",)),
        ("é".encode("utf-8-sig"), ("é",)),
        ("é".encode("utf-16"), ("é",)),
        (b"\xfe\xff" + "é".encode("utf-16-be"), ("é",)),
        (b"caf\xe9", ()),
        (b"a\0b", ()),
        (b"x" * 2**20, ("x" * 2**20,)),
        (b"x" * (2**20 + 1), ()),  # nobody writes captions of a megabyte
    ],
    ids=[
        "empty",
        "blank",
        "lines",
        "unicode",
        "UTF-8 with a mark",
        "UTF-16",
        "big-endian",
        "Latin-1",
        "NUL",
        "1 MB",
        "more",
    ],
)
def test_a_caption_is_taken_as_it_is(caption: bytes, found: tuple[str, ...], mini: Mini) -> None:
    mini.captions[0] = ("sa_1.txt", caption)
    assert mini.records()[1].captions == found


def test_a_picture_without_caption_is_a_sample_without_captions(mini: Mini) -> None:
    mini.captions[0] = ("readme.md", b"")
    assert [(type(record), record.captions) for record in mini.records()] == [(Sample, ("two",)), (Sample, ())]


@pytest.mark.parametrize("name", ["sa_1.txt", "again/sa_1.txt", "./sa_1.txt"])
def test_two_captions_that_differ_are_ambiguous(name: str, mini: Mini) -> None:
    mini.captions += [(name, b"another")]
    first, second = mini.records()
    assert isinstance(first, Sample)
    assert isinstance(second, Rejection)
    assert (second.reason, second.captions) == (Reason.AMBIGUOUS_KEY, ("one", "another"))


@pytest.mark.parametrize("name", ["__MACOSX/sa_2.txt", ".Trash/sa_2.txt", "sa_2.1.txt", "._sa_2.txt"])
def test_what_is_no_caption_says_nothing_of_a_picture(name: str, mini: Mini) -> None:
    mini.captions = [("sa_1.txt", b"one"), (name, b"junk")]
    assert {record.key: record.captions for record in mini.records()} == {"sa_1": ("one",), "sa_2": ()}


def test_a_caption_may_have_its_extension_in_capitals(mini: Mini) -> None:
    mini.captions = [("sa_1.TXT", b"one"), ("sa_2.txt", b"two")]
    assert {record.key: record.captions for record in mini.records()} == {"sa_1": ("one",), "sa_2": ("two",)}


def test_a_caption_that_is_there_twice_is_one(mini: Mini) -> None:
    mini.captions += [("again/sa_1.txt", b"one")]
    assert [record.captions for record in mini.records()] == [("two",), ("one",)]


@pytest.mark.parametrize("name", ["sa_1.jpg", "./sa_1.jpg", "other/sa_1.jpg", "sa_1.png", "sa_1", "sa_1.small.jpg"])
@pytest.mark.parametrize("data", [b"1", b"another"], ids=["same", "other"])
def test_a_second_picture_of_one_name_is_no_sample(name: str, data: bytes, mini: Mini, tmp_path: Path) -> None:
    mini.archives["sa_000001.tar"].append((name, data))
    records = mini.records()
    assert [getattr(record, "reason", None) for record in records] == [
        None,
        None,
        None if data == b"1" else Reason.AMBIGUOUS_KEY,
    ]
    result = write_raw(iter(records), SETTINGS, "0", tmp_path, NullReporter())
    rows = list(read_rows(tmp_path / "0.parquet", ["key", "status"]))
    again = "duplicate_key" if data == b"1" else "ambiguous_key"
    assert [row["key"] for row in rows] == ["sa_2", "sa_1", "sa_1#2"]
    assert rows[2]["status"] == again
    assert result.counts["in"] == 3


@pytest.mark.parametrize("name", ["x.gif", "x.avif", "x.jfif", "x.bmp", "x.tiff", "x", "x.md", "X.JPG", "a/x.heic"])
def test_what_is_not_known_to_be_something_else_is_a_record(name: str, mini: Mini) -> None:
    mini.archives["sa_000001.tar"].insert(1, (name, b"?"))
    keys = [record.key for record in mini.records()]
    assert keys == ["sa_2", name.rpartition("/")[2].partition(".")[0], "sa_1"]


def test_a_fallback_reads_what_is_not_utf_8(mini: Mini) -> None:
    mini.captions[0] = ("sa_1.txt", b"caf\xe9")
    mini.handler = dataclasses.replace(mini.handler, fallback_encoding="latin-1")
    assert mini.records()[1].captions == ("café",)


@pytest.mark.parametrize("captions", [[], [("sa_1.json", b"")], [(".txt", b"")]])
def test_an_archive_without_captions_is_an_error(captions: Members, mini: Mini) -> None:
    mini.captions = captions
    with pytest.raises(SourceError, match=r"SA1B_caption\.tar\.gz: holds no captions such as sa_1\.txt"):
        mini.records()


def test_damaged_captions_are_an_error(mini: Mini) -> None:
    mini.write()
    (mini.folder / CAPTIONS).write_bytes((mini.folder / CAPTIONS).read_bytes()[:-9])
    with pytest.raises(SourceError, match=r"SA1B_caption\.tar\.gz: not a complete tar archive"):
        mini.read()


# --- damaged archives


@pytest.mark.parametrize("packed", [lambda data: data, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda tar: tar, ["sa_2", "sa_1"]),
        (lambda tar: tar + b"garbage", ["sa_2", "sa_1", "damaged"]),
        (lambda tar: tar[:2048], ["sa_2", "sa_1", "damaged"]),
        (lambda tar: tar[:1024], ["sa_2", "damaged"]),
        (lambda tar: tar[:1500], ["sa_2", "damaged"]),
        (lambda tar: b"?" * 512 + tar[512:], ["sa_1", "damaged"]),
    ],
    ids=["whole", "more", "no end", "one", "one and a half", "first header"],
)
def test_a_damaged_archive_gives_what_can_be_read(packed: Any, damage: Any, found: Sequence[str], mini: Mini) -> None:
    mini.write()
    path = mini.folder / "sa_000001.tar"
    path.write_bytes(packed(damage(path.read_bytes())))
    records = mini.read()
    assert [record.key.removeprefix("sa_000001_") for record in records] == found
    for record in records:
        is_damage = record.key == "sa_000001_damaged"
        assert isinstance(record, Rejection) == is_damage
        if isinstance(record, Rejection):
            assert (record.reason, record.captions) == (Reason.DAMAGED_ARCHIVE, ())
            assert record.source == "sa_000001.tar/sa_000001_damaged"


@pytest.mark.parametrize(
    "data", [b"", b"<!DOCTYPE html><p>URL signature expired", gzip.compress(b"x", mtime=0), bytes(10_240)]
)
def test_what_is_no_archive_is_an_error(data: bytes, mini: Mini) -> None:
    mini.write()
    (mini.folder / "sa_000001.tar").write_bytes(data)
    with pytest.raises(SourceError, match=r"sa_000001\.tar: "):
        mini.read()


def test_an_unsafe_member_is_a_rejection(mini: Mini) -> None:
    mini.archives["sa_000001.tar"][0] = ("../sa_2.jpg", b"2")
    records = mini.records()
    assert records[0] == Rejection(
        key="sa_2", reason=Reason.UNSAFE_MEMBER, captions=("two",), source="sa_000001.tar/../sa_2.jpg"
    )
    assert records[1].key == "sa_1"


# --- settings


@pytest.mark.parametrize(
    ("md5", "problems"),
    [
        ({}, []),
        ({"sa_000000.tar": "0" * 32}, []),
        ({"sa_000000.tar": "0" * 31}, ["md5.sa_000000.tar"]),
        ({"sa_000000.tar": "A" * 32}, ["md5.sa_000000.tar"]),
        ({"sa_co_gold.tar": "0" * 32, "sa_1.tar": "x"}, ["md5.sa_co_gold.tar", "md5.sa_1.tar"]),
    ],
)
def test_settings_out_of_range_are_problems(md5: dict[str, str], problems: list[str]) -> None:
    handler = Sa1b(captions_source="", captions_file="", md5=md5)
    assert [name for name, _ in handler.problems()] == problems


def test_a_wrong_checksum_is_an_error(mini: Mini) -> None:
    mini.write()
    right = hashlib.md5((mini.folder / "sa_000001.tar").read_bytes(), usedforsecurity=False).hexdigest()
    mini.handler = dataclasses.replace(mini.handler, md5={"sa_000001.tar": right})
    assert len(mini.read()) == 2
    mini.handler = dataclasses.replace(mini.handler, md5={"sa_000001.tar": "0" * 32})
    with pytest.raises(SourceError, match=r"sa_000001\.tar: expected md5:0000"):
        mini.read()


# --- the whole step


def test_the_step_follows_links_and_takes_captions_from_the_hub(
    make_params: Any, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root, repo = REPO / "samples" / "sa1b", "PixArt-alpha/SAM-LLaVA-Captions10M"
    files = {f"m1/v/t6/An{number}.tar": path.read_bytes() for number, path in enumerate(sorted(root.glob("sa_*")))}
    names = dict(zip(files, sorted(path.name for path in root.glob("sa_*")), strict=True))
    links = tmp_path / "sa1b_links.txt"
    with (
        WebServer(files) as web,
        HubServer({repo: {"SA1B_caption.tar.gz": (REPO / root / CAPTIONS).read_bytes()}}) as hub,
    ):
        lines = [f"{names[path]}\t{web.url}/{path}?oh=00_sig&oe=FFFFFFFF" for path in sorted(files, reverse=True)]
        links.write_text("\n".join(["file_name\tcdn_link", *lines]))
        changes = {"source": str(links), "captions_source": hub.root(repo)}
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("MICRODIFF_WORKERS", "1")
        params = make_params({f"datasets.sa1b.download.{name}": value for name, value in changes.items()})
        assert download("sa1b", params, workspace) == {**TestSa1b.counts, "other_members": 17}  # masks
        asked = {request.path for request in web.requests}
    assert {names[path] for path in asked} == {f"sa_{number:06d}.tar" for number in range(3)}
    raw = workspace.artifact("sa1b", "raw")
    assert "oh=00_sig" not in (raw / "manifest.json").read_text()
    from_folder = Workspace(tmp_path / "another")
    download("sa1b", make_params(), from_folder)
    expected = tree_bytes(from_folder.artifact("sa1b", "raw"))
    found = tree_bytes(raw)
    assert {name: data for name, data in found.items() if name.startswith("0")} == {
        name: data for name, data in expected.items() if name.startswith("0")
    }
    assert any(name.endswith(".tar") for name in expected)


def test_captions_are_read_once_for_all_partitions_and_runs(
    make_params: Any, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = Sa1b.read_annotations

    def counted(handler: Sa1b, files: Any) -> Any:
        read.extend(files)
        return original(handler, files)

    monkeypatch.setattr(Sa1b, "read_annotations", counted)
    monkeypatch.setenv("MICRODIFF_WORKERS", "1")
    changes = {"datasets.sa1b.download.partitions": "0", "datasets.sa1b.max_rejected_share": 0.9}
    download("sa1b", make_params(changes), workspace)
    download("sa1b", make_params({**changes, "datasets.sa1b.download.partitions": "0-2"}), workspace)
    assert read == ["SA1B_caption.tar.gz"]


def test_the_step_refuses_when_too_much_is_lost(make_params: Any, workspace: Workspace, tmp_path: Path) -> None:
    """Captions of other pictures: none is found, and the step says so instead of writing an empty artifact."""
    captions = tmp_path / "captions"
    write_members(captions / "SA1B_caption.tar.gz", [("sa_1.txt", b"of another picture")])
    with pytest.raises(RejectionError, match=r"nothing is left of 18 records .*missing_caption 17"):
        download("sa1b", make_params({"datasets.sa1b.download.captions_source": str(captions)}), workspace)


def test_the_step_names_an_archive_that_is_none(make_params: Any, workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "sa1b"
    folder.mkdir()
    (folder / "sa_000000.tar").write_bytes(b"URL signature expired")
    with pytest.raises(StepError, match=r"sa_000000\.tar: not a complete tar archive"):
        download("sa1b", make_params({"datasets.sa1b.download.source": str(folder)}), workspace)
