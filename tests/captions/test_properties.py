"""The cleaners on text nobody thought of: the exact one equals its specification, the light one keeps every word."""

import random
import re
import unicodedata

import ftfy
import ftfy.bad_codecs
import pytest
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microdiff.captions import clean_caption, clean_caption_light, unicode
from microdiff.captions.characters import mend
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


WORDS = [
    *[
        "cat",
        "A",
        "table",
        "title",
        "b",
        "man",
        "code",
        "Straße",
        "кот",
        "猫",
        "قطة",
        "été",
        "no",
        "amp",
        "http",
        "www",
        "PERSON",
    ],
    *["I'm", "well-known", "x", "jpg", "com", "BREAK", "ar"],
]
MARKS = [
    " ",
    " ",
    " ",
    ", ",
    ". ",
    " - ",
    " < ",
    " <",
    "> ",
    " > ",
    '"',
    " (",
    ") ",
    " [",
    "] ",
    " | ",
    ": ",
    "! ",
    " & ",
    "% ",
]
TAGS_AND_URLS = [
    *[
        "<b>",
        "</b>",
        "<br>",
        "<p class='x'>",
        "</p>",
        "<!-- hidden -->",
        "<img src=x.png>",
        "<!doctype html>",
        "</ td >",
    ],
    *[" https://a.com/b?c=d ", " (www.a.org) ", " http://a.b/c_(d) "],
]


def letters(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]", text)


@ORDINARY
@given(st.lists(st.one_of(st.sampled_from(WORDS), st.sampled_from(MARKS)), max_size=16).map("".join))
def test_light_keeps_every_letter(text: str) -> None:
    """Brackets that look like markup are a matter of rows; here no element is closed or has a value."""
    if re.search(r"<\s*+/|<(?:b|person)\b[^<>]*>|<\w*$|<[a-z]+ [^<>]*$", text, re.IGNORECASE):
        return
    assert letters(clean_caption_light(text)) == letters(text)


@ORDINARY
@given(
    st.lists(
        st.one_of(st.sampled_from(["cat", "Barn", "кот", "猫", "été"]), st.sampled_from(TAGS_AND_URLS)), max_size=12
    )
)
def test_light_keeps_every_letter_outside_markup_and_urls(pieces: list[str]) -> None:
    words = [piece for piece in pieces if piece not in TAGS_AND_URLS]
    assert letters(clean_caption_light(" ".join(pieces))) == letters(" ".join(words))


SENTENCES = [
    *[
        "Café à l’été, cœur naïf",
        "Straße über Müller – größer",
        "¿El niño está?",
        "Zażółć gęślą jaźń",
        "Příliš žluťoučký",
    ],
    *[
        "Árvíztűrő tükörfúrógép",
        "Şişli’de güneşli",
        "Pâine și brânză în țară",
        "Tiếng Việt đẹp quá",
        "Красный сарай на холме",
    ],
    *[
        "Їжак у лісі",
        "Κόκκινο σπίτι",
        "אסם אדום על הגבעה",
        "حظيرة حمراء",
        "लाल खलिहान",
        "লাল বাড়ি",
        "சிவப்பு வீடு",
        "บ้านสีแดง",
    ],
    *[
        "წითელი სახლი",
        "Կարմիր տուն",
        "山上的红色谷仓",
        "丘の上の赤い納屋",
        "언덕 위의 빨간 헛간",
        "A cat 😀 and ❤️ dog",
        "It’s “fine” — €5 ™",
    ],
]
ENCODINGS = [
    *["latin-1", "sloppy-windows-1252", "sloppy-windows-1251", "sloppy-windows-1250", "sloppy-windows-1253"],
    *["sloppy-windows-1254", "sloppy-windows-1257", "iso-8859-2", "macroman", "cp437"],
]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_light_undoes_the_mojibake_that_ftfy_undoes(sentence: str) -> None:
    right = unicodedata.normalize("NFC", sentence)
    repaired = 0
    for encoding in ENCODINGS:
        broken = right
        for _ in range(2):
            try:
                broken = broken.encode().decode(encoding)
            except UnicodeDecodeError:
                break
            for text, expected in ((broken, right), (f"A photo of {broken}, 4K", f"A photo of {right}, 4K")):
                if ftfy.fix_encoding(text) == expected:
                    repaired += 1
                    assert mend(text) == expected
    assert repaired
