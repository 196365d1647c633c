"""A good copy of dvc.lock, for when DVC is killed while it writes: in place, so that an empty or cut file is left.

With such a file no DVC command works. The copy is made by whatever of ours runs and finds it whole, so that it is of
the moment before the last node ended: that node runs again, and finds its partitions.
"""

import contextlib
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from microdiff.core.files import whole_file
from microdiff.errors import SchemaError
from microdiff.remote.dvc_lock import LOCK, parse_lock

OWN = Path(".dvc", "tmp", "microdiff")  # what is ours in DVC's folder for what is of this clone and of no commit
BROKEN = f"{LOCK}.broken"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BEING_WRITTEN_S = 1.0  # far longer than DVC takes to write it
_POLL_S = 0.1
_CONFLICT = b"<<<<<<< "
_FIELDS = {
    "path": (str, 0),
    "md5": (str | int, 3),
    "hash": (str, 0),
    "size": (int, 0),
    "nfiles": (int, 0),
}  # least length


def lock_problem(data: bytes) -> str | None:
    """Return why DVC would refuse a dvc.lock of these bytes, None if it would not."""
    try:
        parse_lock(data)
        _check_stages(yaml.load(data, Loader=_LOADER))  # noqa: S506 - a safe loader
    except ValueError as error:
        return str(error)
    return None


def keep_copy(root: Path) -> None:
    """Keep a copy of a project's dvc.lock, if there is one and it is whole."""
    copy = root / OWN / LOCK
    with contextlib.suppress(OSError):  # it is kept for worse days, and hinders nothing today
        data = (root / LOCK).read_bytes()
        kept = copy.read_bytes() if copy.is_file() else b""
        is_new = data != kept and not _is_cut(data, kept)
        if (root / ".dvc").is_dir() and is_new and lock_problem(data) is None:
            copy.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(copy) as file:
                file.write(data)


def restore_lock(root: Path) -> str | None:
    """Put the last good copy in the place of a dvc.lock that is damaged, or what git has where there is no copy.

    A file that DVC can read is left as it is, unless it is the copy without its end. The damaged one is kept beside it,
    under another name.

    Returns:
        What was done, None if nothing had to be.

    Raises:
        SchemaError: It holds conflicts of a merge, or no good copy of it is left.
    """
    lock, copy = root / LOCK, root / OWN / LOCK
    problem, data = _settled(lock)
    kept = copy.read_bytes() if copy.is_file() else b""
    if problem is None and _is_cut(data, kept):
        problem = "it ends in the middle of a line"  # DVC would take it, and all that is cut off for new
    if problem is None:
        keep_copy(root)
        return None
    if data.startswith(_CONFLICT) or b"\n" + _CONFLICT in data:
        raise SchemaError(
            f"{lock}: holds conflicts of a merge. Take one side (git checkout --ours or --theirs {LOCK}), run it again."
        )
    for good, name in ((kept, "the last good copy"), (_in_git(root), "the one of git's HEAD")):
        if lock_problem(good) is None:
            with whole_file(root / BROKEN) as file:
                file.write(data)
            with whole_file(lock) as file:
                file.write(good)
            return f"{lock}: damaged ({problem}). Put {name} in its place; the damaged one is now {BROKEN}."
    raise SchemaError(
        f"{lock}: damaged ({problem}), and neither a copy of it nor git has a good one.\n"
        "Remove it and run it again: all nodes run, and find the partitions that are finished."
    )


def _is_cut(data: bytes, whole: bytes) -> bool:
    """Tell whether bytes are the others up to the middle of a line."""
    return not data.endswith(b"\n") and len(data) < len(whole) and whole.startswith(data)


def _settled(lock: Path) -> tuple[str | None, bytes]:
    """Return what is wrong with dvc.lock, if anything, and its bytes; one that is being written now is waited for."""
    deadline = time.monotonic() + _BEING_WRITTEN_S
    while True:
        try:
            data = lock.read_bytes()
        except FileNotFoundError:
            return None, b""
        problem = lock_problem(data)
        if problem is None or time.monotonic() >= deadline:
            return problem, data
        time.sleep(_POLL_S)


def _in_git(root: Path) -> bytes:
    """Return dvc.lock as the last commit has it; nothing where there is none."""
    return in_head(root, LOCK) or b""


def in_head(root: Path, path: str) -> bytes | None:
    """Return a file as the last commit has it, None where there is none, or no git."""
    command = ["git", "show", f"HEAD:./{path}"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, check=False)  # noqa: S603 - a path of our own
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def _check_stages(document: Mapping[str, Any]) -> None:
    """Check what DVC's own schema asks for, besides the outputs.

    Raises:
        ValueError: It is not so.
    """
    for name, stage in (document.get("stages") or {}).items():
        entries = [entry for kind in ("deps", "outs") for entry in _entries(stage, kind, name)]
        params = stage.get("params", {})
        if not isinstance(stage.get("cmd"), str | list):
            raise ValueError(f"stage {name} has no command")
        if not isinstance(params, dict) or not all(isinstance(values, dict) for values in params.values()):
            raise ValueError(f"stage {name} has params that are no mapping")
        for entry in entries:
            for field, (kind, shortest) in _FIELDS.items():
                value = entry.get(field)
                is_needed = field == "path" or (field in entry and not (field == "md5" and value is None))
                if is_needed and (not isinstance(value, kind) or len(str(value)) < shortest):
                    raise ValueError(f"stage {name} has an entry whose {field} is {value!r}")


def _entries(stage: Mapping[str, Any], kind: str, name: str) -> list[Mapping[str, Any]]:
    entries = stage.get(kind, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"stage {name} has {kind} that are no list of mappings")
    return entries
