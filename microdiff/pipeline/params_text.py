"""Edit params.yaml as text, so that comments, order and layout stay: add, complete and remove entries of datasets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from microdiff.errors import ParamsError

_SECTION = "datasets"


@dataclass(frozen=True)
class Block:
    """An entry of `datasets` in the text.

    Attributes:
        name: The dataset's.
        start: Its first line, from 0.
        end: The line after its last one.
        indent: Blanks before the name.
        entry: What it says.
    """

    name: str
    start: int
    end: int
    indent: int
    entry: Any


def blocks(text: str) -> list[Block]:
    """Return the entries of `datasets`, in order.

    Raises:
        ParamsError: It is not YAML, or has no section `datasets` with a line for each name.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ParamsError(f"params.yaml: not YAML{f' in line {mark.line + 1}' if mark else ''}. Correct it.") from None
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    section = next((value for key, value in pairs if key.value == _SECTION), None)
    if not isinstance(section, yaml.MappingNode) or section.flow_style:
        raise ParamsError("params.yaml: expected a section datasets, with a name at the beginning of a line for each")
    lines = text.splitlines()
    found = []
    for key, value in section.value:
        is_block = isinstance(value, yaml.CollectionNode) and not value.flow_style  # ends where the next begins
        end = value.end_mark.line + (0 if is_block else 1)
        end = max(end, key.start_mark.line + 1)
        while end > key.start_mark.line + 1 and _is_apart(lines[end - 1], key.start_mark.column):
            end -= 1
        entry = document[_SECTION].get(yaml.safe_load(key.value))
        found.append(Block(key.value, key.start_mark.line, end, key.start_mark.column, entry))
    return found


def with_entry(text: str, name: str, entry: Mapping[str, Any]) -> str:
    """Return the text with one more entry, behind the others.

    Raises:
        ParamsError: As for `blocks`.
    """
    found = blocks(text)
    return with_lines(text, entry_lines(name, entry, found[0].indent if found else 2))


def entry_lines(name: str, entry: Mapping[str, Any], indent: int = 2) -> list[str]:
    """Return the lines of an entry."""
    body = yaml.safe_dump({name: dict(entry)}, sort_keys=False, allow_unicode=True, width=1000)
    return [f"{' ' * indent}{line}" for line in body.splitlines()]


def with_lines(text: str, new: list[str]) -> str:
    """Return the text with further lines at the end of `datasets`."""
    found = blocks(text)
    lines = text.splitlines()
    at = found[-1].end if found else len(lines)
    return "\n".join([*lines[:at], *new, *lines[at:]]) + "\n"


def without_entry(text: str, name: str) -> str:
    """Return the text without an entry; comments around it stay.

    Raises:
        ParamsError: There is no such entry, or as for `blocks`.
    """
    block = next((each for each in blocks(text) if each.name == name), None)
    if block is None:
        raise ParamsError(f"params.yaml: has no entry {name}")
    lines = text.splitlines()
    return "\n".join([*lines[: block.start], *lines[block.end :]]) + "\n"


def completed(text: str, name: str, missing: Mapping[str, Any]) -> str:
    """Return the text with further settings in an entry, those that it does not have.

    Raises:
        ParamsError: The entry is not laid out in lines.
    """
    block = next(each for each in blocks(text) if each.name == name)
    new = {key: value for key, value in missing.items() if key not in (block.entry or {})}
    if not new:
        return text
    lines = text.splitlines()
    body = [line for line in lines[block.start + 1 : block.end] if line.strip() and not line.lstrip().startswith("#")]
    if not body:
        raise ParamsError(f"params.yaml: datasets.{name}: add {', '.join(f'{k}: {v}' for k, v in new.items())}")
    indent = len(body[0]) - len(body[0].lstrip())
    more = yaml.safe_dump(new, sort_keys=False).splitlines()
    at = block.end
    return "\n".join([*lines[:at], *(f"{' ' * indent}{line}" for line in more), *lines[at:]]) + "\n"


def _is_apart(line: str, indent: int) -> bool:
    """Tell whether a line behind an entry is not part of it: blank, or a comment that is not further in."""
    stripped = line.lstrip()
    return not stripped or (stripped.startswith("#") and len(line) - len(stripped) <= indent)
