"""Fetch a dataset and store its pictures and records in data/DATASET/raw."""

from pathlib import Path

import typer

from microdiff.commands.cli import DatasetArgument, ParamsOption, RootOption, run_stage
from microdiff.download.step import download

app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
def main(dataset: DatasetArgument, params: ParamsOption = Path("params.yaml"), root: RootOption = Path()) -> None:
    """Run the step; DVC calls this once per dataset."""
    run_stage(download, dataset, params, root)


if __name__ == "__main__":
    app()
