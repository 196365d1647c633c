"""The patterns that some Python has wrong, and the rule that keeps ours free of them.

Python 3.11 brought possessive quantifiers. After a group they are not reliable:

- Before 3.11.5, the text after `(?:...)*+` is looked for in the wrong place: where the last try, the one that failed,
  had got to. https://github.com/python/cpython/issues/100061 and 106052; Debian 12 mends it from 3.11.2-6+deb12u9 on.
- In every 3.11, in 3.12 before 3.12.8 and in 3.13.0, groups that capture can raise SystemError:
  https://github.com/python/cpython/issues/101955.
- In 3.11 to 3.13 at least, a minimum of two or more can miss a match.

So here a possessive quantifier follows one character or class, never a group. `(?>(?:...)*)` means the same as
`(?:...)*+` and is right everywhere.
"""

import ast
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What some Python has wrong, what is right everywhere, a text, what both should find at its beginning, what matters.
FORMS = [
    (r"(?:ab?c)*+", r"(?>(?:ab?c)*)", "a", "", "a repeat"),
    (r"(?:\w++\s++)*+\w++[.]", r"(?>(?:\w++\s++)*)\w++[.]", "a cat.", "a cat.", "a possessive repeat"),
    (r"(?i)(?:[a-z]++-)*+cat", r"(?i)(?>(?:[a-z]++-)*)cat", "a-cat", "a-cat", "a repeat of letters of either case"),
    (r"(?:a(?:bc|d)e)*+", r"(?>(?:a(?:bc|d)e)*)", "abc", "", "an alternative"),
    (r"(?:.(?!C))++", r"(?>(?:.(?!C))+)", "ABCD", "A", "a look ahead"),
    (r"a(?:(?<=b)c)?+", r"a(?>(?:(?<=b)c)?)", "ab", "a", "a look behind"),
    (r"(?:(?>ab)c)*+", r"(?>(?:(?>ab)c)*)", "ab", "", "an atomic group"),
    (r"((x)|y|z)*+", r"(?>((x)|y|z)*)", "xyz", "xyz", "a group that captures"),
    (r"(?:\w+){2,}+", r"(?>(?:\w+){2,})", "ab", "ab", "a minimum"),
]  # fmt: skip


def find(pattern: str, text: str) -> str | None:
    match = re.match(pattern, text)
    return match and match[0]


def is_wrong(pattern: str, text: str, right: str | None) -> bool:
    try:
        return find(pattern, text) != right
    except SystemError:
        return True


@pytest.mark.parametrize(("instead", "text", "right", "why"), [form[1:] for form in FORMS])
def test_what_we_write_instead_is_right(instead: str, text: str, right: str | None, why: str) -> None:
    assert find(instead, text) == right, why


def test_say_what_this_python_has_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    """Never fails, as our patterns have none of it."""
    wrong = [why for form, _, text, right, why in FORMS if is_wrong(form, text, right)]
    if wrong:
        with capsys.disabled():
            print(
                f"\nPython {platform.python_version()} has {len(wrong)} of {len(FORMS)} forms of possessive groups "
                f"wrong, none of them used here: {', '.join(wrong)}"
            )


_ESCAPE_OR_CLASS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_POSSESSIVE_GROUP = re.compile(r"(?:^|\))(?:[*+?]|\{[\d,]+\})\+")


def _texts(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the strings in a syntax tree with their lines; `)` stands for what an f-string takes from elsewhere."""
    if isinstance(node, ast.JoinedStr):
        values = [part.value if isinstance(part, ast.Constant) else ")" for part in node.values]
        yield node.lineno, "".join(values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        yield node.lineno, node.value if isinstance(node.value, str) else node.value.decode("latin-1")
    else:
        for child in ast.iter_child_nodes(node):
            yield from _texts(child)


def possessive_groups(source: str) -> list[int]:
    """Return the lines of strings in which a possessive quantifier follows a group, or something unknown."""
    return [
        line for line, text in _texts(ast.parse(source)) if _POSSESSIVE_GROUP.search(_ESCAPE_OR_CLASS.sub("x", text))
    ]


def test_no_possessive_quantifier_follows_a_group() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for package in ("microdiff", "stages")
        for path in sorted((ROOT / package).rglob("*.py"))
        for line in possessive_groups(path.read_text(encoding="utf-8"))
    ]
    assert not found, "write (?>(?:...)*) instead of (?:...)*+, which some Pythons have wrong"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        (r'r"(?:a|b)*+"', 1),
        (r'r"(?:a|b)++c"', 1),
        (r'r"(a)?+"', 1),
        (r'r"(a){2,}+"', 1),
        (r'rf"(a){{1,2}}+"', 1),
        (r'rb"(?:ab)*+"', 1),
        (r'rf"{PART}*+"', 1),
        (r'"(a)" + "*+"', 1),
        (r'rf"[{chars}]*+"', 0),
        (r'r"(?>(?:a|b)*)[(a)]++\)*+x{2,}+"', 0),
        (r'r"[])*+]"', 0),
    ],
)
def test_the_rule_sees_what_it_forbids(source: str, count: int) -> None:
    assert len(possessive_groups(source)) == count
