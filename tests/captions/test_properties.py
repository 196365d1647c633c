"""The exact caption cleaner equals its specification, step by step and as a whole, on text nobody thought of."""

import random
import unicodedata

import ftfy
import pytest
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microdiff.captions import clean_caption, clean_caption_light, unicode
from microdiff.captions.html import read_html
from tests.captions import caption_spec
from tests.captions.caption_rows import ROWS
from tests.captions.caption_spec import SAME_PARSER

FRAGMENTS = [
    *(row[1] for row in ROWS),
    *(piece for row in ROWS for piece in row[1].split()),
    *"abxyzAX0129 .,:;-_'\"/\\#@&<>()%+\n\t\x00\x1c\xa0",
    *"\u0661хx×＆＃；œİΣß\u0301\u0323\ud83d\ude00",
    *["１２", "＆amp;", "＆＃65b", "Ã©", "â€™", "Â ", "http:/", "www:", "foo.co", ".it", "&#39;", "&#x41;", "&#128;"],
    *["&nbsp", "&#", "<a href='", "</", "<!--", "-->", "<![cdata[", "]]>", "<pre>", "<template>", "<br/>", "free "],
    *["worldwide ", "image", "for ", "1.2."],
]
TEXT = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join),
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.characters()), max_size=12).map("".join),
    st.text(max_size=40),
)
ORDINARY = settings(
    max_examples=500, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@ORDINARY
@given(TEXT)
def test_equals_the_specification(text: str) -> None:
    cleaned = clean_caption(text)
    if "<" in text and not SAME_PARSER:
        return
    try:
        expected = caption_spec.clean_caption(text)
    except caption_spec.RAISES:
        return
    assert cleaned == expected


TAGS = [
    *["<", "</", ">", "/>", "<!", "<!--", "--", "-->", "<?", "<![if ", "]>", "<![cdata[", "]]>", "<!doctype ", "&#"],
    *["&#x4", "&a", "&amp", "br", "pre", "script", "style", "rt", "<br>", "<p>", "</p>", "<script>", "</script>"],
    *["<pre>", "</pre>", "<rt>", "</rt>", "<a b='"],
    *" \n\x0b\x00'\"=/é1-.a;",
]


@pytest.mark.skipif(not SAME_PARSER, reason="this Python's html.parser reads broken markup otherwise")
@ORDINARY
@given(st.lists(st.sampled_from(TAGS), max_size=20).map("".join))
def test_reads_html_as_beautiful_soup_does(markup: str) -> None:
    read = read_html(markup)
    try:
        expected = caption_spec.read_html(markup)
    except caption_spec.RAISES:
        return
    assert read == expected


@pytest.mark.skipif(not SAME_PARSER, reason="this Python's html.parser reads broken markup otherwise")
@pytest.mark.parametrize("keyword", ["temp", "cdata", "ignore", "include", "rcdata", "if", "else", "endif"])
@pytest.mark.parametrize("end", ["]>", "] ] >", "]]", ""])
def test_reads_marked_sections_as_beautiful_soup_does(keyword: str, end: str) -> None:
    for markup in (f"a<![{keyword}[ b{end} c", f"a<![{keyword} b {end} c"):
        assert read_html(markup) == caption_spec.read_html(markup)


ODD = [
    *"".join(MOJIBAKE_CATEGORIES.values()),
    *"aZ .&;\r\n\x1b[0mﬁＺ\u3000\u2019\ufeff\u0301\u0323한\u1112\u1161\u11ab<",
    *["cafÃ©", "&amp;", "＆amp;amp;", "＆eacute;", "â€™", "Ð¿Ñ€", "\ud83d\ude00", "\x1b[1m", "\xed\xa0\x80"],
]


@ORDINARY
@given(
    st.lists(st.sampled_from(ODD), max_size=12).map("".join),
    st.sampled_from(["latin-1", "cp1252", "cp1251", "cp437", "mac-roman"]),
)
def test_repairs_as_ftfy_does(text: str, encoding: str) -> None:
    for broken in (text, text.encode("utf-8", "surrogatepass").decode(encoding, "replace")):
        assert unicode.repair(broken) == ftfy.fix_text(broken)
        assert not is_bad(broken) or unicode.find_suspicious(broken)


@pytest.mark.parametrize(
    "text",
    [
        "＆" + "amp;" * 400 + "lt;",
        "é ＆amp;amp;eacute; ＆amp;amp;amp;copy;" * 20,
        "＆" + "＃38;" * 300 + "＃x41;",
        "＆am＆＃112;；amp;am" + "p;lt;" * 50,
        "a\u0301＆amp;amp;＃101;\u0301",
        "├à┬₧┬╡" * 200,
        "Ãƒ©" * 300,
        "œ. œa Œ",
        "√ ‚Äî ‚Äì √â",
    ],
)
def test_repairs_what_takes_many_rounds(text: str) -> None:
    assert unicode.repair(text) == ftfy.fix_text(text)


def test_nested_entities_are_read_to_the_end_however_many() -> None:
    assert unicode.repair("é ＆" + "amp;" * 20_000 + "lt;") == "é <"


def test_long_rows_of_marks_are_composed_as_python_does() -> None:
    text = "".join(random.Random(0).choices("aeo한\u1112\u0301\u0323\u0344\u0327é", k=5000))  # same each time
    assert unicode.compose(text) == unicodedata.normalize("NFC", text)


@ORDINARY
@given(TEXT)
def test_light_never_raises_and_leaves_one_line(text: str) -> None:
    cleaned = clean_caption_light(text)
    cleaned.encode()
    assert cleaned == " ".join(cleaned.split())


@ORDINARY
@given(TEXT.filter(lambda text: "&" not in text and "＆" not in text))
def test_light_is_idempotent_but_for_escapes(text: str) -> None:
    cleaned = clean_caption_light(text)
    assert clean_caption_light(cleaned) == cleaned
