"""Repair text that was decoded wrongly or holds odd characters, as `ftfy.fix_text` does, in bounded time.

`repair` gives what `ftfy.fix_text` gives with its defaults, but leaves at once when nothing in the text could change,
and never works on it without end. ftfy repeats its fixes until the text stands still; text made for the purpose makes
it go round once every few characters. Nested entities (`＆amp;amp;amp;...`) are read in one go instead. For the rest
(mojibake woven so that each fix lays bare the next) the rounds share a budget: as many as any text of up to 4,000
characters can take, and `_ROUNDS` for a longer one. Text that needs still more is left as it stood when the budget ran
out. That is the only difference; see docs/decisions/captions-exact-and-linear.md.
"""

import codecs
import re
import unicodedata

from ftfy import chardata, fixes
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad

_ROUNDS = 16  # natural text needs three or four; each layer of mojibake on mojibake one or two more
_FLOOR = 16_000_000  # characters looked at before `_ROUNDS` matters
_SEGMENT = 1_000_000  # ftfy cuts lines longer than this
_BEGINNING = 200
_MARGIN = 16
_ENTITY = 27  # the most characters that ftfy takes for an entity

# Characters that one of the simple fixes replaces: controls, ligatures, wide and narrow forms, curly quotes, line
# ends, surrogates. A character too many costs time only.
_ODD = (
    "\x00-\x08\x0b\r\x0e-\x1f\x7f-\x9f\u02bc\u2018-\u201f\u2028\u2029\u206a-\u206f\u3000\ud800-\udfff\ufeff"
    "\uff01-\uffef\ufff9-\ufffc" + "".join(map(chr, chardata.LIGATURES))
)
find_odd = re.compile(f"[{_ODD}]").search
# ftfy's simple fixes in its order, each with the characters without which it does nothing.
_ODD_FIXES = tuple(
    (re.compile(f"[{characters}]").search, fix)
    for characters, fix in (
        ("\x80-\x9f", fixes.fix_c1_controls),
        ("".join(map(chr, chardata.LIGATURES)), fixes.fix_latin_ligatures),
        ("\u3000\uff01-\uffef", fixes.fix_character_width),
        ("\u02bc\u2018-\u201f", fixes.uncurl_quotes),
        ("\r\u2028\u2029\x85", fixes.fix_line_breaks),
        ("\ud800-\udfff", fixes.fix_surrogates),
        ("\x1b", fixes.remove_terminal_escapes),
        ("\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc", fixes.remove_control_chars),
    )
)
# By character that is not the same byte everywhere: which encodings have it, a bit for each.
_IN_ENCODINGS: dict[str, int] = {}
for _number, _encoding in enumerate(chardata.CHARMAP_ENCODINGS):
    for _byte in (0x1A, *range(0x80, 0x100)):
        _char = bytes([_byte]).decode(_encoding)
        _IN_ENCODINGS[_char] = _IN_ENCODINGS.get(_char, 0) | 1 << _number
_ALL_ENCODINGS = (1 << len(chardata.CHARMAP_ENCODINGS)) - 1
_find_others = re.compile("[^\x00-\x19\x1b-\x7f]").findall
_LETTERS = {"lower_accented", "lower_common", "kaomoji", "common"}
_TELLING = "".join(chars for name, chars in MOJIBAKE_CATEGORIES.items() if name not in _LETTERS) + "œŒ"
find_telling = re.compile(f"[{_TELLING}]").search
_find_any = re.compile(f"[&{_ODD}{_TELLING}]").search
# Every pattern of `is_bad` holds a telling character next to another one outside ASCII, or one of a few pairs.
find_suspicious = re.compile(
    rf"[\x80-\x9f{_TELLING}]"
    r"(?:[^\x00-\x7f]|(?<=[\x80-\x9f])|(?<=[^\x00-\x7f].)|(?<=[œŒ])[^a-zA-Z]|(?<=[ÃÂ])[ ])"
).search
_SPECIAL_BYTES = re.compile(rb"\xc0\x80|\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]")


class Budget:
    """How many more characters may be looked at."""

    def __init__(self, size: int) -> None:
        self.left = max(_FLOOR, _ROUNDS * size)

    def spend(self, text: str) -> bool:
        """Take the cost of one round over `text`; say whether there was enough left."""
        self.left -= len(text)
        return self.left >= 0


def repair(text: str) -> str:
    """Undo mojibake, entities, ligatures, odd widths and quotes, controls; compose (NFC).

    Args:
        text: Any string; surrogates are joined or become U+FFFD.
    """
    if text.isascii() and "&" not in text and len(text) <= _SEGMENT:
        return _replace_odd(text) if find_odd(text) else text
    if not _may_change(text):
        return text
    budget = Budget(len(text))
    entities = True
    pieces = []
    at = 0
    while at < len(text):
        end = text.find("\n", at) + 1 or len(text)
        segment = text[at : min(end, at + _SEGMENT)]
        at += len(segment)
        # A "<" means that this is markup, here and in what follows.
        entities = entities and "<" not in segment
        pieces.append(_repair_segment(segment, budget, entities=entities))
    return "".join(pieces)


def _may_change(text: str) -> bool:
    if _find_any(text) and ("&" in text or find_odd(text) or find_suspicious(text)):
        return True
    return not unicodedata.is_normalized("NFC", text)


def _repair_segment(text: str, budget: Budget, *, entities: bool) -> str:
    first = True
    while budget.spend(text):
        before = text
        if entities and "&" in text:
            text = fixes.unescape_html(text if first else _unescape_all(text))
            first = False
        text = unscramble(text, budget)
        if find_odd(text):
            text = _replace_odd(text)
        text = compose(text)
        if text == before:
            break
    return text


def _unescape_all(text: str) -> str:
    """Unescape as often as it takes, in one go, if that cannot call for any other repair; else return the text.

    One entity never overlaps another, so the order in which they are read does not matter.
    """
    if not _is_inert(text):
        return text
    read: list[str] = []
    unread = list(reversed(text))
    while unread:
        read.append(unread.pop())
        if read[-1] != ";":
            continue
        start = max(0, len(read) - _ENTITY)
        entity = "".join(read[start:])
        entity = entity[max(0, entity.rfind("&")) :]
        plain = fixes.unescape_html(entity)
        if plain != entity:
            if not _is_inert(plain):
                return text
            del read[len(read) - len(entity) :]
            unread += reversed(plain)
    return "".join(read)


def _is_inert(text: str) -> bool:
    """Say whether no repair but unescaping could ever touch these characters, whatever they come to stand next to."""
    if text.isascii():
        return not find_odd(text)
    return not (find_odd(text) or find_telling(text)) and not any(
        unicodedata.category(char)[0] == "M"
        or "\u1100" <= char <= "\u11ff"
        or not unicodedata.is_normalized("NFC", char)
        for char in set(text)
    )


def _replace_odd(text: str) -> str:
    if text.isascii():
        return str(fixes.remove_control_chars(fixes.remove_terminal_escapes(fixes.fix_line_breaks(text))))
    for find, fix in _ODD_FIXES:
        if find(text):
            text = fix(text)
    return text


def unscramble(text: str, budget: Budget | None = None) -> str:
    """Undo mojibake only, as `ftfy.fix_encoding` does.

    Args:
        text: Any string.
        budget: Shared with other calls; a fresh one by default.
    """
    budget = budget or Budget(len(text))
    while not text.isascii() and find_suspicious(text) and budget.spend(text):
        fixed = _unscramble_once(text, budget)
        if fixed == text:
            break
        text = fixed
    return text


def _unscramble_once(text: str, budget: Budget) -> str:
    """Read the text anew in the first single-byte encoding whose bytes make sense as UTF-8; else do what is left."""
    if not is_bad(text):
        return text
    possible = possible_encodings(text)
    for encoding in possible:
        if _fails_early(text, encoding):
            continue
        try:
            return _decode(_encode(text, encoding))
        except UnicodeDecodeError:
            continue

    def fix_part(match: re.Match[str]) -> str:
        part = match[0]
        return unscramble(part, budget) if len(part) < len(text) and is_bad(part) else part

    fixed: str = chardata.UTF8_DETECTOR_RE.sub(fix_part, text)
    if fixed != text:
        return fixed
    if "latin-1" in possible:
        try:
            fixed = text.encode("latin-1").decode("windows-1252")
        except UnicodeDecodeError:
            fixed = text
        if fixed != text:
            return fixed
    return str(fixes.fix_c1_controls(text))


def possible_encodings(text: str) -> list[str]:
    """Return the single-byte encodings that have every character of a text, in the order in which they are tried."""
    possible = _ALL_ENCODINGS
    for char in set(_find_others(text)):
        possible &= _IN_ENCODINGS.get(char, 0)
    return [encoding for number, encoding in enumerate(chardata.CHARMAP_ENCODINGS) if possible >> number & 1]


def _encode(text: str, encoding: str) -> bytes:
    """Return the bytes the text was read from, with what was lost on the way put back."""
    data = text.encode(encoding)
    if encoding != "macroman" and chardata.ALTERED_UTF8_RE.search(data):
        data = fixes.restore_byte_a0(data)
    return bytes(fixes.replace_lossy_sequences(data)) if encoding.startswith("sloppy") else data


def _fails_early(text: str, encoding: str) -> bool:
    """Say whether the beginning of a long text shows that its bytes make no sense as UTF-8.

    Nothing that `_encode` and `_decode` put together is longer than `_MARGIN` bytes.
    """
    if len(text) <= 2 * _BEGINNING:
        return False
    data = _encode(text[:_BEGINNING], encoding)[:-_MARGIN]
    if 0xED in data or 0xC0 in data:
        return False
    try:
        codecs.utf_8_decode(data, "strict", False)  # the last character may be incomplete
    except UnicodeDecodeError:
        return True
    return False


def _decode(data: bytes) -> str:
    """Decode UTF-8 in which Java's NUL and surrogate pairs of three bytes each are allowed."""
    if 0xED not in data and 0xC0 not in data:
        return data.decode()
    pieces = []
    at = 0
    for match in _SPECIAL_BYTES.finditer(data):
        pieces.append(data[at : match.start()].decode())
        pair = match[0]
        pieces.append(
            "\0"
            if len(pair) == 2
            else chr(0x10000 + ((pair[1] & 15) << 16 | (pair[2] & 63) << 10 | (pair[4] & 15) << 6 | (pair[5] & 63)))
        )
        at = match.end()
    pieces.append(data[at:].decode())
    return "".join(pieces)


def compose(text: str) -> str:
    """Return the NFC form; long rows of combining marks are put in order first.

    Python sorts each row by insertion, in quadratic time.
    """
    if len(text) > 1_000 and not unicodedata.is_normalized("NFC", text):
        text = _order_marks(text)
    return unicodedata.normalize("NFC", text)


def _order_marks(text: str) -> str:
    pieces: list[str] = []
    marks: list[str] = []
    for char in "".join(unicodedata.normalize("NFD", char) for char in text):
        if unicodedata.combining(char):
            marks.append(char)
            continue
        if marks:
            pieces += sorted(marks, key=unicodedata.combining)
            marks.clear()
        pieces.append(char)
    return "".join(pieces + sorted(marks, key=unicodedata.combining))
