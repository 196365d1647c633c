"""Roots: settings that say where something is, and not what it is.

A root decides no byte: what is found there is identified by its checksum or version. It may hold what nobody else is to
see, a password, a signature, or the folders of a machine. So fingerprints leave roots out, artifacts and messages show
their public form, and secrets are named in params.yaml (`$NAME`), not written there: DVC copies it into dvc.lock.
"""

import os
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit, urlunsplit

_ROOT = "root"
Root = Annotated[str, _ROOT]  # the type of a field that holds one

_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_THIS_MACHINE = ("file", "local")
_WEB = ("http", "https")
_CHAIN = "::"  # fsspec's: zip://a.csv::https://host/b.zip
_URL = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"]*")
_PREFIXED = re.compile(r"((?:[\w-]+:(?!//))*)(.*)", re.DOTALL)  # openclip:https://host/model


def is_root(hint: object) -> bool:
    """Tell whether a field's type, with its annotations, says that it holds a root."""
    return typing.get_origin(hint) is Annotated and _ROOT in typing.get_args(hint)[1:]


def public_root(root: str) -> str:
    """Return a root as artifacts and messages show it: no user, password or query, no path outside the project.

    Of a local path outside the folder that it is relative to, the last part is left.
    """
    if "://" not in root:
        return _public_path(root)
    parts = _split(root)
    if parts is not None and parts.scheme in _THIS_MACHINE and _CHAIN not in root:
        return Path(parts.path).name
    return without_secrets(root)


def without_secrets(url: str) -> str:
    """Return a URL without user, password, query and fragment."""
    public, has_query = [], False
    for part in url.split(_CHAIN):
        if "://" in part:
            public.append(_without_secrets(part))
            has_query = "?" in part
        elif not has_query:  # or else it may be a piece of a signature
            public.append(part)
    return _CHAIN.join(public)


def without_secrets_in(text: str) -> str:
    """Return a message without the secrets of the URLs in it."""
    return _URL.sub(lambda match: without_secrets(match[0]), text)


def expand(root: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return a root with the values of the environment variables that it names as `$NAME`.

    Raises:
        ValueError: One is not set.
    """
    missing = [name for name in _VARIABLE.findall(root) if not environment.get(name)]
    if missing:
        raise ValueError(f"names the environment variable {missing[0]}, which is not set")
    return _VARIABLE.sub(lambda match: environment[match[1]], root)


def root_problem(root: str) -> str | None:
    """Return what is wrong with a root's form, None if nothing is."""
    if any(_split(part) is None for part in root.split(_CHAIN) if "://" in part):
        return "not a URL. In a user or password, write special characters as %2F and the like"
    return None


def secret_in(root: str) -> str | None:
    """Return what of a root, as it is in params.yaml, is a secret, None if nothing is."""
    for part in root.split(_CHAIN):
        parts = _split(part) if "://" in part else None
        if parts is None:
            continue
        user, is_given, _ = parts.netloc.rpartition("@")
        if is_given and (":" in user or parts.scheme in _WEB) and _VARIABLE.sub("", user.rpartition(":")[2]):
            return "a user and password"
        if _VARIABLE.sub("", parts.query):
            return "a query, which may be a signature"
    return None


def _split(url: str) -> SplitResult | None:
    """Return the parts of a URL, None if it is none: what is taken for its host may then be half a password."""
    parts = None
    try:
        parts = urlsplit(_after_prefix(url))
        _ = parts.port
    except ValueError:
        # A variable where the port is will be one.
        return parts if parts is not None and _VARIABLE.search(parts.netloc.rpartition("@")[2]) else None
    return parts


def _after_prefix(url: str) -> str:
    match = _PREFIXED.fullmatch(url)
    return match[2] if match else url


def _without_secrets(url: str) -> str:
    parts = _split(url)
    if parts is None:
        return f"{url.partition('://')[0]}://"
    prefix = url.removesuffix(_after_prefix(url))
    return prefix + urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _public_path(root: str) -> str:
    path = Path(root)
    is_inside = not path.is_absolute() and not os.path.normpath(path).startswith("..") and not root.startswith("~")
    return path.as_posix() if is_inside else path.name
