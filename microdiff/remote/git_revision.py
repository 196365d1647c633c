"""One commit of a git repository, this one or another, read without a checkout. Needs the program git, nothing else."""

import hashlib
import io
import logging
import os
import re
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from microdiff.core.files import locked_folder
from microdiff.errors import SourceError
from microdiff.storage.urls import without_secrets

log = logging.getLogger("microdiff")

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_TIMEOUT_S = 600
_PROJECT = ".dvc"


@dataclass(frozen=True)
class Revision:
    """A commit.

    Attributes:
        repository: Its repository for messages, without credentials.
        commit: Its full name.
        git: Where git is run: the project's folder in a checkout, or a bare copy of another repository.
        checkout: The project's folder, None where there is no checkout.
    """

    repository: str
    commit: str
    git: Path
    checkout: Path | None

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, None if the commit has no such file. Paths are relative to the project's folder."""
        done = _run(["cat-file", "blob", f"{self.commit}:{self._inside(path)}"], self.git)
        return done.stdout if done.returncode == 0 else None

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, none if there is no such folder."""
        listed = _run(["ls-tree", "-z", "--name-only", f"{self.commit}:{self._inside(folder)}"], self.git)
        return [name for name in listed.stdout.decode().split("\0") if name] if listed.returncode == 0 else []

    def extract(self, folder: Path) -> None:
        """Write all files into a folder.

        Raises:
            SourceError: Git cannot give them.
        """
        done = _run(["archive", "--format=zip", "-1", self.commit, "."], self.git)
        if done.returncode:
            raise SourceError(f"{self.repository}: git cannot write commit {self.commit} into a folder")
        with zipfile.ZipFile(io.BytesIO(done.stdout)) as archive:
            archive.extractall(folder)

    def _inside(self, path: str) -> str:
        path = str(PurePosixPath(path))
        if self.checkout is not None:
            return f"./{path}"
        return "" if path == "." else path


def find_project(start: Path) -> Path:
    """Return the DVC project that a folder is in.

    Raises:
        SourceError: It is in none.
    """
    for folder in (start, *start.parents):
        if (folder / _PROJECT).is_dir():
            return folder
    raise SourceError(
        f"{start}: not in a DVC project, so dvc://PATH@REV means nothing here. Change into a clone of the repository "
        "first, name the repository (dvc://https://HOST/REPO//PATH@REV), or use a release file."
    )


def earlier_versions(folder: Path, path: str, most: int | None = None) -> list[bytes]:
    """Return a file as the last commits that changed it have it, the newest first; none where git knows nothing of it.

    Args:
        folder: In a checkout.
        path: Of the file, relative to the folder.
        most: How many commits to look at, from the current one back; None for all commits of all branches and tags.
    """
    which = "--all" if most is None else f"--max-count={most}"
    try:
        listed = _run(["log", which, "--format=%H", "--", path], folder)
    except SourceError:  # no git here
        return []
    commits = listed.stdout.decode().split() if listed.returncode == 0 else []
    found = [_run(["cat-file", "blob", f"{commit}:./{path}"], folder) for commit in commits]
    return [done.stdout for done in found if done.returncode == 0]


def open_revision(repository: str | None, rev: str, cache: Path) -> Revision:
    """Resolve a revision to a commit, once, and make that commit's files readable.

    Args:
        repository: A folder, or whatever git can clone; None for the project that the working directory is in.
        rev: Tag, branch or commit. Of another repository's commits, the full name.
        cache: Where commits of other repositories are kept.

    Raises:
        SourceError: There is no such repository or revision, or git is not installed.
    """
    if rev.startswith("-") or (repository or "").startswith("-"):
        raise SourceError(f"{repository or ''}@{rev}: neither may begin with a dash")
    if repository is None or Path(repository).expanduser().is_dir():
        folder = find_project(Path.cwd()) if repository is None else Path(repository).expanduser().resolve()
        revision = Revision(str(folder), _resolve_here(folder, rev), folder, folder)
    else:
        name = without_secrets(repository) if "://" in repository else repository
        commit = _resolve_there(repository, name, rev)
        revision = Revision(name, commit, _copy_of(repository, name, commit, cache), None)
    if revision.commit != rev:
        log.info("%s: %s is commit %s", revision.repository, rev, revision.commit)
    return revision


def _resolve_here(folder: Path, rev: str) -> str:
    done = _run(["rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}"], folder)
    if done.returncode == 0:
        return done.stdout.decode().strip()
    if done.stderr:  # quiet about revisions, but not about what is no repository
        raise SourceError(f"{folder}: git cannot read it: {done.stderr.decode(errors='replace').strip()}")
    raise SourceError(f"{folder}: no tag, branch or commit {rev}. If others have it: git fetch --tags")


def _resolve_there(repository: str, name: str, rev: str) -> str:
    if _COMMIT.fullmatch(rev):
        return rev
    wanted = (f"refs/tags/{rev}^{{}}", f"refs/tags/{rev}", f"refs/heads/{rev}", *(["HEAD"] if rev == "HEAD" else []))
    done = _run(["ls-remote", "--", repository, *wanted], Path("/"))
    if done.returncode:
        raise SourceError(f"{name}: git cannot read this repository{_reason(done, repository, name)}")
    found = {ref: commit for commit, ref in (line.split("\t") for line in done.stdout.decode().splitlines())}
    for ref in wanted:
        if ref in found:
            return found[ref]
    raise SourceError(f"{name}: no tag or branch {rev}. Of a commit, give all 40 digits.")


def _copy_of(repository: str, name: str, commit: str, cache: Path) -> Path:
    """Return a bare repository that has a commit, fetching it (without history) if needed."""
    folder = cache / "git" / hashlib.sha256(name.encode()).hexdigest()[:32]
    with locked_folder(folder):
        if not (folder / "HEAD").is_file():
            _run(["init", "--quiet", "--bare", "."], folder)
        has = ["cat-file", "-e", f"{commit}^{{commit}}"]
        if _run(has, folder).returncode:
            done = _run(["fetch", "--quiet", "--depth=1", "--no-tags", "--", repository, commit], folder)
            if done.returncode:  # a server may refuse to give commits by name
                refs = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
                done = _run(["fetch", "--quiet", "--no-tags", "--", repository, *refs], folder)
            if _run(has, folder).returncode:
                raise SourceError(f"{name}: commit {commit} cannot be fetched{_reason(done, repository, name)}")
    return folder


def _reason(done: "subprocess.CompletedProcess[bytes]", repository: str, name: str) -> str:
    """Return git's last word, without the repository's credentials."""
    lines = done.stderr.decode(errors="replace").replace(repository, name).strip().splitlines()
    return f": {lines[-1]}" if lines else ". It is not in that repository."


def _run(arguments: list[str], folder: Path) -> "subprocess.CompletedProcess[bytes]":
    environment = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        return subprocess.run(  # noqa: S603 - git, with revisions and paths that cannot be options
            ["git", *arguments],  # noqa: S607 - the user's own git
            cwd=folder,
            env=environment,
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_S,
        )
    except FileNotFoundError:
        raise SourceError("git is not installed. Install it, or use a release file (see the README).") from None
    except subprocess.TimeoutExpired:
        raise SourceError(f"git {arguments[0]} took more than {_TIMEOUT_S} s. Check the network.") from None
