"""What a caption holds that any rule of the exact cleaner needs, found in one look.

Most captions hold few marks and most rules need one; knowing which are there lets all others be skipped.
"""

import re

# Stand-ins for kinds of characters; all other marks stand for themselves.
DIGIT = "0"  # a digit of any script
DIGITS = "9"  # six of them
CONTROL = "\x00"  # an ASCII control character, but for tab, line feed and form feed
MARK = "("  # a mark that only the rule "punctuation" knows
OTHER = "\x80"  # any character outside ASCII
IDEOGRAPH, DASH, CURLY, SIGN = "\x81", "\x82", "\x83", "\x84"  # those that rules name

# The characters outside ASCII that rules name, for use in a character class.
IDEOGRAPHS = "\u31c0-\u9fff"  # from CJK strokes to unified ideographs
DASHES = (
    "\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40"
    "\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d"
)
CURLY_QUOTES = "´«»“”¨‘’"
SIGNS = "®•©™·º½¾¿¡§"

_MARKS = b"~()[]{}|*"
_CONTROLS = bytes([*range(1, 9), 0x0B, 0x0D, *range(0x0E, 0x20), 0x7F])
_TO_STAND_INS = bytes.maketrans(
    b"123456789" + _MARKS + _CONTROLS,
    DIGIT.encode() * 9 + MARK.encode() * len(_MARKS) + CONTROL.encode() * len(_CONTROLS),
)
_NEEDED = b"\x000123456789#&@\\/<.:,-_`\"'" + _MARKS + _CONTROLS
_NOT_NEEDED = bytes(set(range(256)) - set(_NEEDED))  # bytes of characters outside ASCII among them
_OTHER = OTHER.encode("latin-1")
_DIGITS = (DIGIT + DIGITS).encode()
_find_symbols = re.compile(f"[{IDEOGRAPHS}{DASHES}{CURLY_QUOTES}{SIGNS}]").findall
_SYMBOLS = tuple(
    (stand_in.encode("latin-1"), re.compile(f"[{symbols}]").search)
    for stand_in, symbols in ((IDEOGRAPH, IDEOGRAPHS), (DASH, DASHES), (CURLY, CURLY_QUOTES), (SIGN, SIGNS))
)
_find_digit = re.compile(r"\d").search


def find_marks(text: str) -> frozenset[int]:
    """Return the marks and stand-ins in a text, as code points.

    No rule makes a mark that the text did not hold, but for hyphens and straight quotes from their like; so what is
    not there before a rule is not there after it.
    """
    marks = text.encode("utf-8", "surrogatepass").translate(_TO_STAND_INS, _NOT_NEEDED)
    if text.isascii():
        return frozenset(marks + _DIGITS if marks.count(b"0") > 5 else marks)
    marks += _OTHER
    symbols = "".join(_find_symbols(text))
    if symbols:
        for stand_in, find in _SYMBOLS:
            if find(symbols):
                marks += stand_in
    if b"0" in marks or _find_digit(text):
        marks += _DIGITS
    return frozenset(marks)
