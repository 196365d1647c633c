"""Leave only a dataset's shards on this disk, once what they were made from is on the DVC remote."""

from pathlib import Path
from typing import Annotated

import typer

from microdiff.commands.cli import DatasetArgument, RootOption, errors_in_words
from microdiff.commands.slim import slim
from microdiff.pipeline.workspace import Workspace

app = typer.Typer(add_completion=False)
Force = Annotated[bool, typer.Option("--force", help="Also remove what is not on the remote.")]


@app.command(help=__doc__)
def main(dataset: DatasetArgument, root: RootOption = Path(), *, force: Force = False) -> None:
    """Slim a dataset, and say what that freed."""
    with errors_in_words():
        done = slim(dataset, Workspace(root), force=force)
        kinds = ", ".join(done.kinds) or "nothing"
        typer.echo(f"data/{dataset}: removed {kinds}, freed {done.num_bytes / 1e6:.1f} MB; it comes back as needed")


if __name__ == "__main__":
    app()
