"""The statements of a module: what a compound one's header is, which blocks it has, and what one line can hide.

An `except` clause and a `case` count as statements with a block, so that all that can run alone is an `Item`.
"""

import ast
import copy
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from microdiff.core.code_fingerprint import docstring_of, tree_digest

Item = ast.stmt | ast.ExceptHandler | ast.match_case
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")


def blocks(node: ast.AST) -> dict[str, list[Item]]:
    """Return the blocks of a module, a statement or a clause by name; docstrings left out, imports one name each."""
    if not isinstance(node, ast.Module | ast.stmt | ast.ExceptHandler | ast.match_case):
        return {}
    docstring = docstring_of(node)
    found = {name: getattr(node, name) for name in _BLOCKS if isinstance(getattr(node, name, None), list)}
    return {
        name: [single for item in items if item is not docstring for single in _single_imports(item)]
        for name, items in found.items()
    }


def _single_imports(item: Item) -> Iterator[Item]:
    if not isinstance(item, ast.Import | ast.ImportFrom):
        yield item
        return
    for alias in item.names:
        single = copy.copy(item)
        single.names = [alias]
        yield single


def header_digest(item: ast.AST) -> str:
    """Return the digest of a statement or clause without its blocks."""
    header = copy.copy(item)
    for name in blocks(item):
        setattr(header, name, [])
    return tree_digest(header)


def items_in(node: ast.AST) -> Iterator[Item]:
    """Yield all statements and clauses below a node, nested ones too, in order."""
    for block in blocks(node).values():
        for item in block:
            yield item
            yield from items_in(item)


def own_nodes(item: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a statement or clause that are in none of its blocks, itself left out."""
    for name, value in ast.iter_fields(item):
        if name in _BLOCKS and isinstance(value, list):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from ast.walk(child)


def first_line(item: ast.AST) -> int:
    """Return the line on which a statement or clause begins, decorators left out."""
    if isinstance(item, ast.match_case):
        return item.pattern.lineno
    line: int = getattr(item, "lineno", 1)
    return line


def header_lines(item: ast.AST) -> range:
    """Return the lines of a statement without its blocks; of a decorated one those of the decorators, too."""
    nodes = [node for node in own_nodes(item) if isinstance(node, ast.expr | ast.arg | ast.alias | ast.pattern)]
    starts = [first_line(item), *(decorator.lineno for decorator in getattr(item, "decorator_list", ()))]
    ends = [first_line(item), *(node.end_lineno or node.lineno for node in nodes)]
    if not blocks(item) and isinstance(item, ast.stmt):
        ends.append(item.end_lineno or item.lineno)
    return range(min(starts), max(ends) + 1)


def makes_no_code(item: ast.AST) -> bool:
    """Tell whether Python compiles a statement to nothing, so that it never runs."""
    match item:
        case ast.Global() | ast.Nonlocal() | ast.Expr(value=ast.Constant()):
            return True
        case ast.AnnAssign(value=None):
            return True
    return False


@dataclass(frozen=True)
class LazyPart:
    """A part of an expression that may not be evaluated although its statement runs.

    Attributes:
        what: What it is, for messages.
        node: The part.
        has_lines: Whether a line on which nothing else is shows that it was evaluated. Not so in a comprehension, whose
            end Python counts among the lines of what it yields.
    """

    what: str
    node: ast.expr
    has_lines: bool = True


def lazy_parts(item: ast.AST) -> Iterator[LazyPart]:
    """Yield the lazy parts of a statement's or clause's own expressions, nested ones too."""
    for node in own_nodes(item):
        match node:
            case ast.Lambda():
                yield LazyPart("the body of a lambda", node.body)
            case ast.IfExp():
                yield from (LazyPart("an arm of a conditional expression", arm) for arm in (node.body, node.orelse))
            case ast.BoolOp():
                yield from (LazyPart("what and/or may skip", value) for value in node.values[1:])
            case ast.Compare():
                yield from (LazyPart("what a chained comparison may skip", each) for each in node.comparators[1:])
            case ast.DictComp():
                yield from (LazyPart("what a comprehension yields", each, False) for each in (node.key, node.value))
                yield from _of_generators(node.generators)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                yield LazyPart("what a comprehension yields", node.elt, has_lines=False)
                yield from _of_generators(node.generators)
            case ast.Assert(msg=ast.expr() as message):
                yield LazyPart("the message of an assertion", message)
    if isinstance(item, ast.Assert) and item.msg is not None:
        yield LazyPart("the message of an assertion", item.msg)


def _of_generators(generators: list[ast.comprehension]) -> Iterator[LazyPart]:
    for number, generator in enumerate(generators):
        if number:
            yield LazyPart("an inner loop of a comprehension", generator.iter, has_lines=False)
        yield from (LazyPart("a condition of a comprehension", each, has_lines=False) for each in generator.ifs)


def was_evaluated(item: ast.AST, lazy: LazyPart, ran: Collection[int]) -> bool:
    """Tell whether a part of a statement was evaluated for certain, given the lines of the file that ran.

    It was if a line ran on which nothing else of the statement is; so whoever lays a statement out in lines can show
    what one line hides. Digests do not depend on layout.
    """
    parents = {child: node for node in (item, *own_nodes(item)) for child in ast.iter_child_nodes(node)}
    above: list[ast.AST] = []
    node: ast.AST = lazy.node
    while (parent := parents.get(node)) is not None:
        above.append(parent)
        node = parent
    in_text = any(isinstance(each, ast.JoinedStr) for each in above)  # Python 3.11 does not know lines inside f-strings
    if in_text or not lazy.has_lines:
        return False
    inside = set(ast.walk(lazy.node))
    shared = {first_line(item)}
    for other in own_nodes(item):
        if other in inside or not hasattr(other, "lineno"):
            continue
        start, end = other.lineno, getattr(other, "end_lineno", None) or other.lineno
        if other not in above:
            shared.update(range(start, end + 1))
        else:
            shared.add(start)
            if isinstance(other, ast.Attribute):
                shared.add(end)
    own = set(range(lazy.node.lineno, (lazy.node.end_lineno or lazy.node.lineno) + 1)) - shared
    return not own.isdisjoint(ran)


def names_bound(node: ast.AST, *, nested: bool) -> set[str]:
    """Return the names that statements below a node bind; a function binds its parameters.

    Args:
        node: A module, class or function.
        nested: Whether to go into functions and classes.
    """
    is_function = isinstance(node, FUNCTIONS)
    found = {each.arg for each in own_nodes(node) if isinstance(each, ast.arg)} if is_function else set()
    pending: list[ast.AST] = [node]
    while pending:
        for item in (item for block in blocks(pending.pop()).values() for item in block):
            found |= names_bound_by(item)
            if nested or not isinstance(item, (*FUNCTIONS, ast.ClassDef)):
                pending.append(item)
    return found


def names_bound_by(item: ast.AST) -> set[str]:
    """Return the names that one statement binds by itself, without its blocks."""
    found: set[str] = set()
    match item:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {item.name}
        case ast.Import():
            return {alias.asname or alias.name.partition(".")[0] for alias in item.names}
        case ast.ImportFrom():
            return {alias.asname or alias.name for alias in item.names}
        case ast.ExceptHandler(name=str(name)):
            found.add(name)
    nodes = list(own_nodes(item))
    loops = [each.target for each in nodes if isinstance(each, ast.comprehension)]
    inner = {id(name) for target in loops for name in ast.walk(target)}  # names of a comprehension are its own
    for node in nodes:
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()) if id(node) not in inner:
                found.add(name)
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                found.add(name)
    return found


def digests_of_lazy_parts(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the digests of all lazy parts of nodes and of the statements below them."""
    return {tree_digest(part.node) for node in nodes for item in (node, *items_in(node)) for part in lazy_parts(item)}
