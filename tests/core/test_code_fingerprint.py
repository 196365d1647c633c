import ast
from pathlib import Path

import pytest

from microdiff.core.code_fingerprint import EXEMPT, SourceTree, code_digest, import_closure, is_exempt, tree_digest


def digest(source: str) -> str:
    return tree_digest(ast.parse(source))


BASE = '"""Doc."""\nimport os\n\ndef f(a, b=1):\n    """Doc."""\n    return f"{a!r:>{b}}" + os.sep\n'


@pytest.mark.parametrize(
    ("edited", "why"),
    [
        (BASE.replace('"""Doc."""', '"""Another text."""'), "docstrings"),
        (BASE.replace('    """Doc."""\n', ""), "a function's docstring removed"),
        (BASE + "# a comment\n", "comments"),
        (BASE.replace("import os\n\n", "import os\n\n\n\n"), "blank lines"),
        (BASE.replace("(a, b=1)", "(\n    a,\n    b=1,\n)"), "layout"),
        (BASE.replace('f"{a!r:>{b}}"', "f'{a!r:>{b}}'"), "the kind of quotes"),
    ],
)
def test_what_computes_nothing_keeps_the_digest(edited: str, why: str) -> None:
    assert digest(edited) == digest(BASE), why


@pytest.mark.parametrize(
    ("edited", "why"),
    [
        (BASE.replace("b=1", "b=2"), "a default"),
        (BASE.replace("b=1", "b=True"), "a constant of another type that compares equal"),
        (BASE.replace("os.sep", "os.linesep"), "a name"),
        (BASE.replace("+", "*"), "an operator"),
        (BASE.replace("!r", "!s"), "a conversion"),
        (BASE + "x = 'text'\n", "a statement"),
        (BASE.replace("    return", "    if a:\n        return"), "nesting"),
    ],
)
def test_what_computes_something_else_changes_the_digest(edited: str, why: str) -> None:
    assert digest(edited) != digest(BASE), why


def test_a_text_that_is_no_docstring_counts() -> None:
    assert digest("def f():\n    x = 1\n    'text'\n") != digest("def f():\n    x = 1\n    'other'\n")


def test_closure_follows_imports_inside_functions_and_packages() -> None:
    closure = import_closure(["microdiff.encode.image_latents"])
    assert "microdiff.models.image_encoder" in closure  # imported inside a function
    assert "microdiff" in closure  # the package itself is imported too
    assert "microdiff.models.text_encoder" not in closure  # so that a change there costs no VAE pass
    assert "microdiff.handlers" in import_closure(["microdiff.handlers.coco"])


@pytest.mark.parametrize(
    ("root", "never"),
    [
        (
            "microdiff.encode.image_latents",
            {"microdiff.captions", "microdiff.clean.policy", "microdiff.pipeline.store", "microdiff.images.normalize"},
        ),
        (
            "microdiff.encode.caption_latents",
            {"microdiff.captions", "microdiff.models.image_encoder", "microdiff.images.ops"},
        ),
        (
            "microdiff.download.raw_writer",
            {
                "microdiff.pipeline.store",
                "microdiff.pipeline.run",
                "microdiff.pipeline.params",
                "microdiff.pipeline.executor",
            },
        ),
        (
            "microdiff.shard.writer",
            {"microdiff.pipeline.store", "microdiff.models.image_encoder", "microdiff.loader.build"},
        ),
    ],
)
def test_computations_do_not_depend_on_what_cannot_change_their_bytes(root: str, never: set[str]) -> None:
    closure = {name for name in import_closure([root]) if not is_exempt(name)}
    assert not {name for name in closure if any(name == each or name.startswith(f"{each}.") for each in never)}


def test_exempt_modules_exist_and_have_reasons() -> None:
    for module, reason in EXEMPT.items():
        assert import_closure([module]), module
        assert len(reason) > 10


def test_digest_differs_between_computations() -> None:
    roots = [
        "microdiff.download.raw_writer",
        "microdiff.clean.policy",
        "microdiff.encode.image_latents",
        "microdiff.shard.writer",
    ]
    assert len({code_digest([root]) for root in roots}) == len(roots)


def write_modules(root: Path, modules: dict[str, str]) -> SourceTree:
    for name, text in modules.items():
        path = root / "microdiff" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return SourceTree(root)


PROJECT = {
    "__init__.py": "",
    "a.py": "from microdiff import b\nfrom . import c\nimport os.path\nx = 1\n",
    "b.py": "def late():\n    import microdiff.d\n",
    "c.py": "import numpy\n",
    "d.py": "",
    "alone.py": "",
}


def test_closure_follows_every_form_of_import(tmp_path: Path) -> None:
    tree = write_modules(tmp_path, PROJECT)
    assert tree.import_closure(["microdiff.a"]) == [
        "microdiff", "microdiff.a", "microdiff.b", "microdiff.c", "microdiff.d",
    ]  # fmt: skip
    assert tree.import_closure(["microdiff.no_such_module", "numpy"]) == []
    with pytest.raises(ModuleNotFoundError, match=r"no module microdiff\.missing"):
        tree.module_digest("microdiff.missing")


def test_a_module_that_does_not_parse_is_told_by_its_bytes_and_stops_no_other(tmp_path: Path) -> None:
    broken = [write_modules(tmp_path / text, {**PROJECT, "alone.py": f"def {text}("}) for text in ("one", "other")]
    first, second = (tree.module_digest("microdiff.alone") for tree in broken)
    assert first != second
    assert broken[0].code_digest(["microdiff.a"]) == broken[1].code_digest(["microdiff.a"])


def test_relative_imports_count_from_their_package(tmp_path: Path) -> None:
    inner = {"p/__init__.py": "", "p/q/__init__.py": "from .r import x\n", "p/q/r.py": "from ... import b\nx = 1\n"}
    outer = {"p/s.py": "from ..c import y\nfrom .q import r\n"}
    tree = write_modules(tmp_path, {**PROJECT, **inner, **outer})
    assert tree.import_closure(["microdiff.p.q"]) == [
        "microdiff", "microdiff.b", "microdiff.d", "microdiff.p", "microdiff.p.q", "microdiff.p.q.r",
    ]  # fmt: skip
    assert {"microdiff.c", "microdiff.p.q.r"} <= set(tree.import_closure(["microdiff.p.s"]))


@pytest.mark.parametrize(
    ("module", "exempt"),
    [
        ("microdiff", True),
        ("microdiff.core", True),
        ("microdiff.core.files", True),
        ("microdiff.errors", True),
        ("microdiff.core_of_it", False),
        ("microdiff.storage_format", False),
        ("microdiff.images", False),
        ("stages.code", False),
    ],
)
def test_a_package_is_exempt_with_what_is_in_it_alone(module: str, exempt: bool) -> None:
    assert is_exempt(module) is exempt
