import pytest

from microdiff.formats.records import partition_keys


@pytest.mark.parametrize(
    ("keys", "size", "expected"),
    [
        ("abcde", 2, [("0000", None, "c", 2), ("0001", "c", "e", 2), ("0002", "e", None, 1)]),
        ("abcd", 2, [("0000", None, "c", 2), ("0001", "c", None, 2)]),
        ("ab", 5, [("0000", None, None, 2)]),
        ("", 5, []),
    ],
)
def test_slices_leave_nothing_between_them(
    keys: str, size: int, expected: list[tuple[str, str | None, str | None, int]]
) -> None:
    slices = partition_keys(list(keys), size, ("a.zip",))
    assert [(part.name, part.first_key, part.end_key, part.num_records) for part in slices] == expected
    assert all(part.files == ("a.zip",) for part in slices)


@pytest.mark.parametrize(("num_keys", "first", "last"), [(10_000, "0000", "9999"), (10_001, "00000", "10000")])
def test_names_are_as_long_as_the_last_one_needs(num_keys: int, first: str, last: str) -> None:
    names = [part.name for part in partition_keys([f"{i:05d}" for i in range(num_keys)], 1, ())]
    assert names == sorted(names)
    assert (names[0], names[-1]) == (first, last)
