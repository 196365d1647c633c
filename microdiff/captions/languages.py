"""Prepositions and conjunctions that lead to a URL, and how to tell that they are such.

`van` leads to a URL in Dutch and is a car in English. So the words of other languages count only where the caption
shows its language: by another word or letter that English does not have. Of all languages, words in capitals or with
a capital are names until they are shown to be something else: `Portland, OR`, `Students at MIT`, `Carry On`.
"""

import re
from typing import NamedTuple

_ENGLISH = frozenset(["at", "from", "via", "by", "on", "in", "of", "to", "with", "for", "and", "or", "&"])
# A sentence of its own in front of a URL: `A barn. From http://...`.
_BEGINNING = frozenset(["At", "From", "Via", "By", "See", "Visit", "And", "Or", "see", "visit"])


_BEHIND_COMMA = frozenset(["like", "see"])  # elsewhere nouns: `a like`, `the Holy see`


class _Language(NamedTuple):
    shown_by: re.Pattern[str]
    words: frozenset[str]


def _language(shown_by: str, words: str) -> _Language:
    return _Language(re.compile(rf"(?<![\w-])(?:{'|'.join(shown_by.split())})(?![\w-])"), frozenset(words.split()))


_LANGUAGES = (
    _language(
        "der|das|eine?[nmrs]?|und|im|zum|zur|für|dem|nicht|auch|vom|bei|mit|auf|sich|sind|oder",
        "von vom bei auf unter aus mit über zu zum und oder siehe",
    ),
    _language("une?|les|dans|avec|aux|cette|qui|du|sont|ses|nous|vous", "sur de du chez par dans avec à et ou voir"),
    _language("el|los|las|una?|para|muy|que", "en desde por de"),
    _language("il|gli|una?|della|nel|che|sono|alla|delle", "su da dal di tramite"),
    _language("uma?|os|das|dos|não|com", "em na pela pelo"),
    _language("een|het|voor|niet|zijn", "op van bij met naar en zie"),
    _language(r"\w*[åøæ]\w*|och|og|ett|det|är", "på från fra hos av til og och"),
    _language(r"\w*[ąęłżźćńś]\w*", "z ze od przez na w zobacz"),
    _language(r"[Ѐ-ӿ]+", "на с из от по в у и или см"),
)
_last_word = re.compile(r"(?:[^\W\d_]+|&)\Z").search
_LONGEST_WORD = 20
_BEFORE = " \t\n\r\xa0,;.([|"
_ENDS = ".!?…|•(–—"  # a sentence, or a part of a page
_NEAR = 160


def without_preposition(text: str) -> str:
    """Return a text without the preposition or conjunction at its end, the text itself if there is none."""
    match = _last_word(text, max(0, len(text) - _LONGEST_WORD))
    if match is None:
        return text
    before = text[max(0, match.start() - _NEAR) : match.start()]
    if before and before[-1] not in _BEFORE:
        return text
    word = match[0]
    leads = (
        word in _ENGLISH
        or (word in _BEGINNING and _is_beginning(before))
        or (word in _BEHIND_COMMA and before.rstrip().endswith(","))
        or _is_foreign(word, before)
    )
    return text[: match.start()] if leads else text


def _is_beginning(before: str) -> bool:
    before = before.rstrip()
    return not before or before[-1] in _ENDS or before.endswith(" -")


def _is_foreign(word: str, before: str) -> bool:
    return any(word in language.words and language.shown_by.search(before) for language in _LANGUAGES)
