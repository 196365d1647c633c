"""Put the manifests that dvc.lock records in place, from the shared store that MICRODIFF_STORE names.

By them DVC tells that nothing has to run, and a step that has to run knows what to fetch; so a clone without a DVC
remote computes nothing that a machine of the team has computed.
"""

from pathlib import Path
from typing import Annotated

import typer

from microdiff.commands.cli import RootOption, errors_in_words
from microdiff.commands.shared_store import restore_manifests
from microdiff.pipeline.workspace import Workspace

app = typer.Typer(add_completion=False)
Datasets = Annotated[list[str] | None, typer.Argument(help="Names of datasets; all that dvc.lock records, if none.")]


@app.command(help=__doc__)
def main(datasets: Datasets = None, root: RootOption = Path()) -> None:
    """Restore manifests, and say which."""
    with errors_in_words():
        for dataset, found in restore_manifests(datasets or [], Workspace(root)).items():
            placed = ", ".join(found.placed) or "nothing to put in place"
            lacking = f"; not in the shared store: {', '.join(found.absent)}" if found.absent else ""
            typer.echo(f"{dataset}: {placed}{lacking}")


if __name__ == "__main__":
    app()
