import pickle
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from microdiff.core.progress import NullReporter
from microdiff.errors import SourceError
from microdiff.formats.annotations import Annotations, write_annotations
from tests.waiting import run_python

Rows = list[tuple[str, Any]]


class Ticks(NullReporter):
    def __init__(self) -> None:
        self.ticks: list[int] = []

    def tick(self, samples: int = 0, num_bytes: int = 0) -> None:
        self.ticks.append(samples)


def table(rows: Rows, folder: Path) -> Annotations:
    path = folder / "annotations.sqlite"
    assert write_annotations(path, rows, NullReporter()) == len(rows)
    return Annotations(path)


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    values = ["text", "", None, 0, 1.5, True, [], {"a": [1, None]}, "grün 絵 \0", "half \ud83d"]
    annotations = table([(str(number), value) for number, value in enumerate(values)], tmp_path)
    assert [annotations.all_of(str(number)) for number in range(len(values))] == [[value] for value in values]
    assert list(annotations.between(None, None)) == [(str(number), value) for number, value in enumerate(values)]


def test_a_key_is_found_whole(tmp_path: Path) -> None:
    keys = ["sa_1", "sa_10", "sa_1\0", "", "sa", "絵", "\ud83d", "sa_1%", "SA_1"]
    annotations = table([(key, key) for key in keys], tmp_path)
    assert [annotations.all_of(key) for key in keys] == [[key] for key in keys]
    assert [annotations.all_of(key) for key in ("sa_", "sa_2", "sa_1\0\0", "\U0001f600")] == [[]] * 4


def test_several_rows_with_one_key_are_all_there(tmp_path: Path) -> None:
    annotations = table([("b", 3), ("a", 2), ("b", 1), ("a", None), ("b", 2)], tmp_path)
    assert annotations.all_of("b") == [3, 1, 2]
    assert list(annotations.between(None, None)) == [("a", 2), ("a", None), ("b", 3), ("b", 1), ("b", 2)]


@pytest.mark.parametrize("order", range(3))
def test_rows_come_sorted_by_key(order: int, tmp_path: Path) -> None:
    keys = ["", "0", "000_a", "000_b", "001", "001_a", "01", "a", "a\0", "a\x7f", "aé", "a\uffff", "a\U0010ffff", "b"]
    shuffled = random.Random(order).sample(keys, len(keys))
    annotations = table([(key, None) for key in shuffled], tmp_path)
    for first in [None, *keys]:
        for end in [None, *keys]:
            expected = [key for key in keys if (first or "") <= key and (end is None or key < end)]
            assert [key for key, _ in annotations.between(first, end)] == expected


def test_a_table_without_rows_or_file_is_empty(tmp_path: Path) -> None:
    for annotations in (table([], tmp_path), Annotations()):
        assert annotations.all_of("a") == []
        assert list(annotations.between(None, None)) == []


def test_a_value_can_be_looked_up_while_others_are_being_read(tmp_path: Path) -> None:
    annotations = table([(f"{number:04d}", number) for number in range(1000)], tmp_path)
    rows = annotations.between(None, None)
    assert [(next(rows)[1], annotations.all_of(f"{number:04d}")[0]) for number in range(1000)] == [
        (i, i) for i in range(1000)
    ]


def test_a_table_travels_to_another_process_as_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "50 % of? #1 ü"
    folder.mkdir()
    annotations = table([("a", 1)], folder)
    assert annotations.all_of("a") == [1]
    copy = pickle.loads(pickle.dumps(annotations))  # noqa: S301 - our own
    assert copy == annotations
    assert copy.all_of("a") == [1]


def test_keys_that_are_no_unicode_are_kept_apart(tmp_path: Path) -> None:
    rows = [("a?", 1), ("a\ud800", 2), ("a\udfff", 3), ("a\ufffd", 4)]
    annotations = table(rows, tmp_path)
    assert [annotations.all_of(key) for key, _ in rows] == [[1], [2], [3], [4]]
    assert list(annotations.between(None, None)) == rows


def test_a_table_is_only_read(tmp_path: Path) -> None:
    annotations = table([("a", 1)], tmp_path)
    before = annotations.path and annotations.path.read_bytes()
    assert annotations.all_of("a") == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["annotations.sqlite"]  # no journal either
    assert annotations.path
    assert annotations.path.read_bytes() == before
    assert annotations._connection
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        annotations._connection.execute("DELETE FROM annotations")


@pytest.mark.parametrize("num_rows", [0, 1, 4095, 4096, 4097, 10_000])
def test_every_row_is_reported_once_and_not_one_by_one(num_rows: int, tmp_path: Path) -> None:
    report = Ticks()
    rows = ((str(number), None) for number in range(num_rows))
    assert write_annotations(tmp_path / "table", rows, report) == num_rows
    assert sum(report.ticks) == num_rows
    assert len(report.ticks) <= 1 + num_rows // 4096


def test_an_error_of_the_reader_is_passed_on(tmp_path: Path) -> None:
    def rows() -> Iterator[tuple[str, Any]]:
        yield "a", 1
        raise SourceError("captions.tar.gz: damaged")

    with pytest.raises(SourceError, match="damaged"):
        write_annotations(tmp_path / "table", rows(), NullReporter())


def test_writing_takes_little_memory(tmp_path: Path) -> None:
    """What SQLite takes is seen from outside only."""
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from microdiff.core.progress import NullReporter\n"
        "from microdiff.formats.annotations import write_annotations\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        f"before = peak(); folder = Path({str(tmp_path)!r})\n"
        "rows = ((f'sa_{i * 7919 % 150_000}', 'x' * 600) for i in range(150_000))\n"
        "num = write_annotations(folder / 'table', rows, NullReporter())\n"
        "sys.exit(0 if num == 150_000 and peak() - before < 24 else f'{peak() - before} MiB')"
    )
    done = run_python("-c", script)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "table").stat().st_size > 80 * 2**20
