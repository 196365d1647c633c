"""DVC's configuration, read without DVC as DVC does: the system's, the user's, the project's, and what is local to it.

Later files override earlier ones, setting by setting. Relative paths are relative to the file that names them.
https://dvc.org/doc/user-guide/project-structure/configuration
"""

import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from microdiff.errors import SourceError

CONFIG, LOCAL_CONFIG = "config", "config.local"
Settings = dict[str, dict[str, str]]  # values by section and option, names in lower case

_SECTION = re.compile(r"\[\s*(.+?)\s*\]\s*(?:#.*)?")
_VALUE = r"""'(?P<one>[^']*)'|"(?P<two>[^"]*)"|(?P<plain>[^#'"][^#]*?)?"""
_OPTION = re.compile(rf"(?P<name>[^=#]+?)\s*=\s*(?:{_VALUE})\s*(?:#.*)?")
_REMOTE = re.compile(r"remote \"(.+)\"")
_PATHS = ("credentialpath", "configpath", "keyfile", "cert_path", "key_path")  # of remotes, besides `url`


def machine_settings() -> list[Settings]:
    """Return the system's and the user's settings, which hold for all projects.

    Raises:
        SourceError: A file is no DVC configuration.
    """
    return [read_settings(folder / CONFIG) for folder in _machine_folders()]


def read_settings(path: Path) -> Settings:
    """Return the settings in a file, none if there is no such file.

    Raises:
        SourceError: It is no DVC configuration.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    return parse_settings(text, str(path), path.parent)


def parse_settings(data: bytes, where: str, folder: Path | None) -> Settings:
    """Return the settings in a file's bytes.

    Args:
        data: The bytes.
        where: The file, for messages.
        folder: Where it is, None where relative paths in it mean nothing: they are left as they are.

    Raises:
        SourceError: It is no DVC configuration.
    """
    settings: Settings = {}
    section: dict[str, str] | None = None
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError:
        raise SourceError(f"{where}: not a DVC configuration: it is not UTF-8") from None
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        if (match := _SECTION.fullmatch(line)) is not None:
            section = settings.setdefault(match[1].strip("'").lower(), {})
        elif section is not None and (match := _OPTION.fullmatch(line)) is not None:
            section[match["name"].lower()] = match["one"] or match["two"] or match["plain"] or ""
        else:  # the line may hold a credential
            raise SourceError(f"{where}: not a DVC configuration: line {number} is no section and no option")
    for name, values in settings.items():
        paths = ("dir",) if name == "cache" else ("url", *_PATHS) if _REMOTE.fullmatch(name) else ()
        values.update({option: _absolute(values[option], folder) for option in paths if option in values})
    return settings


def merged(levels: Iterable[Settings]) -> Settings:
    """Return all settings, later ones overriding earlier ones."""
    settings: Settings = {}
    for level in levels:
        for section, values in level.items():
            settings.setdefault(section, {}).update(values)
    return settings


def remotes(settings: Settings) -> dict[str, Mapping[str, str]]:
    """Return the remotes' settings by the remotes' names."""
    found = {_REMOTE.fullmatch(section): values for section, values in settings.items()}
    return {match[1]: values for match, values in found.items() if match is not None}


def cache_folder(project: Path) -> Path:
    """Return the folder in which a project's cache has files by their MD5.

    Args:
        project: The project's folder; it need not exist.

    Raises:
        SourceError: A configuration is damaged.
    """
    own = project.absolute() / ".dvc"
    return Path(project_settings(project).get("cache", {}).get("dir") or own / "cache") / "files" / "md5"


def project_settings(project: Path) -> Settings:
    """Return all settings that hold for a project's folder; it need not exist.

    Raises:
        SourceError: A configuration is damaged.
    """
    own = project.absolute() / ".dvc"
    return merged([*machine_settings(), read_settings(own / CONFIG), read_settings(own / LOCAL_CONFIG)])


def _machine_folders() -> tuple[Path, Path]:
    """Return where a machine's and a user's own DVC configuration are."""
    if sys.platform == "darwin":
        machine, user = Path("/Library/Application Support"), Path.home() / "Library/Application Support"
    else:
        machine = Path(os.environ.get("XDG_CONFIG_DIRS", "").split(os.pathsep)[0] or "/etc/xdg")
        user = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return (
        Path(os.environ.get("DVC_SYSTEM_CONFIG_DIR") or machine / "dvc"),
        Path(os.environ.get("DVC_GLOBAL_CONFIG_DIR") or user / "dvc"),
    )


def _absolute(path: str, folder: Path | None) -> str:
    expanded = os.path.expanduser(path)  # noqa: PTH111 - it may be a URL
    if folder is None or "://" in path or os.path.isabs(expanded):  # noqa: PTH117 - likewise
        return expanded
    return os.path.abspath(folder / path)  # noqa: PTH100 - as DVC does: links are not followed
