"""Check every byte, count and key of the artifacts that are here. Exit code 1 if anything is wrong."""

from pathlib import Path
from typing import Annotated

import typer

from microdiff.commands.cli import ParamsOption, RootOption, echo, errors_in_words, workspace_at
from microdiff.verify.run import run

app = typer.Typer(add_completion=False)
Datasets = Annotated[list[str] | None, typer.Argument(help="Names of datasets; all that have artifacts, if none.")]
DeepOption = Annotated[
    bool, typer.Option("--deep", help="Also compare all values with the shards', and some with the pictures.")
]
Repair = Annotated[bool, typer.Option("--repair", help="Rebuild the partitions that are damaged, and check again.")]


@app.command(help=__doc__)
def main(
    datasets: Datasets = None,
    params: ParamsOption = Path("params.yaml"),
    root: RootOption = Path(),
    *,
    deep: DeepOption = False,
    repair: Repair = False,
) -> None:
    """Verify, say what was found, and repair it if asked to."""
    with errors_in_words():
        if not run(datasets or [], params, workspace_at(root), deep=deep, repair=repair, say=echo):
            raise typer.Exit(1)


if __name__ == "__main__":
    app()
