"""What a DVC project says at one commit: which object an artifact is, and where the remote that holds it is.

Both are read from the files that DVC writes (dvc.lock, *.dvc, .dvc/config), without DVC: see
docs/decisions/streaming-without-dvc.md.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from microdiff.errors import SourceError
from microdiff.remote.dvc_config import (
    CONFIG,
    LOCAL_CONFIG,
    Settings,
    machine_settings,
    merged,
    parse_settings,
    read_settings,
    remotes,
)
from microdiff.remote.dvc_lock import LOCK, DvcOutput, parse_dvc_file, parse_lock
from microdiff.remote.git_revision import Revision

_DIRECTORY = re.compile(r"[0-9a-f]{32}\.dir")


@dataclass(frozen=True)
class TrackedFolder:
    """A folder that DVC tracks.

    Attributes:
        path: Relative to the project's folder.
        md5: Its dir object, `<md5>.dir`.
        remote: Name of the remote it is kept on, None for the default one.
    """

    path: str
    md5: str
    remote: str | None


def find_output(revision: Revision, path: str) -> TrackedFolder:
    """Return the tracked folder that a path is, or is in.

    Raises:
        SourceError: There is none, or it is not kept by content in a remote of this project.
    """
    found = {}
    for output in _outputs(revision, path):
        found[output.path] = output
        if path == output.path or path.startswith(f"{output.path}/"):
            return _checked(revision, output)
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
    folder = None if revision.checkout is None else revision.checkout / ".dvc"
    where = f".dvc/{CONFIG} at {revision.commit[:12]}"
    at_commit = parse_settings(revision.read(f".dvc/{CONFIG}") or b"", where, folder)
    here: list[Settings] = [] if folder is None else [read_settings(folder / CONFIG)]
    local: list[Settings] = [] if folder is None else [read_settings(folder / LOCAL_CONFIG)]
    settings = merged([*machine_settings(), *here, at_commit, *local])
    name = (name or settings.get("core", {}).get("remote", "")).lower()
    if not name:
        raise SourceError(f"{revision.repository}: it has no default DVC remote. Set one: make remote URL=s3://...")
    remote = dict(remotes(settings).get(name, {}))
    url = remote.get("url", "")
    if not url:
        raise SourceError(f"{revision.repository}: its DVC remote {name} has no URL. Set it: dvc remote add {name} URL")
    if "://" not in url and not Path(url).is_absolute():
        raise SourceError(
            f"{revision.repository}: its DVC remote {name} is {url}, a path in a checkout of it. "
            "Make one and name its folder: dvc:///PATH/TO/CHECKOUT//PATH@REV"
        )
    return remote


def _outputs(revision: Revision, path: str) -> Iterator[DvcOutput]:
    """Yield what the files that may track a path track, those nearest to it first."""
    for parent in PurePosixPath(path).parents:
        folder = "" if str(parent) == "." else str(parent)
        for name in sorted(revision.names(folder or "."), key=lambda name: name != LOCK):
            file = f"{folder}/{name}".lstrip("/")
            data = revision.read(file) if name == LOCK or name.endswith(".dvc") else None
            if data is None:  # another file, or the folder .dvc
                continue
            parse = parse_lock if name == LOCK else parse_dvc_file
            try:
                yield from parse(data, folder)
            except ValueError as error:
                raise SourceError(
                    f"{file} at {revision.commit[:12]}: damaged ({error}). Choose another commit."
                ) from None


def _checked(revision: Revision, output: DvcOutput) -> TrackedFolder:
    where = f"{revision.repository}: {output.path} at {revision.commit[:12]}"
    if output.imported is not None:
        raise SourceError(f"{where} was imported from another repository, which holds it. Use {output.imported}")
    if output.hash_name != "md5":
        raise SourceError(f"{where} is not kept by MD5, as DVC 3 does. Push it again with DVC 3.")
    if not _DIRECTORY.fullmatch(output.md5 or ""):
        raise SourceError(f"{where} is not a folder of shards that DVC keeps by content")
    return TrackedFolder(output.path, str(output.md5), output.remote)
