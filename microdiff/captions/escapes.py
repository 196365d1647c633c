"""Read what was escaped for HTML or for a URL and never read again.

Entities: those with their semicolon, and without it

- those that begin no word: `&amp`, `&quot`, `&lt`, `&gt`, `&nbsp`, `&reg`, `&copy` and their like, where no letter or
  digit follows; accented letters (`caf&eacute`) and `&nbsp` wherever they stand;
- `&times` and `&deg` next to a number, `&pound`, `&yen`, `&sect` before one, `&cent` behind one;
- quotes and dashes, which begin no word either: `it&rsquos`, `&ldquoHi`, `&hellip`;
- numbers of quotes, brackets and characters outside ASCII: `&#39s`, `&#8217`, `&#x27s`.

`AT&T`, `R&B`, `this &that` and `?a=1&copy=2` stay.

Percent escapes: a word is read if every `%` in it begins an escape, one of them at least stands behind something else
than a digit, and it gives UTF-8 that can be seen. So `A%20red%20barn` is read, and `100%`, `50%off` and `50%20` are
not.
"""

import html
import re
from urllib.parse import unquote_to_bytes

from ftfy import fixes

_ACCENTED = (
    "(?:[aeiouyAEIOUY](?:acute|grave|circ|tilde|uml|ring|elig)|[nN]tilde|[cC]cedil|[oO]slash|szlig|AElig|Aring|aring"
    "|thorn(?![a-z])|THORN|ETH)"
)
_BARE = re.compile(
    rf"&(?:(?:{_ACCENTED}|nbsp)(?!;)"
    r"|(?:amp|AMP|lt|LT|gt|GT|QUOT|reg|REG|copy|COPY|shy|middot|laquo|raquo|iexcl|iquest|plusmn|frac12|frac14|frac34"
    r"|sup[123]|ordm|ordf|micro|para|acute|cedil|uml|brvbar|curren)(?![\w;=])"
    r"|(?:[lr](?:s|d|sa)quo|[sb][bd]quo|[nm]dash|hellip)(?![;=])"
    r"|quot(?![eai;=])|(?<=\d&)(?:times|deg|cent)(?![a-z;=])|(?<=\d\s&)times(?=\s?\d)|(?:pound|yen|sect)(?=\s?\d)|times(?=\d)"
    r"|#0*(?:34|38|39|60|62|1[3-9]\d|[2-9]\d\d|[1-9]\d{3,5})(?![\d;])"
    r"|#[xX]0*(?:2[267]|3[cCeE]|[a-fA-F][0-9a-fA-F]|20[0-9a-fA-F]{2})(?![0-9a-fA-F;]))",
)
_ESCAPED_WORD = re.compile(r"(?<!\S)[^\s%]*+%\S*+")
_ESCAPE = re.compile("%[0-9a-fA-F]{2}")


def read_entities(text: str) -> str:
    """Read entities once."""
    if "&" not in text:
        return text
    text = fixes.unescape_html(text)
    return _BARE.sub(lambda match: html.unescape(match[0] + ";"), text) if "&" in text else text


def read_percent(text: str) -> str:
    """Read percent escapes, as often as they were made, up to three times."""
    for _ in range(3):
        if "%" not in text:
            break
        before, text = text, _ESCAPED_WORD.sub(_read_word, text)
        if text == before:
            break
    return text


def _read_word(match: re.Match[str]) -> str:
    word = match[0]
    escapes = list(_ESCAPE.finditer(word))
    if len(escapes) != word.count("%"):
        return word
    if all(escape.start() and word[escape.start() - 1].isdigit() for escape in escapes):
        return word
    try:
        read = unquote_to_bytes(word.encode("utf-8", "surrogatepass")).decode()
    except UnicodeDecodeError:
        return word
    return read if read.translate(_BLANKS).isprintable() else word


_BLANKS = dict.fromkeys(map(ord, "\t\n\r\xa0"), " ")
