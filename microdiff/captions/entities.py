"""What character references of HTML stand for."""

import html
import re
from html.entities import html5

# Without their semicolons; of a name that HTML knows with and without one, both mean the same.
ENTITIES = {name.removesuffix(";"): characters for name, characters in sorted(html5.items(), reverse=True)}
# Numbers 128 to 159 mean what Windows-1252 puts there.
_WINDOWS = {
    number: bytes([number]).decode("cp1252")
    for number in range(0x80, 0xA0)
    if number not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}
_UNKNOWN = "\ufffd"
_LONG_NUMBER = re.compile(r"(?<=&#)[0-9]{1000,}")  # Python refuses to read more than 4,300 digits


def character(digits: str, base: int) -> str:
    """Return the character a numeric reference stands for, U+FFFD when there is none.

    Args:
        digits: The digits alone, of any number.
        base: 10 or 16.
    """
    digits = digits.lstrip("0")
    if not digits or len(digits) > 7:  # the largest code point has seven decimal digits
        return _UNKNOWN
    number = int(digits, base)
    if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF:
        return _UNKNOWN
    return _WINDOWS.get(number) or chr(number)


def unescape(text: str) -> str:
    """Like `html.unescape`, but numbers too long for Python stand for U+FFFD instead of raising."""
    if "&" not in text:
        return text
    return html.unescape(_LONG_NUMBER.sub(lambda match: match[0].lstrip("0")[:8] or "0", text))
