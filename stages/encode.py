"""Encode pictures and captions to latents, into data/DATASET/latents."""

from pathlib import Path

import typer

from microdiff.cli import DatasetArgument, ParamsOption, RootOption, run_stage
from microdiff.encode import encode

app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
def main(dataset: DatasetArgument, params: ParamsOption = Path("params.yaml"), root: RootOption = Path()) -> None:
    """Run the step; DVC calls this once per dataset."""
    run_stage(encode, dataset, params, root)


if __name__ == "__main__":
    app()
