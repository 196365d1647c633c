"""Pair the statements of a block with those of the same block in another version."""

import ast
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher

from microdiff.commands.statements import FUNCTIONS, Item, blocks, header_digest
from microdiff.core.code_fingerprint import tree_digest

Pairing = tuple[tuple[Item, Item] | None, Sequence[Item], Sequence[Item]]


def match(old: Sequence[Item], new: Sequence[Item], keys: Sequence[Callable[[Item], object]]) -> Iterator[Pairing]:
    """Pair items in order, by the first key as far as that goes, the rest by the next one.

    Yields:
        A pair; or None, with what is left without a partner between two pairs, before and now.
    """
    if not keys:
        if old or new:
            yield None, old, new
        return
    matcher = SequenceMatcher(None, [keys[0](each) for each in old], [keys[0](each) for each in new], autojunk=False)
    for tag, i, end_i, j, end_j in matcher.get_opcodes():
        if tag == "equal":
            for pair in zip(old[i:end_i], new[j:end_j], strict=True):
                yield pair, (), ()
        else:
            yield from match(old[i:end_i], new[j:end_j], keys[1:])


def kind(item: Item) -> object:
    """Return what makes two statements with blocks versions of one; a statement without blocks is like no other."""
    if not blocks(item):
        return id(item)
    return type(item), getattr(item, "name", None) if isinstance(item, (*FUNCTIONS, ast.ClassDef)) else None


def kind_and_header(item: Item) -> object:
    """Return the same with the digest of what is no block."""
    return kind(item), header_digest(item)


def definitions(items: Sequence[Item]) -> dict[str, Item]:
    """Return the functions and classes of a block that are the only ones of their name."""
    found = [item for item in items if isinstance(item, (*FUNCTIONS, ast.ClassDef))]
    times = Counter(item.name for item in found)
    return {item.name: item for item in found if times[item.name] == 1}


def is_import(item: Item) -> bool:
    """Tell whether a statement is an import."""
    return isinstance(item, ast.Import | ast.ImportFrom)


def without(items: Sequence[Item], compared: set[int], same: Counter[str]) -> Iterator[Item]:
    """Yield items without those that were compared, by id, and without as many imports as there are of the same."""
    for item in items:
        if id(item) in compared:
            continue
        if is_import(item) and same[digest := tree_digest(item)] > 0:
            same[digest] -= 1
            continue
        yield item
