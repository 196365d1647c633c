"""Names that a dataset of one's own may have: they are make targets, folders, and keys of params.yaml at once."""

import keyword
import re

from microdiff.handlers import handler_class

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_CHARS = 64
# The targets of the Makefile, which tests/test_graph.py compares.
_TARGETS = """
    add all bench check checked clean-work code coverage demo format gc help preset pull push quick remote remove report
    restore setup slim test verify
"""
MAKE_TARGETS = frozenset(_TARGETS.split())
_DVC = frozenset(("item", "key", "run"))  # what templates in dvc.yaml call other things
_YAML = frozenset("y n yes no on off true false null".split())  # noqa: SIM905 - no texts in YAML


def name_problem(name: str) -> str:
    """Return why a name cannot be a dataset's; nothing if it can."""
    if not _NAME.fullmatch(name) or len(name) > _MAX_CHARS:
        return (
            f"expected a name of letters, digits and _, at most {_MAX_CHARS}, that begins with no digit, got {name!r}"
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        return f"{name} is a keyword of Python; choose another name"
    if name.lower() in MAKE_TARGETS:
        return f"make {name.lower()} is something else; choose another name"
    if name.lower() in _DVC or name.lower() in _YAML:
        return f"{name} means something else in dvc.yaml or params.yaml; choose another name"
    if handler_class(name) is not None:
        return f"{name} is a dataset that has a handler of its own (microdiff/handlers/{name}.py); choose another name"
    return ""
