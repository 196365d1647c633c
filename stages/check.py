"""Check params.yaml, and put dvc.lock right if a kill cut it, before DVC runs: it removes outputs first."""

from pathlib import Path
from typing import Annotated

import typer

from microdiff.commands.check import check_lock, check_params
from microdiff.commands.cli import errors_in_words
from microdiff.commands.own import complete_entries, place_withdrawn

app = typer.Typer(add_completion=False)
Datasets = Annotated[list[str] | None, typer.Argument(help="Names of datasets; all, if none.")]
LockOnly = Annotated[bool, typer.Option("--lock-only", help="Leave params.yaml alone.")]


@app.command(help=__doc__)
def main(datasets: Datasets = None, *, lock_only: LockOnly = False) -> None:
    """Check what DVC will read."""
    with errors_in_words():
        check_lock(Path())
        if not lock_only:
            complete_entries(Path(), datasets or [])
            check_params(Path(), datasets or [])
            place_withdrawn(Path(), datasets or [])


if __name__ == "__main__":
    app()
