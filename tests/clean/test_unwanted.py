"""Samples that are rejected for what is earlier in the dataset or in others, and what metrics say of such pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from microdiff.artifacts.tables import table_writer
from microdiff.clean.picture_digests import NO_DIGESTS, digests_of, is_in
from microdiff.clean.policy import SCHEMA, write_captions
from microdiff.clean.repeated_pictures import PictureCounts, share_unique
from microdiff.clean.unwanted import find_pictures, find_unwanted, is_needed
from microdiff.core.ledger import Reason
from microdiff.core.progress import NullReporter
from tests.clean.raw_tables import policy, raw_row, write_raw

ONE, TWO, THREE = "1" * 64, "2" * 64, "3" * 64
ALMOST_ONE = ONE[:16] + THREE[16:]  # the first eight bytes are the same
Rows = dict[str, list[dict[str, Any]]]


def unwanted(folder: Path, rows: Rows, *, gone: tuple[str, ...] = (), elsewhere: str = "", **changes: Any) -> Any:
    """Return the reasons that `find_unwanted` finds, of all partitions together."""
    write_raw(folder, rows)
    tables = {name: folder / f"{name}.parquet" for name in rows}
    others = digests_of([elsewhere]) if elsewhere else NO_DIGESTS
    found = find_unwanted(tables, policy(**changes), dict.fromkeys(rows, gone), others)
    assert found.keys() == rows.keys()
    return {key: reason.value for reasons in found.values() for key, reason in reasons.items()}


SAMPLES: Rows = {
    "0000": [raw_row("a", "A cat", sha256=ONE), raw_row("b", "a cat", sha256=TWO), raw_row("c", "", sha256=ONE)],
    "0001": [
        raw_row("d", "a  CAT", sha256=ONE),
        raw_row("e", "a dog", sha256=ONE),
        raw_row("f", "A cat", sha256=ONE),
        raw_row("g", "A cat", sha256=ALMOST_ONE),
        raw_row("h", "a bird", sha256=TWO),
    ],
}


@pytest.mark.parametrize(
    ("changes", "rejected"),
    [
        ({"drop_duplicates": True}, {"d": "duplicate", "f": "duplicate"}),
        ({"drop_duplicates": "picture"}, dict.fromkeys("defh", "duplicate")),
        ({"max_captions_per_picture": 1}, dict.fromkeys("defh", "repeated_picture")),
        ({"max_captions_per_picture": 2}, dict.fromkeys("ef", "repeated_picture")),
        ({"max_captions_per_picture": 3}, {"f": "repeated_picture"}),
        ({"max_captions_per_picture": 4}, {}),
        (
            {"drop_duplicates": True, "max_captions_per_picture": 1},
            {**dict.fromkeys("df", "duplicate")} | dict.fromkeys("eh", "repeated_picture"),
        ),
        ({"drop_duplicates": True, "gone": ("a",)}, {"f": "duplicate"}),
        ({"drop_duplicates": "picture", "gone": ("a", "b")}, dict.fromkeys("ef", "duplicate")),
        ({"elsewhere": TWO}, {"b": "duplicate", "h": "duplicate"}),
        ({"elsewhere": THREE}, {}),
    ],
    ids=str,
)
def test_of_equal_samples_the_first_stays(tmp_path: Path, changes: dict[str, Any], rejected: dict[str, str]) -> None:
    """`c` has no caption to keep, so it is no earlier sample; cleaning makes the captions of `a` and `d` equal."""
    assert unwanted(tmp_path, SAMPLES, cleaner="deepfloyd", **changes) == rejected


def test_all_captions_of_one_picture_are_no_duplicates_of_each_other_but_count(tmp_path: Path) -> None:
    rows = {"0000": [raw_row("a", "one", "two", "three", sha256=ONE), raw_row("b", "four", sha256=ONE)]}
    assert unwanted(tmp_path, rows, caption="all", drop_duplicates="picture") == {"b#1": "duplicate"}
    assert unwanted(tmp_path, rows, caption="all", max_captions_per_picture=2) == {
        "a#3": "repeated_picture",
        "b#1": "repeated_picture",
    }
    alone = {"0000": [raw_row("a", "one", "two", "three", sha256=ONE)]}
    assert unwanted(tmp_path, alone, caption="all", max_captions_per_picture=2) == {"a#3": "repeated_picture"}


def test_a_placeholder_for_dead_links_keeps_as_many_captions_as_are_allowed(tmp_path: Path) -> None:
    rows = {"0000": [raw_row(f"k{number:02}", f"caption {number}", sha256=ONE) for number in range(29)]}
    found = unwanted(tmp_path, rows, max_captions_per_picture=5)
    assert sorted(found) == [f"k{number:02}" for number in range(5, 29)]
    assert set(found.values()) == {"repeated_picture"}


def test_rejected_samples_say_why(tmp_path: Path) -> None:
    write_raw(tmp_path, SAMPLES)
    (tmp_path / "out").mkdir()
    reasons = {"d": Reason.DUPLICATE, "f": Reason.IN_EVALUATION_SET, "h": Reason.REPEATED_PICTURE}
    result = write_captions(tmp_path / "0001.parquet", "0001", policy(), reasons, tmp_path / "out", NullReporter())
    assert result.counts == {"in": 5, "kept": 2, "duplicate": 1, "in_evaluation_set": 1, "repeated_picture": 1}
    statuses = pq.read_table(tmp_path / "out" / "0001.parquet")["status"].to_pylist()
    assert statuses == ["duplicate", "kept", "in_evaluation_set", "kept", "repeated_picture"]


def test_a_picture_is_rejected_with_all_its_captions(tmp_path: Path) -> None:
    write_raw(tmp_path, {"0000": [raw_row("a", "one", "two"), raw_row("b", "three")]})
    (tmp_path / "out").mkdir()
    reasons = {"a": Reason.IN_EVALUATION_SET}
    table = tmp_path / "0000.parquet"
    result = write_captions(table, "0000", policy(caption="all"), reasons, tmp_path / "out", NullReporter())
    assert result.counts == {"in": 3, "kept": 1, "in_evaluation_set": 2, "expanded": 1}


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({}, False),
        ({"exclude_pictures": ["data/coco/raw"]}, False),
        ({"drop_duplicates": True}, True),
        ({"drop_duplicates": "picture"}, True),
        ({"duplicates_across": ["data/coco/raw"]}, True),
        ({"max_captions_per_picture": 1}, True),
    ],
    ids=str,
)
def test_all_pictures_are_looked_at_only_where_that_is_needed(changes: dict[str, Any], needed: bool) -> None:
    assert is_needed(policy(**changes)) == needed


def test_pictures_are_found_by_their_digests(tmp_path: Path) -> None:
    write_raw(tmp_path, {"0000": [*SAMPLES["0000"], {**raw_row("x", "y", sha256=ONE), "status": "too_small"}]})
    assert find_pictures(tmp_path / "0000.parquet", digests_of([ONE])) == {"a", "c"}
    assert find_pictures(tmp_path / "0000.parquet", digests_of([THREE])) == set()
    assert find_pictures(tmp_path / "0000.parquet", NO_DIGESTS) == set()


def test_digests_are_the_first_bytes_as_numbers() -> None:
    digests = digests_of(["00" * 7 + "ff" + "aa" * 24, "ff" * 32])
    assert digests.tolist() == [255, 2**64 - 1]
    assert digests.dtype == np.uint64
    assert is_in(digests, digests_of([])).tolist() == [False, False]
    assert is_in(digests, digests[1:]).tolist() == [False, True]


def captions(folder: Path, rows: dict[str, list[tuple[str, str, str, str]]]) -> None:
    for name, values in rows.items():
        with table_writer(folder / f"{name}.parquet", SCHEMA) as add_row:
            for image_key, sha256, caption, status in values:
                row = {"image_key": image_key, "sha256": sha256, "caption": caption, "status": status}
                add_row(dict.fromkeys(SCHEMA.names) | row)


def test_the_most_frequent_pictures_are_counted_over_partitions(tmp_path: Path) -> None:
    """Each record once, be it kept or not, and whatever the number of its captions."""
    rows = {
        "0000": [("a", ONE, "1", "kept"), ("a", ONE, "2", "kept"), ("b", TWO, "3", "kept"), ("c", ONE, "4", "nsfw")],
        "0001": [("d", ONE, "5", "kept"), ("e", THREE, "6", "kept"), ("f", TWO, "7", "duplicate")],
    }
    captions(tmp_path, rows)
    counts = PictureCounts(tmp_path, rows)
    assert counts.metrics() == {"repeated_pictures": 2, "most_records_of_a_picture": 3}
    assert counts.most_frequent() == [
        {"sha256": ONE, "records": 3, "key": "a"},
        {"sha256": TWO, "records": 2, "key": "b"},
    ]
    assert PictureCounts(tmp_path, []).metrics() == {"repeated_pictures": 0, "most_records_of_a_picture": 0}
    assert PictureCounts(tmp_path, []).most_frequent() == []


def test_distinct_captions_are_counted_over_partitions(tmp_path: Path) -> None:
    for name, texts in {"0000": ["a", "b"], "0001": ["b", "b"]}.items():
        captions(tmp_path, {name: [*(("k", ONE, text, "kept") for text in texts), ("k", ONE, "c", "nsfw")]})
    assert share_unique(tmp_path, ["0000", "0001"]) == 0.5
    assert share_unique(tmp_path, []) == 0.0
