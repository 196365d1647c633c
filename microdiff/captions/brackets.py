"""Remove the angle brackets around words that are no markup; the words stay.

A pair goes if the first touches a letter, a digit or the mark before one, the second touches no blank, and something
that can be read is between them. So `<my-dog>` becomes `my-dog`, while `<3`, `a < b`, `->`, `>_<` and `x < 5 and y > 3`
stay. Where two words would run into one, a blank parts them.
"""

import re

_find_brackets = re.compile("[<>]").finditer
_readable = re.compile(r"[^\W_]").search


def remove_brackets(text: str) -> str:
    """Remove pairs of angle brackets around words."""
    if "<" not in text or ">" not in text:
        return text
    opened: list[tuple[int, int, int]] = []  # where the bracket and its mark begin and end, and what was read then
    removed: list[tuple[int, int]] = []
    read = at = 0  # how many stretches with something to read there were
    for match in _find_brackets(text):
        here = match.start()
        read += _readable(text, at, here) is not None
        at = here + 1
        if match[0] == "<":
            if opening := _opening(text, here):
                opened.append((here, opening, read))
        elif opened and _closes(text, here):
            start, end, then = opened.pop()
            compared = text[end].isdigit() and text[here + 1 : here + 2].isalnum()  # x <5 and y>3
            if read > then and not compared:
                slash = here - (text[here - 1] == "/" and here - 1 >= end)
                removed += ((start, end), (slash, here + 1))
    if not removed:
        return text
    pieces = []
    at = 0
    for start, end in sorted(removed):
        pieces.append(text[at:start])
        if start and end < len(text) and text[start - 1].isalnum() and text[end].isalnum():
            pieces.append(" ")
        at = end
    return "".join(pieces) + text[at:]


def _opening(text: str, here: int) -> int:
    """Return where an opening bracket with the slash of an end tag ends, 0 if it opens nothing."""
    following = text[here + 1 : here + 2]
    if following == "/":
        return here + 2 if text[here + 2 : here + 3].isalnum() else 0
    if following.isdigit():  # a comparison, or a heart
        glued = here and text[here - 1].isalnum()
        heart = following == "3" and not text[here + 2 : here + 3].isalnum()
        return 0 if glued or heart else here + 1
    if following.isalnum() or following == "<":
        return here + 1
    return here + 1 if following and following in "\"'“‘«#@$!?.*&¡¿+" else 0


def _closes(text: str, here: int) -> bool:
    before = text[here - 1 : here]
    return bool(before) and not before.isspace() and before not in "-=(<~"
