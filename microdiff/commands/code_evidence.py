"""Whether a recomputation has seen what an edit changed: by the lines that ran, and by what refers to what."""

import ast
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from microdiff.commands.code_changes import Binding, Changed, Changes, compare_modules
from microdiff.commands.statements import Item, first_line, header_lines, items_in, lazy_parts, own_nodes, was_evaluated
from microdiff.core.code_fingerprint import SourceTree, is_exempt, tree_digest


@dataclass(frozen=True, order=True)
class Unseen:
    """A change that a recomputation has not seen.

    Attributes:
        file: The module's file, relative to the repository.
        line: The line in it.
        why: In words.
    """

    file: str
    line: int
    why: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.why}"


class _Source:
    """A module now, and which of its lines ran."""

    def __init__(self, name: str, path: Path, tree: ast.Module, ran: Collection[int]) -> None:
        self.name = name
        self.file = f"{name.replace('.', '/')}{'/__init__' * (path.name == '__init__.py')}.py"
        self.tree = tree
        self.items = list(items_in(tree))
        places = {(first_line(item), _column(item)): item for item in self.items}
        self._statements = Counter(line for item in places.values() for line in header_lines(item))
        self._ran = {line for line in ran if self._statements[line] <= 1}

    def shares_its_line(self, item: Item) -> bool:
        return self._statements[first_line(item)] > 1

    def has_run(self, item: Item) -> bool:
        if isinstance(item, ast.Try | ast.TryStar) or (
            isinstance(item, ast.While) and isinstance(item.test, ast.Constant)
        ):
            return self.has_run(item.body[0])  # these lines may compile to nothing
        return not self._ran.isdisjoint(header_lines(item)) and not self.shares_its_line(item)

    def unseen_parts(self, item: Item, of: ast.AST | None = None) -> Iterator[tuple[int, str, str]]:
        """Yield the line, the kind and the digest of lazy parts that were not surely evaluated.

        Args:
            item: The statement that they are in.
            of: Only those around this node; but comprehensions count as evaluated.
        """
        for part in lazy_parts(item):
            if of is not None and (not part.has_lines or of not in set(ast.walk(part.node))):
                continue
            if not was_evaluated(item, part, self._ran):
                yield part.node.lineno, part.what, tree_digest(part.node)

    @cached_property
    def mentions(self) -> Mapping[str, Sequence[tuple[Item, ast.AST]]]:
        """Where names, attributes, keywords and texts occur."""
        found: dict[str, list[tuple[Item, ast.AST]]] = {}
        for item in self.items:
            for node in own_nodes(item):
                for name in _mentioned(node):
                    found.setdefault(name, []).append((item, node))
        return found

    @cached_property
    def finds_modules_by_name(self) -> bool:
        return "import_module" in self.mentions


class Evidence:
    """What a recomputation shows about an edit.

    Args:
        old: The code before.
        new: The code now, which was run.
        modules: All that a step can run; what refers to a changed name is looked for here.
        ran: The lines that ran, by file.
    """

    def __init__(
        self, old: SourceTree, new: SourceTree, modules: Collection[str], ran: Mapping[Path, Collection[int]]
    ) -> None:
        self._old = old
        self._new = new
        self._sources = {name: _source(new, name, ran) for name in modules}
        self._found: dict[tuple[str, bool], list[Unseen]] = {}

    def unseen(self, roots_before: Collection[str], roots: Collection[str]) -> list[Unseen]:
        """Return what has changed in deciding code without having been seen, one for each line, in order.

        Args:
            roots_before: The modules that decided a kind of unit; what they import counts, too.
            roots: Those that decide it now.
        """
        before = {name for name in self._old.import_closure(roots_before) if not is_exempt(name)}
        found: list[Unseen] = []
        for name in self._new.import_closure(roots):
            if is_exempt(name):
                continue
            if name not in before:
                found += self._unseen_in(name, is_new=True)
            elif self._old.module_digest(name) != self._new.module_digest(name):
                found += self._unseen_in(name, is_new=False)
        by_line = {(each.file, each.line): each for each in sorted(found, reverse=True)}
        return sorted(by_line.values())

    def _unseen_in(self, name: str, *, is_new: bool) -> list[Unseen]:
        if (name, is_new) not in self._found:
            source = self._sources[name]
            changes = compare_modules(None if is_new else self._old.syntax_tree(name)[1], source.tree)
            self._found[name, is_new] = list(self._of_changes(source, changes))
        return self._found[name, is_new]

    def _of_changes(self, source: _Source, changes: Changes) -> Iterator[Unseen]:
        unused = {
            name for name in {each.definition for each in changes.must_run} if name and self._unused(source, name)
        }
        idle = {id(each.item) for each in changes.must_run if each.definition in unused}
        for line, why in changes.refused:
            yield Unseen(source.file, line, why)
        for changed in changes.must_run:
            if id(changed.item) not in idle:
                yield from self._of_statement(source, changed)
        for binding in changes.rebound:
            for where, item, node in self._references(source, binding):
                if id(item) not in idle:
                    yield from self._of_reference(where, item, node, binding.name)
        for name, item, node in changes.uses:
            yield from self._of_reference(source, item, node, name)
        for binding in changes.removed:
            for where, _, node in self._references(source, binding):
                yield Unseen(where.file, _line(node), f"{binding.name} is gone, and this refers to it")

    def _of_statement(self, source: _Source, changed: Changed) -> Iterator[Unseen]:
        line = first_line(changed.item)
        if source.shares_its_line(changed.item):
            yield Unseen(source.file, line, "changed, and shares its line with another statement")
        elif not source.has_run(changed.item):
            yield Unseen(source.file, line, "changed, and did not run" if changed.is_new else "did not run")
        elif changed.is_new:
            for line, what, digest in source.unseen_parts(changed.item):
                if digest not in changed.known:
                    yield Unseen(source.file, line, f"changed, and no line shows {what} on its own")

    def _of_reference(self, source: _Source, item: Item, node: ast.AST, name: str) -> Iterator[Unseen]:
        if not source.has_run(item):
            yield Unseen(source.file, first_line(item), f"refers to {name}, which changed, and did not run")
        for line, what, _ in source.unseen_parts(item, node):
            yield Unseen(source.file, line, f"refers to {name}, which changed, in {what}")

    def _unused(self, source: _Source, name: str) -> bool:
        """Tell whether nothing refers to a function or class of a module, but itself."""
        own = {id(each) for item in source.items if getattr(item, "name", None) == name for each in items_in(item)}
        binding = Binding(name, 0, in_class=False)
        return all(id(item) in own for _, item, _ in self._references(source, binding))

    def _references(self, source: _Source, binding: Binding) -> Iterator[tuple[_Source, Item, ast.AST]]:
        """Yield what refers to a name of a module or class, or may do so."""
        for other in self._sources.values():
            if binding.in_class:
                yield from (
                    (other, item, node)
                    for item, node in other.mentions.get(binding.name, ())
                    if not isinstance(node, ast.Name)
                )
            elif other is source:
                yield from (
                    (other, item, node)
                    for item, node in other.mentions.get(binding.name, ())
                    if isinstance(node, ast.Name)
                )
            else:
                yield from _imported_references(other, source.name, binding.name)


def _imported_references(other: _Source, module: str, name: str) -> Iterator[tuple[_Source, Item, ast.AST]]:
    """Yield what refers to a module's name in another module, which has it by an import."""
    names, has_module = set(), other.finds_modules_by_name
    for item in other.items:
        match item:
            case ast.ImportFrom(module=base, level=level) if level or base == module:
                for alias in (alias for alias in item.names if alias.name == name):
                    names.add(alias.asname or name)
                    yield other, item, alias
        match item:
            case ast.ImportFrom():
                has_module |= any(f"{item.module}.{alias.name}" == module or item.level > 0 for alias in item.names)
            case ast.Import():
                has_module |= any(alias.name == module for alias in item.names)
    for each in names:
        yield from ((other, item, node) for item, node in other.mentions.get(each, ()) if isinstance(node, ast.Name))
    if has_module:
        yield from (
            (other, item, node) for item, node in other.mentions.get(name, ()) if isinstance(node, ast.Attribute)
        )


def _mentioned(node: ast.AST) -> tuple[str, ...]:
    match node:
        case ast.Name(id=name, ctx=ast.Load() | ast.Del()) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
            return (name,)
        case ast.Constant(value=str(name)) if name.isidentifier():
            return (name,)
        case ast.MatchClass(kwd_attrs=names):
            return tuple(names)
    return ()


def _source(tree: SourceTree, name: str, ran: Mapping[Path, Collection[int]]) -> _Source:
    path, module = tree.syntax_tree(name)
    return _Source(name, path, module, ran.get(path.resolve(), ()))


def _column(item: Item) -> int:
    return item.pattern.col_offset if isinstance(item, ast.match_case) else item.col_offset


def _line(node: ast.AST) -> int:
    line: int = getattr(node, "lineno", 1)
    return line
