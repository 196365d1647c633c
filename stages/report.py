"""Print what went in, what was kept and why the rest was not, and write reports/index.html."""

from pathlib import Path
from typing import Annotated

import typer

from microdiff.commands.cli import ParamsOption, RootOption, echo, errors_in_words, workspace_at
from microdiff.commands.report import describe_batch, ledger_lines, write_html
from microdiff.pipeline.params import dataset_names

app = typer.Typer(add_completion=False)
FirstBatch = Annotated[bool, typer.Option("--first-batch", help="Also load a batch of all shards and describe it.")]


@app.command(help=__doc__)
def main(
    params: ParamsOption = Path("params.yaml"), root: RootOption = Path(), *, first_batch: FirstBatch = False
) -> None:
    """Summarise the pipeline's state."""
    with errors_in_words():
        names, workspace = dataset_names(params), workspace_at(root, "reports")
        if first_batch:
            echo("\n".join(describe_batch(names, workspace)))
        echo("\n".join(ledger_lines(names, workspace)))
        echo(f"report: {write_html(names, workspace)}")


if __name__ == "__main__":
    app()
