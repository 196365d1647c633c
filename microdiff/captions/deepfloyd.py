"""Clean a caption byte for byte as the published DeepFloyd-style cleaner does, in linear time.

The steps are those of `CaptionProcessor.clean_caption` in
https://github.com/SonyResearch/micro_diffusion/blob/900d7d4/micro_diffusion/datasets/captions.py; what each means is
told in `microdiff.captions.rules`. They were made for alt text of web pages and the text encoders of 2022: `Epson`
becomes `on`, sizes and model numbers vanish, a Chinese caption becomes empty. `microdiff.captions.light` is gentler.

    A photo of a Cat (2019), 5x7 in. FREE shipping!   ->   a photo of a cat 2019 , in. !
    一只猫 The <b>Cat</b> at https://cats.com/1        ->   the cat at

The sequence runs twice over every caption, as it does there. That does not make it idempotent: cleaning a clean caption
again can change it once more (`shipshipshippingpingping` becomes `shipping`, then nothing).
"""

import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote

from microdiff.captions import rules
from microdiff.captions.entities import unescape
from microdiff.captions.html import read_html
from microdiff.captions.marks import CONTROL, find_marks
from microdiff.captions.patterns import Apply
from microdiff.captions.unicode import repair


class _Plan(NamedTuple):
    """The rules that can matter for a caption, given the characters it holds."""

    addresses: tuple[Apply, ...]
    markup: bool
    symbols: tuple[Apply, ...]
    controls: bool
    codes: tuple[Apply, ...]
    phrases: tuple[Apply, ...]
    layout: tuple[Apply, ...]


_plans: dict[frozenset[int], _Plan] = {}
_MOST_PLANS = 10_000  # real captions need some hundreds

_find_markup = re.compile("<|&[a-zA-Z#]").search

# A caption that nothing happens to but lower-casing: words and short numbers with single blanks, sentence marks that a
# blank follows, hyphens and apostrophes inside. `_EXTENSION` stands where a word may not begin as an extension does.
_EXTENSION = "(?![abejpw](?:ng|df|pe?g|mp|ebp|ps|pk))"
_WORDS = rf"(?:{_EXTENSION}[a-z]++(?>(?: {_EXTENSION}[a-z]++)*)|[0-9]{{1,5}}+)"
_match_plain = re.compile(
    rf"{_WORDS}(?>(?:(?:'?+(?:[,.:;!?]?+ | [,;!?-] |-)'?+|'){_WORDS})*) ?+[.!?]?+",
).fullmatch


def _is_plain(text: str) -> bool:
    return (
        _match_plain(text) is not None
        and "shipping" not in text
        and "download" not in text
        and "click" not in text
        and "page" not in text
        and ("-" not in text or text.count("-") < 4)  # counting takes twice as long
    )


def _make_plan(present: frozenset[int]) -> _Plan:
    def choose(group: tuple[rules.Rule, ...]) -> tuple[Apply, ...]:
        return tuple(
            rule.apply for rule in group if not any(present.isdisjoint(need.encode("latin-1")) for need in rule.needs)
        )

    return _Plan(
        addresses=choose(rules.ADDRESSES),
        markup=not present.isdisjoint(b"<&"),
        symbols=choose(rules.SYMBOLS),
        controls=ord(CONTROL) in present,
        codes=choose(rules.CODES),
        phrases=choose(rules.PHRASES),
        layout=choose(rules.LAYOUT),
    )


def _plan(text: str) -> _Plan:
    present = find_marks(text)
    plan = _plans.get(present)
    if plan is None:
        if len(_plans) >= _MOST_PLANS:
            _plans.clear()
        plan = _plans[present] = _make_plan(present)
    return plan


def _clean_once(text: str) -> str:
    """Take all steps once, after `_prepare`."""
    plan = _plan(text)
    for apply in plan.addresses:
        text = apply(text)
    if plan.markup and _find_markup(text):
        text = read_html(text)
        plan = _plan(text)
    for apply in plan.symbols:
        text = apply(text)
    if not text:
        return text
    if plan.controls or not text.isascii():
        repaired = unescape(unescape(repair(text)))
        if repaired != text:
            text = repaired
            plan = _plan(text)
    text = text.strip()
    for apply in plan.codes:
        text = apply(text)
    if rules.has_phrase(text):
        for apply in plan.phrases:
            text = apply(text)
    for apply in plan.layout:
        text = apply(text)
    return text


def _prepare(text: str) -> str:
    if "+" in text:
        text = text.replace("+", " ")
    if "%" in text:
        text = unquote(text)
    return text.strip().lower()


def clean_caption(text: object) -> str:
    """Clean a caption.

    Args:
        text: The caption; anything but a string is turned into one first.

    Returns:
        The cleaned caption, possibly empty. Where the published cleaner raises, the text is still cleaned: a marked
        section it refuses loses its `<![`, a lone surrogate becomes U+FFFD, and a number too long to read becomes
        U+FFFD if a character reference, the empty string if it is the caption itself.
    """
    try:
        prepared = _prepare(str(text))
    except ValueError:  # an int of more than 4,300 digits
        return ""
    if _is_plain(prepared):
        return prepared
    once = _clean_once(prepared)
    if not once or (once == prepared and "%" not in once and "+" not in once):
        return once  # a second run would do what the first did
    prepared = _prepare(once)
    return prepared if _is_plain(prepared) else _clean_once(prepared)


def explain_caption(text: object) -> Iterator[tuple[str, str]]:
    """Yield the steps that change a caption, each with what it leaves; the last is what `clean_caption` returns.

    Raises:
        ValueError: A number too long to be turned into a string.
    """
    before = str(text)
    for run in ("", " again"):
        for name, apply in _STEPS:
            after = apply(before)
            if after != before:
                yield name + run, after
            before = after


def _read_markup(text: str) -> str:
    return read_html(text) if _find_markup(text) else text


def _repair(text: str) -> str:
    controls = ord(CONTROL) in find_marks(text)
    return (unescape(unescape(repair(text))) if controls or not text.isascii() else text).strip()


_STEPS: tuple[tuple[str, Apply], ...] = (
    ("decode", _prepare),
    *((rule.name, rule.apply) for rule in rules.ADDRESSES),
    ("markup", _read_markup),
    *((rule.name, rule.apply) for rule in rules.SYMBOLS),
    ("repair", _repair),
    *((rule.name, rule.apply) for group in (rules.CODES, rules.PHRASES, rules.LAYOUT) for rule in group),
)
