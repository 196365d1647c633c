"""The gentle caption cleaner, row by row."""

import pytest

from microdiff.captions import clean_caption_light

ROWS = [
    ("A Photo of Big Ben (London), 4K!", "A Photo of Big Ben (London), 4K!", "case, digits and brackets stay"),
    ("一只猫 and кот and قطة", "一只猫 and кот and قطة", "every script stays"),
    ("Epson L818, 5x7, #8, 1234567", "Epson L818, 5x7, #8, 1234567", "so do names, sizes and numbers"),
    ("“curly” ｗｉｄｅ ﬁ", "“curly” ｗｉｄｅ ﬁ", "so do quotes, widths and ligatures"),
    ("c++ at 50%20", "c++ at 50%20", "nothing is taken for a URL-encoded text"),
    ("cafÃ© â€“ naÃ¯ve", "café – naïve", "mojibake is undone"),
    ("rock &amp; roll &amp;eacute;t&eacute;", "rock & roll été", "entities are read, also when escaped twice"),
    ("AT&T &copy 2020", "AT&T &copy 2020", "but not without their semicolon"),
    ("Jungle<br>Hawaiian H<sub>2</sub>O", "Jungle Hawaiian H2O", "some tags part words"),
    ("&lt;b&gt;bold&lt;/b&gt; text", "bold text", "escaped tags go, too"),
    ("a < b <3 and x<y", "a < b <3 and x<y", "not every sign is a tag"),
    ("a<!-- <b>no</b> -->b <script>if (a<b) {}</script>c", "ab c", "comments and scripts go with what they hold"),
    ("a <!-- b", "a <!-- b", "unless they never end"),
    ("<PERSON> and <person>", "person and person", "the mark for a name is read as the word"),
    ("See https://a.com/x?y=1, www.b.org/z. Or (http://c.de).", "See , . Or .", "URLs go, sentence marks stay"),
    ("look at cats.com/a/b.jpg", "look at", "also without a scheme, if they have a path"),
    ("Amazon.com and joe@cats.com", "Amazon.com and joe@cats.com", "names and addresses stay"),
    ("a\u200bb\u00ad \x00c\r\n d\t e\ufeff", "ab c d e", "what cannot be seen goes"),
    ("\ud83d\ude00 \ud83d", "😀 �", "surrogates are joined or marked"),
    (None, "None", "what is no string is turned into one"),
    (12, "12", "also numbers"),
]


@pytest.mark.parametrize(("before", "after", "why"), ROWS)
def test_row(before: object, after: str, why: str) -> None:
    assert clean_caption_light(before) == after, why
    assert clean_caption_light(after) == after, why


def test_a_number_too_long_for_a_string_is_empty() -> None:
    assert clean_caption_light(10**5000) == ""


def test_what_is_escaped_too_often_needs_another_run() -> None:
    assert clean_caption_light("&amp;amp;amp;lt;") == "&amp;lt;"


@pytest.mark.parametrize(
    ("unit", "cleaned"),
    [
        ("a cat on a mat. ", "a cat on a mat. "),
        ("猫", "猫"),
        ("<b>cat</b>\n", "cat "),
        ("&amp;", "&"),
        ("\ud800", "\ufffd"),
        ("http://a ", ""),
    ],
)
def test_a_megabyte(unit: str, cleaned: str) -> None:
    number = 1_000_000 // len(unit)
    assert clean_caption_light(unit * number) == (cleaned * number).strip()
