"""Remove a dataset's entry from params.yaml, and say what stays."""

from pathlib import Path
from typing import Annotated

import typer

from microdiff.commands.add import remove
from microdiff.commands.build import refresh_code
from microdiff.commands.cli import RootOption, echo, errors_in_words

app = typer.Typer(add_completion=False)
Name = Annotated[str, typer.Argument(help="Of the dataset.")]


@app.command(help=__doc__)
def main(name: Name, root: RootOption = Path()) -> None:
    """Remove the entry."""
    with errors_in_words():
        remove(name, root, echo)
        refresh_code(root)


if __name__ == "__main__":
    app()
