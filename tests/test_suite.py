"""Rules for the tests themselves, which no linter has."""

import ast
from collections.abc import Iterator

from conftest import REPO, SLOW

FILES = {path.relative_to(REPO): ast.parse(path.read_text(encoding="utf-8")) for path in REPO.glob("tests/**/*.py")}
WAITS = {"communicate", "join", "result", "wait"}
RUNS = {"call", "check_call", "check_output", "run"}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def endless(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that wait without a deadline, for another thread or process."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        of, name = node.func.value, node.func.attr
        runs = isinstance(of, ast.Name) and of.id == "subprocess" and name in RUNS
        deadline = "timeout" in {keyword.arg for keyword in node.keywords}
        if not deadline and (runs or (name in WAITS and not node.args)):
            yield node.lineno


def test_no_test_module_is_imported() -> None:
    """What two of them need is in a module that is no test: else the fixtures and tests of one run in the other."""
    found = {str(path) for path, tree in FILES.items() for name in imported(tree) if ".test_" in f".{name}"}
    assert not found, "move what they share into a module of its own, such as tests/shard_factory.py"


def test_every_wait_has_a_deadline() -> None:
    found = [f"{path}:{line}" for path, tree in FILES.items() for line in endless(tree)]
    assert not found, "give it a timeout, or use tests/waiting.py"


def test_what_waits_for_ever_is_found() -> None:
    code = "thread.join()\n', '.join(x)\nevent.wait(3)\nsubprocess.run(['a'])\nsubprocess.run(['a'], timeout=3)"
    assert list(endless(ast.parse(code))) == [1, 4]


def test_slow_modules_are_there() -> None:
    assert [name for name in SLOW if not (REPO / "tests" / name).is_file()] == []
