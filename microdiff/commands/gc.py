"""What DVC's cache and its remote keep that no branch or tag refers to: say it, and remove it if asked to."""

import re
from dataclasses import dataclass
from pathlib import Path

from microdiff.errors import ParamsError, SourceError, StepError
from microdiff.remote.dvc_command import dvc_output, is_dvc_repository
from microdiff.remote.dvc_presence import default_remote

_REMOVED = re.compile(r"^Removing (.+)$", re.MULTILINE)
_KEEP = ("gc", "--workspace", "--all-branches", "--all-tags")


@dataclass(frozen=True)
class Unreferred:
    """Objects that nothing refers to.

    Attributes:
        place: Where they are: `cache` or `remote`.
        number: How many.
        num_bytes: What removing them frees; None where that is not known.
        removed: Whether they were removed.
    """

    place: str
    number: int
    num_bytes: int | None
    removed: bool


def collect_garbage(root: Path, *, apply: bool, remote: bool) -> list[Unreferred]:
    """Look for objects that neither the workspace nor any branch or tag refers to, and remove them if asked to.

    Args:
        root: The project.
        apply: Whether to remove those in the cache.
        remote: Whether to remove those on the remote as well, for everybody.

    Returns:
        What there is in the cache, and on the remote if the project has one.

    Raises:
        ParamsError: The remote is asked for without `apply`; it is looked at anyway.
        SourceError: There is no DVC project.
        StepError: DVC failed.
    """
    if remote and not apply:
        raise ParamsError("--remote says where to remove, so it needs --apply (make gc APPLY=1 REMOTE=1)")
    if not is_dvc_repository(root):
        raise SourceError(f"{root.absolute()}: no DVC repository. Change into the project's folder.")
    cached = [Path(name) for name in _unreferred(root, ())]
    sizes = [path.stat() for path in cached if path.is_file()]
    found = [Unreferred("cache", len(cached), sum(each.st_size for each in sizes if each.st_nlink == 1), apply)]
    if default_remote(root) is not None:
        # With the option DVC lists the cache's objects, too.
        on_remote = len(_unreferred(root, ("--cloud",))) - len(cached)
        found.append(Unreferred("remote", on_remote, None, apply and remote))
    if apply:
        _run(root, *_KEEP, "--force", *(("--cloud",) if remote else ()))
    return found


def _unreferred(root: Path, options: tuple[str, ...]) -> list[str]:
    return _REMOVED.findall(_run(root, *_KEEP, "--dry", *options))


def _run(root: Path, *arguments: str) -> str:
    code, said = dvc_output(root, *arguments)
    if code != 0:
        raise StepError(f"dvc {' '.join(arguments)} failed: {said[-400:].strip()}")
    return said
