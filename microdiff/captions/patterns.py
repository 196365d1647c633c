"""Ways to build a step of the cleaner from a pattern, each the fastest that `re` allows for its kind of pattern.

Every step takes linear time: what a pattern repeats can be split in one way only (possessive quantifiers), and it
starts at most once in each run of the characters it repeats.

A possessive quantifier follows one character or class, never a group, which Python has wrong before 3.11.5: that is
repeated inside an atomic group, `(?>(?:...)*)`. tests/captions/test_python_re.py has the details.
"""

import re
from collections.abc import Callable

Apply = Callable[[str], str]


def row(chars: str, least: int = 1) -> str:
    """Match a row of characters of a kind; the first on its own, as `re` looks for it faster that way."""
    return f"[{chars}]" * least + f"[{chars}]*+"


def replace(pattern: str, replacement: str = "", *, where: str = "") -> Apply:
    """Replace a pattern; `where` is a cheaper one without which it cannot match."""
    substitute = re.compile(pattern).sub
    find = re.compile(where or pattern).search

    def apply(text: str) -> str:
        return substitute(replacement, text) if find(text) else text

    return apply


def replace_in_words(pattern: str, replacement: str = "", *, where: str) -> Apply:
    """Like `replace`, but look only at the words, between two spaces, in which `where` matches.

    Right for a pattern that holds no blank and looks no further than one character to either side.
    """
    substitute = re.compile(pattern).sub
    find = re.compile(where).search

    def apply(text: str) -> str:
        match = find(text)
        if match is None:
            return text
        pieces: list[str] = []
        at = 0
        while match is not None:
            start = text.rfind(" ", at, match.start()) + 1 or at
            end = text.find(" ", match.end())
            if end < 0:
                end = len(text)
            pieces += (text[at:start], substitute(replacement, text[start:end]))
            at = end
            match = find(text, at)
        pieces.append(text[at:])
        return "".join(pieces)

    return apply


def remove_near(word: str, pattern: str) -> Apply:
    """Remove a pattern that contains a word."""
    substitute = re.compile(pattern).sub

    def apply(text: str) -> str:
        return substitute("", text) if word in text else text

    return apply
