r"""Mend characters: undo mojibake and drop what cannot be seen, but leave quotes, ligatures and widths as they are.

- Mojibake is undone in every script that ftfy knows. The C1 controls 128 to 159 are read as Windows-1252 has them,
  and only then are line breaks, so that `Wait\x85` becomes `Wait…`.
- U+FFFD stands for a character that is lost. Between letters and a contraction it was an apostrophe (`don�t`),
  between digits it leaves a blank, elsewhere nothing.
- Marks of direction stay where there are letters written from right to left.
- Joiners stay between emoji and in the scripts that spell with them; the zero-width space in those that part words
  with it (Thai, Lao, Tibetan, Burmese, Khmer); variation selectors behind what can vary.
- Soft hyphens, word joiners, invisible operators and other controls go.
"""

import re
import unicodedata

from ftfy import fixes

from microdiff.captions.unicode import Budget, compose, find_suspicious, find_telling, unscramble

_LOST = "\ufffd"
_repair_apostrophes = re.compile(
    rf"((?<=[^\W\d_])(?={_LOST}+s\b)|(?<=n)(?={_LOST}+t\b)|\b(?:[iy]|you|we|they|who|he|she|it|that|there|could|would|should"
    rf"|might|must)(?={_LOST}+(?:re|ve|ll|d|m)\b)){_LOST}+",
    re.IGNORECASE,
).sub
_part_digits = re.compile(rf"(?<=\d){_LOST}+(?=\d)").sub

_DIRECTION = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_JOINERS = "\u200c\u200d"
_SELECTORS = "\ufe00-\ufe0f"
_INVISIBLE = re.compile(
    f"[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b{_JOINERS}{_DIRECTION}\u2060-\u2065\u206a-\u206f\u3164"
    f"{_SELECTORS}\ufeff\uffa0{_LOST}\x80-\x9f\U000e0000-\U000e0fff]"
)
# Controls, line separators and surrogates; with what cannot be seen, all that is mended but mojibake and composition.
_find_broken = re.compile(
    rf"[\x00-\x08\x0b\r\x0e-\x1f\x7f\u2028\u2029\ud800-\udfff\ufff9-\ufffc{_INVISIBLE.pattern[1:]}"
).search
_find_control = re.compile(r"[\x00-\x08\x0b\r\x0e-\x1f\x7f]").search
_find_direction = re.compile(f"[{_DIRECTION}]").search
_is_direction = re.compile(f"[{_DIRECTION}]").match
_drop_direction = re.compile(f"[{_DIRECTION}]").sub
_written_leftwards = re.compile(
    "[\u0590-\u061b\u061d-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
).search
_is_emoji = re.compile(
    "[\u00a9\u00ae\u203c\u2049\u20e3\u2190-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff]"
).match
_spells_with_joiners = re.compile(
    "[\u0600-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u18af\ua840-\ua8ff\U00010a00-\U00011fff\U0001e900-\U0001e95f]"
).match
_parts_with_zero_width = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff]").match
_FLAG = "\U0001f3f4"
_find_invisible = re.compile(f"{_FLAG}[\U000e0020-\U000e007f]++|{_INVISIBLE.pattern}")
# Behind a URL they part it from the next word, if they are not in the middle of a path.
_URL = re.compile(r"://|(?<![^\W_])www\.", re.IGNORECASE)
_SPLIT = re.compile(f"([\x00-\x08\x0e-\x1f\x7f{_LOST}{_JOINERS}{_DIRECTION}\u200b\u2060\ufeff\ufffc]++)")
_GOES_ON = tuple("/?#&=._%-")


def mend(text: str) -> str:
    """Mend the characters of a text, see above.

    Args:
        text: Any string; surrogates are joined, a lone one is a lost character.
    """
    if "://" in text or "ww." in text or "WW." in text:
        text = _part_urls(text)
    budget = Budget(len(text))
    while is_broken(text) and budget.spend(text):
        before = text
        text = fixes.fix_surrogates(text)
        if find_suspicious(text):
            text = "\n".join(unscramble(line, budget) for line in text.split("\n"))
        text = fixes.fix_line_breaks(fixes.fix_c1_controls(text))
        text = fixes.remove_control_chars(fixes.remove_terminal_escapes(text))
        text = compose(drop_invisible(text))
        if text == before:
            break
    return text


def is_broken(text: str) -> bool:
    """Tell whether there may be something to mend."""
    if text.isascii():
        return _find_control(text) is not None
    return bool(
        _find_broken(text)
        or (find_telling(text) and find_suspicious(text))
        or not unicodedata.is_normalized("NFC", text)
    )


def drop_invisible(text: str) -> str:
    """Drop what cannot be seen where nothing needs it, and what is lost."""
    if text.isascii() or not _INVISIBLE.search(text):
        return text
    if _LOST in text:
        text = _part_digits(" ", _repair_apostrophes(r"\1'", text)).replace(_LOST, "")
    if _find_direction(text) and not _written_leftwards(text):
        text = _drop_direction("", text)
    return _find_invisible.sub(_keep_needed, text)


def _part_urls(text: str) -> str:
    """Put a blank for what cannot be seen behind a URL, as without it the next word would belong to the URL."""
    pieces = _SPLIT.split(text)
    in_url = False
    for number in range(0, len(pieces) - 2, 2):
        piece = pieces[number]
        words = piece.split()
        last = words[-1] if words and not piece[-1].isspace() else ""
        in_url = (in_url and last == piece) or _URL.search(last) is not None
        if in_url and not pieces[number + 2].startswith(_GOES_ON):
            pieces[number + 1] = " "
            in_url = False
    return "".join(pieces)


def _keep_needed(match: re.Match[str]) -> str:
    needed: object
    char, text, start = match[0], match.string, match.start()
    if char[0] == _FLAG:
        return char
    before, after = text[start - 1 : start] if start else "", text[start + 1 : start + 2]
    if _INVISIBLE.match(before) and not (char == "\u200d" and before == "\ufe0f"):
        before = ""
    if _INVISIBLE.match(after):
        after = ""
    if char in _JOINERS:
        needed = _spells_with_joiners(before) or (
            char == "\u200d" and (_is_emoji(before) or before == "\ufe0f") and _is_emoji(after)
        )
    elif char == "\u200b":
        needed = _parts_with_zero_width(before) and _parts_with_zero_width(after)
    elif "\ufe00" <= char <= "\ufe0f":
        keycap = bool(before) and before in "#*0123456789" and after == "\u20e3"
        needed = keycap or before >= "\u2e80" or (before >= "\x80" and not before.isspace() and not before.isalpha())
    elif "\u180b" <= char <= "\u180e":
        needed = "\u1800" <= before <= "\u18af"
    elif char in "\u115f\u1160":
        needed = "\u1100" <= before <= "\u11ff" or "\u1100" <= after <= "\u11ff"
    elif char >= "\U000e0000":
        needed = char >= "\U000e0100" and before >= "\u2e80"
    elif char in "\u3164\uffa0":
        return " "
    else:
        needed = _is_direction(char)
    return char if needed else ""
