"""Pictures in a folder: what is paired, what is counted, and that nothing is guessed."""

import os
from pathlib import Path
from typing import Any, ClassVar

import pytest

from microdiff.core.ledger import Counts, Reason
from microdiff.errors import SourceError
from microdiff.formats.annotations import Annotations
from microdiff.formats.records import Rejection, Sample
from microdiff.kinds import KindHandler
from microdiff.kinds.folder import Folder
from microdiff.storage.opening import open_source
from tests.handler_contract import read
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

UNREAD = {"a": "unsupported_picture", "b": "unsupported_picture", "c": "sample"}


class TestFolder(KindContract):
    dataset = "folder"
    kind: ClassVar[KindHandler] = Folder()
    counts: ClassVar[Counts] = {
        "in": 10,
        "kept": 5,
        "ambiguous_key": 2,
        "missing_caption": 1,
        "missing_image": 1,
        "undecodable": 1,
    }
    slice_setting = "records_per_partition"
    loose = True

    def write_source(self, folder: Path) -> None:
        for i in range(4):
            put(folder / f"{i}.jpg", picture(i))
            put(folder / f"{i}.txt", f"caption {i}")
        put(folder / "deep/er/x.PNG", picture(5, form="PNG"))
        put(folder / "deep/er/x.TXT", "deep")
        put(folder / "bad.jpg", picture(6)[:-200])
        put(folder / "bad.txt", "cut")
        put(folder / "alone.jpg", picture(7))
        put(folder / "words.txt", "no picture")
        put(folder / "twice.jpg", picture(8))
        put(folder / "twice.png", picture(8, form="PNG"))
        put(folder / "twice.txt", "whose?")
        for name in (".DS_Store", "Thumbs.db", ".git/HEAD", "notes.docx", "README.txt"):
            put(folder / name, "x")

    def is_ordered(self, keys: Any) -> bool:
        return list(keys) == sorted(keys)

    def add_records(self, folder: Path) -> None:
        for name in ("!first", "1a", "deep/aa", "zz"):
            put(folder / f"{name}.jpg", picture(len(name) + 100))
            put(folder / f"{name}.txt", name)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a.jpg": 1, "a.txt": "x"}, {"a": "sample"}),
        ({"a.JPeG": 1, "a.TxT": "x"}, {"a": "sample"}),
        ({"a.b.jpg": 1, "a.b.txt": "x"}, {"a%2Eb": "sample"}),
        ({"a.b.jpg": 1, "a.c.txt": "x"}, {"a%2Eb": "missing_caption", "a%2Ec": "missing_image"}),
        ({"a.jpg": 1, "A.txt": "x"}, {"a": "missing_caption", "A": "missing_image"}),
        ({"a.jpg": 1, "a.jpg.txt": "x"}, {"a": "missing_caption", "a%2Ejpg": "missing_image"}),
        ({"a.jpg": 1, "a.txt": b"\xff\xfeodd"}, {"a": "bad_caption"}),
        ({"a.jpg": 1, "a.txt": b"caf\xe9"}, {"a": "bad_caption"}),
        ({"a.jpg": 1, "a.txt": b"\xff\xfec\0a\0t\0"}, {"a": "sample"}),
        ({"a.jpg": 1, "a.txt": b"\xef\xbb\xbfcat"}, {"a": "sample"}),
        ({"a.jpg": 1, "a.txt": "x\0y"}, {"a": "bad_caption"}),
        ({"a.jpg": 1, "a.txt": "x" * (2**20 + 1)}, {"a": "bad_caption"}),
        ({"a.jpg": 1, "a.txt": "x", "a.TXT": "y"}, {"a": "ambiguous_key"}),
        ({"x/a.jpg": 1, "x/a.txt": "x", "y/a.jpg": 2, "y/a.txt": "y"}, {"x%2Fa": "sample", "y%2Fa": "sample"}),
        ({"a b.jpg": 1, "a b.txt": "x", "é\n.jpg": 2, "é\n.txt": "y"}, {"a b": "sample", "é%0A": "sample"}),
        ({"50%41.jpg": 1, "50%41.txt": "x", "50A.jpg": 2, "50A.txt": "y"}, {"50%2541": "sample", "50A": "sample"}),
        ({"README.jpg": 1, "README.txt": "x", "a.jpg": 2, "a.txt": "y"}, {"README": "sample", "a": "sample"}),
        ({"LICENSE.txt": "x", "readme.TXT": "x", "a.jpg": 2, "a.txt": "y"}, {"a": "sample"}),
        ({"a.HEIC": "x", "a.txt": "x", "b.nef": "x", "c.jpg": 1, "c.txt": "x"}, UNREAD),
        ({"c.jpg": 1, "c.cr2": "x", "c.txt": "x"}, {"c": "sample"}),
        ({"jpg": 1, "a.jpg": 2, "a.txt": "y"}, {"a": "sample"}),
    ],
)
def test_pairing(tmp_path: Path, files: dict[str, Any], expected: dict[str, str]) -> None:
    for name, content in files.items():
        put(tmp_path / "source" / name, picture(content) if isinstance(content, int) else content)
    assert outcomes(read_all(Folder(), tmp_path / "source", tmp_path)) == expected


def test_captions_are_the_files_words_and_pictures_the_files_bytes(tmp_path: Path) -> None:
    put(tmp_path / "source/a.jpg", picture(1))
    put(tmp_path / "source/a.txt", "  one\ntwo ")
    (found,) = read_all(Folder(), tmp_path / "source", tmp_path)
    assert found == Sample(key="a", image=picture(1), captions=("  one\ntwo ",), source="a.jpg", meta={})


def test_several_captions_come_in_the_order_of_the_setting(tmp_path: Path) -> None:
    put(tmp_path / "source/a.jpg", picture(1))
    put(tmp_path / "source/a.txt", "short")
    put(tmp_path / "source/a.caption", "long")
    put(tmp_path / "source/a.json", '{"blip": ["one", null, "two"], "score": 0.5, "more": [1], "n": null}')
    handler = Folder(caption=("caption", "txt", "json:blip"))
    (found,) = read_all(handler, tmp_path / "source", tmp_path)
    assert found.captions == ("long", "short", "one", "two")
    assert found.meta == {"score": 0.5}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ('{"caption": "x"}', "sample"),
        ('{"caption": 7}', "bad_caption"),
        ('{"caption": null}', "missing_caption"),
        ('{"text": "x"}', "missing_caption"),
        ('{"caption": "x", "caption": "y"}', "bad_caption"),
        ("[]", "bad_caption"),
        ("{", "bad_caption"),
        ("[" * 100_000, "bad_caption"),
    ],
)
def test_json_beside_pictures(tmp_path: Path, document: str, expected: str) -> None:
    put(tmp_path / "source/a.jpg", picture(1))
    put(tmp_path / "source/a.json", document)
    assert outcomes(read_all(Folder(caption="json"), tmp_path / "source", tmp_path)) == {"a": expected}


def write_metadata(path: Path, form: str, rows: list[dict[str, Any]]) -> None:
    if form == "csv":
        write_csv(path, list(rows[0]), [[str(value) for value in row.values()] for row in rows])
    elif form == "jsonl":
        write_jsonl(path, rows)
    else:
        write_parquet(path, rows)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_captions_in_a_table_as_in_imagefolder(tmp_path: Path, form: str) -> None:
    source = tmp_path / "source"
    for name in ("a.jpg", "sub/b.jpg", "c.jpg", "d.jpg"):
        put(source / name, picture(len(name)))
    rows = [
        {"file_name": "a.jpg", "text": "of a"},
        {"file_name": "gone.jpg", "text": "of nothing"},
        {"file_name": "../out.jpg", "text": "outside"},
        {"file_name": "d.JPG", "text": "another case"},
    ]
    write_metadata(source / f"metadata.{form}", form, rows)
    write_metadata(source / "sub" / f"metadata.{form}", form, [{"file_name": "b.jpg", "text": "of b"}])
    found = read_all(Folder(metadata=f"metadata.{form}", caption="text"), source, tmp_path)
    assert {record.key: record.captions for record in found if isinstance(record, Sample)} == {
        "a": ("of a",),
        "sub%2Fb": ("of b",),
        "c": (),
    }
    refused = {record.key: record.reason for record in found if isinstance(record, Rejection)}
    number = 3
    assert refused == {
        "gone": Reason.MISSING_IMAGE,
        "d": Reason.MISSING_IMAGE,
        f"metadata%2E{form}%23{number}": Reason.UNSAFE_MEMBER,
    }


def test_links_are_rejected_unless_they_are_to_be_followed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    put(tmp_path / "else/a.jpg", picture(1))
    put(tmp_path / "else/a.txt", "x")
    source.mkdir()
    (source / "one.jpg").symlink_to(tmp_path / "else/a.jpg")
    put(source / "one.txt", "x")
    (source / "more").symlink_to(tmp_path / "else")
    (source / "round").symlink_to(source)
    found = outcomes(read_all(Folder(), source, tmp_path))
    assert found == {"one": "unsafe_member", "more": "unsafe_member", "round": "unsafe_member"}
    followed = outcomes(read_all(Folder(follow_links=True), source, tmp_path / "2"))
    assert followed == {"one": "sample", "more%2Fa": "sample"}


def test_a_dangling_link_that_is_followed_is_a_rejection(tmp_path: Path) -> None:
    put(tmp_path / "source/a.txt", "x")
    (tmp_path / "source/a.jpg").symlink_to(tmp_path / "nowhere")
    assert outcomes(read_all(Folder(follow_links=True), tmp_path / "source", tmp_path)) == {"a": "failed_download"}


def test_other_files_are_counted_and_named(tmp_path: Path) -> None:
    source = tmp_path / "source"
    put(source / "a.jpg", picture(1))
    for name in (".DS_Store", "b.docx", ".git/x", "c/@eaDir", "__MACOSX/a.jpg", "LICENSE"):
        put(source / name, "x")
    listing = Folder().survey(open_source(str(source), tmp_path / "work"), tmp_path / "place", tmp_path / "list.tsv")
    assert listing.others == 6
    assert set(listing.examples) == {".DS_Store", "b.docx", ".git/x", "c/@eaDir", "__MACOSX/a.jpg", "LICENSE"}


def test_a_folder_without_pictures_is_an_error_that_says_what_is_there(tmp_path: Path) -> None:
    put(tmp_path / "source/a.docx", "x")
    with pytest.raises(SourceError, match=r"no pictures.*a\.docx"):
        read_all(Folder(), tmp_path / "source", tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_a_rejection(tmp_path: Path) -> None:
    put(tmp_path / "source/a.jpg", picture(1))
    put(tmp_path / "source/a.txt", "x")
    (tmp_path / "source/a.jpg").chmod(0)
    assert outcomes(read_all(Folder(), tmp_path / "source", tmp_path)) == {"a": "failed_download"}


def test_repeats_of_folders_are_in_meta(tmp_path: Path) -> None:
    put(tmp_path / "source/10_cat/a.jpg", picture(1))
    put(tmp_path / "source/10_cat/a.txt", "x")
    put(tmp_path / "source/dogs/a.jpg", picture(2))
    put(tmp_path / "source/dogs/a.txt", "x")
    found = read_all(Folder(), tmp_path / "source", tmp_path)
    assert {record.key: dict(record.meta) for record in found} == {"10_cat%2Fa": {"repeats": 10}, "dogs%2Fa": {}}


def test_what_changed_since_the_listing_is_an_error(tmp_path: Path) -> None:
    put(tmp_path / "source/a.jpg", picture(1))
    put(tmp_path / "source/a.txt", "x")
    source = open_source(str(tmp_path / "source"), tmp_path / "work")
    listing = Folder().survey(source, tmp_path / "place", tmp_path / "list.tsv")
    put(tmp_path / "source/a.txt", "y")
    with pytest.raises(SourceError, match=r"a\.txt.*changed"):
        list(read(Folder(), listing.partitions[0], source, Annotations(listing.index)))


def test_a_source_that_is_listed_again_meanwhile_gives_no_mixture(tmp_path: Path) -> None:
    """The index is another one then; what was listed before must not be read from it under its old digest."""
    folder = tmp_path / "source"
    put(folder / "a.jpg", picture(1))
    put(folder / "a.txt", "x")
    source = open_source(str(folder), tmp_path / "work")
    before = Folder().survey(source, tmp_path / "place", tmp_path / "list.tsv")
    put(folder / "a.txt", "y")
    after = Folder().survey(source, tmp_path / "place", tmp_path / "list.tsv")
    with pytest.raises(SourceError, match="listed again"):
        list(read(Folder(), before.partitions[0], source, Annotations(after.index)))
    (found,) = read(Folder(), after.partitions[0], source, Annotations(after.index))
    assert found.captions == ("y",)


@pytest.mark.parametrize("change", ["caption", "picture", "removed", "renamed"])
def test_a_change_concerns_its_partition_alone(tmp_path: Path, change: str) -> None:
    handler, folder = Folder(records_per_partition=2), tmp_path / "source"
    for i in range(6):
        put(folder / f"{i}.jpg", picture(i))
        put(folder / f"{i}.txt", f"{i}")
    source = open_source(str(folder), tmp_path / "work")

    def listed() -> dict[str, Any]:
        parts = handler.survey(source, tmp_path / "place", tmp_path / "list.tsv").partitions
        return {part.name: part for part in parts}

    before = listed()
    match change:
        case "caption":
            put(folder / "2.txt", "another")
        case "picture":
            put(folder / "2.jpg", picture(77))
        case "removed":
            (folder / "2.jpg").unlink()
            (folder / "2.txt").unlink()
        case "renamed":
            (folder / "2.jpg").rename(folder / "x.jpg")
            (folder / "2.txt").rename(folder / "x.txt")
    after = listed()
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed == {"000001"}
    assert after.keys() - before.keys() == ({"000003"} if change == "renamed" else set())
