"""Which edits a run of the new code shows, and which it does not: old and new modules, run for real, line by line."""

import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from microdiff.commands.code_evidence import Evidence
from microdiff.core.code_fingerprint import SourceTree

Sources = Mapping[str, str]


def write(root: Path, sources: Sources) -> SourceTree:
    folder = root / "microdiff"
    folder.mkdir(parents=True)
    for name, text in {"__init__": "", **sources}.items():
        (folder / f"{name}.py").write_text(dedent(text), encoding="utf-8")
    return SourceTree(root)


@contextmanager
def lines_of(root: Path, found: dict[Path, set[int]]) -> Iterator[None]:
    """Note the lines that run in files below a folder, as coverage.py does."""

    def trace(frame: Any, event: str, _: Any) -> Any:
        path = Path(frame.f_code.co_filename)
        if not path.is_relative_to(root):
            return None
        if event == "line":
            found.setdefault(path, set()).add(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def unseen(tmp_path: Path, old: Sources | str, new: Sources | str, call: str = "f()") -> list[str]:
    """Return what running `call` in the new module `a`, which imports the others, does not show."""
    sources = [{"a": each} if isinstance(each, str) else each for each in (old, new)]
    before, now = (write(tmp_path / name, each) for name, each in zip(("old", "new"), sources, strict=True))
    ran: dict[Path, set[int]] = {}
    with lines_of(tmp_path, ran), pytest.MonkeyPatch.context() as patch:
        for name in ["microdiff", *(f"microdiff.{name}" for name in sources[1])]:
            patch.delitem(sys.modules, name, raising=False)
        patch.setitem(sys.modules, "microdiff", types.ModuleType("microdiff"))
        patch.setattr(sys.modules["microdiff"], "__path__", [str(tmp_path / "new" / "microdiff")], raising=False)
        namespace: dict[str, Any] = {}
        exec(f"from microdiff.a import *\nimport microdiff.a\n{call}", namespace)  # noqa: S102 - the test's own code
        for name in sources[1]:
            patch.delitem(sys.modules, f"microdiff.{name}", raising=False)
    modules = [f"microdiff.{name}" for name in sources[1]]
    evidence = Evidence(before, now, modules, ran)
    return [str(each).removeprefix("microdiff/") for each in evidence.unseen(["microdiff.a"], ["microdiff.a"])]


BASE = """\
import os

LIMIT = 3

def f(gpu=False, text=None):
    total = 1
    if gpu:
        total = total * LIMIT
    return g(total)

def g(value):
    return value + 1
"""

HARMLESS = {
    "a parameter renamed": BASE.replace("value", "number"),
    "a statement split": BASE.replace("    return value + 1", "    result = value + 1\n    return result"),
    "two statements joined": BASE.replace("    return value + 1", "    return 1 + value"),
    "functions in another order": BASE.split("def g")[0].replace("def f", "def g" + BASE.split("def g")[1] + "\ndef f"),
    "a helper taken out": BASE.replace("return value + 1", "return h(value)")
    + "\ndef h(value):\n    return value + 1\n",
    "a function renamed": BASE.replace("g(", "plus_one("),
    "an import nothing refers to": BASE.replace("import os\n", ""),
    "a constant nothing refers to": BASE + "\nUNUSED = 5\n",
    "a function nothing refers to": BASE + "\ndef unused():\n    return LIMIT\n",
    "a helper inlined": BASE.replace("return g(total)", "return total + 1").split("\ndef g")[0],
    "a new parameter": BASE.replace("text=None", "text=None, more=1"),
    "a loop over a local": BASE.replace("    return v", "    for _ in (1,):\n        pass\n    return v"),
    "layout, comments and docstrings": '"""Doc."""\n' + BASE.replace("total = 1", "total = (\n        1  # one\n    )"),
}
NOT_SHOWN = {
    "in the branch": (BASE.replace("total * LIMIT", "LIMIT * total"), ["a.py:8: changed, and did not run"]),
    "a statement more in the branch": (
        BASE.replace("total * LIMIT", "total * LIMIT\n        total = total + 0"),
        ["a.py:8: refers to total, which changed, and did not run", "a.py:9: changed, and did not run"],
    ),
    "a constant that only the branch uses": (
        BASE.replace("LIMIT = 3", "LIMIT = 4"),
        ["a.py:8: refers to LIMIT, which changed, and did not run"],
    ),
    "a local that is global in the branch": (
        BASE.replace("total = 1", "total = 1\n    LIMIT = total"),
        ["a.py:9: refers to LIMIT, which changed, and did not run"],
    ),
    "a constant gone that the branch uses": (
        BASE.replace("LIMIT = 3\n", ""),
        ["a.py:7: LIMIT is gone, and this refers to it"],
    ),
    "the branch gone": (
        BASE.replace("        total = total * LIMIT\n", "        pass\n"),
        ["a.py:8: changed, and did not run"],
    ),
    "its condition": (BASE.replace("if gpu:", "if gpu is True:"), ["a.py:8: did not run"]),
    "a name that is global": (
        BASE.replace("    total = 1", "    global LIMIT\n    total = 1"),
        ["a.py:5: whose LIMIT this means has changed, which no line tells"],
    ),
    "a branch more": (
        BASE.replace(
            "    return g(total)",
            "    else:\n        total = 1\n    if not total:\n        raise ValueError\n    return g(total)",
        ),
        ["a.py:12: changed, and did not run", "a.py:8: refers to total, which changed, and did not run"],
    ),
    "a conditional expression": (
        BASE.replace("value + 1", "value + 1 if value else 0"),
        ["a.py:12: changed, and no line shows an arm of a conditional expression on its own"],
    ),
    "a lambda": (
        BASE.replace("return value + 1", "more = lambda: value + 1\n    return value + 1"),
        ["a.py:12: changed, and no line shows the body of a lambda on its own"],
    ),
    "and": (
        BASE.replace("value + 1", "value and value + 1"),
        ["a.py:12: changed, and no line shows what and/or may skip on its own"],
    ),
    "a comprehension": (
        BASE.replace("value + 1", "value + sum(1 for _ in (1,))"),
        ["a.py:12: changed, and no line shows what a comprehension yields on its own"],
    ),
    "a chained comparison": (
        BASE.replace("value + 1", "value + (0 < 1 < value)"),
        ["a.py:12: changed, and no line shows what a chained comparison may skip on its own"],
    ),
    "two statements on a line": (
        BASE.replace("    return v", "    value = value; value = value\n    return v"),
        ["a.py:12: changed, and shares its line with another statement"],
    ),
    "a branch on a line": (
        BASE.replace("    return v", "    if not value: value = 2\n    return v"),
        ["a.py:12: changed, and shares its line with another statement"],
    ),
    "a default": (
        BASE.replace("gpu=False", "gpu=0"),
        ["a.py:5: the default of gpu has changed: no line tells whether a call used it"],
    ),
    "a function that is called elsewhere in the branch": (
        BASE.replace("total = total * LIMIT", "total = h(total)") + "\ndef h(value):\n    return value * 3\n",
        [
            "a.py:15: changed, and did not run",
            "a.py:8: changed, and did not run",
        ],
    ),
}


@pytest.mark.parametrize("new", HARMLESS.values(), ids=HARMLESS)
def test_what_ran_is_shown(tmp_path: Path, new: str) -> None:
    assert unseen(tmp_path, BASE, new) == []


@pytest.mark.parametrize(("new", "expected"), NOT_SHOWN.values(), ids=NOT_SHOWN)
def test_what_did_not_run_is_not(tmp_path: Path, new: str, expected: list[str]) -> None:
    assert sorted(set(unseen(tmp_path, BASE, new))) == sorted(expected)


LAID_OUT = """\
def f(value=2, or_else=0):
    return (
        len(
            str(value)
        )
        or
        print(
            "none"
        )
    ), (
        1
        if value
        else
        0
    ), (
        lambda:
        value
    )
"""


def test_a_part_on_a_line_of_its_own_shows_whether_it_ran(tmp_path: Path) -> None:
    """Digests do not depend on layout, so whoever lays a statement out can show it."""
    old = "def f(value=2, or_else=0):\n    return 1\n"
    skipped = {
        7: "what and/or may skip",
        11: "an arm of a conditional expression",  # its test jumps on this line, too
        14: "an arm of a conditional expression",
        17: "the body of a lambda",
    }

    def but(*lines: int) -> list[str]:
        return [f"a.py:{line}: changed, and no line shows {skipped[line]} on its own" for line in lines]

    assert unseen(tmp_path / "plain", old, LAID_OUT) == but(7, 11, 14, 17)
    assert unseen(tmp_path / "called", old, LAID_OUT, "f()[2]()") == but(7, 11, 14)
    assert unseen(tmp_path / "none", old, LAID_OUT, "f(0)") == but(7, 11, 17)
    assert unseen(tmp_path / "or", old, LAID_OUT.replace("str(value)", "value"), "f('')") == but(11, 17)


@pytest.mark.parametrize("values", ["(1, 2)", "()"])
def test_no_layout_shows_a_comprehension(tmp_path: Path, values: str) -> None:
    """Where it ends, Python says that a line of what it yields runs, even if it yields nothing."""
    old = f"def f(values={values}):\n    return 1\n"
    new = old.replace("1\n", "[\n        str(\n            each\n        )\n        for each in values\n    ]\n")
    assert unseen(tmp_path, old.replace("return 1", "return 2"), new) == [
        "a.py:3: changed, and no line shows what a comprehension yields on its own"
    ]


def test_a_lazy_part_that_was_there_before_is_not_asked_for(tmp_path: Path) -> None:
    old = "def f(a=1, b=0):\n    return abs(a) + (b or len(str(a)))\n"
    new = "def f(a=1, b=0):\n    more = b or len(str(a))\n    return abs(a) + more\n"
    assert unseen(tmp_path, old, new, "f(1, 2)") == []


TRY = """\
def f(text="1"):
    try:
        number = int(text)
    except ValueError:
        return 0
    else:
        number += 1
    finally:
        text = ""
    match number:
        case 0:
            number = 5
        case _:
            number = 7
    while True:
        number += 1
        if number > 9:
            break
    return number
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("number = int(text)", "number = int(text, 10)", []),
        ("        number += 1\n    finally", "        number = number + 1\n    finally", []),
        ('text = ""', 'text = "x"', []),
        ("number = 7", "number = 7 + 0", []),
        ("while True:\n", "while True:\n        number += 0\n", []),
        (
            "except ValueError",
            "except (ValueError, TypeError)",
            ["a.py:4: changed, and did not run", "a.py:5: did not run"],
        ),
        ("return 0", "return 1", ["a.py:5: changed, and did not run"]),
        ("case 0", "case 1", ["a.py:12: did not run"]),
        ("if number > 9", "if number > 8", []),
        ("number = 5", "number = 6", ["a.py:12: changed, and did not run"]),
        ("    else:\n        number += 1\n", "", ["a.py:2: a branch is gone: no line tells whether it was needed"]),
        (
            "        case 0:\n            number = 5\n",
            "",
            ["a.py:10: a clause is gone: no line tells whether it was needed"],
        ),
        ("            break", "            number += 1\n            break", []),
        ("        return 0\n", "        text = 3\n        return 0\n", ["a.py:5: changed, and did not run"]),
    ],
)
def test_clauses_count_as_statements(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    assert old in TRY
    assert unseen(tmp_path, TRY, TRY.replace(old, new)) == expected


TWO = {
    "a": """\
        import microdiff.b as b
        from microdiff.b import K as LIMIT, Settings, helper

        def f(gpu=False):
            if gpu:
                return LIMIT, b.M, Settings().size, helper(1), Settings().double()
            return helper(2), Settings().width
        """,
    "b": """\
        K = 1
        M = 2

        class Settings:
            size = 3
            width = 4
            depth = 5

            def double(self):
                return 2 * self.width

        def helper(value):
            return value

        def other(value):
            return value + 1
        """,
}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("K = 1", "K = 7", ["a.py:6: refers to K, which changed, and did not run"]),
        ("M = 2", "M = 7", ["a.py:6: refers to M, which changed, and did not run"]),
        ("M = 2", "", ["a.py:6: M is gone, and this refers to it"]),
        ("size = 3", "size = 7", ["a.py:6: refers to size, which changed, and did not run"]),
        (
            "width = 4",
            "width = 7",
            ["b.py:10: refers to width, which changed, and did not run"],
        ),
        ("depth = 5", "depth = 7", []),
        ("return 2 * self.width", "return self.width * 2", ["b.py:10: changed, and did not run"]),
        ("class Settings:", "class Settings(object):", ["a.py:6: refers to Settings, which changed, and did not run"]),
        (
            "    def double(self):\n                return 2 * self.width\n",
            "",
            ["a.py:6: double is gone, and this refers to it"],
        ),
        (
            "def helper(value):\n            return value\n",
            "helper = str\n",
            ["a.py:6: refers to helper, which changed, and did not run"],
        ),
        ("def other(value):\n            return value + 1\n", "", []),
    ],
)
def test_what_other_modules_have_by_an_import_counts(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    assert old in TWO["b"]
    assert sorted(unseen(tmp_path, TWO, {**TWO, "b": TWO["b"].replace(old, new)})) == sorted(expected)


def test_a_name_from_another_module_must_have_been_used(tmp_path: Path) -> None:
    b, c = "def h():\n    return 1\n", "def h():\n    return 2\n"
    old = "from microdiff.b import h\nimport microdiff.c\n\ndef f(gpu=False):\n    if gpu:\n        h()\n"
    new = (
        old.replace("microdiff.b", "microdiff.d")
        .replace("microdiff.c", "microdiff.b")
        .replace("microdiff.d", "microdiff.c")
    )
    sources = [{"a": each, "b": b, "c": c} for each in (old, new)]
    assert unseen(tmp_path, *sources) == ["a.py:6: refers to h, which changed, and did not run"]


def test_a_new_module_counts_whole(tmp_path: Path) -> None:
    old = {"a": "def f():\n    return 1\n"}
    new = {
        "a": "from microdiff.b import one\n\ndef f():\n    return one()\n",
        "b": "def one(gpu=False):\n    if gpu:\n        return 2\n    return 1\n",
    }
    assert unseen(tmp_path, old, new) == ["b.py:3: changed, and did not run"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("    x = 1\n    y = 2\n", "    y = 2\n    x = 1\n", ["a.py:6: refers to y, which changed, and did not run"]),
        ("    y = 2\n", "", ["a.py:5: refers to y, which changed, and did not run"]),
        ("y = 2\n", "y = 3\n", ["a.py:6: refers to y, which changed, and did not run"]),
        ("        return y\n", "        raise ValueError(x)\n", ["a.py:6: changed, and did not run"]),
        ("    return x\n", "", []),
    ],
)
def test_order_and_deletions_count(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    base = "def f(gpu=False):\n    x = 1\n    y = 2\n    if gpu:\n        z = 4\n        return y\n    return x\n"
    found = unseen(tmp_path, base, base.replace(old, new))
    assert found == expected


def test_a_deletion_asks_for_what_is_left_of_its_block(tmp_path: Path) -> None:
    base = "def f(gpu=False):\n    if gpu:\n        print(1)\n        print(2)\n"
    assert unseen(tmp_path, base, base.replace("        print(1)\n", "")) == ["a.py:3: did not run"]


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        ("    size = 4\n", ["a.py:4: refers to size, which changed, and did not run"]),
        ("    A.width = 4\n", ["a.py:6: refers to width, which changed, and did not run"]),
    ],
)
def test_a_value_that_is_gone_was_perhaps_used(tmp_path: Path, old: str, expected: list[str]) -> None:
    base = (
        "class A:\n    width = 2\n\ndef f(size=8, gpu=False):\n    size = 4\n    A.width = 4\n    if gpu:\n"
        "        return size\n    elif gpu is None:\n        return A.width\n"
    )
    found = unseen(tmp_path, base, base.replace(old, ""))
    assert [each.partition(": ")[2] for each in found] == [each.partition(": ")[2] for each in expected]


def test_a_comprehension_has_names_of_its_own(tmp_path: Path) -> None:
    old = "def f(values=(1,), gpu=False):\n    if gpu:\n        return each\n    return [each for each in values], 1\n"
    new = old.replace(
        "    return [each for each in values], 1", "    more = [each for each in values]\n    return more, 1"
    )
    assert unseen(tmp_path, old, new) == []
    changed = unseen(tmp_path / "used in one", new, new.replace("each in values]", "each in (2, *values)]"))
    assert changed == []


def test_an_emptied_function_must_not_be_called(tmp_path: Path) -> None:
    base = 'def f():\n    return 1\n\ndef g():\n    """Doc."""\n    print(1)\n'
    new = base.replace("    print(1)\n", "")
    assert unseen(tmp_path, base, new) == []
    calls = "\ndef h():\n    g()\n"
    assert unseen(tmp_path / "called", base + calls, new + calls) == ["a.py:8: g is gone, and this refers to it"]


def test_methods_that_others_call_by_another_way_are_refused(tmp_path: Path) -> None:
    base = "class A(dict):\n    x = 1\n    def get(self, key):\n        return 1\n\ndef f():\n    return A()\n"
    assert unseen(tmp_path, base, base.replace("    def get(self, key):\n        return 1\n", "")) == [
        "a.py:1: the method get is gone, which others may call by another way"
    ]


def test_exempt_modules_do_not_count(tmp_path: Path) -> None:
    old = {"a": "import microdiff.errors\n\ndef f():\n    return 1\n", "errors": "x = 1\n"}
    assert unseen(tmp_path, old, {**old, "errors": "x = 1\n\ndef g():\n    return 5\n\ny = g\n"}) == []


def test_a_changed_value_must_have_been_used(tmp_path: Path) -> None:
    """Also that of an attribute; but not in the message of an error, which ends what computes bytes."""
    base = dedent("""\
        class A:
            def __init__(self):
                self.size = 8

            def large(self):
                return self.size

        def f(gpu=False):
            size = 8
            if gpu:
                return A().size
            more = len(str(size)) if gpu else 1
            if more < 0:
                raise ValueError(size)
            return more
        """)
    found = unseen(tmp_path / "attribute", base, base.replace("self.size = 8", "self.size = 4"), "microdiff.a.A(), f()")
    assert found == [f"a.py:{line}: refers to size, which changed, and did not run" for line in (6, 11)]
    found = unseen(tmp_path / "local", base, base.replace("    size = 8\n    if", "    size = 4\n    if"))
    assert found == ["a.py:12: refers to size, which changed, in an arm of a conditional expression"]
