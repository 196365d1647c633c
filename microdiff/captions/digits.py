"""Join digits that stand apart: `3 5 mm` becomes `35mm`, `1 9 3 0 s` becomes `1930s`.

A part of DiffusionDB's prompts is written so, in lower case and each digit alone, see docs/decisions/light-cleaner.md.
Two numbers next to each other look like one then, so digits are joined only to a number that is usual: `8 k`, `3 5 mm`,
`1 9 th`, `2 0 7 7`. Of `5 8 k` only the end is such, so it becomes `5 8k`; `1 2 3` and what else can be read in
two ways stays.
"""

import re
from collections.abc import Callable, Mapping

_UNIT = "(?:k|mm|d|s|th|st|nd|rd|x|p)"
SPLIT_DIGIT = rf"[0-9] (?:[0-9]|{_UNIT}\b)"
_is_glued = re.compile(r"\d(?:(?=[^\W_])|(?<=[^\W\d_].))").search
_ROW = re.compile(rf"(?<!\S)\d(?: (?:\d(?!\w)|{_UNIT}\b))+", re.ASCII)
_NUMBER = re.compile(rf"((?:\d ?)+)((?:{_UNIT}(?!\w))?) ?", re.ASCII)
_FOCAL_LENGTHS = (
    "8 10 12 14 15 16 17 18 20 21 24 25 28 30 32 35 40 45 50 55 58 60 65 70 75 80 85 90 100 105 120 135 150 180 200 "
    "250 300 400 500 600 800"
)
_is_ordinal = re.compile("(?:1?[4-90]|1[1-3]|[2-9][04-9])th|(?:[2-9]?1)st|(?:[2-9]?2)nd|(?:[2-9]?3)rd").fullmatch
_is_decade = re.compile("(?:1[0-9]|20)?[0-9]0s").fullmatch
_is_year_or_round = re.compile("1[0-9]{3}|20[0-9]{2}|[2-9]000").fullmatch


def _among(numbers: str) -> Callable[[str], bool]:
    usual = frozenset(numbers.split())
    return lambda number: number in usual


# What is usual in front of each unit.
_USUAL: Mapping[str, Callable[[str], bool]] = {
    "k": _among("1 2 4 5 6 8 10 12 16 24 32 64"),
    "mm": _among(_FOCAL_LENGTHS),
    "d": _among("2 3 4"),
    "x": _among("2 3 4 5 8 10"),
    "p": _among("240 360 480 720 1080 1440 2160"),
    "s": lambda number: _is_decade(f"{number}s") is not None,
    "th": lambda number: _is_ordinal(f"{number}th") is not None,
    "st": lambda number: _is_ordinal(f"{number}st") is not None,
    "nd": lambda number: _is_ordinal(f"{number}nd") is not None,
    "rd": lambda number: _is_ordinal(f"{number}rd") is not None,
    "": lambda number: len(number) == 2 or _is_year_or_round(number) is not None,
}


def join_digits(text: str) -> str:
    """Join digits where the whole text is in lower case and all its digits stand alone."""
    if _is_glued(text) or text != text.lower():
        return text
    return _ROW.sub(_join_row, text)


def _join_row(match: re.Match[str]) -> str:
    row = match[0]
    numbers = [(number[1].replace(" ", ""), number[2]) for number in _NUMBER.finditer(row)]
    if len(numbers) > 1 and not numbers[-1][1]:  # `r 2 d 2`
        return row
    return " ".join(_join(digits, unit) for digits, unit in numbers)


def _join(digits: str, unit: str) -> str:
    usual = _USUAL[unit]
    if usual(digits):
        return digits + unit
    apart = " ".join(digits)
    return f"{apart}{unit}" if unit in ("k", "d") and usual(digits[-1]) else f"{apart} {unit}".rstrip()
