"""Build a dataset's shards by DVC, or fetch them: what `make coco` does. Without a dataset, refresh code/ only."""

from pathlib import Path
from typing import Annotated

import typer

from microdiff.commands.build import build, refresh_code
from microdiff.commands.cli import errors_in_words

app = typer.Typer(add_completion=False)
Dataset = Annotated[str | None, typer.Argument(help="Name of a dataset in params.yaml, such as coco.")]


@app.command(help=__doc__)
def main(dataset: Dataset = None) -> None:
    """Check, wait for one's turn, and run DVC."""
    with errors_in_words():
        if dataset is None:
            refresh_code(Path())
        else:
            build(dataset, Path())


if __name__ == "__main__":
    app()
