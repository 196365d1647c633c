import math
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from microdiff.errors import SourceError
from microdiff.formats.parquet import read_parquet, reads_per_row

COLUMNS = pa.schema({"part": pa.int64(), "text": pa.string()})
TABLE = pa.table({"text": [f"text {i}" for i in range(12)], "part": pa.array([1, 2, 3] * 4, pa.uint16())})


def write(folder: Path, table: pa.Table = TABLE, **options: Any) -> Path:
    path = folder / "a.parquet"
    pq.write_table(table, path, **options)
    return path


def texts(path: Path, part: int) -> list[str]:
    return [row["text"] for row in read_parquet(path, COLUMNS, 5, ("part", part))]


def test_rows_come_in_order_with_the_columns_and_types_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, TABLE.append_column("other", [list(range(12))]), row_group_size=5)
    rows = list(read_parquet(path, COLUMNS, 2))
    assert rows == [{"part": i % 3 + 1, "text": f"text {i}"} for i in range(12)]


@pytest.mark.parametrize("rows_per_group", [1, 2, 5, 100])
@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("sort", [True, False])
def test_rows_of_a_part_are_found_however_the_file_is_laid_out(
    tmp_path: Path, rows_per_group: int, statistics: bool, sort: bool
) -> None:
    table = TABLE.sort_by("part") if sort else TABLE
    path = write(tmp_path, table, row_group_size=rows_per_group, write_statistics=statistics)
    for part in (1, 2, 3):
        assert texts(path, part) == [f"text {i}" for i in range(part - 1, 12, 3)]
    assert texts(path, 4) == []
    assert texts(path, 70000) == []  # more than the column's type holds


def test_a_row_without_a_part_is_in_none(tmp_path: Path) -> None:
    path = write(tmp_path, pa.table({"part": pa.array([1, None, 1], pa.uint16()), "text": ["a", "b", "c"]}))
    assert texts(path, 1) == ["a", "c"]
    assert texts(path, 0) == []


def test_the_column_is_found_behind_nested_ones(tmp_path: Path) -> None:
    nested = pa.array([{"part": 9, "text": "x"}] * 12, pa.struct({"part": pa.int64(), "text": pa.string()}))
    path = write(tmp_path, TABLE.add_column(0, "nested", nested), row_group_size=1)
    assert texts(path, 2) == ["text 1", "text 4", "text 7", "text 10"]


@pytest.mark.parametrize(
    ("part", "rows_per_group", "reads"),
    [
        ([1, 1, 2, 2, 3, 3], 2, 1.0),
        ([1, 1, 2, 2, 3, 3], 3, 2.0),
        ([1, 1, 2, 2, 3, 3], 6, 3.0),
        ([3, 1, 2, 1, 3, 2], 2, (2 * 3 + 2 * 2 + 2 * 2) / 6),
        ([None, 5, 5], 3, 1.0),
        ([None, None], 1, math.inf),
        ([], 1, 0.0),
    ],
)
def test_how_often_rows_are_read_is_known_beforehand(
    tmp_path: Path, part: list[int | None], rows_per_group: int, reads: float
) -> None:
    path = tmp_path / "file.parquet"
    pq.write_table(pa.table({"part": pa.array(part, pa.int32())}), path, row_group_size=rows_per_group)
    assert reads_per_row(path, "part") == reads


def test_without_statistics_rows_may_be_read_any_number_of_times(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    pq.write_table(pa.table({"part": [1]}), path, write_statistics=False)
    assert reads_per_row(path, "part") == math.inf


def test_row_groups_that_cannot_hold_a_part_are_not_read(tmp_path: Path) -> None:
    path = write(tmp_path, TABLE.sort_by("part"), row_group_size=4)
    second = pq.read_metadata(path).row_group(1)
    data = bytearray(path.read_bytes())
    for i in range(2):
        start = second.column(i).dictionary_page_offset
        data[start : start + second.column(i).total_compressed_size] = b"\xff" * second.column(i).total_compressed_size
    path.write_bytes(data)
    assert texts(path, 1) == ["text 0", "text 3", "text 6", "text 9"]
    assert texts(path, 3) == ["text 2", "text 5", "text 8", "text 11"]
    with pytest.raises(SourceError, match=r"a\.parquet: not a complete parquet file"):
        texts(path, 2)


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint8(), pa.int32()])
def test_integers_of_any_width_will_do(tmp_path: Path, kind: pa.DataType) -> None:
    path = write(tmp_path, TABLE.set_column(1, "part", TABLE["part"].cast(kind)), row_group_size=1)
    assert texts(path, 2) == ["text 1", "text 4", "text 7", "text 10"]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_text_of_any_kind_will_do(tmp_path: Path, kind: pa.DataType) -> None:
    path = write(tmp_path, TABLE.set_column(0, "text", TABLE["text"].cast(pa.string()).cast(kind)))
    assert texts(path, 3) == ["text 2", "text 5", "text 8", "text 11"]


def test_a_missing_column_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = write(tmp_path, TABLE.rename_columns(["prompt", "part_id"]))
    with pytest.raises(SourceError, match=r"a\.parquet: has no column part, text, but prompt, part_id\."):
        list(read_parquet(path, COLUMNS, 5))


@pytest.mark.parametrize("part", [["1", "x"], [[1], [2]], [1.5, 2.0]])
@pytest.mark.parametrize("equal", [None, ("part", 1)])
def test_a_column_of_another_type_is_an_error(tmp_path: Path, part: list[Any], equal: tuple[str, int] | None) -> None:
    path = write(tmp_path, pa.table({"part": part, "text": ["a", "b"]}))
    with pytest.raises(SourceError, match=r"a\.parquet: a column is not of the type expected: "):
        list(read_parquet(path, COLUMNS, 5, equal))


def test_damage_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    data = path.read_bytes()
    dice = random.Random(2022)
    broken = [b"", b"PAR1", b"<html>", data[: len(data) // 2], data[100:], data[:-1]]
    broken += [data[:at] + bytes([dice.randrange(256)]) * 8 + data[at + 8 :] for at in range(0, len(data), 40)]
    failures = 0
    for content in broken:
        path.write_bytes(content)
        try:
            list(read_parquet(path, COLUMNS, 5))
        except SourceError as error:
            assert "a.parquet" in str(error)  # noqa: PT017 - some damage is to what is not read
            failures += 1
    assert failures > len(broken) // 3


def test_text_that_is_not_unicode_comes_as_bytes(tmp_path: Path) -> None:
    path = write(tmp_path, compression="none", use_dictionary=False, write_statistics=False)
    path.write_bytes(path.read_bytes().replace(b"text 5", b"text \xff"))
    assert [row["text"] for row in read_parquet(path, COLUMNS, 5)][4:7] == ["text 4", b"text \xff", "text 6"]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.large_string()),
        pa.large_list(pa.string()),
        pa.list_(pa.string(), 1),
        pa.list_(pa.dictionary(pa.int8(), pa.string())),
    ],
    ids=str,
)
def test_lists_of_text_of_any_kind_will_do(tmp_path: Path, kind: pa.DataType) -> None:
    path = write(tmp_path, pa.table({"texts": pa.array([["a"], ["é"]]).cast(kind)}))
    rows = list(read_parquet(path, pa.schema({"texts": pa.list_(pa.string())}), 5))
    assert rows == [{"texts": ["a"]}, {"texts": ["é"]}]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 2]),
        pa.array([1.5, 2.0]),
        pa.array([True, False]),
        pa.array([b"a", b"b"]),
        pa.array([["a"], ["b"]]),
        pa.array([{"a": "b"}] * 2),
        pa.array([1, 2]).dictionary_encode(),
        pa.array([0, 1], pa.timestamp("s")),
    ],
    ids=lambda values: str(values.type),
)
def test_a_text_column_of_another_type_is_refused_in_words(tmp_path: Path, values: pa.Array) -> None:
    path = write(tmp_path, pa.table({"part": [1, 2], "text": values}))
    with pytest.raises(
        SourceError, match=r"a\.parquet: a column is not of the type expected: text is .*expected string"
    ):
        list(read_parquet(path, COLUMNS, 5))


@pytest.mark.parametrize(
    "values", [pa.array([[1]]), pa.array([[b"a"]]), pa.array(["a"]), pa.array([[["a"]]])], ids=lambda v: str(v.type)
)
def test_a_list_of_something_else_is_refused_in_words(tmp_path: Path, values: pa.Array) -> None:
    path = write(tmp_path, pa.table({"texts": values}))
    with pytest.raises(SourceError, match=r"texts is .*, expected list<item: string>"):
        list(read_parquet(path, pa.schema({"texts": pa.list_(pa.string())}), 5))


def test_numbers_become_text_only_where_they_may(tmp_path: Path) -> None:
    path = write(tmp_path, pa.table({"x": pa.array([0.2, None], pa.float32())}))
    columns = pa.schema({"x": pa.string()})
    assert [row["x"] for row in read_parquet(path, columns, 5, as_text=("x",))] == ["0.2", None]
    with pytest.raises(SourceError, match="x is float, expected string"):
        list(read_parquet(path, columns, 5))


def test_what_to_do_depends_on_whose_the_file_is(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"<html>")
    with pytest.raises(SourceError, match=r"Put a whole one in its place and run again\.") as caught:
        list(read_parquet(path, COLUMNS, 5))
    assert "emove it" not in str(caught.value)
    (tmp_path / "a.parquet.fetched").touch()  # as a fetched copy has it
    with pytest.raises(SourceError, match=r"It is a copy of the source's\."):
        list(read_parquet(path, COLUMNS, 5))


def test_memory_does_not_grow_with_row_groups(tmp_path: Path) -> None:
    dice = random.Random(2022)
    values = [dice.randbytes(1000) for _ in range(20_000)]
    path = write(tmp_path, pa.table({"data": pa.array(values)}), row_group_size=len(values))
    del values
    columns = pa.schema({"data": pa.binary()})
    before, most, num_rows = pa.total_allocated_bytes(), 0, 0
    for _ in read_parquet(path, columns, 100):
        num_rows += 1
        most = max(most, pa.total_allocated_bytes() - before)
    assert num_rows == 20_000
    assert most < 8 * 2**20 < path.stat().st_size
