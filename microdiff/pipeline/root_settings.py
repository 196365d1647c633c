"""Roots as params.yaml has them: variables are looked up, and secrets are refused where they would be recorded."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from microdiff.config.roots import expand, root_problem, secret_in

_RUN_BY_DVC = "DVC_STAGE"  # what DVC sets for the commands that it runs


def read_root(value: Any, where: str, problems: list[str]) -> Any:
    """Return a root with the values of the variables that it names, adding what is wrong to `problems`."""
    if not isinstance(value, str):
        return value
    try:
        root = expand(value)
    except ValueError as error:
        problems.append(f"{where}: {error}")
        return value
    if problem := root_problem(root):
        problems.append(f"{where}: {problem}")
    return root


def is_recorded() -> bool:
    """Tell whether DVC runs this process, and will copy the settings that it used into dvc.lock."""
    return bool(os.environ.get(_RUN_BY_DVC))


def secrets_in(value: object, where: str = "") -> Iterator[str]:
    """Yield which of a document's settings hold a secret, and the remedy."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from secrets_in(item, f"{where}.{name}" if where else str(name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from secrets_in(item, f"{where}[{number}]")
    elif isinstance(value, str) and (secret := secret_in(value)):
        yield (
            f"{where}: holds {secret}; DVC copies it into dvc.lock, which is in git. "
            "Put it into an environment variable and write its name: $NAME"
        )
