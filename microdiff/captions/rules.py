"""The rules of the exact cleaner, in order: what each looks for, what it leaves, and which marks it needs.

A rule is skipped when the caption lacks what it needs: one mark of each group in `needs` (see
`microdiff.captions.marks` for those that stand for others).
"""

import re
from typing import NamedTuple

from microdiff.captions.marks import (
    CURLY,
    DASH,
    DASHES,
    DIGIT,
    DIGITS,
    IDEOGRAPH,
    IDEOGRAPHS,
    MARK,
    SIGN,
    SIGNS,
)
from microdiff.captions.patterns import Apply, remove_near, replace, replace_in_words, row

_EXTENSION = "(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"
_HOST = r"a-zA-Z0-9.\-"
_DOMAIN = r"[.](?:com|co|ru|net|org|edu|gov|it)"


class Rule(NamedTuple):
    """One step of the cleaner."""

    name: str
    meaning: str
    apply: Apply
    needs: tuple[str, ...] = ()


def _read_person(text: str) -> str:
    return text.replace("<person>", "person")


def _link_pattern(scheme: str) -> str:
    """Match a scheme with what little follows it, or a host with its path; failing both, group 1 holds a whole host.

    Group 1 keeps the search linear: where a host has no known domain in it, none of its tails has. It ends in
    front of a scheme, which only a host with a colon behind it can hold.
    """
    host = row(_HOST)
    return (
        rf"\b(?:{scheme}:(?:/{{1,3}}|[a-zA-Z0-9%])"
        rf"|[{_HOST}]+{_DOMAIN}[\w/-]*\b/?(?!@)"
        rf"|(?!{scheme}:)({host}(?!:)|[{_HOST}]+?(?={scheme}:)|{host}))"
    )


_find_domain = re.compile(_DOMAIN).search
_remove_schemes = replace_in_words(_link_pattern("https?"), r"\1", where=f"https?:|www:|{_DOMAIN}")
_remove_www = replace_in_words(_link_pattern("www"), r"\1", where=f"www:|{_DOMAIN}")


def _remove_links(text: str) -> str:
    if "http" in text or "www:" in text or _find_domain(text):
        return _remove_www(_remove_schemes(text))
    return text


_replace_hyphens = re.compile("--++").sub


def _join_hyphens(text: str) -> str:
    return _replace_hyphens("-", text) if "--" in text else text


def _straighten_quotes(text: str) -> str:
    for curly in "`´«»“”¨":
        text = text.replace(curly, '"')
    return text.replace("‘", "'").replace("’", "'")


_match_time = re.compile(r"\d:\d\d").fullmatch


def _remove_clock(text: str) -> str:
    stripped = text.rstrip()
    return stripped[:-4] if len(stripped) < len(text) and _match_time(stripped[-4:]) else text


def _replace_newline(text: str) -> str:
    return text.replace("\\n", " ")


_replace_quotes = re.compile(row("\"'", 2)).sub


def _join_quotes(text: str) -> str:
    return _replace_quotes('"', text) if text.count('"') + text.count("'") > 1 else text


_replace_dots = re.compile(r"\.\.++").sub


def _join_dots(text: str) -> str:
    return _replace_dots(" ", text) if ".." in text else text


def _part_words(text: str) -> str:
    if text.count("-") + text.count("_") > 3:
        return text.replace("-", " ").replace("_", " ")
    return text


def _single_blanks(text: str) -> str:
    if "  " not in text and text.isprintable():  # no blank but the space is printable
        return text
    words = " ".join(text.split())
    return f"{' ' if text[:1].isspace() else ''}{words}{' ' if words and text[-1].isspace() else ''}"


def _trim(text: str) -> str:
    if len(text) > 2 and text[0] in "\"'" and text[-1] in "\"'":
        text = text[1:-1]
    if text.startswith(("'", "_", ",", "-", ":", ";")):
        text = text[1:]
    if text.endswith(("'", "_", ",", "-", ":", "+")):
        text = text[:-1]
    if len(text) > 1 and text[0] == "." and " " not in text:
        return ""
    return text.strip()


# The caption has been URL-decoded ("+" is a blank, %c3%a9 is é), stripped and lower-cased.
ADDRESSES = (
    Rule("person", "the mark some datasets put for a name is read as the word", _read_person, ("<",)),
    Rule("links", "http:// goes, and www:, and hosts in eight domains with their path", _remove_links, (".:",)),
)
# Then the HTML is read, if there is any.
SYMBOLS = (
    Rule("nickname", "@somebody goes", replace(r"@\w++"), ("@",)),
    Rule("ideographs", "CJK strokes, signs and ideographs go", replace(row(IDEOGRAPHS)), (IDEOGRAPH,)),
    Rule("dashes", "dashes of any kind, and any number, become one hyphen", replace(row("-" + DASHES), "-"), (DASH,)),
    Rule("hyphens", "so do hyphens where there are no other dashes", _join_hyphens, ("-",)),
    Rule("quotes", "typographic quotes become straight ones", _straighten_quotes, ("`" + CURLY,)),
    Rule("quot", "&quot that the HTML reader left goes", replace("&quot;?"), ("&",)),
    Rule("amp", "so does &amp", replace("&amp"), ("&",)),
    Rule(
        "ip",
        "four numbers with dots become a blank",
        replace_in_words(r"\d{1,3}(?:\.\d{1,3}){3}", " ", where=r"\.\d{1,3}\.\d"),
        (DIGIT, "."),
    ),
    Rule("clock", "a time goes from the end, if a blank follows it", _remove_clock, (DIGIT, ":")),
    Rule("newline", "a backslash with an n becomes a blank", _replace_newline, ("\\",)),
    Rule("hash", "#1 to #999 go", replace(r"#\d{1,3}\b"), ("#", DIGIT)),
    Rule("long hash", "# with five digits or more goes", replace(r"#\d{5,}+\b"), ("#", DIGIT)),
    Rule("number", "six digits or more go", replace_in_words(r"\b\d{6,}+\b", where=r"\d\d{5}"), (DIGITS,)),
    Rule(
        "file",
        "what has an image, document or film extension goes, back to the last blank",
        replace_in_words(rf"(?<!\S)\S+\.{_EXTENSION}", where=rf"\.{_EXTENSION}"),
        (".",),
    ),
    Rule("quotes in a row", "become one double quote", _join_quotes, ("\"'`" + CURLY,)),
    Rule("dots in a row", "become a blank", _join_dots, (".",)),
    Rule(
        "punctuation",
        "brackets, bullets, slashes and the like become a blank",
        replace(row(rf"#&@~()\[\]{{}}|\\/*{SIGNS}"), " "),
        ("#&@\\/" + MARK + SIGN,),
    ),
    Rule(
        "lone dot",
        "a dot between blanks becomes a blank",
        replace(r"(?<!\s)\s++\.\s++", " ", where=r"\.(?<=\s\.)\s"),
        (".",),
    ),
    Rule("slug", "hyphens and underscores become blanks if there are more than three", _part_words, ("-_" + DASH,)),
)
# Then the text is repaired (mojibake, odd widths, controls), unescaped twice and stripped.
_MIXED = r"\d(?<=[a-zA-Z]\d)"  # every code and serial has a digit after a letter somewhere
CODES = (
    Rule(
        "code",
        "words such as jc6640, jc6640vc and 6640vc231 go",
        replace_in_words(
            r"\b(?:[a-zA-Z]{1,3}\d{3,15}|[a-zA-Z]++\d++[a-zA-Z]++|\d++[a-zA-Z]++\d++)\b",
            where=_MIXED,
        ),
        (DIGIT,),
    ),
)


def has_phrase(text: str) -> bool:
    """Say whether one of the words without which none of the phrases is there occurs."""
    return (
        "shipping" in text
        or "download" in text
        or "click" in text
        or "page" in text
        or "png" in text
        or "jp" in text
        or "bmp" in text
        or "webp" in text
        or "eps" in text
        or "pdf" in text
        or "apk" in text
        or "mp4" in text
    )


PHRASES = (
    Rule(
        "shipping",
        "shipping goes, with free and worldwide before it",
        remove_near(
            "shipping", r"[wfs](?:(?<=w)orldwide\s++(?:free\s++)?shipping|(?<=f)ree\s++shipping|(?<=s)hipping)"
        ),
    ),
    Rule(
        "download",
        "download goes, with free before or after it",
        remove_near("download", r"[fd](?:(?<=f)ree\sdownload|(?<=d)ownload)(?:\sfree)?"),
    ),
    Rule("click", "click for what and click on what go", remove_near("click", r"\bclick\s(?:for|on)\s\w++")),
    Rule(
        "extension",
        "an extension goes where a word begins with it, and image or images after it",
        replace(
            r"[abejmpw](?<!\w.)(?:(?<=p)ng|(?<=p)df|(?<=j)pe?g|(?<=b)mp|(?<=w)ebp|(?<=e)ps|(?<=a)pk|(?<=m)p4)"
            r"(?:\simages?+)?"
        ),
    ),
    Rule("page", "page 12 goes", remove_near("page", r"\bpage\s++\d++\b"), (DIGIT,)),
)
LAYOUT = (
    Rule(
        "serial",
        "words that go from letters to digits twice become a blank",
        replace_in_words(r"\b\d*+[a-zA-Z]++\d++[a-zA-Z]++\d++[a-zA-Z\d]*+\b", " ", where=_MIXED),
        (DIGIT,),
    ),
    Rule(
        "size",
        "3x4, 1.5×2 and the like go",
        replace_in_words(r"\b\d++(?:\.\d*+)?[xх×]\d++(?:\.\d++\b|\.\b|\b)", where=r"[xх×]\d"),
        (DIGIT,),
    ),
    Rule(
        "colon",
        "a colon after a blank joins the word before it",
        replace(r"\b\s++:\s++", ": ", where=r":(?<=\s:)\s"),
        (":",),
    ),
    Rule(
        "comma",
        "comma, dot and slash get a blank if a word follows and no digit precedes",
        replace(r"[,./](?<=\D.)(?=\w)", r"\g<0> "),
        (",./",),
    ),
    Rule("blanks", "any run of blanks becomes one", _single_blanks),
    Rule("ends", "a pair of quotes goes; then one of '_,-:; in front, one of '_,-:+ behind; a lone .word", _trim),
)
ALL = ADDRESSES + SYMBOLS + CODES + PHRASES + LAYOUT
