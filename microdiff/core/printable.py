"""Names and texts of strangers as they may be shown: what a terminal would obey, or nobody could see, is escaped.

The characters are listed rather than asked of Python: which ones `str.isprintable` calls printable changes with its
version, and keys must not.
"""

import re

# Controls, invisible marks, what turns the direction of text, noncharacters, tags, and halves of surrogate pairs.
_HIDDEN = (
    r"\x00-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    r"\ud800-\udfff\ufdd0-\ufdef\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U000e0000-\U000e0fff"
)
_SHOWN_OTHERWISE = re.compile(rf"(?!\n)[{_HIDDEN}]")
_NOT_IN_LINES = re.compile(rf"[{_HIDDEN}]")
# `/` and `.` have a meaning in WebDataset, `#` with digits in our own keys; `%` would only be mistaken for an escape.
_NOT_IN_KEYS = re.compile(rf"[{_HIDDEN}/.]|%(?=[0-9A-F]{{2}})|#(?=[0-9]+\Z)")
_NOT_IN_KEY = re.compile(rf"[{_HIDDEN}/.]")


def printable(text: str) -> str:
    r"""Return a text for a terminal, a log or a report, such as `a\x1b[31m` for a name that would turn it red.

    Ends of lines stay: messages have some.
    """
    return _SHOWN_OTHERWISE.sub(lambda found: _escaped(found[0]), text)


def one_line(name: str) -> str:
    """Return a name as `printable` does, but without ends of lines."""
    return _NOT_IN_LINES.sub(lambda found: _escaped(found[0]), name)


def escape_key(name: str) -> str:
    """Return what of a key comes from a source's name: printable, and different for different names.

    What may not be in a key becomes `%` and two hexadecimal digits for each of its bytes in UTF-8; a byte that was no
    UTF-8 (and comes as half of a surrogate pair, as `surrogateescape` has it) stands for itself. Such are what cannot
    be seen or would be obeyed by a terminal, `/`, `.`, the `#` before digits at the end, and a `%` that would look like
    an escape. Other names are their own keys: `000000001`, `cats%2F0001` for `cats/0001`, `caf%E9`.
    """
    return _NOT_IN_KEYS.sub(lambda found: _percent(found[0]), name)


def is_key(key: str) -> bool:
    """Tell whether a text can be a key: not empty, and without what `escape_key` takes out."""
    return key != "" and _NOT_IN_KEY.search(key) is None


def _escaped(mark: str) -> str:
    number = ord(mark)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _percent(mark: str) -> str:
    if "\udc80" <= mark <= "\udcff":
        return f"%{ord(mark) - 0xDC00:02X}"
    return "".join(f"%{byte:02X}" for byte in mark.encode("utf-8", "surrogatepass"))
