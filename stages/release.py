"""Write a file by which machines without git and DVC stream a dataset's shards."""

from pathlib import Path
from typing import Annotated

import typer

from microdiff.commands.cli import DatasetArgument, errors_in_words
from microdiff.remote.release_writer import RELEASE, write_release

app = typer.Typer(add_completion=False)
Rev = Annotated[str, typer.Option("--rev", help="Tag, branch or commit whose shards are meant.")]
Out = Annotated[Path, typer.Option("--out", help="The file to write.")]


@app.command(help=__doc__)
def main(dataset: DatasetArgument, rev: Rev = "HEAD", out: Out = Path(RELEASE)) -> None:
    """Write the release file; the shards must have been pushed."""
    with errors_in_words():
        num_bytes = write_release(dataset, rev, out)
        typer.echo(f"{out}: data/{dataset}/shards at {rev}, {num_bytes / 1e6:.1f} MB")


if __name__ == "__main__":
    app()
