"""Choose and clean each sample's caption, into data/DATASET/captions."""

from pathlib import Path

import typer

from microdiff.clean.step import clean
from microdiff.commands.cli import DatasetArgument, ParamsOption, RootOption, run_stage

app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
def main(dataset: DatasetArgument, params: ParamsOption = Path("params.yaml"), root: RootOption = Path()) -> None:
    """Run the step; DVC calls this once per dataset."""
    run_stage(clean, dataset, params, root)


if __name__ == "__main__":
    app()
