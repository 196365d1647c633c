"""Send all artifacts to the DVC remote, after checking that they are what DVC has recorded."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from microdiff.commands.check import check_lock
from microdiff.commands.cli import RootOption, errors_in_words, workspace_at
from microdiff.commands.push import check_objects
from microdiff.remote.dvc_command import dvc_environment

app = typer.Typer(add_completion=False)
ReadRemote = Annotated[
    bool, typer.Option("--read-remote", help="Also read every object that the remote has, and replace damaged ones.")
]


@app.command(help=__doc__)
def main(root: RootOption = Path(), *, read_remote: ReadRemote = False) -> None:
    """Check, then let DVC send what the remote lacks."""
    with errors_in_words():
        check_lock(root)
        check_objects(root, workspace_at(root, store=True).store().root / "push", read_remote=read_remote)
        command = [sys.executable, "-m", "dvc", "--wait-for-lock", "push"]
        done = subprocess.run(command, cwd=root, env=dvc_environment(), check=False)  # noqa: S603 - our own program
        raise typer.Exit(done.returncode)


if __name__ == "__main__":
    app()
