"""What a DVC project says at one commit: which object an artifact is, and where the remote that holds it is.

Both are read from the files that DVC writes (dvc.lock, *.dvc, .dvc/config), without DVC: see
docs/decisions/streaming-without-dvc.md.
"""

import configparser
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from microdiff.errors import SourceError
from microdiff.remote.git_revision import Revision

_CONFIG = ".dvc/config"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built
_DIRECTORY = re.compile(r"[0-9a-f]{32}\.dir")
_REMOTE = re.compile(r"remote \"(.+)\"")

Settings = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Output:
    """A folder that DVC tracks.

    Attributes:
        path: Relative to the project's folder.
        md5: The object that lists its files, `<md5>.dir`.
        remote: Name of the remote it is kept on, None for the default one.
    """

    path: str
    md5: str
    remote: str | None


def find_output(revision: Revision, path: str) -> Output:
    """Return the tracked folder that a path is, or is in.

    Raises:
        SourceError: There is none, or it is not kept by content in a remote of this project.
    """
    found = {}
    for place, document in _documents(revision, path):
        for output, facts in _outputs(document, place):
            found[output] = facts
            if path == output or path.startswith(f"{output}/"):
                return _checked(revision, output, facts, document)
    others = [name for name in sorted(found) if PurePosixPath(name).name == PurePosixPath(path).name]
    hint = f" It tracks {', '.join(others)}." if others else ""
    raise SourceError(
        f"{revision.repository}: DVC tracks no {path} at {revision.commit[:12]}.{hint} Check the path and the revision."
    )


def remote_settings(revision: Revision, name: str | None) -> dict[str, str]:
    """Return a remote's settings as they apply to a commit.

    Those of the commit come first, so that it is found where it was pushed. What it does not say is taken from the
    checkout's .dvc/config and the user's own configuration (a commit may be older than the remote); what
    .dvc/config.local says, such as credentials, overrides all.

    Args:
        revision: The commit.
        name: Of the remote, None for the default one.

    Raises:
        SourceError: There is no such remote.
    """
    levels: list[tuple[Settings, Path | None]] = [(_read(folder / "config"), None) for folder in _user_folders()]
    at_commit = _parse((revision.read(_CONFIG) or b"").decode(), f"{_CONFIG} at {revision.commit[:12]}")
    folder = None if revision.checkout is None else revision.checkout / ".dvc"
    if folder is None:
        levels.append((at_commit, None))
    else:
        levels += [(_read(folder / "config"), folder), (at_commit, folder), (_read(folder / "config.local"), folder)]
    core: dict[str, str] = {}
    remotes: Settings = {}
    for level, base in levels:
        core |= level.get("core", {})
        for section, values in level.items():
            if (match := _REMOTE.fullmatch(section)) is not None:
                remotes.setdefault(match[1], {}).update(_resolved(values, base))
    name = name or core.get("remote")
    if name is None:
        raise SourceError(f"{revision.repository}: it has no default DVC remote. Set one: make remote URL=s3://...")
    if "url" not in remotes.get(name, {}):
        raise SourceError(f"{revision.repository}: its DVC remote {name} has no URL. Set it: dvc remote add {name} URL")
    url = remotes[name]["url"]
    if "://" not in url and not Path(url).is_absolute():
        raise SourceError(
            f"{revision.repository}: its DVC remote {name} is {url}, a path in a checkout of it. "
            "Make one and name its folder: dvc:///PATH/TO/CHECKOUT//PATH@REV"
        )
    return remotes[name]


def _documents(revision: Revision, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the files that may track a path, those nearest to it first, with the folders they are in."""
    for parent in PurePosixPath(path).parents:
        folder = "" if str(parent) == "." else str(parent)
        for name in sorted(revision.names(folder or "."), key=lambda name: name != "dvc.lock"):
            if name == "dvc.lock" or name.endswith(".dvc"):
                place = f"{folder}/{name}".lstrip("/")
                try:
                    document = yaml.load(revision.read(place) or b"", Loader=_LOADER)  # noqa: S506 - a safe loader
                except yaml.YAMLError:
                    raise SourceError(f"{place} at {revision.commit[:12]}: not YAML. Choose another commit.") from None
                if isinstance(document, dict):
                    yield folder, document


def _outputs(document: Mapping[str, Any], folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what a dvc.lock or .dvc file tracks, by path."""
    for stage in (document.get("stages") or {"": document}).values():
        for facts in stage.get("outs") or []:
            yield str(PurePosixPath(folder, document.get("wdir") or ".", facts["path"])), facts


def _checked(revision: Revision, path: str, facts: Mapping[str, Any], document: Mapping[str, Any]) -> Output:
    where = f"{revision.repository}: {path} at {revision.commit[:12]}"
    for dep in document.get("deps") or []:
        if isinstance(origin := dep.get("repo"), dict):
            rev = origin.get("rev_lock") or origin.get("rev")
            raise SourceError(
                f"{where} was imported from another repository, which holds it. "
                f"Use dvc://{origin.get('url')}//{dep.get('path')}@{rev}"
            )
    md5 = str(facts.get("md5"))
    if facts.get("hash") != "md5":
        raise SourceError(f"{where} is not kept by MD5, as DVC 3 does. Push it again with DVC 3.")
    if not _DIRECTORY.fullmatch(md5):
        raise SourceError(f"{where} is not a folder of shards that DVC keeps by content")
    return Output(path, md5, facts.get("remote"))


def _user_folders() -> tuple[Path, ...]:
    """Return where a machine's and a user's own DVC configuration are."""
    if sys.platform == "darwin":
        machine, user = Path("/Library/Application Support"), Path.home() / "Library/Application Support"
    else:
        machine, user = Path("/etc/xdg"), Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return (
        Path(os.environ.get("DVC_SYSTEM_CONFIG_DIR") or machine / "dvc"),
        Path(os.environ.get("DVC_GLOBAL_CONFIG_DIR") or user / "dvc"),
    )


def _read(path: Path) -> Settings:
    return _parse(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else {}


def _parse(text: str, where: str) -> Settings:
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",), default_section="")
    try:
        parser.read_string(text)
    except configparser.Error:  # its text may hold a credential
        raise SourceError(f"{where}: not a DVC configuration") from None
    return {
        section.strip("'"): {name: value.strip("'\"") for name, value in parser[section].items()}
        for section in parser.sections()
    }


def _resolved(values: Mapping[str, str], base: Path | None) -> dict[str, str]:
    """Return a remote's settings with its URL, if that is a relative path, made absolute."""
    url = values.get("url", "")
    if url and "://" not in url and not Path(url).is_absolute() and base is not None:
        return {**values, "url": str((base / url).resolve())}
    return dict(values)
