"""What the exact caption cleaner must do, written down plainly: one step after the other, no thought for speed.

Uses the same two libraries as the published cleaner (ftfy and Beautiful Soup), so it raises where that raises, and
takes very long where that does.
"""

import html
import re
import warnings
from collections.abc import Callable
from urllib.parse import unquote_plus

import ftfy
from bs4 import BeautifulSoup
from bs4.exceptions import ParserRejectedMarkup

RAISES = (ParserRejectedMarkup, UnicodeEncodeError, ValueError)
# Later patch releases of Python read broken markup otherwise; ours stays with the one the golden data comes from.
SAME_PARSER = BeautifulSoup("<!--a--!>b</script x>", "html.parser").text == "<!--a--!>b"

DOMAIN = r"\.(?:com|co|ru|net|org|edu|gov|it)"
EXTENSION = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
DASHES = [
    "-֊־᐀᠆",
    "‐‑‒–—―",
    "⸗⸚⸺⸻⹀",
    "〜〰゠︱︲﹘﹣－",
]
LETTER = "[A-Za-z]"


def between(first: str, last: str) -> str:
    return f"[{chr(int(first, 16))}-{chr(int(last, 16))}]"


def substitute(pattern: str, replacement: str = "") -> Callable[[str], str]:
    return lambda text: re.sub(pattern, replacement, text)


def host(scheme: str) -> str:
    name = r"[A-Za-z0-9.-]"
    return rf"\b(?:{scheme}:(?:///|//|/|[A-Za-z0-9%])|{name}+{DOMAIN}[\w/-]*\b/?(?!@))"


def read_html(text: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return BeautifulSoup(text, "html.parser").get_text()


def part_words(text: str) -> str:
    if sum(char in "-_" for char in text) >= 4:
        return "".join(" " if char in "-_" else char for char in text)
    return text


def mend(text: str) -> str:
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


STEPS: list[Callable[[str], str]] = [
    unquote_plus,
    str.strip,
    str.lower,
    lambda text: text.replace("<person>", "person"),
    substitute(host("https?")),
    substitute(host("www")),
    read_html,
    substitute(r"@\w+"),
    substitute(between("31c0", "31ef")),
    substitute(between("31f0", "31ff")),
    substitute(between("3200", "32ff")),
    substitute(between("3300", "33ff")),
    substitute(between("3400", "4dbf")),
    substitute(between("4dc0", "4dff")),
    substitute(between("4e00", "9fff")),
    substitute(f"[{''.join(DASHES)}]+", "-"),
    lambda text: "".join('"' if char in "`´«»“”¨" else char for char in text),
    lambda text: text.replace("‘", "'").replace("’", "'"),
    substitute("&quot;|&quot"),
    substitute("&amp"),
    substitute(r"\d\d?\d?[.]\d\d?\d?[.]\d\d?\d?[.]\d\d?\d?", " "),
    substitute(r"\d:\d\d\s+\Z"),
    lambda text: text.replace(r"\n", " "),
    substitute(r"#\d\d?\d?\b"),
    substitute(r"#\d{5}\d*\b"),
    substitute(r"\b\d{6}\d*\b"),
    substitute(rf"\S+[.](?:{EXTENSION})"),
    substitute(r"""["']["']+""", '"'),
    substitute(r"[.][.]+", " "),
    substitute("[" + re.escape("#®•©™&@·º½¾¿¡§~)(][}{|\\/*") + "]+", " "),
    substitute(r"\s+[.]\s+", " "),
    part_words,
    mend,
    substitute(rf"\b{LETTER}{{1,3}}\d{{3,15}}\b"),
    substitute(rf"\b{LETTER}+\d+{LETTER}+\b"),
    substitute(rf"\b\d+{LETTER}+\d+\b"),
    substitute(r"(?:worldwide\s+free\s+|worldwide\s+|free\s+|)shipping"),
    substitute(r"(?:free\sdownload|download)(?:\sfree|)"),
    substitute(r"\bclick\s(?:for|on)\s\w+"),
    substitute(rf"\b(?:{EXTENSION})(?:\simages|\simage|)"),
    substitute(r"\bpage\s+\d+\b"),
    substitute(rf"\b\d*{LETTER}+\d+{LETTER}+\d+(?:{LETTER}|\d)*\b", " "),
    substitute(r"\b\d+[.]?\d*[x\u0445\u00d7]\d+[.]?\d*\b"),
    substitute(r"\b\s+:\s+", ": "),
    substitute(r"(\D[,./])\b", r"\1 "),
    substitute(r"\s+", " "),
    lambda text: text[1:-1] if re.fullmatch("""["'].+["']""", text, re.DOTALL) else text,
    substitute("^['_,:;-]"),
    substitute("['_,:+-]$"),
    lambda text: "" if re.fullmatch(r"\.\S+", text) else text,
    str.strip,
]


def clean_caption(caption: object) -> str:
    """Take all steps, twice."""
    text = str(caption)
    for step in STEPS * 2:
        text = step(text)
    return text
