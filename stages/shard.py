"""Write MDS shards for the streaming loader, into data/DATASET/shards."""

from pathlib import Path

import typer

from microdiff.commands.cli import DatasetArgument, ParamsOption, RootOption, run_stage
from microdiff.shard.step import shard

app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
def main(dataset: DatasetArgument, params: ParamsOption = Path("params.yaml"), root: RootOption = Path()) -> None:
    """Run the step; DVC calls this once per dataset."""
    run_stage(shard, dataset, params, root)


if __name__ == "__main__":
    app()
