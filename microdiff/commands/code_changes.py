"""What an edit changed in a module, statement by statement, and what must have run for it to be seen.

Two versions of a module are compared block by block. A statement that the old block does not have, in that order, has
changed; one that the new block does not have was deleted, which changes the block. That a statement ran shows
little if what it computes is used in a branch that did not: what refers to a changed name must have run, too.
"""

import ast
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from microdiff.commands.pairing import definitions, is_import, kind, kind_and_header, match, without
from microdiff.commands.statements import (
    FUNCTIONS,
    Item,
    blocks,
    digests_of_lazy_parts,
    first_line,
    header_digest,
    items_in,
    makes_no_code,
    names_bound,
    names_bound_by,
    own_nodes,
)
from microdiff.core.code_fingerprint import tree_digest

_ON_IMPORT = (ast.Module, ast.ClassDef)
_CLAUSES = ("handlers", "cases")


@dataclass(frozen=True)
class Changed:
    """A statement, or a clause, that must have run.

    Attributes:
        item: It.
        is_new: Whether its text has changed, so that every part of it must have been evaluated.
        known: Digests of the lazy parts that were in its scope before.
        definition: The new function or class that it is part of: if nothing refers to that, it need not have run.
    """

    item: Item
    is_new: bool = True
    known: frozenset[str] = frozenset()
    definition: str | None = None


@dataclass(frozen=True)
class Binding:
    """A name of a module or class.

    Attributes:
        name: The name.
        line: Where it is, or was, bound; where its class is, if it is gone.
        in_class: Whether it is an attribute of a class.
    """

    name: str
    line: int
    in_class: bool


@dataclass
class Changes:
    """What an edit changed in one module.

    Attributes:
        must_run: Statements that must have run.
        rebound: Names bound anew: whatever refers to them must have run.
        removed: Names that are gone: nothing may refer to them.
        uses: Where names of a function are used that have another value or meaning now: that must have run.
        refused: Changes that no recomputation can show, by line, in words.
    """

    must_run: list[Changed] = field(default_factory=list)
    rebound: list[Binding] = field(default_factory=list)
    removed: list[Binding] = field(default_factory=list)
    uses: list[tuple[str, Item, ast.Name]] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)


def compare_modules(old: ast.Module | None, new: ast.Module) -> Changes:
    """Return what an edit changed.

    Args:
        old: The module before; None if it is new, which changes all of it.
        new: The module now.
    """
    changes = Changes()
    before = old or ast.Module([], [])
    _Scope(changes, before, new).compare(before, new)
    return changes


class _Scope:
    """A module, class or function in both versions, whose blocks are compared.

    Args:
        changes: Receives what is found.
        old: The scope before.
        new: The scope now.
    """

    def __init__(self, changes: Changes, old: ast.AST, new: ast.AST) -> None:
        self._changes = changes
        self._scope = new
        self._on_import = isinstance(new, _ON_IMPORT)
        self._in_class = isinstance(new, ast.ClassDef)
        self._known = frozenset(digests_of_lazy_parts([old]))
        bound, bound_before = (names_bound(each, nested=not self._on_import) for each in (new, old))
        if self._on_import:
            self._names_gone(bound_before - bound, old)
            self._names_new = bound - bound_before
        self._names_changed = bound ^ bound_before

    def compare(self, old: ast.AST, new: ast.AST) -> None:
        """Compare the blocks of a statement, or of the scope itself."""
        before = blocks(old)
        for name, block in blocks(new).items():
            self._compare_block(before.get(name, []), block, name, new)

    def finish(self) -> None:
        """Note where a function uses names that were bound anew, have become its own, or are not any more.

        A `raise` is left out: it ends what computes bytes, and changed names in its message would stop most edits.
        """
        for item in [] if self._on_import else items_in(self._scope):
            for node in [] if isinstance(item, ast.Raise) else own_nodes(item):
                if isinstance(node, ast.Name) and node.id in self._names_changed and isinstance(node.ctx, ast.Load):
                    self._changes.uses.append((node.id, item, node))

    def _compare_block(self, old: Sequence[Item], new: Sequence[Item], name: str, owner: ast.AST) -> None:
        if self._on_import:
            old, new = self._without_definitions(old, new)
        left_over = list(match(old, new, (tree_digest, kind_and_header, kind)))
        for pair, before, after in left_over:
            if pair is not None:
                self._compare_items(*pair)
            for item in after:
                self._changed(item)
            for item in before:
                self._gone(item)
            if before and not after:
                self._deleted(name, owner)

    def _without_definitions(self, old: Sequence[Item], new: Sequence[Item]) -> tuple[list[Item], list[Item]]:
        """Compare functions, classes and equal imports wherever they are; return what is left, whose order counts."""
        names = [definitions(each) for each in (old, new)]
        both = names[0].keys() & names[1].keys()
        for name in both:
            self._compare_items(names[0][name], names[1][name])
        imports = [Counter(tree_digest(item) for item in each if is_import(item)) for each in (old, new)]
        same = imports[0] & imports[1]
        return tuple(  # type: ignore[return-value]
            list(without(each, {id(names[side][name]) for name in both}, Counter(same)))
            for side, each in enumerate((old, new))
        )

    def _compare_items(self, old: Item, new: Item) -> None:
        if tree_digest(old) == tree_digest(new):
            return
        if header_digest(old) != header_digest(new):
            self._header(old, new)
        if isinstance(new, (*FUNCTIONS, ast.ClassDef)):
            inner = _Scope(self._changes, old, new)
            inner.compare(old, new)
            inner.finish()
        else:
            self.compare(old, new)

    def _header(self, old: Item, new: Item) -> None:
        self._must_run(new)
        if isinstance(new, FUNCTIONS) and isinstance(old, FUNCTIONS):
            self._changes.must_run += [Changed(item, is_new=False) for item in _first(new)]
            before, after = _defaults(old.args), _defaults(new.args)
            for name in before.keys() & _parameters(new.args):
                if after.get(name) != before[name]:
                    self._refuse(new, f"the default of {name} has changed: no line tells whether a call used it")
        else:
            self._rebound(new)
            if not isinstance(new, ast.ClassDef):  # a condition that chooses otherwise where no sample goes
                first = [block[0] for name, block in blocks(new).items() if block and name not in _CLAUSES]
                self._changes.must_run += [Changed(item, is_new=False) for item in first]

    def _changed(self, item: Item, definition: str | None = None) -> None:
        """Note a statement that is new, with all that is in its blocks."""
        self._must_run(item, definition)
        self._rebound(item)
        if isinstance(item, (*FUNCTIONS, ast.ClassDef)):
            if isinstance(self._scope, ast.Module) and not item.decorator_list:
                definition = item.name
            inner = _Scope(self._changes, ast.Module([], []), item)
            for nested in (each for block in blocks(item).values() for each in block):
                inner._changed(nested, definition)
            return
        for nested in (each for block in blocks(item).values() for each in block):
            self._changed(nested, definition)

    def _gone(self, item: Item) -> None:
        """Note what a statement bound that is gone, with all that was in its blocks."""
        self._rebound(item)
        if not isinstance(item, (*FUNCTIONS, ast.ClassDef)):
            for nested in (each for block in blocks(item).values() for each in block):
                self._gone(nested)

    def _deleted(self, name: str, owner: ast.AST) -> None:
        """Note that statements are gone from a block: what is left of it must have run."""
        if name in _CLAUSES:
            self._refuse(owner, "a clause is gone: no line tells whether it was needed")
            return
        left = blocks(owner)[name]
        if left or isinstance(owner, _ON_IMPORT):
            self._changes.must_run += [Changed(item, is_new=False) for item in left]
        elif isinstance(owner, FUNCTIONS):
            self._changes.removed += [Binding(owner.name, owner.lineno, in_class) for in_class in (False, True)]
        else:
            self._refuse(owner, "a branch is gone: no line tells whether it was needed")

    def _must_run(self, item: Item, definition: str | None = None) -> None:
        if not makes_no_code(item):
            self._changes.must_run.append(Changed(item, known=self._known, definition=definition))

    def _rebound(self, item: Item) -> None:
        """Note what a statement binds or, if it is gone, has bound.

        Of a function, whose own lines show whether it ran, only a name that is new.
        """
        if isinstance(item, ast.Global | ast.Nonlocal):
            self._refuse(self._scope, f"whose {', '.join(item.names)} this means has changed, which no line tells")
        attributes = {node.attr for node in own_nodes(item) if isinstance(node, ast.Attribute) and _is_stored(node)}
        self._changes.rebound += [Binding(name, first_line(item), in_class=True) for name in sorted(attributes)]
        names = names_bound_by(item)
        if not self._on_import:
            self._names_changed |= names
            return
        if isinstance(item, FUNCTIONS):
            names &= self._names_new
        self._changes.rebound += [Binding(name, first_line(item), self._in_class) for name in sorted(names)]

    def _names_gone(self, names: set[str], old: ast.AST) -> None:
        """Note names that the module or class does not bind any more."""
        line = first_line(self._scope)
        for name in sorted(names):
            self._changes.removed.append(Binding(name, line, self._in_class))
        if isinstance(old, ast.ClassDef):
            for method in sorted(names & definitions(blocks(old)["body"]).keys()):
                if old.bases or method.startswith("__"):
                    self._refuse(self._scope, f"the method {method} is gone, which others may call by another way")

    def _refuse(self, item: ast.AST, why: str) -> None:
        self._changes.refused.append((first_line(item), why))


def _first(function: ast.AST) -> list[Item]:
    """Return the first statement of a function that makes code: it shows that the function was called."""
    return [item for item in blocks(function)["body"] if not makes_no_code(item)][:1]


def _parameters(arguments: ast.arguments) -> set[str]:
    return {each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}


def _defaults(arguments: ast.arguments) -> dict[str, str]:
    """Return the digests of parameters' defaults by name."""
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = list(zip(reversed(positional), reversed(arguments.defaults), strict=False))
    keyword = [(each, default) for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return {each.arg: tree_digest(default) for each, default in [*pairs, *keyword] if default is not None}


def _is_stored(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store | ast.Del)
