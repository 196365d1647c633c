"""Encode pictures and captions to latents, into data/DATASET/latents."""

from microdiff.encode.malloc import keep_freed_memory

keep_freed_memory()  # before anything starts a thread; worker processes come by here, too

from pathlib import Path

import typer

from microdiff.commands.cli import DatasetArgument, ParamsOption, RootOption, run_stage
from microdiff.encode.step import encode

app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
def main(dataset: DatasetArgument, params: ParamsOption = Path("params.yaml"), root: RootOption = Path()) -> None:
    """Run the step; DVC calls this once per dataset."""
    run_stage(encode, dataset, params, root)


if __name__ == "__main__":
    app()
