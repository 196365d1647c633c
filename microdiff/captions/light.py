"""Clean a caption gently, for text encoders that know case, digits, brackets and every script.

Repairs what was broken on the way (mojibake, escapes, quotes), removes what is not part of the sentence (markup, URLs)
and leaves the rest alone: words that are not in markup or a URL come out, but for what leads to a URL and to nothing
else. A caption of file names, domains or addresses alone becomes empty. Takes linear time. Each rule has a module,
which tells its details.

Idempotent but for what hides behind more than two escapes: `&amp;amp;amp;lt;` loses two of them each time.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from microdiff.captions.brackets import remove_brackets
from microdiff.captions.characters import is_broken, mend
from microdiff.captions.escapes import read_entities, read_percent
from microdiff.captions.markup import remove_markup
from microdiff.captions.names import drop_names
from microdiff.captions.quotes import undo_treebank, unquote_csv
from microdiff.captions.urls import is_url, remove_urls


class LightRule(NamedTuple):
    """One step of the cleaner, skipped where the text does not hold `mark`."""

    name: str
    mark: str
    apply: Callable[[str], str]


# Markup is often escaped, sometimes twice.
_UNESCAPE = (LightRule("markup", "<", remove_markup), LightRule("entities", "&", read_entities))
_CHARACTERS = LightRule("characters", "", mend)
_PERCENT = LightRule("percent escapes", "%", read_percent)
RULES = (
    *_UNESCAPE,
    *_UNESCAPE,
    LightRule("markup", "<", remove_markup),
    LightRule("urls", "/", remove_urls),
    LightRule("urls", "www.", remove_urls),
    LightRule("urls", "Www.", remove_urls),
    LightRule("urls", "WWW.", remove_urls),
    _PERCENT,
    LightRule("brackets", "<", remove_brackets),
    LightRule("treebank", "`", undo_treebank),
    LightRule("treebank", "-", undo_treebank),
    LightRule("csv quotes", '""', unquote_csv),
    LightRule("names", ".", drop_names),
)
_ROUNDS = 3
# A text without any of these holds nothing for the rules above.
_find_any = re.compile(r"<|&|%|`|\"\"|://|;base64,|\.[a-zA-Z]|-[LRSClrsc][RSCBrscb][Bb]-").search
Note = Callable[[str, str], None]


def clean_caption_light(text: object, note: Note | None = None) -> str:
    """Clean a caption gently.

    Args:
        text: The caption; anything but a string is turned into one first.
        note: Is told each rule that changes the caption, and what becomes of it.

    Returns:
        The caption on one line, possibly empty. Never raises: a lone surrogate goes, a number too long to be turned
        into a string becomes the empty string.
    """
    try:
        cleaned = str(text)
    except ValueError:  # an int of more than 4,300 digits
        return ""
    if is_broken(cleaned):
        cleaned = _apply(_CHARACTERS, cleaned, note)
    if _find_any(cleaned):
        if note is None and is_url(cleaned):  # so common that it is worth a look
            return ""
        cleaned = _apply_all(cleaned, note)
    collapsed = " ".join(cleaned.split())
    if note and collapsed != cleaned:
        note("white space", collapsed)
    return collapsed


def _apply_all(text: str, note: Note | None) -> str:
    for number in range(_ROUNDS):
        again = False  # percent escapes were read, which may hide what a rule before them removes
        for rule in RULES:
            if rule.mark in text:
                changed = _apply(rule, text, note)
                if changed != text:
                    text = changed
                    if (rule is _PERCENT or rule.apply is read_entities) and is_broken(text):
                        text = _apply(_CHARACTERS, text, note)
                    again = rule is _PERCENT and number < _ROUNDS - 1
                    if again:
                        break
        if not again:
            break
    return text


def _apply(rule: LightRule, text: str, note: Note | None) -> str:
    changed = rule.apply(text)
    if note and changed != text:
        note(rule.name, changed)
    return changed
