"""Switch params.yaml to a preset; datasets of your own stay in it, and what was edited is kept in a file."""

from pathlib import Path
from typing import Annotated

import typer

from microdiff.commands.build import refresh_code
from microdiff.commands.cli import RootOption, echo, errors_in_words
from microdiff.commands.preset import switch

app = typer.Typer(add_completion=False)
Preset = Annotated[str, typer.Argument(help="sample, small or full.")]


@app.command(help=__doc__)
def main(preset: Preset, root: RootOption = Path()) -> None:
    """Switch."""
    with errors_in_words():
        switch(preset, root, echo)
        refresh_code(root)


if __name__ == "__main__":
    app()
