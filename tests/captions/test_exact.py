"""The exact caption cleaner: its rules one by one, its golden data, bad input."""

import doctest
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

import caption_spec
import microdiff.captions
from microdiff.captions import clean_caption, rules
from microdiff.captions.marks import find_marks

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
GOLDEN = [path for path in [DATA / "captions_golden.jsonl.gz"] if path.exists()]
CRASH = [path for path in [DATA / "captions_crash.jsonl"] if path.exists()]

# Rule, caption before, caption after, why.
ROWS = [
    ("decode", "a+cat%20caf%C3%A9", "a cat café", "captions taken from URLs"),
    ("decode", "%2541 cat", "a cat", "the second run decodes what the first uncovered"),
    ("person", "<PERSON> with a dog", "person with a dog", "not a tag: it would vanish with them"),
    ("links", "see https://cats.org/a/b?c=1 now", "see ?c=1 now", "host and path go, the query stays"),
    ("links", "http://x www:y foo.com.", "x .", "a scheme goes with its slashes, or one character"),
    ("links", "mail joe@cats.com", "mail joe", "no host before an at sign; then it is a nickname"),
    ("links", "cats.com@dogs here", "cats. com here", "no host before an at sign"),
    ("markup", "Jungle<br>Hawaiian &eacute;t&eacute;", "junglehawaiian été", "tags part no words"),
    ("markup", "a <b and c", "a <b and c", "an unfinished tag is text"),
    ("nickname", "by @some_body here", "by here", "names of accounts say nothing"),
    ("ideographs", "一只猫 two cats ㈱", "two cats", "the old text encoders did not know them"),
    ("dashes", "red – blue — green", "red - blue - green", "one kind of dash"),
    ("hyphens", "red -- blue", "red - blue", "one hyphen in a row"),
    ("quotes", "a «big» cat’s “toy”", "a \"big\" cat's \"toy\"", "one kind of quote"),
    ("quot", "a&amp;quot;b", "ab", "what was escaped twice"),
    ("amp", "a &amp;amp; b", "a ; b", "the semicolon stays"),
    ("ip", "server 192.168.10.1 down", "server down", "addresses of computers"),
    ("clock", "arrives 12:30 <br>", "arrives 1", "the second digit of the hour stays"),
    ("newline", r"line\nbreak", "line break", "a line break escaped by somebody"),
    ("hash", "take #12 now", "take now", "numbers in a series"),
    ("long hash", "item #1234567", "item", "numbers in a catalogue"),
    ("hash", "item #1234", "item 1234", "four digits are neither: only the mark goes"),
    ("number", "lot 1234567 sold", "lot sold", "numbers in a catalogue"),
    ("file", "see images/cat.jpg here", "see here", "file names"),
    ("quotes in a row", "''big'' cat", '"big" cat', "one quote"),
    ("dots in a row", "wait... what", "wait what", "an ellipsis says nothing"),
    ("punctuation", "cat* (big) [red] © ½", "cat big red", "marks from web pages"),
    ("lone dot", "a . b", "a b", "a dot that ends no word"),
    ("slug", "this-is-my_cute-cat", "this is my cute cat", "the name of a page"),
    ("slug", "A-b-c-d-e", "a b c d e", "from four on"),
    ("slug", "t-shirt and so-so", "t-shirt and so-so", "up to three stay"),
    ("repair", "\x07bold\x00 text ＡＢＣ ﬁn", "bold text abc fin", "controls, widths, ligatures"),
    ("code", "printer jc6640 or jc6640vc or 6640vc231", "printer or or", "numbers of models"),
    ("code", "ab12 abc123 abcd1234", "ab12 abcd1234", "up to three letters, at least three digits"),
    ("shipping", "Worldwide Free Shipping lamp", "lamp", "offers of shops"),
    ("shipping", "Harbour with Shipping", "harbour with", "also where it is meant"),
    ("download", "free download free music", "music", "offers of web sites"),
    ("click", "click for details of it", "of it", "calls of web sites"),
    ("extension", "cat png image and Epson", "cat and on", "kinds of files, wherever a word begins so"),
    ("page", "cats page 12 dogs", "cats dogs", "numbers of pages"),
    ("serial", "part j2d1a2a end", "part end", "numbers of parts"),
    ("size", "frame 3.5×4 or 5×7", "frame or", "sizes"),
    ("colon", "size : large", "size: large", "a blank that French has and English has not"),
    ("comma", "red,blue and 1,000", "red, blue and 1,000", "a blank that was forgotten"),
    ("blanks", "a  \t b", "a b", "one blank"),
    ("ends", "\"a cat\"", "a cat", "quotes around all of it"),
    ("ends", "-a cat,", "a cat", "remains at the ends"),
    ("ends", ".hidden", "", "the rest of a file name"),
]  # fmt: skip


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


@pytest.mark.parametrize("unit", ["a cat on a mat. ", "猫", "é1x2,", "<b>cat</b>\n", "&amp;", "\ud800", "\x00 ", "½…"])
def test_a_megabyte(unit: str) -> None:
    clean_caption(unit * (1_000_000 // len(unit)))


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
