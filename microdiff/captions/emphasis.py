r"""Take away the brackets by which prompts weigh words: `(word:1.3)`, `((word))`, `[word]`, `{word}`, `[cat:dog:0.5]`.

Brackets that a backslash escapes are brackets of the text: `saber \(fate\)` becomes `saber (fate)`.
"""

import re

_find_brackets = re.compile(r"\\[()\[\]{}]|[()\[\]{}]").finditer
_OPENING = {")": "(", "]": "[", "}": "{"}
_find_weight = re.compile(r"\s?:{1,2}\s?-?(?:\d{0,2}\.\d+|\d)\s?\Z").search
_find_step = re.compile(r":[^:\[\]]{0,80}[^\W\d_][^:\[\]]{0,80}(:\d{1,3})\Z").search
_find_letter = re.compile(r"[^\W\d_]").search
_CHOICE = re.compile(r"(?>(?:(?<!\s)\s++)?)(?:(\|)|(?<!\d):)\s*+")
_NEAR = 40
Cut = tuple[int, int, str]  # from, to, and what stands there instead


def remove_emphasis(text: str) -> str:
    """Take away brackets of emphasis; words and other brackets stay."""
    cuts: list[Cut] = []
    opened: list[tuple[str, int]] = []
    last, last_goes = (-1, -1), False  # the pair closed last
    for match in _find_brackets(text):
        bracket, at = match[0], match.start()
        if len(bracket) == 2:
            cuts.append((at, at + 1, ""))
        elif bracket not in _OPENING:
            opened.append((bracket, at))
        elif opened and opened[-1][0] == _OPENING[bracket]:
            start = opened.pop()[1]
            around = start < last[0] and not text[start + 1 : last[0]].strip() and not text[last[1] + 1 : at].strip()
            weight = _weight(text, start, at)
            goes = weight < at or bracket != ")" or around
            if goes:
                if around and not last_goes:
                    cuts += _brackets(text, *last)
                cuts += _brackets(text, start, at, weight)
                if bracket != ")" and last[0] < start:
                    cuts += _choices(text, start + 1, weight, weighted=weight < at)
            last, last_goes = (start, at), goes
    return _cut(text, sorted(cuts)) if cuts else text


def _brackets(text: str, start: int, at: int, weight: int | None = None) -> list[Cut]:
    """Return the cuts of a pair of brackets with the blanks inside."""
    first = start + 1
    while first < at and text[first] == " ":
        first += 1
    last = at if weight is None else weight
    while last > first and text[last - 1] == " ":
        last -= 1
    return [(start, first, ""), (last, at + 1, "")]


def _weight(text: str, start: int, at: int) -> int:
    """Return where the weight before a closing bracket begins, `at` if there is none, as in `(16:9)`."""
    if text[at] == "]" and (step := _find_step(text, max(start + 1, at - _NEAR), at)):  # `[cat:dog:10]`
        return step.start(1)
    match = _find_weight(text, max(start + 1, at - 8), at)
    if match is None or not _find_letter(text, max(start + 1, match.start() - _NEAR), match.start()):
        return at
    if text[match.start() - 1].isdigit() and "." not in match[0]:
        return at
    return match.start()


def _choices(text: str, start: int, stop: int, *, weighted: bool) -> list[Cut]:
    return [
        (match.start(), match.end(), ", " if match[1] else " ")
        for match in _CHOICE.finditer(text, start, stop)
        if match[1] or weighted
    ]


def _cut(text: str, cuts: list[Cut]) -> str:
    """Make cuts, in order; where nothing would part two words, put a blank."""
    pieces: list[str] = []
    at = 0
    instead = ""  # what stands for the cuts that touch one another
    for start, stop, mark in (*cuts, (len(text), len(text), "")):
        if start > at or not pieces:
            piece = text[at:start]
            glued = pieces and piece and pieces[-1][-1:].isalnum() and piece[0].isalnum()
            pieces += (instead or (" " if glued else ""), piece)
            instead = ""
        instead = instead or mark
        at = max(at, stop)
    return "".join(pieces) + instead
