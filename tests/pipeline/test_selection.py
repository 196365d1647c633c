import pytest

from microdiff.errors import SourceError
from microdiff.formats.records import Partition
from microdiff.pipeline.selection import parse_selection, select

PARTITIONS = [Partition(name=f"{number:03d}", number=number, files=()) for number in (0, 1, 2, 5, 6, 40)]  # with holes


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("all", [0, 1, 2, 5, 6, 40]),
        (" all ", [0, 1, 2, 5, 6, 40]),
        ("0", [0]),
        ("0-40", [0, 1, 2, 5, 6, 40]),
        ("2-5", [2, 5]),
        ("5-5", [5]),
        ("0,5,40", [0, 5, 40]),
        ("40,0", [0, 40]),
        ("0-2,1-5", [0, 1, 2, 5]),
        (" 1 - 2 , 006 ", [1, 2, 6]),
    ],
)
def test_partitions_are_selected_by_number_once_and_in_source_order(text: str, numbers: list[int]) -> None:
    assert [partition.number for partition in select(PARTITIONS, text, "coco")] == numbers


@pytest.mark.parametrize("text", ["", "none", "1-", "-1", "1--2", "1,,2", "1,", "0-1-2", "1.5", "all,1", "1 2"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected 'all', or numbers and ranges"):
        parse_selection(text)


def test_a_range_that_runs_backwards_is_refused() -> None:
    with pytest.raises(ValueError, match="'5-2' runs backwards"):
        parse_selection("0, 5-2")


@pytest.mark.parametrize(
    ("text", "absent"), [("3", "3"), ("0-41", "41"), ("3-6", "3"), ("0,7,8", "7, 8"), ("999999999", "999999999")]
)
def test_naming_an_absent_partition_is_an_error_that_says_what_there_is(text: str, absent: str) -> None:
    with pytest.raises(SourceError, match=rf"coco.*partitions: '{text}' names {absent}, .* 6 partitions from 0 to 40"):
        select(PARTITIONS, text, "coco")


def test_a_source_without_partitions_has_none_to_name() -> None:
    assert select([], "all", "coco") == []
    with pytest.raises(SourceError, match="0 partitions from none to none"):
        select([], "0", "coco")
