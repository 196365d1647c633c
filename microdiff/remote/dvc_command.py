"""Run DVC itself, for what only it may do: fetch and rebuild what it tracks."""

import os
import subprocess
import sys
from pathlib import Path

_SAID = 400


def run_dvc(root: Path, *arguments: str) -> str | None:
    """Run a DVC command in a repository.

    Returns:
        None if it succeeded, else the end of what it said.
    """
    code, said = dvc_output(root, *arguments)
    return None if code == 0 else said.strip()[-_SAID:]


def dvc_environment() -> dict[str, str]:
    """Return the environment for DVC: the `python` of its nodes is this one."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def is_dvc_repository(root: Path) -> bool:
    """Tell whether DVC tracks the artifacts below a folder."""
    return (root / ".dvc").is_dir()


def has_remote(root: Path) -> bool:
    """Tell whether a repository has a default DVC remote."""
    return run_dvc(root, "config", "core.remote") is None


def dvc_output(root: Path, *arguments: str) -> tuple[int, str]:
    """Run a DVC command in a repository; return its exit code, and all that it said."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    done = subprocess.run(  # noqa: S603 - our own program, and names of our own datasets
        command, cwd=root, env=dvc_environment(), capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr
