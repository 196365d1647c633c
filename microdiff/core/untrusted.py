"""What a stranger's file may say: JSON, numbers, and names of files, checked before anything is opened or written.

An index, a manifest or a list of files comes from whoever made the data. Each of these raises a ValueError in words,
which the reader of the file puts behind the file's name.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

MAX_PATH_BYTES, MAX_PART_BYTES = 1024, 230  # what file systems take, less what temporary names add
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")
_MAX_DEPTH = 100
_SHOWN = 80


def load_json(data: bytes | str) -> Any:
    """Return a JSON value.

    Raises:
        ValueError: It is no JSON, no UTF-8, or nested too deeply.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    containers = [value] if isinstance(value, dict | list) else []
    for _ in range(_MAX_DEPTH):
        children = (child for each in containers for child in (each.values() if isinstance(each, dict) else each))
        containers = [child for child in children if isinstance(child, dict | list)]
        if not containers:
            return value
    raise ValueError("JSON that is nested too deeply")


def is_number(value: object, least: int, most: int) -> bool:
    """Tell whether a JSON value is a whole number within limits; true and false are none."""
    return type(value) is int and least <= value <= most


def are_texts(value: object) -> bool:
    """Tell whether a JSON value is an object whose values are texts."""
    return isinstance(value, Mapping) and all(isinstance(text, str) for text in value.values())


def check_name(value: object) -> str:
    """Return the name of a file relative to a folder, if it cannot lead out of it.

    Raises:
        ValueError: It is no text; is absolute; has an empty part, `.` or `..`, a backslash or a control character; or
            is longer than file systems take.
    """
    try:
        name = os.fsencode(value.encode().decode()) if isinstance(value, str) else b""
    except UnicodeEncodeError:  # half of a surrogate pair
        name = b""
    parts = name.split(b"/")
    if (
        not isinstance(value, str)
        or {b"", b".", b".."} & set(parts)
        or _FORBIDDEN.search(value)
        or len(name) > MAX_PATH_BYTES
        or max(map(len, parts)) > MAX_PART_BYTES
    ):
        raise ValueError(f"the name {_shown(value)} of a file, which is not one inside its folder")
    return value


def check_part(value: object) -> str:
    """Return the name of a file or folder, if it is a single part of a path.

    Raises:
        ValueError: It is not; see `check_name`.
    """
    name = check_name(value)
    if "/" in name:
        raise ValueError(f"the name {_shown(name)}, expected one without a slash")
    return name


def check_names_fit(names: Iterable[str]) -> None:
    """Check that files can lie in one folder.

    Args:
        names: Each a name that `check_name` has let pass.

    Raises:
        ValueError: A name is there twice, or one is a folder of another.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"the name {_shown(name)} twice")
        seen.add(name)
    for folder in {name[:at] for name in seen for at, mark in enumerate(name) if mark == "/"} & seen:
        raise ValueError(f"the name {_shown(folder)} both of a file and of a folder")


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
