"""What code a computation depends on, and a digest of it that comments and layout do not change.

The digest is part of a partition's fingerprint: editing the code that makes latents recomputes them, editing a
comment or a docstring, or reformatting, does not.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path

_PACKAGES = ("microdiff", "stages")

# Packages that never decide bytes, although modules that do import them.
EXEMPT = {
    "microdiff": "only resolves public names",  # itself, not what is in it
    "microdiff.config": "declares settings, whose values are fingerprinted themselves",
    "microdiff.core": "moves, hashes, counts and shows what others decide",
    "microdiff.errors": "names errors; a changed class changes no output",
    "microdiff.storage": "delivers bytes that the fingerprint already identifies",
}


class SourceTree:
    """The modules of this project below one folder, read as syntax trees, each once.

    Args:
        root: Holds `microdiff/` and `stages/`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._modules: dict[str, _Module | None] = {}

    def import_closure(self, modules: Iterable[str]) -> list[str]:
        """Return the modules of this project that `modules` import, directly or not, themselves included.

        Imports are read from the syntax tree, so those inside functions count, and names imported by string (handlers)
        do not: pass them in. A package is in the closure of its submodules. Sorted by name.
        """
        found: set[str] = set()
        pending = list(modules)
        while pending:
            name = pending.pop()
            module = None if name in found else self._module(name)
            if module is None:
                continue
            found.add(name)
            pending += module.imports
            if "." in name:
                pending.append(name.rpartition(".")[0])
        return sorted(found)

    def code_digest(self, modules: Iterable[str]) -> str:
        """Return a SHA-256 hex digest of the code in the import closure of `modules`, less the exempt modules."""
        digest = hashlib.sha256()
        for name in self.import_closure(modules):
            if not is_exempt(name):
                digest.update(f"{name}:{self.module_digest(name)}\n".encode())
        return digest.hexdigest()

    def module_digest(self, name: str) -> str:
        """Return the digest of one module's code.

        Raises:
            ModuleNotFoundError: There is no such module.
        """
        module = self._module(name)
        if module is None:
            raise ModuleNotFoundError(f"no module {name} in {self.root}")
        return module.digest

    def syntax_tree(self, name: str) -> tuple[Path, ast.Module]:
        """Return one module's file and its syntax tree, which must not be changed.

        Raises:
            ModuleNotFoundError: There is no such module.
        """
        path, module = self._path(name), self._module(name)
        if path is None or module is None:
            raise ModuleNotFoundError(f"no module {name} in {self.root}")
        return path, module.tree

    def _module(self, name: str) -> "_Module | None":
        if name not in self._modules:
            path = self._path(name)
            self._modules[name] = None if path is None else _module(name, path.name == "__init__.py", path.read_bytes())
        return self._modules[name]

    def _path(self, name: str) -> Path | None:
        base = self.root.joinpath(*name.split("."))
        paths = (base.with_suffix(".py"), base / "__init__.py") if name.partition(".")[0] in _PACKAGES else ()
        return next((path for path in paths if path.is_file()), None)


class _Module:
    def __init__(self, name: str, is_package: bool, text: bytes) -> None:
        self._package = name if is_package else name.rpartition(".")[0]
        try:
            self.tree = ast.parse(text)
        except (SyntaxError, ValueError):  # whoever imports it fails; those who do not must not
            self.tree = ast.Module([ast.Return(ast.Constant(hashlib.sha256(text).hexdigest()))], [])

    @cached_property
    def digest(self) -> str:
        return tree_digest(self.tree)

    @cached_property
    def imports(self) -> list[str]:
        """Names that may be modules of this project."""
        found: list[str] = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                anchor = self._package.rsplit(".", node.level - 1)[0] if node.level > 1 else self._package
                base = ".".join(part for part in (anchor, node.module) if part) if node.level else node.module or ""
                found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        return found


_module = lru_cache(maxsize=1024)(_Module)  # what was parsed once is not parsed again
_RUNNING = SourceTree(Path(__file__).resolve().parents[2])


def import_closure(modules: Iterable[str]) -> list[str]:
    """Return the import closure of modules of the running code, see `SourceTree.import_closure`."""
    return _RUNNING.import_closure(modules)


def code_digest(modules: Iterable[str]) -> str:
    """Return the digest of modules of the running code, see `SourceTree.code_digest`."""
    return _RUNNING.code_digest(modules)


def is_exempt(module: str) -> bool:
    """Tell whether a module, or the package it is in, is exempt."""
    return any(module == name or (module.startswith(f"{name}.") and name != _PACKAGES[0]) for name in EXEMPT)


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
    docstring = docstring_of(node)
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


def docstring_of(node: ast.AST) -> ast.stmt | None:
    """Return the docstring of a module, class or function, the statement that does not count."""
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or not node.body:
        return None
    first = node.body[0]
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return first if is_text else None
