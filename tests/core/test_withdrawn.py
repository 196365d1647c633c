"""The list of withdrawn samples."""

import pickle
from pathlib import Path

import pytest

from microdiff.core.withdrawn import Withdrawal, Withdrawn, picture_key, read_withdrawn, write_withdrawn
from microdiff.errors import ParamsError, SchemaError


def listing(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "withdrawn.tsv"
    path.write_bytes(text.encode())
    return path


def test_a_missing_file_and_a_bare_header_are_empty_lists(tmp_path: Path) -> None:
    assert not read_withdrawn(tmp_path / "withdrawn.tsv")
    assert len(read_withdrawn(listing(tmp_path, "key\treason\n"))) == 0


def test_it_covers_a_key_and_all_captions_of_its_picture(tmp_path: Path) -> None:
    withdrawn = read_withdrawn(listing(tmp_path, "key\treason\na\tasked by its author\nb#2\t\n"))
    assert withdrawn
    assert len(withdrawn) == 2
    covered = {key: withdrawn.contains(key) for key in ("a", "a#1", "a#12", "b#2", "b", "b#1", "aa", "a#", "a#x", "#1")}
    assert [key for key, is_covered in covered.items() if is_covered] == ["a", "a#1", "a#12", "b#2"]
    assert withdrawn.entries["a"] == Withdrawal("a", "asked by its author")


@pytest.mark.parametrize(
    ("key", "picture"),
    [("a", "a"), ("a#3", "a"), ("a#b#3", "a#b"), ("a#b", "a#b"), ("a#", "a#"), ("a#²", "a#²"), ("", "")],
)
def test_picture_key(key: str, picture: str) -> None:
    assert picture_key(key) == picture


def test_further_columns_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = listing(tmp_path, "key\treason\tby\tpartition\r\nä\u2028ö\twhy\tme\t0003\r\nb\twhy\r\n")
    assert read_withdrawn(path).entries == {
        "ä\u2028ö": Withdrawal("ä\u2028ö", "why", "0003"),
        "b": Withdrawal("b", "why"),
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a header"),
        (b"reason\tkey\na\tb\n", "expected a header"),
        (b"key\treason\na\tb\nCOCO_va", r"line 3: expected a key.* found 'COCO_va'"),
        (b"key\treason\n<<<<<<< HEAD\na\tb\n", "line 2"),
        (b"key\treason\n\na\tb\n", "line 2"),
        (b"key\treason\n\tb\n", "line 2"),
        (b"key\treason\n\xff\tb\n", "not UTF-8"),
    ],
)
def test_a_damaged_list_is_an_error_and_never_a_shorter_list(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "withdrawn.tsv"
    path.write_bytes(data)
    with pytest.raises(SchemaError, match=message):
        read_withdrawn(path)


def test_written_sorted_and_read_back(tmp_path: Path) -> None:
    withdrawn = Withdrawn({key: Withdrawal(key, "why", "0001") for key in ("b", "a", "ß\u0085")})
    path = tmp_path / "coco" / "withdrawn.tsv"
    write_withdrawn(path, withdrawn)
    text = "key\treason\tpartition\na\twhy\t0001\nb\twhy\t0001\nß\u0085\twhy\t0001\n"
    assert path.read_bytes().decode() == text
    assert read_withdrawn(path) == withdrawn
    assert pickle.loads(pickle.dumps(withdrawn)) == withdrawn  # noqa: S301 - our own bytes


def test_what_the_list_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = listing(tmp_path, "before")
    with pytest.raises(ParamsError, match="no tab"):
        write_withdrawn(path, Withdrawn({"a": Withdrawal("a", "two\nlines")}))
    assert path.read_text() == "before"


@pytest.mark.parametrize("mark", ["\t", "\n", "\r"])
@pytest.mark.parametrize("place", range(3))
def test_no_column_may_hold_what_ends_it(tmp_path: Path, mark: str, place: int) -> None:
    columns = ["a", "why", "0001"]
    columns[place] += mark
    with pytest.raises(ParamsError, match="no tab"):
        write_withdrawn(tmp_path / "withdrawn.tsv", Withdrawn({columns[0]: Withdrawal(*columns)}))
