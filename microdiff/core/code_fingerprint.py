"""What code a computation depends on, and a digest of it that comments and layout do not change.

The digest is part of a partition's fingerprint: editing the code that makes latents recomputes them, editing a
comment or a docstring, or reformatting, does not.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGE = "microdiff"

# Packages that never decide bytes, although modules that do import them.
EXEMPT = {
    "microdiff": "only resolves public names",  # itself, not what is in it
    "microdiff.config": "declares settings, whose values are fingerprinted themselves",
    "microdiff.core": "moves, hashes, counts and shows what others decide",
    "microdiff.errors": "names errors; a changed class changes no output",
    "microdiff.storage": "delivers bytes that the fingerprint already identifies",
}


def module_path(module: str) -> Path | None:
    """Return the file of a module of this package, or None when there is no such module."""
    base = _ROOT.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def import_closure(modules: Iterable[str]) -> list[str]:
    """Return the modules of this package that `modules` import, directly or not, themselves included.

    Imports are read from the syntax tree, so those inside functions count, and names imported by string (handlers)
    do not: pass them in. A package is in the closure of its submodules. Sorted by name.
    """
    found: set[str] = set()
    pending = list(modules)
    while pending:
        module = pending.pop()
        if module in found or not module.startswith(_PACKAGE) or module_path(module) is None:
            continue
        found.add(module)
        pending += _imports(module)
        if "." in module:
            pending.append(module.rpartition(".")[0])
    return sorted(found)


def code_digest(modules: Iterable[str]) -> str:
    """Return a SHA-256 hex digest of the code in the import closure of `modules`, less the exempt modules."""
    digest = hashlib.sha256()
    for module in import_closure(modules):
        if not is_exempt(module):
            digest.update(f"{module}:{_module_digest(module)}\n".encode())
    return digest.hexdigest()


def is_exempt(module: str) -> bool:
    """Tell whether a module, or the package it is in, is exempt."""
    return any(module == name or (module.startswith(f"{name}.") and name != _PACKAGE) for name in EXEMPT)


@cache
def _tree(module: str) -> ast.Module:
    path = module_path(module)
    if path is None:
        raise ModuleNotFoundError(f"no module {module} in {_ROOT}")
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def _module_digest(module: str) -> str:
    return tree_digest(_tree(module))


def tree_digest(tree: ast.AST) -> str:
    """Return a digest of a syntax tree without positions, comments and docstrings, equal on Python 3.11 and 3.12."""
    digest = hashlib.sha256()
    for token in _walk(tree):
        digest.update(token.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()


def _walk(node: ast.AST) -> Iterator[str]:
    """Yield the tree as text. Empty fields are left out, since newer Pythons add fields (such as type_params)."""
    yield f"<{type(node).__name__}"
    docstring = _docstring(node)
    for name, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        kept = [child for child in children if child is not None and child is not docstring]
        if kept:
            yield name
        for child in kept:
            if isinstance(child, ast.AST):
                yield from _walk(child)
            else:
                yield f"{type(child).__name__}:{child!r}"
    yield ">"


def _docstring(node: ast.AST) -> ast.stmt | None:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or not node.body:
        return None
    first = node.body[0]
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return first if is_text else None


@cache
def _imports(module: str) -> tuple[str, ...]:
    found: list[str] = []
    path = module_path(module)
    package = module if path is not None and path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            anchor = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            base = ".".join(part for part in (anchor, node.module) if part) if node.level else node.module or ""
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(name for name in found if name.startswith(_PACKAGE))
