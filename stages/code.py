"""Write which code each step runs into code/, so that DVC reruns a step when its code changes in meaning."""

from pathlib import Path
from typing import Annotated

import typer

from microdiff.commands.cli import errors_in_words
from microdiff.commands.code_digests import FOLDER, stale_code_files, write_code_files

app = typer.Typer(add_completion=False)
Check = Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 if the files are not current.")]
Wait = Annotated[float, typer.Option("--wait", help="With --check: seconds to wait for another run that writes them.")]


@app.command(help=__doc__)
def main(*, check: Check = False, wait: Wait = 0.0) -> None:
    """Write the digests, or check them; DVC calls this when a file of microdiff/ or stages/ has changed."""
    with errors_in_words():
        root = Path()
        if not check:
            write_code_files(root)
        elif stale := stale_code_files(root, wait):
            typer.echo(f"{FOLDER}/ is not current: {', '.join(stale)}", err=True)
            raise typer.Exit(1)


if __name__ == "__main__":
    app()
