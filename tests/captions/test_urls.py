"""Where a URL begins and ends, and what is none."""

import pytest

from microdiff.captions import clean_caption_light


@pytest.mark.parametrize(
    "text",
    [
        *["awww.so cute puppy", "ewww.gross", "Awwww.That is cute", "EWWW.Gross", "wwww.a"],
        *["this is.it/that", "men.it/women", "dress from $5.us/uk", "Love.It/Hate.It", "go to us/uk", "€9.de/at"],
        *["Coffee.Shop/Bar", "The best.Info/help", "her.co/worker", "Beauty.Blog/Style"],
    ],
)
def test_words_that_are_no_url_stay(text: str) -> None:
    assert clean_caption_light(f"cat, {text}") == f"cat, {text}"
    assert clean_caption_light(text) == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("barn WWW.SHOP.COM", "barn"),
        ("barn Www.Shop.com now", "barn now"),
        ("cute...www.a.com", "cute..."),
        ("barn...cats.com/a b", "barn... b"),
        ("看www.a.com/b", "看"),
        ("看a.com/b猫", "看 猫"),
        ("cat amazon.de/dp/B001", "cat"),
        ("cat amazon.co.uk/x dog", "cat dog"),
        ("cat t.co/abc bit.ly/abc", "cat"),
        ("cat http://a.it/women", "cat"),
        ("https://es.wikipedia.org/wiki/España", ""),
        ("https://de.wikipedia.org/wiki/Köln Köln Cathedral", "Köln Cathedral"),
        ("http://a.vn/Việt_Nam Việt", "Việt"),
        ("http://a.com/é猫", "猫"),
        ("http://a.com/b\u200bred barn", "red barn"),
        ("Red barn http://a.com\ufeffnext", "Red barn next"),
        ("www.a.com\u200ered \u200bbarn", "red barn"),
        ("http://a.com/b\u200b/c\u200b.jpg red", "red"),
        ("http://a.com/b&#8203;red barn", "red barn"),
        ("http://a.com/b\x00red", "red"),
        ("a\u200bb http://a.com/\u2060b\u200bc\u200bd", "ab bcd"),
    ],
)
def test_a_url_goes_and_the_next_word_stays(before: str, after: str) -> None:
    assert clean_caption_light(before) == after
