"""Remove the angle brackets around words that are no markup; the words stay.

A pair goes if the first touches a letter, a digit or the mark before one, the second touches no blank, and something
that can be read is between them. So `<my-dog>` becomes `my-dog`, while `<3`, `a < b`, `->`, `>_<` and `x < 5 and y > 3`
stay. Where two words would run into one, a blank parts them.
"""

import re

_find_brackets = re.compile("<+|>+").finditer
_readable = re.compile(r"[^\W_]").search


def remove_brackets(text: str) -> str:
    """Remove pairs of angle brackets around words."""
    if "<" not in text or ">" not in text:
        return text
    opened: list[tuple[int, int, int]] = []  # where the bracket and its mark begin and end, and what was read then
    removed: list[tuple[int, int]] = []
    read = at = 0  # how many stretches with something to read there were
    for match in _find_brackets(text):
        first, last = match.span()  # a row of one kind
        read += _readable(text, at, first) is not None
        at = last
        if match[0][0] == "<":
            if end := _opening(text, first, last):
                opened += [(here, end if here == last - 1 else here + 1, read) for here in range(first, last)]
        elif _closes(text, first):
            for here in range(first, last):
                if not opened:
                    break
                start, end, then = opened.pop()
                compared = text[end].isdigit() and text[last : last + 1].isalnum()  # x <5 and y>3
                if read > then and not compared:
                    slash = here == first and text[here - 1] == "/" and here - 1 >= end
                    removed += ((start, end), (here - slash, here + 1))
    return _cut(text, sorted(removed)) if removed else text


def _cut(text: str, removed: list[tuple[int, int]]) -> str:
    """Cut stretches out; where two words would run into one, put a blank."""
    pieces: list[str] = []
    at = 0
    for start, end in (*removed, (len(text), len(text))):
        if piece := text[at:start]:
            if pieces and pieces[-1][-1].isalnum() and piece[0].isalnum():
                pieces.append(" ")
            pieces.append(piece)
        at = end
    return "".join(pieces)


def _opening(text: str, first: int, last: int) -> int:
    """Return where a row of opening brackets with the slash of an end tag ends, 0 if it opens nothing."""
    following = text[last : last + 1]
    if following == "/":
        return last + 1 if text[last + 1 : last + 2].isalnum() else 0
    if following.isdigit():  # a comparison, or a heart
        glued = first and text[first - 1].isalnum()
        heart = following == "3" and not text[last + 1 : last + 2].isalnum()
        return 0 if glued or heart else last
    return (
        last if following.isalnum() or following >= "\u2190" or (following and following in "\"'“‘«#@$!?.*&¡¿+") else 0
    )


def _closes(text: str, first: int) -> bool:
    before = text[first - 1 : first]
    return bool(before) and not before.isspace() and before not in "-=(~<"
