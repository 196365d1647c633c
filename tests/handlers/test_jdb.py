import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from conftest import REPO
from microdiff.core.ledger import Counts, Reason
from microdiff.download.step import download
from microdiff.errors import SourceError, StepError
from microdiff.formats.annotations import Annotations
from microdiff.formats.records import Inputs, Rejection, Sample
from microdiff.handlers import Handler
from microdiff.handlers.jdb import Jdb
from microdiff.pipeline.workspace import Workspace
from microdiff.storage import Source
from microdiff.storage.opening import open_source
from samples.build.jdb import RECORDS
from tests.archive_order import ArchiveOrder, read_members, write_members
from tests.handler_contract import Raw, Record, annotations_of, read, records_of
from tests.hub_server import GRANTED, STRANGER, HubServer

HANDLER = Jdb(split="train")
IMAGES = "data/train/imgs"
ANNOTATIONS = "data/train/train_anno_realease_repath.jsonl.tgz"
KEYS = {record.label: record.path.removesuffix(".jpg").replace("/", "_") for record in RECORDS}


class TestJdb(ArchiveOrder):
    dataset = "jdb"
    counts: ClassVar[Counts] = {
        "in": 22,
        "kept": 13,
        "duplicate_key": 1,
        "empty_caption": 1,
        "missing_caption": 1,
        "missing_image": 4,
        "too_small": 1,
        "undecodable": 1,
    }
    annotations = ANNOTATIONS
    archives = f"{IMAGES}/*.tgz"

    def key(self, archive: Path, name: str) -> str:
        return name.removesuffix(".jpg").replace("/", "_")

    def reorder(self, folder: Path) -> None:
        """Turn the order of lines round, but for the two that are known by their numbers."""
        ((name, data),) = read_members(folder / ANNOTATIONS)
        lines = data.splitlines(keepends=True)
        fixed = [b"./" not in line or b"./001/cut" in line for line in lines]
        moved = iter([line for line, is_fixed in zip(lines, fixed, strict=True) if not is_fixed][::-1])
        text = b"".join(line if is_fixed else next(moved) for line, is_fixed in zip(lines, fixed, strict=True))
        assert text != data
        write_members(folder / ANNOTATIONS, [(name, text)])

    def test_partitions_are_the_numbers_up_to_the_last_and_one_for_the_rest(self, raw: Raw) -> None:
        assert [(part.name, part.number, part.files, part.first_key, part.end_key) for part in raw.partitions] == [
            ("000", 0, (f"{IMAGES}/000.tgz",), None, "001_"),
            ("001", 1, (f"{IMAGES}/001.tgz",), "001_", "002_"),
            ("002", 2, (), "002_", "003_"),
            ("003", 3, (f"{IMAGES}/003.tgz",), "003_", "004_"),
            ("004", 4, (), "004_", None),
        ]

    def test_the_rejected_ones_are_those_made_bad(self, raw: Raw) -> None:
        expected = {KEYS[record.label]: record.fate for record in RECORDS if record.fate != "kept"}
        found = {row["key"]: row["status"] for row in raw.rows if row["status"] != "kept"}
        lines = {key: found.pop(key) for key in sorted(found) if key.startswith("line_")}
        assert found == {**expected, f"{KEYS['000_0']}#2": "duplicate_key"}
        assert list(lines.values()) == ["missing_image"] * 2

    def test_captions_are_the_prompt_and_the_description_if_there_is_one(self, raw: Raw) -> None:
        captions = {row["key"]: row["captions"] for row in raw.rows}
        for record in RECORDS:
            if record.annotated:
                said = [record.description] if record.description not in (None, "absent", " ") else []
                assert captions[KEYS[record.label]] == [record.prompt or "", *said]
        assert captions[KEYS["000_6"]] == []
        assert captions[KEYS["000_1"]][0].endswith("--ar 3:2 --v 5")

    def test_rows_say_where_they_are_from(self, raw: Raw) -> None:
        sources = {row["key"]: row["source"] for row in raw.rows}
        first, absent = RECORDS[0], next(record for record in RECORDS if record.archive == 2)
        assert sources[KEYS["000_0"]] == f"{IMAGES}/000.tgz/{first.path}"
        assert sources[f"{KEYS['000_0']}#2"] == f"{ANNOTATIONS}#./{first.path}"
        assert sources[KEYS["002_0"]] == f"{ANNOTATIONS}#./{absent.path}"
        assert sorted(source for source in sources.values() if "#line " in source)

    def test_annotations_without_picture_come_behind_the_pictures_by_key(
        self, handler: Handler, source: Source
    ) -> None:
        with annotations_of(handler, source) as annotations:
            partition = handler.partitions(source)[1]
            records = list(read(handler, partition, source, annotations))
        assert [record.key for record in records][-1:] == [KEYS["001_6"]]
        assert [isinstance(record, Rejection) for record in records] == [False] * 6 + [True]


# --- odd sources


class Mini:
    """A source that a test fills."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.archives: dict[str, list[tuple[str, bytes]]] = {"000": [("000/b.jpg", b"b"), ("000/a.jpg", b"a")]}
        self.lines: list[Any] = [{"img_path": f"./000/{name}.jpg", "prompt": f"prompt {name}"} for name in "ab"]

    def records(self, handler: Jdb = HANDLER) -> list[Record]:
        for name, members in self.archives.items():
            write_members(self.folder / f"data/{handler.split}/imgs/{name}.tgz", members)
        text = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in self.lines)
        (path,) = handler.annotation_files(self.source)
        write_members(self.folder / path, [("readme.txt", b"{}"), ("annotations.jsonl", text), ("b.jsonl", b"{}")])
        return records_of(handler, self.source)

    @property
    def source(self) -> Source:
        return open_source(str(self.folder), self.folder / "work")


@pytest.fixture
def mini(tmp_path: Path) -> Mini:
    return Mini(tmp_path)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_minimal_source_is_read(split: Any, mini: Mini) -> None:
    folder = f"data/{split}/imgs/000.tgz"
    assert mini.records(Jdb(split=split)) == [
        Sample(key=f"000_{name}", image=name.encode(), captions=(f"prompt {name}",), source=f"{folder}/000/{name}.jpg")
        for name in "ba"
    ]


def test_the_two_sides_are_both_counted(mini: Mini) -> None:
    mini.archives["000"] += [("000/c.jpg", b"c")]
    mini.archives["002"] = [("002/a.jpg", b"2")]
    mini.lines += [
        {"img_path": path, "prompt": "p"}
        for path in ("./001/a.jpg", "./000/d.jpg", "./002/a.jpg", "./003/z.jpg", "./010/z.jpg", "other/./x.y.jpg")
    ]
    records = mini.records()
    assert [(record.key, isinstance(record, Rejection), len(record.captions)) for record in records] == [
        ("000_b", False, 1),
        ("000_a", False, 1),
        ("000_c", False, 0),  # missing_caption, as the download step finds
        ("000_d", True, 1),
        ("001_a", True, 1),
        ("002_a", False, 1),
        ("003_z", True, 1),
        ("010_z", True, 1),
        ("other%2Fx", True, 1),
    ]
    assert {record.reason for record in records if isinstance(record, Rejection)} == {Reason.MISSING_IMAGE}


def test_the_original_annotations_would_all_be_counted_as_missing_pictures(mini: Mini) -> None:
    shutil.copytree(REPO / "samples" / "jdb", mini.folder, dirs_exist_ok=True)
    shutil.copyfile(mini.folder / "data/train/train_anno.jsonl.tgz", mini.folder / ANNOTATIONS)
    records = records_of(HANDLER, mini.source)
    pictures = [record for record in records if isinstance(record, Sample)]
    assert (len(pictures), len(records)) == (17, 17 + 18)
    assert {record.captions for record in pictures} == {()}


@pytest.mark.parametrize(
    ("line", "key", "captions"),
    [
        ({"img_path": "./001/a.jpg", "prompt": "p", "Task2": {"Caption": "c"}}, "001_a", ("p", "c")),
        ({"img_path": "001/a.jpg", "prompt": "p", "Task2": {"Caption": ""}}, "001_a", ("p",)),
        ({"img_path": "./001/a.jpg", "prompt": "p", "Task2": {"Caption": " \n"}}, "001_a", ("p",)),
        ({"img_path": "./001/a.jpg", "prompt": "p", "Task2": {"Caption": None}}, "001_a", ("p",)),
        ({"img_path": "./001/a.jpg", "prompt": "p", "Task2": {"Caption": ["c"]}}, "001_a", ()),
        ({"img_path": "./001/a.jpg", "prompt": "p", "Task2": {}}, "001_a", ("p",)),
        ({"img_path": "./001/a.jpg", "prompt": "p", "Task2": None}, "001_a", ("p",)),
        ({"img_path": "./001/a.jpg", "prompt": "p", "Task2": "c"}, "001_a", ()),
        ({"img_path": "./001/a.jpg", "prompt": " p,\n --ar 3:2 "}, "001_a", (" p,\n --ar 3:2 ",)),
        ({"img_path": "./001/a.jpg", "prompt": None, "Task2": {"Caption": "c"}}, "001_a", ("", "c")),
        ({"img_path": "./001/a.jpg", "prompt": None}, "001_a", ()),
        ({"img_path": "./001/a.jpg", "prompt": 7}, "001_a", ()),
        ({"img_path": "./001/a.jpg", "prompt": ["p"]}, "001_a", ()),
        ({"img_path": "./001/a.jpg", "prompt": "p\0"}, "001_a", ()),
        (b'{"img_path": "./001/a.jpg", "prompt": "p", "prompt": "q"}', "001_a", ()),
        (b'{"img_path": "./001/a.jpg", "prompt": "p", "prompt": "p"}', "001_a", ("p",)),
        (b'\xef\xbb\xbf{"img_path": "./001/a.jpg", "prompt": "p"}', "001_a", ("p",)),
        ('{"img_path": "./001/a.jpg", "prompt": "é"}'.encode("latin-1"), "line_000000003", ()),
        ({"img_path": "./001/a.jpg"}, "001_a", ("",)),
        ({"img_path": "././001/./a.jpg"}, "001_a", ("",)),
        ({"img_path": "./a.jpg"}, "%2Fa", ("",)),
        ({"img_path": "./001_a/b.jpg"}, "001_a%2Fb", ("",)),  # not the picture 001/a_b.jpg
        ({"img_path": "./001/\0.\ud83d.jpg"}, "001_%00", ("",)),
        ({"img_path": ""}, "line_000000003", ()),
        ({"img_path": "./"}, "line_000000003", ()),
        ({"img_path": None, "prompt": "p"}, "line_000000003", ()),
        ({"img_path": 5}, "line_000000003", ()),
        ({"prompt": "p"}, "line_000000003", ()),
        ([], "line_000000003", ()),
        (b"7", "line_000000003", ()),
        (b"null", "line_000000003", ()),
        (b'{"img_path": "./001/a', "line_000000003", ()),
        (b"\xff\xfe\x00", "line_000000003", ()),
        (b"[" * 100_000, "line_000000003", ()),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
def test_no_line_is_lost_or_stops_the_others(line: Any, key: str, captions: tuple[str, ...], mini: Mini) -> None:
    mini.lines += [line, {"img_path": "./000/z.jpg", "prompt": "last"}]
    odd = [record for record in mini.records() if record.key not in ("000_a", "000_b")]
    assert ("000_z", ("last",)) in [(record.key, record.captions) for record in odd]
    assert [(record.key, record.captions) for record in odd if record.key != "000_z"] == [(key, captions)]


def test_blank_lines_are_no_records(mini: Mini) -> None:
    mini.lines = [b"", *mini.lines, b" \t\r", b""]
    assert [record.key for record in mini.records()] == ["000_b", "000_a"]


def test_a_second_annotation_is_a_record_of_its_own(mini: Mini) -> None:
    mini.lines += [{"img_path": "000/a.jpg", "prompt": "another"}, {"img_path": "./000/a.png", "prompt": "third"}]
    records = mini.records()
    assert [record.captions for record in records] == [("prompt b",), ("prompt a",), ("another",), ("third",)]
    assert [record.key for record in records] == ["000_b", "000_a", "000_a", "000_a"]


@pytest.mark.parametrize("folder", ["000/", "./000/", "imgs/", "./", ""])
def test_a_picture_belongs_to_its_archive_whatever_its_folder(folder: str, mini: Mini) -> None:
    mini.archives["000"] = [
        (f"{folder}a.jpg", b"a"),
        (f"{folder}b.jpg", b"b"),
        (f"{folder}.b.jpg", b""),
        ("README.md", b""),
    ]
    assert [(record.key, record.captions) for record in mini.records()] == [
        ("000_a", ("prompt a",)),
        ("000_b", ("prompt b",)),
    ]


def test_a_picture_in_the_folder_of_another_archive_is_not_guessed(mini: Mini) -> None:
    """Annotations name pictures by such folders."""
    mini.archives["000"] = [("001/x.jpg", b"cat or dog")]
    mini.lines = [
        {"img_path": f"./{folder}/x.jpg", "prompt": prompt} for folder, prompt in (("000", "cat"), ("001", "dog"))
    ]
    found, missing = mini.records()
    assert isinstance(found, Rejection)
    assert (found.key, found.reason) == ("000_x", Reason.AMBIGUOUS_KEY)
    assert isinstance(missing, Rejection)
    assert (missing.key, missing.reason) == ("001_x", Reason.MISSING_IMAGE)


def test_a_damaged_archive_costs_what_is_behind_the_damage(mini: Mini) -> None:
    mini.records()
    path = mini.folder / IMAGES / "000.tgz"
    path.write_bytes(path.read_bytes()[:-12])
    records = records_of(HANDLER, mini.source)
    assert [(record.key, getattr(record, "reason", None)) for record in records] == [
        ("000_b", None),
        ("000_a", None),
        ("000_000_damaged", Reason.DAMAGED_ARCHIVE),
    ]
    write_members(path.with_suffix(".tar"), mini.archives["000"])
    path.write_bytes(path.with_suffix(".tar").read_bytes()[:1300])
    assert [(record.key, getattr(record, "reason", None)) for record in records_of(HANDLER, mini.source)] == [
        ("000_b", None),
        ("000_000_damaged", Reason.DAMAGED_ARCHIVE),
        ("000_a", Reason.MISSING_IMAGE),
    ]


def test_an_unsafe_member_keeps_its_caption(mini: Mini) -> None:
    mini.archives["000"][0] = ("000/../b.jpg", b"b")
    records = mini.records()
    assert [(record.key, record.captions) for record in records] == [("000_b", ("prompt b",)), ("000_a", ("prompt a",))]
    assert isinstance(records[0], Rejection)
    assert records[0].reason == Reason.UNSAFE_MEMBER


@pytest.mark.parametrize("data", [b"<!DOCTYPE html>", b""])
def test_what_is_no_archive_is_an_error(data: bytes, mini: Mini) -> None:
    mini.records()
    (mini.folder / IMAGES / "000.tgz").write_bytes(data)
    with pytest.raises(SourceError, match=r"000\.tgz: not a complete tar archive"):
        records_of(HANDLER, mini.source)


def test_a_source_without_archives_is_an_error(mini: Mini) -> None:
    mini.archives = {"imgs": [("a.jpg", b"a")], "0000": [("a.jpg", b"a")]}
    with pytest.raises(SourceError, match=r"data/train/imgs: holds no archives such as 000\.tgz"):
        mini.records()


def test_what_is_not_read_changes_nothing(mini: Mini) -> None:
    before = mini.records()
    (mini.folder / IMAGES / "readme.md").write_text("")
    (mini.folder / "data/train/train_anno.jsonl.tgz").write_bytes(b"never read")
    assert mini.records() == before


def test_reading_takes_no_picture_into_memory_before_it_is_asked_for(mini: Mini) -> None:
    """A partition of 16 GB: one picture at a time."""
    mini.archives["000"] = [(f"000/{number}.jpg", bytes(2**20)) for number in range(3)] + [("000/../x.jpg", b"")]
    mini.records()
    (partition, *_) = HANDLER.partitions(mini.source)
    files = {path: mini.folder / path for path in partition.files}
    records = HANDLER.read(partition, Inputs(files=files, scratch=mini.folder, annotations=Annotations()))
    assert next(records).key == "000_0"
    (mini.folder / IMAGES / "000.tgz").unlink()  # an open file stays readable
    assert [record.key for record in records] == ["000_1", "000_2", "000_x"]


# --- the whole step


def hub_files() -> Mapping[str, bytes]:
    root = REPO / "samples" / "jdb"
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_step_reads_a_gated_repository(
    make_params: Any, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = "JourneyDB/JourneyDB"
    params = make_params({"datasets.jdb.download.source": f"hf://datasets/{repo}@main"})
    with HubServer({repo: hub_files()}, gated={repo}, page_size=2) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        monkeypatch.setenv("MICRODIFF_WORKERS", "1")
        with pytest.raises((SourceError, StepError), match="JourneyDB/JourneyDB, then set HF_TOKEN"):
            download("jdb", params, workspace)
        monkeypatch.setenv("HF_TOKEN", STRANGER)
        with pytest.raises((SourceError, StepError), match="HF_TOKEN gives no access"):
            download("jdb", params, workspace)
        monkeypatch.setenv("HF_TOKEN", GRANTED)
        assert download("jdb", params, workspace) == {**TestJdb.counts, "other_members": 3}  # folders
        commit = hub.commit(repo)
    manifest = (workspace.artifact("jdb", "raw") / "manifest.json").read_text()
    assert commit in manifest
    assert GRANTED not in manifest


def test_the_step_counts_a_hole_only_where_it_is_selected(make_params: Any, workspace: Workspace) -> None:
    params = make_params({"datasets.jdb.download.partitions": "0-1"})
    counts = download("jdb", params, workspace)
    assert (counts["in"], counts["missing_image"]) == (15, 1)
