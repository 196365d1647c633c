"""Which clones use a partition store: several may share one by MICRODIFF_WORK, and none may remove what others need.

Each that computes registers itself, in `users/` of the store: the only file there that names a folder of the machine.
"""

import logging
import platform
from pathlib import Path

from microdiff.core.files import digest_json, read_json, write_json
from microdiff.errors import SchemaError, StepError
from microdiff.pipeline.workspace import Workspace

log = logging.getLogger("microdiff")

_USERS = "users"


def register(workspace: Workspace) -> None:
    """Note that a workspace uses its store."""
    root, host = str(workspace.root.resolve()), platform.node()
    path = workspace.store().root / _USERS / f"{digest_json(['clone', host, root])}.json"
    if not path.is_file():
        write_json(path, {"root": root, "host": host})


def needed_by_others(workspace: Workspace) -> list[str]:
    """Return the partitions of a workspace's store that artifacts of others refer to; forget those that are gone.

    Raises:
        StepError: What another one refers to cannot be told from here.
    """
    store = workspace.store().root
    needed: list[str] = []
    for path in sorted((store / _USERS).glob("*.json")):
        try:
            record = read_json(path)
            root, host = Path(record["root"]), str(record["host"])
        except (ValueError, KeyError, TypeError):
            raise StepError(f"{path}: damaged. Remove it; the clone that it names writes it again.") from None
        try:
            if root.is_dir():
                needed += [] if root.samefile(workspace.root) else Workspace(root).fingerprints()
                continue
        except (SchemaError, OSError) as error:
            raise StepError(
                f"{store}: {root} uses it, too, and what that needs cannot be told ({error}).\n"
                f"Repair that first; or remove {path} if it uses this folder no more."
            ) from None
        if host != platform.node():
            raise StepError(
                f"{store}: {root} on {host} uses it, too, and cannot be looked at from here.\n"
                f"Run it there; or remove {path} if that clone is gone."
            )
        log.info("%s is gone: what it alone needed is removed", root)
        path.unlink(missing_ok=True)
    return needed
