"""Make settings dataclasses of what YAML gives, adding what is wrong to a list, by name."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast

from microdiff.config.roots import is_root, public_root
from microdiff.config.settings import LATER
from microdiff.pipeline.root_settings import read_root

T = TypeVar("T")


def parse(cls: type[T], value: object, where: str, problems: list[str], also: tuple[str, ...] = ()) -> T | None:
    """Make a settings dataclass from a mapping, adding what is wrong to `problems`.

    Args:
        cls: A dataclass whose fields are of types `_convert` knows.
        value: The section as read from YAML.
        where: The section's dotted name.
        problems: Receives one line per mistake.
        also: Names that belong to the section but not to `cls`.

    Returns:
        The settings, or None after a mistake.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    known = [field.name for field in fields(cast("Any", cls))]
    required = [field.name for field in fields(cast("Any", cls)) if _required(field)]
    values = as_mapping(value, where, required, problems, known=[*known, *also])
    before = len(problems)
    arguments = {
        name: convert(hints[name], values[name], f"{where}.{name}", problems) for name in known if name in values
    }
    if len(problems) > before or any(name not in arguments for name in required):
        return None
    made = cls(**arguments)
    if hasattr(made, "problems"):
        problems += [f"{where}.{name}: {message}" for name, message in made.problems()]
    return made


def as_values(settings: object) -> dict[str, Any]:
    """Return a settings dataclass as JSON values, for fingerprints and manifests; roots have their public form."""
    values: dict[str, Any] = dataclasses.asdict(cast("Any", settings))
    return {name: _public(value) if name in _roots(settings) else value for name, value in values.items()}


def _public(value: Any) -> Any:
    return public_root(value) if isinstance(value, str) else [public_root(root) for root in value]


def deciding_values(settings: object) -> dict[str, Any]:
    """Return those values of a settings dataclass that decide bytes, for fingerprints.

    These are all but its roots, and but those at their default that were added `LATER`.
    """
    silent = {*_roots(settings)}
    silent |= {
        field.name
        for field in fields(cast("Any", settings))
        if field.metadata == LATER and getattr(settings, field.name) == field.default
    }
    return {name: value for name, value in as_values(settings).items() if name not in silent}


def _roots(settings: object) -> list[str]:
    hints = typing.get_type_hints(type(settings), include_extras=True).items()
    return [name for name, hint in hints if is_root(hint) or any(map(is_root, typing.get_args(hint)))]


def _required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def as_mapping(
    value: object, where: str, required: list[str] | None, problems: list[str], known: list[str] | None = None
) -> Mapping[str, Any]:
    """Return `value` as a mapping, noting missing and unknown names; an empty mapping if it is something else."""
    if not isinstance(value, Mapping):
        problems.append(f"{where or 'params'}: expected a mapping, got {value!r}")
        return {}
    dot = f"{where}." if where else ""
    if required is not None:
        known = known or required
        problems += [f"{dot}{name}: unknown{instead_of(str(name), known)}" for name in value if name not in known]
        problems += [f"{dot}{name}: missing" for name in required if name not in value]
    return value


def instead_of(name: str, known: typing.Iterable[str]) -> str:
    """Return what a misspelt name may have meant, or what is known, as the end of a message."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; expected one of {', '.join(known)}"


def convert(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    """Check one value against its declared type, allowing an int where a float is asked for."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if is_root(kind):
        return read_root(convert(arguments[0], value, where, problems), where, problems)
    if is_dataclass(kind):
        return parse(cast("type[Any]", kind), value, where, problems)
    if origin is typing.Literal:
        if value not in arguments:
            problems.append(f"{where}: expected one of {', '.join(map(str, arguments))}, got {value!r}")
    elif origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        kinds = [item for item in arguments if item is not type(None)]
        lists = [item for item in kinds if isinstance(value, list) and typing.get_origin(item) is tuple]
        return convert((lists or kinds)[0], value, where, problems)
    elif origin is tuple:
        if isinstance(value, list):
            return tuple(convert(arguments[0], item, f"{where}[{i}]", problems) for i, item in enumerate(value))
        problems.append(f"{where}: expected a list, got {value!r}")
    elif origin is not None and issubclass(origin, Mapping):
        entries = as_mapping(value, where, None, problems)
        return {str(key): convert(arguments[1], item, f"{where}.{key}", problems) for key, item in entries.items()}
    elif kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif type(value) is not kind:
        problems.append(f"{where}: expected {_TYPE_NAMES[kind]}, got {value!r}")
    return value


_TYPE_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
