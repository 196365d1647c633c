"""The exact caption cleaner: its rules one by one, its golden data, bad input."""

import doctest
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

import microdiff.captions
from microdiff.captions import clean_caption, rules
from microdiff.captions.marks import find_marks
from tests.captions import caption_spec
from tests.captions.caption_rows import ROWS

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
GOLDEN = [path for path in [DATA / "captions_golden.jsonl.gz"] if path.exists()]
CRASH = [path for path in [DATA / "captions_crash.jsonl"] if path.exists()]


@pytest.mark.parametrize(("rule", "before", "after", "why"), ROWS)
def test_rule(rule: str, before: str, after: str, why: str) -> None:
    assert clean_caption(before) == after, why
    if "<" not in before or caption_spec.SAME_PARSER:
        assert caption_spec.clean_caption(before) == after, why


def test_every_rule_has_a_row() -> None:
    covered = {row[0] for row in ROWS}
    assert {rule.name for rule in rules.ALL} <= covered


def test_rules_are_skipped_only_where_they_do_nothing() -> None:
    for _, before, _, _ in ROWS:
        every = some = before.lower()
        marks = find_marks(some)
        for rule in rules.ALL:
            every = rule.apply(every)
            if not any(marks.isdisjoint(need.encode("latin-1")) for need in rule.needs):
                some = rule.apply(some)
        assert some == every


def test_examples_in_the_documentation() -> None:
    assert doctest.testmod(microdiff.captions).failed == 0


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_golden(path: Path) -> None:
    different = Counter()
    with gzip.open(path, "rt") as lines:
        for row in map(json.loads, lines):
            different[row["kind"]] += clean_caption(row["caption"]) != row["clean"]
    assert different.total() == 0, different


@pytest.mark.parametrize("path", CRASH, ids=lambda path: path.name)
def test_crash_rows_are_cleaned(path: Path) -> None:
    for line in path.read_text().splitlines():
        cleaned = clean_caption(json.loads(line)["caption"])
        cleaned.encode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "none"),
        (12, "12"),
        (1234567, ""),
        (1.5, "1.5"),
        (True, "true"),
        (b"cat", "b'cat"),
        pytest.param(10**5000, "", id="huge"),
        ("", ""),
        ("\ud83d\ude00 \ud83d cat", "😀 � cat"),
        ("\x00\x01cat\x7f\x9f", "catÿ"),
        ("sale <![$9.99] on", "sale $9.99 on"),
        ("&#" + "1" * 5000 + ";", "�"),
        ("&#" + "0" * 5000 + "65;", "a"),
        ("<b><i><a href='x", "<a href='x"),
        ("</p></p> cat <br <br", "cat <br <br"),
        ("<script>alert(1)", ""),
        ("<!-- cat", "<!- cat"),
    ],
)
def test_bad_input(before: object, after: str) -> None:
    assert clean_caption(before) == after


@pytest.mark.parametrize(
    ("unit", "cleaned"),
    [
        ("a cat on a mat. ", "a cat on a mat. "),
        ("猫", ""),
        ("é1x2,", "é1x2,"),
        ("<b>cat</b>\n", "cat "),
        ("&amp;", ""),
        ("\ud800", "\ufffd"),
        ("\x00 ", ""),
        ("½…", "… "),
    ],
)
def test_a_megabyte(unit: str, cleaned: str) -> None:
    number = 1_000_000 // len(unit)
    assert clean_caption(unit * number) == (cleaned * number).strip(" ,")


def test_is_not_idempotent() -> None:
    assert clean_caption("shipshipshippingpingping") == "shipping"
    assert clean_caption("shipping") == ""


def test_plain_captions_only_change_case() -> None:
    for caption in [
        "A man rides a wave.",
        "two dogs , one cat",
        "It's a well-lit room; nobody is in",
        "Route 66 at night !",
    ]:
        assert clean_caption(caption) == caption.lower() == clean_caption(clean_caption(caption))
